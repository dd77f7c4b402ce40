"""``genret queries``: write queries for documents, to train on them."""

import argparse
import sys
from pathlib import Path

from genret_jax.cli import allow_import_option

HELP = "write queries that documents answer (queries_generated.jsonl), to train on them"

_EPILOG = """
A T5 that was trained to write the query of a document reads every document and draws queries for it. Training uses them
as pseudo-queries (SamplerConfig.generated_query_rate).

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
        help="write queries for all documents",
        description="Write queries for all documents of a corpus. Queries that a document has already, or that an "
        "evaluation split has, are left out and counted.",
        epilog="example:\n  genret queries generate --run runs/writer --corpus my-corpus --number 10",
    )
    writer = generate.add_mutually_exclusive_group(required=True)
    writer.add_argument("--run", metavar="DIR", help="run folder of 'genret train --recipe queries'")
    writer.add_argument(
        "--checkpoint", metavar="DIR", help="public T5 weights, with spiece.model, such as docT5query's"
    )
    generate.add_argument("--corpus", required=True, metavar="DIR", help="BEIR folder with the documents")
    generate.add_argument("--number", type=int, default=10, metavar="N", help="queries per document (default: 10)")
    generate.add_argument(
        "--top-k", type=int, default=10, metavar="N", help="draw from the N likeliest tokens (default: 10)"
    )
    generate.add_argument(
        "--temperature", type=float, default=1.0, metavar="T", help="temperature of the draws (default: 1)"
    )
    generate.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the draws (default: 0)")
    allow_import_option(generate)
    generate.add_argument("--out", metavar="FILE", help="file (default: queries_generated.jsonl in the corpus)")


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
    """Describe how many queries were written and left out."""
    left_out = {"repeated": counts["repeated"], "without a word": counts["empty"]}
    left_out |= {
        f"queries of split '{name.split('/')[1]}'": count
        for name, count in counts.items()
        if name.startswith("evaluation")
    }
    left = ", ".join(f"{count:,} {name}" for name, count in left_out.items())
    return (
        f"{counts['kept']:,} queries of {counts['documents']:,} documents; left out of {counts['written']:,}: {left}; "
        f"{counts['shared']:,} were written for another document too"
    )
