"""``genret queries``: queries written for documents, to train on."""

import argparse
import sys
from pathlib import Path

from genret_jax.cli import allow_import_option

HELP = "write queries that documents answer (queries_generated.jsonl), to train on them"

_EPILOG = """
A T5 that was trained to write a document's query reads every document and draws queries of it. Training takes them for
pseudo-queries (SamplerConfig.generated_query_rate).

examples:
  genret train --recipe queries --corpus my-corpus --run runs/writer
  genret queries generate --run runs/writer --corpus my-corpus --number 10
  genret queries generate --checkpoint doc2query-t5-base-msmarco --corpus my-corpus --number 40
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="KIND")
    generate = kinds.add_parser(
        "generate",
        help="write queries of all documents",
        description="Write queries of all documents of a corpus. What is repeated within a document, or is a query of "
        "an evaluation split, is left out and counted.",
        epilog="example:\n  genret queries generate --run runs/writer --corpus my-corpus --number 10",
    )
    writer = generate.add_mutually_exclusive_group(required=True)
    writer.add_argument("--run", metavar="DIR", help="a run of runs/queries_from_scratch.gin")
    writer.add_argument(
        "--checkpoint", metavar="DIR", help="public T5 weights, with spiece.model, such as docT5query's"
    )
    generate.add_argument("--corpus", required=True, metavar="DIR", help="the documents; a BEIR folder")
    generate.add_argument("--number", type=int, default=10, metavar="N", help="queries a document (default: 10)")
    generate.add_argument("--top-k", type=int, default=10, metavar="N", help="next tokens to draw from (default: 10)")
    generate.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of the draw (default: 1)")
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw (default: 0)")
    allow_import_option(generate)
    generate.add_argument("--out", metavar="FILE", help="default: queries_generated.jsonl in the corpus")


def run(args: argparse.Namespace) -> int:
    """Write the queries."""
    from genret_jax.data.corpus import read_beir
    from genret_jax.data.records import json_line
    from genret_jax.data.text.words import printable
    from genret_jax.retriever import QueryWriter, generate_queries
    from genret_jax.storage import atomic_file, require_free

    out = Path(args.out or Path(args.corpus) / "queries_generated.jsonl")
    require_free(out, folder=False)
    corpus = read_beir(args.corpus)
    writer = (
        QueryWriter.load(args.run, allow_imports=args.allow_import)
        if args.run
        else QueryWriter.from_public(args.checkpoint)
    )
    generated = generate_queries(
        writer,
        corpus,
        args.number,
        top_k=args.top_k,
        temperature=args.temperature,
        seed=args.seed,
        progress=sys.stderr.isatty(),
    )
    with atomic_file(out) as handle:
        handle.writelines(
            json_line({"_id": doc_id, "queries": queries}) for doc_id, queries in generated.queries.items()
        )
    print(f"{out}: {describe(generated.counts)}")
    for doc_id, queries in list(generated.queries.items())[:3]:
        print(printable(f"  {doc_id}: {'; '.join(queries[:3])}"))
    return 0


def describe(counts: dict[str, int]) -> str:
    """Return what was written and left out, for people."""
    left_out = {"repeated": counts["repeated"], "without a word": counts["empty"]}
    left_out |= {
        f"queries of split '{name.split('/')[1]}'": count
        for name, count in counts.items()
        if name.startswith("evaluation")
    }
    told = ", ".join(f"{count:,} {name}" for name, count in left_out.items())
    return (
        f"{counts['kept']:,} queries of {counts['documents']:,} documents; left out of {counts['written']:,}: {told}; "
        f"{counts['shared']:,} were written for another document too"
    )
