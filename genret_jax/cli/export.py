"""``genret export``: parameters of a run in another program's layout."""

import argparse

HELP = "write the parameters of a run as a t5x checkpoint"

_EPILOG = """
examples:
  genret export --run runs/mine --t5x runs/mine/t5x_start --checkpoint start
  genret export --run runs/mine --t5x exported

The first gives t5x the parameters that training begins with, public T5 weights for instance:
--gin.INITIAL_CHECKPOINT_PATH="'runs/mine/t5x_start/checkpoint_0'".
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.epilog = _EPILOG
    parser.add_argument("--run", required=True, metavar="DIR", help="a run folder")
    parser.add_argument(
        "--t5x", required=True, metavar="DIR", help="folder in which to make checkpoint_STEP, without optimizer state"
    )
    parser.add_argument(
        "--checkpoint", default="best", metavar="WHICH", help="best, last, start (untrained), or a step (default: best)"
    )
    parser.add_argument("--step", type=int, default=0, metavar="N", help="the number in its name (default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from genret_jax.errors import InputError
    from genret_jax.run import Run
    from genret_jax.training.t5x_checkpoint import write_t5x_params

    if args.step < 0:
        raise InputError(f"--step {args.step}", expected="a number of at least 0")
    which = int(args.checkpoint) if args.checkpoint.isdigit() else args.checkpoint
    path = write_t5x_params(args.t5x, Run.open(args.run).params(which), step=args.step)
    print(f"written to {path}; t5x reads it with --gin.INITIAL_CHECKPOINT_PATH=\"'{path}'\"")
    return 0
