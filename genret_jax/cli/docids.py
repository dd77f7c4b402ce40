"""``genret docids``: give the documents of a corpus their docids, or look at docids."""

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from genret_jax.data.corpus import Corpus
    from genret_jax.docids import DocidTable

HELP = "give every document its docid, or show usage, depth, collisions and the tree of docids"

_STRATEGIES = ("semantic", "atomic", "naive", "residual")
# Options that only some strategies have, with what they default to there.
_OPTIONS = {
    "semantic": {"branching": 10, "leaf_size": 100, "memory_gib": 4.0},
    "residual": {"levels": 3, "codebook": 64, "memory_gib": 4.0},
}
_WITH_VECTORS = ("semantic", "residual")
_EPILOG = """
examples:
  genret docids build --corpus corpora/python-docs --out docids/semantic
  genret docids build --corpus my-corpus --out docids/mine --vectors vectors.npy --branching 30 --leaf-size 30
  genret docids build --corpus my-corpus --out docids/atomic --strategy atomic
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
        "which are shared, and a piece of the tree with the documents in it.",
        epilog="example:\n  genret docids inspect docids/semantic --corpus corpora/python-docs --depth 3",
    )
    inspect.add_argument("folder", metavar="DIR", help="docids, from 'genret docids build'")
    inspect.add_argument("--corpus", metavar="DIR", help="their corpus, to show titles beside the ids")
    inspect.add_argument("--depth", type=int, default=2, help="levels of the tree to draw (default: 2)")
    inspect.add_argument("--branches", type=int, default=4, help="branches to draw of a node (default: 4)")
    inspect.add_argument("--documents", type=int, default=3, help="documents to name of a branch (default: 3)")
    inspect.add_argument("--json", action="store_true", help="print the figures as JSON, and no tree")


def _configure_build(actions: "argparse._SubParsersAction[Any]") -> None:
    build = actions.add_parser(
        "build",
        help="give every document of a corpus its docid",
        description="Give every document its docid and save them as one table: semantic (hierarchical k-means of "
        "document vectors), residual (residual k-means), atomic (one token a document) or naive (the digits of an "
        "arbitrary number).",
        epilog="example:\n  genret docids build --corpus corpora/python-docs --out docids/semantic --seed 1",
    )
    build.add_argument("--corpus", required=True, metavar="DIR", help="the BEIR folder")
    build.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    build.add_argument("--strategy", choices=_STRATEGIES, default="semantic", help="default: semantic")
    build.add_argument(
        "--vectors",
        metavar="SOURCE",
        help="document vectors: FILE.npy, lsa (from the corpus itself) or sentence-transformers:MODEL (default: lsa)",
    )
    build.add_argument("--branching", type=int, help="semantic: clusters of a cluster (default: 10)")
    build.add_argument("--leaf-size", type=int, help="semantic: most documents of a last cluster (default: 100)")
    build.add_argument("--levels", type=int, help="residual: number of codebooks (default: 3)")
    build.add_argument("--codebook", type=int, help="residual: codes of each (default: 64)")
    build.add_argument(
        "--memory-gib",
        type=float,
        help="semantic, residual: vectors that take more are read from their file piece by piece (default: 4)",
    )
    build.add_argument("--seed", type=int, default=0, help="decides every random choice (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    return _build(args) if args.action == "build" else _inspect(args)


def _build(args: argparse.Namespace) -> int:
    strategy = _strategy(args)  # a mistake in the options should show before the corpus is read
    source = _vector_source(args)
    _require_free(args.out)
    from genret_jax.data.corpus import read_beir
    from genret_jax.docids import describe, summary_text

    corpus = read_beir(args.corpus)
    vectors = None if source is None else source.vectors(corpus)
    table: DocidTable = strategy.assign(corpus.doc_ids, vectors, args.seed, corpus.fingerprint)
    table.save(args.out)
    print(summary_text(describe(table)))
    print(f"\nwritten to {args.out}; look at it with: genret docids inspect {args.out} --corpus {args.corpus}")
    return 0


def _strategy(args: argparse.Namespace) -> Any:
    from genret_jax import docids
    from genret_jax.errors import InputError

    if args.seed < 0:
        raise InputError(f"--seed {args.seed}", expected="a number of at least 0")
    mine = _OPTIONS.get(args.strategy, {})
    given = {name: default if getattr(args, name) is None else getattr(args, name) for name, default in mine.items()}
    for strategy, options in _OPTIONS.items():
        for name in options:
            if name not in mine and getattr(args, name) is not None:
                raise InputError(
                    f"--{name.replace('_', '-')} with --strategy {args.strategy}",
                    fix=f"leave it out, or choose --strategy {strategy}",
                )
    classes = {
        "semantic": docids.HierarchicalKMeans,
        "atomic": docids.AtomicDocids,
        "naive": docids.NaiveStringDocids,
        "residual": docids.ResidualKMeans,
    }
    return classes[args.strategy](**given)


def _vector_source(args: argparse.Namespace) -> Any:
    """Return what computes the vectors, or None for strategies that need none."""
    from genret_jax.data.vectors import LsaVectors, NpyVectors, SentenceTransformerVectors
    from genret_jax.errors import InputError, nearest

    if args.strategy not in _WITH_VECTORS:
        if args.vectors is not None:
            raise InputError(f"--vectors with --strategy {args.strategy}, which needs none", fix="leave --vectors out")
        return None
    kind, _, model = (args.vectors or "lsa").partition(":")
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


def _require_free(folder: str) -> None:
    """Refuse an output that exists before the work rather than after it."""
    from pathlib import Path

    from genret_jax.errors import InputError

    path = Path(folder)
    if path.exists() and not (path.is_dir() and not any(path.iterdir())):
        raise InputError("the output already exists", file=path, fix="remove it or choose another name")


def _inspect(args: argparse.Namespace) -> int:
    import json

    from genret_jax.docids import DocidTable, describe, summary_text, tree_text
    from genret_jax.errors import InputError

    for name in ("depth", "branches", "documents"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name} {getattr(args, name)}", expected="a number of at least 1")
    table = DocidTable.load(args.folder)
    titles = None if args.corpus is None else _titles(table, args)
    described = describe(table)
    if args.json:
        print(json.dumps(described, indent=2, ensure_ascii=False))
        return 0
    print(f"{summary_text(described)}\n")
    print(tree_text(table, titles, depth=args.depth, branches=args.branches, documents=args.documents))
    return 0


def _titles(table: "DocidTable", args: argparse.Namespace) -> list[str]:
    from genret_jax.data.corpus import read_beir

    corpus = read_beir(args.corpus)
    table.require_corpus(corpus.fingerprint, file=args.folder)
    return [f"{doc_id}  {_heading(corpus, index)}" for index, doc_id in enumerate(corpus.doc_ids)]


def _heading(corpus: "Corpus", index: int) -> str:
    return corpus.titles[index] or corpus.texts[index][:200] or "(empty)"
