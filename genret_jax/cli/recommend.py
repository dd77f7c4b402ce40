"""``genret recommend``: the next items of one history, of a file of histories, or of a user of the data."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genret_jax.cli import opened_with, search_options
from genret_jax.cli.search import lines_of, show
from genret_jax.errors import InputError

if TYPE_CHECKING:
    from genret_jax.retriever import Retriever

HELP = "recommend items to users: after a history given here, in a file, or of a user of the data"

_EPILOG = """
example:
  genret recommend --run runs/beauty B004756YJA B004ZT0SSG
  genret recommend --run runs/beauty --user 17
  genret recommend --run runs/beauty --file histories.txt --json > recommended.jsonl
  genret recommend --run runs/beauty --add new.jsonl --add-vectors new.npy --new-items 0.2 B004756YJA

A history is the ids of its items, oldest first. In a file each line holds one, with spaces between the ids. --add takes
items that came after training, in the format of items.jsonl; make their vectors as those of the other items were made.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("items", nargs="*", metavar="ITEM", help="ids of the history's items, oldest first")
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder of 'genret train'")
    parser.add_argument("--user", metavar="ID", help="id of the user; without ITEM, the user's history in the data")
    parser.add_argument("--file", metavar="FILE", help="file with a history per line; '-' reads standard input")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="items per history (default: 10)")
    parser.add_argument("--beam", type=int, metavar="N", help="beams (default: 20, or the power of two from k on)")
    parser.add_argument("--add", metavar="FILE", help="items.jsonl with further items to recommend")
    parser.add_argument("--add-vectors", metavar="FILE.npy", help="vectors of these items, row i for line i")
    parser.add_argument(
        "--new-items",
        type=float,
        metavar="SHARE",
        help="share of the results that are items which training has not seen (default: all items ranked by score)",
    )
    parser.add_argument("--repeat", action="store_true", help="also recommend items of the history")
    search_options(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object per history")


def run(args: argparse.Namespace) -> int:
    """Recommend and print."""
    from tqdm import tqdm

    from genret_jax.problems import History
    from genret_jax.retriever import Retriever
    from genret_jax.run.compiled import keep_compiled

    if bool(args.file) + bool(args.items or args.user) != 1:
        raise InputError(
            "no history" if not args.file else "both a history and --file",
            expected="ids of items, --user, or --file",
            fix="give one of them",
        )
    keep_compiled()
    retriever = Retriever.load(args.run, **opened_with(args))
    retriever.run.require_request(History)
    if args.add or args.add_vectors:
        retriever = _with_items(retriever, args.add, args.add_vectors)
    opened: Any = retriever.run
    if args.file:
        histories = [(number, line.split()) for number, line in lines_of(args.file, "history")]
    else:
        histories = [(1, list(args.items) or _history(opened, args.user))]
    # A user of the data is known by the history; a run that knows users reads who it is besides.
    user = args.user if args.items or opened.histories.user_tokens else None
    # On a terminal the results themselves are the progress.
    hidden = len(histories) == 1 or sys.stdout.isatty() or not sys.stderr.isatty()
    for number, history in tqdm(histories, "recommending", unit="history", disable=hidden, leave=False):
        try:
            found = retriever.recommend(
                history, args.k, user=user, beam=args.beam, repeat=args.repeat, new_items=args.new_items
            )
        except InputError as error:
            if not args.file:
                raise
            raise InputError(error.found, file=args.file, line=number, expected=error.expected, fix=error.fix) from None
        show(" ".join(history), found, args.json)
    return 0


def _with_items(retriever: "Retriever", file: str | None, vectors: str | None) -> "Retriever":
    from genret_jax.data.corpus import Corpus, read_documents
    from genret_jax.data.vectors import NpyVectors

    if not (file and vectors):
        raise InputError("--add without --add-vectors" if file else "--add-vectors without --add", fix="give both")
    item_ids, titles, texts = read_documents(Path(file), need_text=False)
    items = Corpus(name=file, doc_ids=item_ids, titles=titles, texts=texts, source=file)
    return retriever.with_items(item_ids, NpyVectors(path=vectors).vectors(items), titles=titles, texts=texts)


def _history(run: Any, user: str) -> list[str]:
    data = run.interactions
    if user not in data.user_index:
        raise InputError(f"there is no user '{user}' in the data", fix="give the ids of items, or a user of the data")
    return [data.items.doc_ids[item] for item in data.history(data.user_index[user]).tolist()]
