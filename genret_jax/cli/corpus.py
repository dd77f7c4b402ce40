"""``genret corpus``: make a folder with a corpus or with items and histories, or show one."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from genret_jax.cli import _interactions

if TYPE_CHECKING:
    from genret_jax.data.corpus import Corpus

HELP = "make a corpus, or items with users' histories, from public data; check and show a folder"

_EPILOG = """
A corpus is a BEIR folder: corpus.jsonl ("_id", "title", "text"), and optionally queries.jsonl ("_id", "text"),
qrels/SPLIT.tsv (query-id, corpus-id, score) and queries_generated.jsonl ("_id" of a document, "queries").

Items and histories are a folder too: items.jsonl ("_id", "title", "text"), sequences.txt ("user item item …", oldest
first), and optionally embeddings.npy with vectors of the items.

examples:
  genret corpus python-docs --out corpora/python-docs
  genret corpus nq --size 10k --out corpora/nq10k
  genret corpus toy-items --out corpora/toy-items
  genret corpus amazon --reviews reviews_Beauty.json.gz --metadata meta_Beauty.json.gz --out corpora/beauty
  genret corpus show my-corpus
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    _configure_python_docs(kinds)
    _configure_nq(kinds)
    _interactions.configure(kinds)
    show = kinds.add_parser(
        "show",
        help="check a folder and show its contents",
        description="Read and check a corpus, or items and histories. Show counts, and a few queries with their "
        "documents or histories with their items.",
        epilog="example:\n  genret corpus show my-corpus --samples 5",
    )
    show.add_argument("folder", metavar="DIR", help="a BEIR folder, or one of items and histories")
    show.add_argument("--samples", type=int, default=3, metavar="N", help="queries or users to print (default: 3)")


def _configure_python_docs(kinds: argparse._SubParsersAction) -> None:
    docs = kinds.add_parser(
        "python-docs",
        help="the documentation of the running Python",
        description="Write the documentation of this Python's standard library. Bodies of docstrings are the "
        "documents; their summaries are the queries, a fifth of them in split 'test'.",
        epilog="example:\n  genret corpus python-docs --out corpora/python-docs",
    )
    docs.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    docs.add_argument(
        "--validation",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="share of the training queries to hold out as split 'validation' (default: 0)",
    )


def _configure_nq(kinds: argparse._SubParsersAction) -> None:
    nq = kinds.add_parser(
        "nq",
        help="Natural Questions in DSI's protocol, from TensorFlow Datasets",
        description="Write Natural Questions as DSI uses it (arXiv 2202.06991): NQ10K, NQ100K or NQ320K.",
        epilog="example:\n  genret corpus nq --size 10k --out corpora/nq10k",
    )
    nq.add_argument("--out", required=True, metavar="DIR", help="the folder to make")
    nq.add_argument("--size", choices=("10k", "100k", "320k"), default="10k", help="DSI's set (default: 10k)")
    nq.add_argument(
        "--identity",
        choices=("title", "text"),
        default="title",
        help="pages are one document if they have the same title, as in NCI and GenRet, or the same first 4,000 "
        "characters (text), as in DSI (default: title)",
    )
    nq.add_argument("--seed", type=int, default=0, help="seed of the samples 10k and 100k (default: 0)")
    nq.add_argument("--data-dir", metavar="DIR", help="folder of TensorFlow Datasets (default: its own)")
    nq.add_argument("--download", action="store_true", help="download and prepare the set first (some 42 GB)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from genret_jax.data.text.words import printable

    if args.kind == "show":
        print(printable(_show(Path(args.folder), samples=max(0, args.samples))))
    elif args.kind in _interactions.KINDS:
        _interactions.run(args)
    else:
        _make_corpus(args)
    return 0


def _show(folder: Path, *, samples: int) -> str:
    from genret_jax.data.interactions import is_interactions, read_interactions

    if is_interactions(folder):
        from genret_jax.data.describing import describe_interactions

        return describe_interactions(read_interactions(folder), folder, samples=samples)
    from genret_jax.data.corpus import read_beir

    return describe(read_beir(folder), samples=samples)


def _make_corpus(args: argparse.Namespace) -> None:
    from genret_jax.data.corpus import write_beir
    from genret_jax.storage import require_free

    require_free(args.out)
    if args.kind == "python-docs":
        from genret_jax.data.sources.python_docs import python_docs

        corpus = python_docs(validation=args.validation)
    else:
        from genret_jax.data.sources.natural_questions import natural_questions

        corpus = natural_questions(
            args.size, identity=args.identity, seed=args.seed, data_dir=args.data_dir, download=args.download
        )
    write_beir(corpus, args.out)
    print(f"{args.out}: {describe(corpus, samples=0)}")


def describe(corpus: "Corpus", *, samples: int) -> str:
    """Return counts and samples of a corpus, as text.

    Args:
        corpus: A corpus with documents.
        samples: Number of queries of each split to show, each with a relevant document.
    """
    from genret_jax.data.corpus import seen_and_unseen

    words = sum(len(text.split()) for text in corpus.texts)
    titled = sum(bool(title.strip()) for title in corpus.titles)
    lines = [
        f"{len(corpus):,} documents ({titled:,} with a title, {len(corpus.empty_documents):,} without any text, "
        f"{words / len(corpus):.0f} words on average), {len(corpus.queries):,} queries, "
        f"fingerprint {corpus.fingerprint}"
    ]
    for split, qrels in sorted(corpus.qrels.items(), key=lambda item: (item[0] != "train", item[0])):
        pairs = sum(map(len, qrels.values()))
        line = f"  {split}: {len(qrels):,} queries, {pairs:,} relevant pairs"
        if split != "train" and "train" in corpus.qrels:
            seen, unseen = seen_and_unseen(corpus, split)
            line += f", {len(seen):,} seen and {len(unseen):,} unseen (no relevant document has a training query)"
        lines.append(line)
    if corpus.generated_queries:
        generated = sum(map(len, corpus.generated_queries.values()))
        lines.append(f"  generated: {generated:,} queries for {len(corpus.generated_queries):,} documents")
    for split, qrels in corpus.qrels.items():
        for query_id, grades in list(qrels.items())[:samples]:
            doc_id = max(grades, key=lambda doc: grades[doc])
            text = " ".join(corpus.document_text(corpus.document_index[doc_id]).split())
            lines.append(f"\n  [{split}] {corpus.queries[query_id]}\n      -> {doc_id}: {text[:160]}")
    return "\n".join(lines)
