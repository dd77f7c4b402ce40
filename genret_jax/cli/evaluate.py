"""``genret evaluate``: trained runs beside BM25 and other baselines, as tables, files and pictures."""

import argparse
import shutil
from pathlib import Path

from genret_jax.cli import checkpoint_option, mesh_of, model_parallel_option
from genret_jax.errors import InputError

HELP = "measure trained runs beside BM25, SASRec and other baselines"

_EPILOG = """
example:
  genret evaluate --run runs/first
  genret evaluate --run runs/semantic --run runs/atomic --out report --dual-encoder
  genret evaluate --run runs/beauty --sasrec

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
    parser.add_argument("--split", metavar="NAME", help="qrels split (default: the run's, usually test)")
    checkpoint_option(parser)
    parser.add_argument("--beam", type=int, metavar="N", help="beams of the search (default: the run's)")
    model_parallel_option(parser)
    parser.add_argument("--no-bm25", action="store_true", help="leave BM25 out")
    parser.add_argument("--no-untrained", action="store_true", help="leave the untrained networks out")
    parser.add_argument(
        "--dual-encoder", action="store_true", help="train a dual encoder with the run's encoder, and search it too"
    )
    parser.add_argument(
        "--sasrec", action="store_true", help="on items: train SASRec with both losses on the run's data, and rank too"
    )
    parser.add_argument(
        "--exclude-history", action="store_true", help="on items: leave out of every ranking what the user has had"
    )


def run(args: argparse.Namespace) -> int:
    """Evaluate and print the tables."""
    from genret_jax.evaluate import Baselines, evaluate_runs
    from genret_jax.evaluation.render import terminal
    from genret_jax.run import Run, run_folders

    first = Run.open(run_folders(args.run[0])[0])
    _check_kind(args, first.kind)
    out = Path(args.out) if args.out else Path(args.run[0]) / "reports" / (args.split or first.evaluation.split)
    report = evaluate_runs(
        args.run,
        out,
        split=args.split,
        checkpoint=args.checkpoint,
        beam=args.beam,
        mesh=mesh_of(args),
        baselines=Baselines(
            bm25=not args.no_bm25,
            untrained=not args.no_untrained,
            dual_encoder=args.dual_encoder,
            sasrec=args.sasrec,
        ),
        exclude_history=args.exclude_history,
    )
    print(terminal(report, width=min(shutil.get_terminal_size().columns, 120)))
    print(f"report: {out / 'report.md'}")
    return 0


def _check_kind(args: argparse.Namespace, kind: str | None) -> None:
    """Refuse options that runs of this kind have no use for."""
    for option, wanted in (
        ("--no-bm25", "documents"),
        ("--dual-encoder", "documents"),
        ("--sasrec", "items"),
        ("--exclude-history", "items"),
    ):
        if kind != wanted and getattr(args, option[2:].replace("-", "_")):
            raise InputError(f"{option} for a run of {kind}", expected=f"a run of {wanted}", fix="leave it out")
