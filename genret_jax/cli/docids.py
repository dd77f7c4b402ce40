"""``genret docids``: give the documents of a corpus their docids, or look at docids."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genret_jax.data.corpus import Corpus
    from genret_jax.docids import DocidTable

HELP = "give every document its docid, or show usage, depth, collisions and the tree of docids"

_STRATEGIES = ("semantic", "atomic", "naive", "residual", "rq-vae", "lsh", "random")
_FROM_FILE = "file:"
# Options that only some strategies have.
_OPTIONS = {
    "semantic": ("branching", "leaf_size", "memory_gib"),
    "residual": ("levels", "codebook", "separate", "memory_gib"),
    "rq-vae": (
        *("levels", "codebook", "width", "epochs", "batch_size", "learning_rate", "optimizer", "commitment"),
        *("separate", "memory_gib"),
    ),
    "lsh": ("levels", "hyperplanes", "separate", "memory_gib"),
    "random": ("levels", "codebook", "separate"),
    "file": ("separate",),
}
_WITH_VECTORS = ("semantic", "residual", "rq-vae", "lsh")
_WITH_QUANTISER = ("residual", "rq-vae", "lsh")
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
        help="show usage and perplexity of every level, depth, collisions, and a piece of the tree",
        description="Show what a folder of docids holds: usage and perplexity of every level, how deep docids are, "
        "which are shared, and a piece of the tree with the documents in it; with vectors, whether neighbours have "
        "codes in common.",
        epilog="example:\n  genret docids inspect docids/semantic --corpus corpora/python-docs --depth 3",
    )
    inspect.add_argument("folder", metavar="DIR", help="docids, from 'genret docids build'")
    inspect.add_argument("--corpus", metavar="DIR", help="their corpus, to show titles beside the ids")
    inspect.add_argument("--vectors", metavar="FILE.npy", help="their documents' vectors, to compare the docids with")
    inspect.add_argument("--quantiser", metavar="DIR", help="with --vectors: the quantiser saved when they were built")
    inspect.add_argument("--depth", type=int, default=2, help="levels of the tree to draw (default: 2)")
    inspect.add_argument("--branches", type=int, default=4, help="branches to draw of a node (default: 4)")
    inspect.add_argument("--documents", type=int, default=3, help="documents to name of a branch (default: 3)")
    inspect.add_argument("--json", action="store_true", help="print the figures as JSON, and no tree")


def _configure_build(actions: "argparse._SubParsersAction[Any]") -> None:
    build = actions.add_parser(
        "build",
        help="give every document of a corpus its docid",
        description="Give every document its docid and save them as one table: semantic (hierarchical k-means of "
        "document vectors), residual (residual k-means), rq-vae (residual quantisation of what a learned encoder makes "
        "of them), lsh (random hyperplanes), random (random codes), atomic (one token a document), naive (the digits "
        "of an arbitrary number), or codes from a file.",
        epilog="example:\n  genret docids build --corpus corpora/python-docs --out docids/semantic --seed 1",
    )
    build.add_argument("--corpus", required=True, metavar="DIR", help="the BEIR folder, or one of items and histories")
    build.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    build.add_argument(
        "--strategy",
        type=_strategy_name,
        default="semantic",
        metavar="NAME",
        help=f"{', '.join(_STRATEGIES)}, or file:FILE.npy with a row of codes for each document (default: semantic)",
    )
    build.add_argument(
        "--vectors",
        metavar="SOURCE",
        help="document vectors: FILE.npy, lsa (from the corpus itself) or sentence-transformers:MODEL "
        "(default: lsa; for items their embeddings.npy, if there)",
    )
    build.add_argument("--branching", type=int, help="semantic: clusters of a cluster (default: 10)")
    build.add_argument("--leaf-size", type=int, help="semantic: most documents of a last cluster (default: 100)")
    _configure_quantisers(build)
    build.add_argument("--seed", type=int, default=0, help="decides every random choice (default: 0)")


def _configure_quantisers(build: argparse.ArgumentParser) -> None:
    build.add_argument("--levels", type=int, help="residual, rq-vae, random: number of codes (default: 3); lsh: (4)")
    build.add_argument(
        "--codebook", type=int, help="residual: codes of each level (default: 64); rq-vae, random: (256)"
    )
    build.add_argument("--width", type=int, help="rq-vae: of the latent vectors (default: 32)")
    build.add_argument("--epochs", type=int, help="rq-vae: passes over the vectors (default: 500)")
    build.add_argument("--batch-size", type=int, help="rq-vae: vectors of a step (default: 1024)")
    build.add_argument("--learning-rate", type=float, help="rq-vae: default 0.001")
    build.add_argument("--optimizer", choices=("adamw", "adagrad"), help="rq-vae: default adamw")
    build.add_argument("--commitment", choices=("residual", "cumulative"), help="rq-vae: default residual")
    build.add_argument("--hyperplanes", type=int, help="lsh: binary digits of a code (default: 8)")
    build.add_argument(
        "--separate",
        action=argparse.BooleanOptionalAction,
        help="residual, rq-vae, lsh, random, file: append a code that tells documents with equal codes apart "
        "(default: yes; file: no)",
    )
    build.add_argument(
        "--memory-gib",
        type=float,
        help="semantic, residual, rq-vae, lsh: vectors that take more are read from their file piece by piece "
        "(default: 4)",
    )
    build.add_argument(
        "--quantiser-out",
        metavar="DIR",
        help="residual, rq-vae, lsh: save the fitted quantiser too, which gives new documents their codes",
    )


def _strategy_name(text: str) -> str:
    if text not in _STRATEGIES and not (text.startswith(_FROM_FILE) and text.endswith(".npy")):
        raise argparse.ArgumentTypeError(
            f"invalid choice: {text!r} (choose from {', '.join(_STRATEGIES)}, file:FILE.npy)"
        )
    return text


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _build(args) if args.action == "build" else _inspect(args)


def _build(args: argparse.Namespace) -> int:
    strategy = _strategy(args)  # a mistake in the options should show before the corpus is read
    source = _vector_source(args)
    from genret_jax.data.interactions import read_corpus
    from genret_jax.docids import describe, summary_text

    _require_outputs_free(args.out, args.quantiser_out)
    corpus = read_corpus(args.corpus)
    vectors, quantiser = None if source is None else source.vectors(corpus), None
    given = corpus.doc_ids, vectors, args.seed, corpus.fingerprint
    if args.strategy in _WITH_QUANTISER:
        quantiser, table = strategy.fit_and_assign(*given)
    else:
        table = strategy.assign(*given)
    if quantiser is not None and args.quantiser_out is not None:
        quantiser.save(args.quantiser_out)
    table.save(args.out)
    print(summary_text(describe(table, vectors, quantiser)))
    print(f"\nwritten to {args.out}; look at it with: genret docids inspect {args.out} --corpus {args.corpus}")
    return 0


def _strategy(args: argparse.Namespace) -> Any:
    from genret_jax import docids
    from genret_jax.errors import InputError

    if args.seed < 0:
        raise InputError(f"--seed {args.seed}", expected="a number of at least 0")
    kind = args.strategy.partition(":")[0]
    given = _given_options(args, kind)
    if kind == "file":
        return docids.NpyDocids(path=args.strategy.removeprefix(_FROM_FILE), **given)
    classes = {
        "semantic": docids.HierarchicalKMeans,
        "atomic": docids.AtomicDocids,
        "naive": docids.NaiveStringDocids,
        "residual": docids.ResidualKMeans,
        "rq-vae": docids.RqVae,
        "lsh": docids.LshDocids,
        "random": docids.RandomDocids,
    }
    return classes[kind](**given)


def _given_options(args: argparse.Namespace, kind: str) -> dict[str, Any]:
    """Return the strategy's options that were given, and refuse those of other strategies."""
    from genret_jax.errors import InputError

    mine = _OPTIONS.get(kind, ())
    for strategy, options in _OPTIONS.items():
        for name in options:
            if name not in mine and getattr(args, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} with --strategy {args.strategy}",
                    fix=f"leave it out, or choose --strategy {strategy}",
                )
    if args.quantiser_out is not None and kind not in _WITH_QUANTISER:
        raise InputError(
            f"--quantiser-out with --strategy {args.strategy}, which fits none",
            fix=f"leave it out, or choose one of {', '.join(_WITH_QUANTISER)}",
        )
    return {name: getattr(args, name) for name in mine if getattr(args, name) is not None}


def _vector_source(args: argparse.Namespace) -> Any:
    """Return what computes the vectors, or None for strategies that need none."""
    from genret_jax.data.interactions import is_interactions
    from genret_jax.data.item_vectors import vectors_of_items
    from genret_jax.data.vectors import LsaVectors, NpyVectors, SentenceTransformerVectors
    from genret_jax.errors import InputError, nearest
    from genret_jax.problems import say

    if args.strategy not in _WITH_VECTORS:
        if args.vectors is not None:
            raise InputError(f"--vectors with --strategy {args.strategy}, which needs none", fix="leave --vectors out")
        return None
    kind, _, model = (args.vectors or "lsa").partition(":")
    if args.vectors is None and is_interactions(args.corpus):
        return vectors_of_items(args.corpus, say, args.seed)
    if args.vectors is None or args.vectors == "lsa":
        return LsaVectors(seed=args.seed)
    if kind == "sentence-transformers" and model:
        return SentenceTransformerVectors(model=model)
    if args.vectors.endswith(".npy"):
        return NpyVectors(path=args.vectors)
    raise InputError(
        f"--vectors {args.vectors}",
        expected="FILE.npy, lsa or sentence-transformers:MODEL",
        fix=nearest(kind, ("lsa", "sentence-transformers")) or "see 'genret docids build --help'",
    )


def _require_outputs_free(out: str, quantiser_out: str | None) -> None:
    from pathlib import Path

    from genret_jax.errors import InputError
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
    import json

    from genret_jax.docids import DocidTable, describe, summary_text, tree_text
    from genret_jax.errors import InputError

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
    from genret_jax.errors import InputError
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
