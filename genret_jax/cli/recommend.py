"""``genret recommend``: the next items of one history, of a file of histories, or of a user of the data."""

import argparse
import sys
from typing import TYPE_CHECKING

from genret_jax.cli import mesh_of, model_parallel_option
from genret_jax.cli.search import read_lines, show
from genret_jax.errors import InputError

if TYPE_CHECKING:
    from genret_jax.run.items import ItemRun

HELP = "recommend items to users: after a history given here, in a file, or of a user of the data"

_EPILOG = """
example:
  genret recommend --run runs/beauty B004756YJA B004ZT0SSG
  genret recommend --run runs/beauty --user 17
  genret recommend --run runs/beauty --file histories.txt --json > recommended.jsonl

A history is the ids of its items, oldest first. In a file each line has one, with spaces between the ids.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument("items", nargs="*", metavar="ITEM", help="ids of the history's items, oldest first")
    parser.add_argument("--run", required=True, metavar="DIR", help="run folder of 'genret train'")
    parser.add_argument("--user", metavar="ID", help="the user; without items, one of the data with the whole history")
    parser.add_argument("--file", metavar="FILE", help="a history per line; '-' reads standard input")
    parser.add_argument("-k", type=int, default=10, metavar="N", help="items a history (default: 10)")
    parser.add_argument("--beam", type=int, metavar="N", help="beams of the search (default: the larger of k and 20)")
    parser.add_argument("--repeat", action="store_true", help="let items of the history come out too")
    parser.add_argument(
        "--checkpoint", default="best", metavar="WHICH", help="best, last, start (untrained) or a step (default: best)"
    )
    model_parallel_option(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a history")


def run(args: argparse.Namespace) -> int:
    """Recommend and print."""
    from tqdm import tqdm

    from genret_jax.retriever import Retriever
    from genret_jax.run.items import ItemRun

    if bool(args.file) + bool(args.items or args.user) != 1:
        raise InputError(
            "no history" if not args.file else "both a history and --file",
            expected="ids of items, --user, or --file",
            fix="give one of them",
        )
    checkpoint = int(args.checkpoint) if args.checkpoint.isdigit() else args.checkpoint
    retriever = Retriever.load(args.run, checkpoint=checkpoint, mesh=mesh_of(args))
    histories = [line.split() for line in read_lines(args.file, "history")] if args.file else [list(args.items)]
    if not args.file and not args.items:
        histories = [_history(retriever.run_of(ItemRun), args.user)]
    # On a terminal the results themselves are the progress.
    hidden = len(histories) == 1 or sys.stdout.isatty() or not sys.stderr.isatty()
    for number, history in enumerate(tqdm(histories, "recommending", unit="history", disable=hidden, leave=False), 1):
        try:
            found = retriever.recommend(history, args.k, user=args.user, beam=args.beam, repeat=args.repeat)
        except InputError as error:
            if not args.file:
                raise
            raise InputError(error.found, file=args.file, line=number, expected=error.expected, fix=error.fix) from None
        show(" ".join(history), found, args.json)
    return 0


def _history(run: "ItemRun", user: str) -> list[str]:
    data = run.interactions
    if user not in data.user_index:
        raise InputError(f"there is no user '{user}' in the data", fix="give the ids of items, or a user of the data")
    return [data.items.doc_ids[item] for item in data.history(data.user_index[user]).tolist()]
