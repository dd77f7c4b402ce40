"""``genret search``: one query, a file of queries, or a prompt."""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from genret_jax.cli import opened_with, search_options
from genret_jax.data.text.words import normalized_words, printable
from genret_jax.errors import InputError

if TYPE_CHECKING:
    from genret_jax.retriever import Retriever, SearchResult

HELP = "search a trained run: one query, a file of queries, or interactively"

_EPILOG = """
example:
  genret search --run runs/first "join path components"
  genret search --run runs/first --file queries.txt --json > results.jsonl
  genret search --run runs/first                         asks for queries until an empty line
  genret search --run runs/first --add new.jsonl "join path components"
"""
_TOGETHER = 64  # queries of a file that are searched together
_SNIPPET = 100  # characters of text shown below a title


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("query", nargs="?", help="the query; without it and --file, ask for queries")
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder of 'genret train'")
    parser.add_argument("--file", metavar="FILE", help="file with a query per line; '-' reads standard input")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="documents per query (default: 10)")
    parser.add_argument("--beam", type=int, metavar="N", help="beams (default: 20, or the power of two from k on)")
    parser.add_argument(
        "--add",
        metavar="FILE",
        help="corpus.jsonl with further documents, whose docids must follow from texts",
    )
    search_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per query")


def run(args: argparse.Namespace) -> int:
    """Search and print."""
    from genret_jax.data.corpus import read_documents
    from genret_jax.retriever import Retriever
    from genret_jax.run.compiled import keep_compiled

    if args.query is not None and args.file:
        raise InputError("both a query and --file", fix="give one of them")
    keep_compiled()
    retriever = Retriever.load(args.run, **opened_with(args))
    retriever.run.require_request(str)  # before anybody is asked for a query
    if args.add:
        doc_ids, titles, texts = read_documents(Path(args.add))
        retriever = retriever.with_documents(doc_ids, texts, titles=titles)
    if args.file:
        _search_file(retriever, args)
        return 0
    for query in [args.query] if args.query is not None else _ask(retriever):
        try:
            show(query, retriever.search(query, args.k, beam=args.beam), args.json)
        except InputError as error:
            if args.query is not None:
                raise
            print(f"  {error}", file=sys.stderr)
    return 0


def _search_file(retriever: "Retriever", args: argparse.Namespace) -> None:
    """Search for the queries of a file. A query without words is reported and gets no results."""
    from tqdm import tqdm

    lines = lines_of(args.file, "query")
    queries = [query for _, query in lines]
    # On a terminal the results themselves are the progress.
    hidden = sys.stdout.isatty() or not sys.stderr.isatty()
    with tqdm(total=len(queries), desc="searching", unit="query", disable=hidden, leave=False) as bar:
        for start in range(0, len(queries), _TOGETHER):
            chunk = queries[start : start + _TOGETHER]
            places = [place for place, query in enumerate(chunk) if normalized_words(query)]
            results = retriever.search([chunk[place] for place in places], args.k, beam=args.beam) if places else []
            found = dict(zip(places, results, strict=True))
            for place, query in enumerate(chunk):
                if place not in found:
                    line = f"{args.file}:{lines[start + place][0]}: the query {query!r} has no words"
                    print(f"genret: {line}", file=sys.stderr)
                show(query, found.get(place, []), args.json)
            bar.update(len(chunk))


def lines_of(file: str, what: str) -> list[tuple[int, str]]:
    """Return the lines of a file, or of standard input for ``-``, each with its number and without empty ones.

    Raises:
        InputError: If the file cannot be read, is not UTF-8, or has no lines.
    """
    from genret_jax.data.records import read_lines

    found = read_lines(Path(file)) if file != "-" else enumerate(sys.stdin.read().removeprefix("\ufeff").split("\n"), 1)
    lines = [(number, line.strip()) for number, line in found if line.strip()]
    if not lines:
        raise InputError("the file is empty", file=file, expected=f"a {what} per line")
    return lines


def _ask(retriever: "Retriever") -> Iterator[str]:
    corpus = retriever.run.corpus
    print(f"{len(corpus):,} documents of {corpus.name}; an empty line ends.", file=sys.stderr)
    while True:
        try:
            query = input("query> " if sys.stdin.isatty() else "").strip()
        except EOFError:
            return
        if not query:
            return
        yield query


def show(query: str, results: "list[SearchResult]", as_json: bool) -> None:
    """Print the results of a query or a history."""
    if as_json:
        rows = [
            {"rank": r.rank, "doc_id": r.doc_id, "score": r.score, "docid": list(r.docid), "title": r.title}
            for r in results
        ]
        print(json.dumps({"query": query, "results": rows}, ensure_ascii=False), flush=True)
        return
    print(f"\n{printable(query)}")
    for result in results:
        says_more = normalized_words(result.title) != normalized_words(result.doc_id)
        title = f"  {result.title}" if result.title and says_more else ""
        named, docid = printable(f"{result.doc_id}{title}"), "-".join(map(str, result.docid))
        print(f"{result.rank:4d}  {result.score:8.3f}  {named}  ({docid})")
        if result.text:
            snippet = printable(" ".join(result.text.split()))
            print(f"{'':16}{snippet[:_SNIPPET]}{'…' if len(snippet) > _SNIPPET else ''}")
