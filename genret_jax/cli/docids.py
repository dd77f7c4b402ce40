"""``genret docids``: give the documents of a corpus their docids, or show a table of docids."""

import argparse
import copy
import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genret_jax.errors import InputError, nearest

if TYPE_CHECKING:
    from genret_jax.data.corpus import Corpus
    from genret_jax.docids import DocidTable

HELP = "give every document its docid, or show usage, depth, collisions and the tree of docids"

#: Strategies by name, as classes of :mod:`genret_jax.docids`; those are imported late, because JAX is slow to import.
_STRATEGIES = {
    "semantic": "HierarchicalKMeans",
    "atomic": "AtomicDocids",
    "naive": "NaiveStringDocids",
    "residual": "ResidualKMeans",
    "product": "ProductQuantization",
    "rq-vae": "RqVae",
    "lsh": "LshDocids",
    "random": "RandomDocids",
    "file": "NpyDocids",
}
_FROM_FILE = "file:"
#: Options that set the strategy's field of the same name. The classes of the strategies hold the defaults.
_OPTIONS: dict[str, dict[str, Any]] = {
    "branching": {"type": int, "help": "clusters that a cluster is divided into"},
    "leaf_size": {"type": int, "help": "largest number of documents of a cluster that is not divided"},
    "levels": {"type": int, "help": "number of codes"},
    "codebook": {"type": int, "help": "codes per level"},
    "rotation": {
        "action": argparse.BooleanOptionalAction,
        "help": "rotate the vectors so that their sub-vectors quantise best",
    },
    "width": {"type": int, "help": "width of the latent vectors"},
    "epochs": {"type": int, "help": "passes over the vectors"},
    "batch_size": {"type": int, "help": "vectors per step"},
    "learning_rate": {"type": float, "help": "learning rate"},
    "optimizer": {"metavar": "NAME", "help": "adamw or adagrad"},
    "commitment": {"metavar": "NAME", "help": "residual or cumulative"},
    "hyperplanes": {"type": int, "help": "binary digits of a code"},
    "separate": {
        "action": argparse.BooleanOptionalAction,
        "help": "append a code that separates documents with equal codes",
    },
    "memory_gib": {"type": float, "help": "vectors that take more memory are read from their file piece by piece"},
}
_EPILOG = """
examples:
  genret docids build --corpus corpora/python-docs --out docids/semantic
  genret docids build --corpus my-corpus --out docids/mine --vectors vectors.npy --branching 30 --leaf-size 30
  genret docids build --corpus my-corpus --out docids/atomic --strategy atomic
  genret docids build --corpus my-corpus --out docids/tiger --strategy rq-vae --vectors vectors.npy
  genret docids inspect docids/semantic --corpus corpora/python-docs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    actions = parser.add_subparsers(dest="action", required=True, metavar="{build,inspect}")
    _configure_build(actions)
    inspect = actions.add_parser(
        "inspect",
        help="show usage and perplexity of every level, depth, collisions, and a part of the tree",
        description="Show the content of a folder of docids: usage and perplexity of every level, the depth of docids, "
        "docids that documents share, and a part of the tree with the documents in it. With vectors, also show "
        "whether neighbouring documents have codes in common.",
        epilog="example:\n  genret docids inspect docids/semantic --corpus corpora/python-docs --depth 3",
    )
    inspect.add_argument("folder", metavar="DIR", help="docids, from 'genret docids build'")
    inspect.add_argument("--corpus", metavar="DIR", help="corpus of the docids, to show titles beside the ids")
    inspect.add_argument("--vectors", metavar="FILE.npy", help="vectors of the documents, to compare the docids with")
    inspect.add_argument("--quantiser", metavar="DIR", help="with --vectors: the quantiser saved with the docids")
    for name, default, text in (
        ("--depth", 2, "levels of the tree to draw"),
        ("--branches", 4, "branches to draw per node"),
        ("--documents", 3, "documents to name per branch"),
    ):
        inspect.add_argument(name, type=int, default=default, help=f"{text} (default: {default})")
    inspect.add_argument("--json", action="store_true", help="print the figures as JSON, without a tree")


def _configure_build(actions: "argparse._SubParsersAction[Any]") -> None:
    build = actions.add_parser(
        "build",
        help="give every document of a corpus its docid",
        description="Give every document its docid and save all as one table: semantic (hierarchical k-means of "
        "document vectors), residual (residual k-means), product (product quantisation), rq-vae (residual quantisation "
        "of learned encodings), lsh (random hyperplanes), random (random codes), atomic (one token per document), "
        "naive (the digits of an arbitrary number), or codes from a file. Without further options the docids are those "
        "that 'genret train' makes by itself; 'genret train --docids DIR' uses these.",
        epilog="example:\n  genret docids build --corpus corpora/python-docs --out docids/semantic --seed 1\n"
        "  genret train --corpus corpora/python-docs --docids docids/semantic --run runs/first",
        formatter_class=_HelpWithDefaults,
    )
    build.add_argument("--corpus", required=True, metavar="DIR", help="the BEIR folder, or one of items and histories")
    build.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    build.add_argument(
        "--strategy",
        type=_strategy_name,
        metavar="NAME",
        help=f"{', '.join(_named())}, or file:FILE.npy with a row of codes for each document "
        "(default: semantic; for items: residual)",
    )
    build.add_argument(
        "--vectors",
        metavar="SOURCE",
        help="document vectors: FILE.npy, lsa (from the corpus itself), encoder:NAME (a sentence encoder of "
        "'genret encoder get', or its folder) or sentence-transformers:MODEL (default: lsa; for items their "
        "embeddings.npy, if there)",
    )
    for field, options in _OPTIONS.items():
        build.add_argument(f"--{field.replace('_', '-')}", dest=field, **options)
    build.add_argument(
        "--quantiser-out",
        metavar="DIR",
        help="residual, product, rq-vae, lsh: also save the fitted quantiser, which gives new documents their codes",
    )
    build.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: 0)")


class _HelpWithDefaults(argparse.RawDescriptionHelpFormatter):
    """Lists the strategies that an option applies to, with its default for each."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an option to the help that is being printed."""
        if action.dest in _OPTIONS:
            action = copy.copy(action)
            action.help = f"{action.help} ({_defaults_text(action.dest)})"
        super().add_argument(action)


def _defaults_text(field: str) -> str:
    """Return the defaults of a field: ``"residual, rq-vae, random: 3; product: 8; lsh: 4"``."""
    strategies: dict[str, list[str]] = {}
    for name in _STRATEGIES:
        if field in (defaults := _defaults(name)):
            strategies.setdefault(_default_text(defaults[field]), []).append(name)
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in strategies.items())


def _default_text(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _defaults(strategy: str) -> dict[str, Any]:
    """Return the fields of a strategy's class with their defaults."""
    return {field.name: field.default for field in dataclasses.fields(_class_of(strategy))}


def _class_of(strategy: str) -> Any:
    from genret_jax import docids

    return getattr(docids, _STRATEGIES[strategy])


def _named() -> list[str]:
    """Return the strategies that are chosen by their name alone."""
    return [name for name in _STRATEGIES if name != "file"]


def _strategy_name(text: str) -> str:
    if text not in _named() and not (text.startswith(_FROM_FILE) and text.endswith(".npy")):
        raise argparse.ArgumentTypeError(f"invalid choice: {text!r} (choose from {', '.join(_named())}, file:FILE.npy)")
    return text


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _build(args) if args.action == "build" else _inspect(args)


def _build(args: argparse.Namespace) -> int:
    from genret_jax.data.interactions import read_corpus
    from genret_jax.docids import QuantisedDocids, describe, summary_text

    args.strategy = args.strategy or _default_strategy(args.corpus)
    strategy = _strategy(args)  # a mistake in the options should show before the corpus is read
    source = _vector_source(args)
    _require_outputs_free(args.out, args.quantiser_out)
    corpus = read_corpus(args.corpus)
    vectors, quantiser = None if source is None else source.vectors(corpus), None
    given = corpus.doc_ids, vectors, args.seed, corpus.fingerprint
    if isinstance(strategy, QuantisedDocids):
        quantiser, table = strategy.fit_and_assign(*given)
    else:
        table = strategy.assign(*given)
    if quantiser is not None and args.quantiser_out is not None:
        quantiser.save(args.quantiser_out)
    table.save(args.out)
    print(summary_text(describe(table, vectors, quantiser)))
    print(
        f"\nwritten to {args.out}\n"
        f"show them: genret docids inspect {args.out} --corpus {args.corpus}\n"
        f"use them:  genret train --docids {args.out} --corpus {args.corpus} --run DIR"
    )
    return 0


def _default_strategy(corpus: str) -> str:
    """Return the name of the strategy that a run on this corpus has by default."""
    from genret_jax.config.experiment import Experiment, Recommendation
    from genret_jax.data.interactions import is_interactions

    default = type((Recommendation if is_interactions(corpus) else Experiment).docids)
    return next(name for name, class_name in _STRATEGIES.items() if class_name == default.__name__)


def _strategy(args: argparse.Namespace) -> Any:
    """Return the strategy with the options that were given.

    Raises:
        InputError: If an option belongs to other strategies, or its value does not fit.
    """
    from genret_jax.docids import QuantisedDocids

    if args.seed < 0:
        raise InputError(f"--seed {args.seed}", expected="a number of at least 0")
    kind, _, path = args.strategy.partition(":")
    fields = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    for name in fields:
        if name not in _defaults(kind):
            others = [other for other in _STRATEGIES if name in _defaults(other)]
            raise InputError(
                f"--{name.replace('_', '-')} with --strategy {args.strategy}",
                fix=f"leave it out, or choose --strategy {others[0]}",
            )
    if args.quantiser_out is not None and not issubclass(_class_of(kind), QuantisedDocids):
        fitted = [name for name in _named() if issubclass(_class_of(name), QuantisedDocids)]
        raise InputError(
            f"--quantiser-out with --strategy {args.strategy}, which fits none",
            fix=f"leave it out, or choose one of {', '.join(fitted)}",
        )
    return _class_of(kind)(**fields, **({"path": path} if path else {}))


def _vector_source(args: argparse.Namespace) -> Any:
    """Return the source of the document vectors, or None if the strategy needs none."""
    from genret_jax.data.interactions import is_interactions
    from genret_jax.data.item_vectors import vectors_of_items
    from genret_jax.data.vectors import LsaVectors, NpyVectors, SentenceTransformerVectors
    from genret_jax.models.encoders.getting import find_encoder
    from genret_jax.models.encoders.sentence import EncoderVectors
    from genret_jax.problems import say

    if not getattr(_class_of(args.strategy.partition(":")[0]), "needs_vectors", False):
        if args.vectors is not None:
            raise InputError(f"--vectors with --strategy {args.strategy}, which needs none", fix="leave --vectors out")
        return None
    kind, _, model = (args.vectors or "lsa").partition(":")
    if args.vectors is None and is_interactions(args.corpus):
        return vectors_of_items(args.corpus, say, args.seed)
    if args.vectors is None or args.vectors == "lsa":
        return LsaVectors(seed=args.seed)
    if kind == "encoder" and model:
        return EncoderVectors(path=str(find_encoder(model)))
    if kind == "sentence-transformers" and model:
        return SentenceTransformerVectors(model=model)
    if args.vectors.endswith(".npy"):
        return NpyVectors(path=args.vectors)
    raise InputError(
        f"--vectors {args.vectors}",
        expected="FILE.npy, lsa, encoder:NAME or sentence-transformers:MODEL",
        fix=nearest(kind, ("lsa", "encoder", "sentence-transformers")) or "see 'genret docids build --help'",
    )


def _require_outputs_free(out: str, quantiser_out: str | None) -> None:
    from genret_jax.storage import require_free

    require_free(out)
    if quantiser_out is None:
        return
    require_free(quantiser_out)
    table, quantiser = Path(out).resolve(), Path(quantiser_out).resolve()
    if table.is_relative_to(quantiser) or quantiser.is_relative_to(table):
        raise InputError(
            f"--quantiser-out {quantiser_out} with --out {out}",
            expected="two folders, neither within the other",
            fix="choose another name for one of them",
        )


def _inspect(args: argparse.Namespace) -> int:
    from genret_jax.docids import DocidTable, describe, summary_text, tree_text

    for name in ("depth", "branches", "documents"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}", expected="a number of at least 1")
    table = DocidTable.load(args.folder)
    titles = None if args.corpus is None else _titles(table, args)
    described = describe(table, *_vectors_and_quantiser(table, args))
    if args.json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return 0
    print(f"{summary_text(described)}\n")
    print(tree_text(table, titles, depth=args.depth, branches=args.branches, documents=args.documents))
    return 0


def _vectors_and_quantiser(table: "DocidTable", args: argparse.Namespace) -> tuple[Any, Any]:
    import genret_jax.docid_learning.model  # noqa: F401  registers learned quantisers
    from genret_jax.docids import load_quantiser
    from genret_jax.storage import read_npy

    if args.vectors is None:
        if args.quantiser is not None:
            raise InputError("--quantiser without --vectors", fix="add --vectors FILE.npy, or leave --quantiser out")
        return None, None
    vectors = read_npy(args.vectors, kinds="fiu", expected="numbers of shape [documents, dimensions]")
    return vectors, None if args.quantiser is None else load_quantiser(args.quantiser)


def _titles(table: "DocidTable", args: argparse.Namespace) -> list[str]:
    from genret_jax.data.interactions import read_corpus

    corpus = read_corpus(args.corpus)
    table.require_corpus(corpus.fingerprint, file=args.folder)
    return [f"{doc_id}  {_heading(corpus, index)}" for index, doc_id in enumerate(corpus.doc_ids)]


def _heading(corpus: "Corpus", index: int) -> str:
    return corpus.titles[index] or corpus.texts[index][:200] or "(empty)"
