"""``genret evaluate``: trained runs beside BM25 and other baselines, as tables, files and pictures."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from genret_jax.cli import opened_with, search_options
from genret_jax.errors import InputError

HELP = "measure trained runs beside BM25, SASRec and other baselines"

_EPILOG = """
example:
  genret evaluate --run runs/first
  genret evaluate --run runs/semantic --run runs/atomic --out report --dual-encoder
  genret evaluate --run runs/beauty --sasrec
  genret evaluate --run runs/semantic --compare SPLADE=splade.run --compare ColBERT=colbert.run
  genret evaluate --run runs/semantic --run runs/atomic --baseline atomic

--compare gives the ranking of another system, a TREC run file with lines 'query Q0 document rank score tag', a row of
its own. Every row is compared with the best baseline, query by query; --baseline chooses another row for that.

Writes report.json, report.md, TREC run files with their qrels, and a picture of each run's training.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--run",
        action="append",
        required=True,
        metavar="DIR",
        help="run folder, or that of several seeds; several of one corpus share a report",
    )
    parser.add_argument("--out", metavar="DIR", help="folder for the report (default: reports/SPLIT in the first run)")
    parser.add_argument("--split", metavar="NAME", help="split of the judgements (default: the run's, usually test)")
    parser.add_argument("--beam", type=int, metavar="N", help="number of beams (default: the run's)")
    parser.add_argument(
        "--compare",
        action="append",
        default=[],
        metavar="NAME=FILE",
        help="also measure the ranking of another system, a TREC run file; may be repeated",
    )
    parser.add_argument(
        "--baseline", metavar="NAME", help="row to compare the others with (default: the best baseline)"
    )
    search_options(parser)
    parser.add_argument("--no-bm25", action="store_true", help="on documents: do not measure BM25")
    parser.add_argument("--no-untrained", action="store_true", help="do not measure the untrained networks")
    parser.add_argument(
        "--dual-encoder",
        action="store_true",
        help="on documents: also train a dual encoder from the run's encoder, for as many steps, and measure it",
    )
    parser.add_argument(
        "--sasrec",
        action="store_true",
        help="on items: also measure SASRec, trained on the run's data with both losses",
    )
    parser.add_argument(
        "--exclude-history",
        action="store_true",
        help="on items: leave a user's own history out of the ranking",
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the tables."""
    from genret_jax.evaluation.render import terminal
    from genret_jax.problems import Measured
    from genret_jax.run.compiled import keep_compiled
    from genret_jax.run.evaluate import evaluate_runs, report_folder

    keep_compiled()
    report = evaluate_runs(
        args.run,
        args.out,
        split=args.split,
        beam=args.beam,
        measured=Measured(
            bm25=not args.no_bm25,
            untrained=not args.no_untrained,
            dual_encoder=args.dual_encoder,
            sasrec=args.sasrec,
            exclude_history=args.exclude_history,
        ),
        external=_named_files(args.compare),
        baseline=args.baseline,
        **opened_with(args),
    )
    print(terminal(report, width=min(shutil.get_terminal_size().columns, 120)))
    out = Path(args.out) if args.out else report_folder(args.run[0], report.splits[0].name)
    print(f"report: {out / 'report.md'}")
    return 0


def _named_files(given: Sequence[str]) -> dict[str, str]:
    """Return the files of ``--compare`` by their names."""
    files: dict[str, str] = {}
    for text in given:
        name, _, file = text.partition("=")
        if not name or not file:
            raise InputError(f"--compare {text}", expected="--compare NAME=FILE", fix="name the ranking and its file")
        if name in files:
            raise InputError(f"--compare gives the name '{name}' twice", fix="give each ranking a name of its own")
        files[name] = file
    return files
