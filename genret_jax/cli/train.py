"""``genret train``: from a corpus and a gin file to a trained run folder."""

import argparse
import os
from collections.abc import Callable

from genret_jax.errors import InputError
from genret_jax.parallel.cluster import ARRIVAL_SECONDS, CLUSTERS, Cluster, chosen_cluster

HELP = "prepare a run folder and train in it, or go on where it was stopped"

_DEFAULT = "runs/dsi_semantic_from_scratch.gin"
_EPILOG = """
example:
  genret corpus python-docs --out corpus
  genret train --corpus corpus --run runs/first
  genret train --gin_file runs/dsi_atomic_from_scratch.gin --corpus corpus --run runs/second --gin.STEPS=2000
  genret train --gin_file runs/tiger.gin --corpus shop --run runs/shop --seeds 0 1 2
  srun genret train --cluster slurm --corpus corpus --run runs/third

Gin files are looked up here and among the shipped ones. --gin.NAME=VALUE sets a macro or a parameter, as in t5x; text
needs quotes of its own: --gin.Experiment.codec="'text'". A run that was stopped goes on from its last checkpoint.

Several processes, on machines that share the run folder: the same command in each, with --cluster, or with
--coordinator, --processes and a --process of its own (or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID).
When one of them is lost, the others exit with 75 within a minute; start all of them again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    parser.add_argument(
        "--gin_file", action="append", metavar="FILE", help=f"gin file, may be repeated (default: {_DEFAULT})"
    )
    parser.add_argument("--corpus", metavar="DIR", help="BEIR folder; the same as --gin.CORPUS=\"'DIR'\"")
    parser.add_argument("--run", metavar="DIR", help="run folder; the same as --gin.RUN=\"'DIR'\"")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps; the same as --gin.STEPS=N")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="train these seeds with the same docids, each in a run folder DIR/seed_N: side by side as one program on "
        "an accelerator, one after the other on a CPU",
    )
    parser.add_argument(
        "--prepare-only", action="store_true", help="stop before the first step; t5x can train what is prepared"
    )
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a gin macro or parameter; also --gin.NAME=VALUE",
    )
    together = parser.add_argument_group("several processes")
    together.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, where all meet")
    together.add_argument("--processes", type=int, metavar="N", help="how many there are")
    together.add_argument("--process", type=int, metavar="I", help="which one this is, from 0")
    together.add_argument("--cluster", choices=CLUSTERS, help="let jax find out those three from where it runs")
    together.add_argument(
        "--arrival_seconds",
        type=int,
        default=ARRIVAL_SECONDS,
        metavar="S",
        help="how long to wait for the others at the start (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Train, in a child of this process where it is one of several."""
    cluster = chosen_cluster(
        args.coordinator,
        args.processes,
        args.process,
        detection=args.cluster,
        arrival_seconds=args.arrival_seconds,
        environment=os.environ,
    )
    if cluster is None:
        return _train(args)
    if args.prepare_only:
        raise InputError("--prepare-only in several processes", fix="prepare the run in one process by itself")
    if args.seeds:
        raise InputError("--seeds in several processes", fix="train each seed by itself: --gin.SEED=N --run DIR/seed_N")
    return among_others(cluster, lambda: _train(args))


def among_others(cluster: Cluster, work: Callable[[], int]) -> int:
    """Do work that several processes do together, in a supervised child, and return its exit code.

    Args:
        cluster: How the processes meet.
        work: Called when they have met; may raise what :func:`genret_jax.cli.exit_code_of` explains.
    """
    from genret_jax.parallel.supervision import supervised

    return supervised(cluster, lambda tell: _in_child(cluster, work, tell))


def _in_child(cluster: Cluster, work: Callable[[], int], tell: Callable[[str], None]) -> int:
    from genret_jax.cli import exit_code_of
    from genret_jax.parallel.membership import joined, leave

    def work_when_joined() -> int:
        with joined(cluster, tell):
            return work()

    code = 1
    try:
        code = exit_code_of(work_when_joined)
        return code
    finally:
        leave(failed=code != 0)


def _train(args: argparse.Namespace) -> int:
    from genret_jax.config.gin_files import experiment_from_gin
    from genret_jax.train import prepare_only, train, train_seeds

    bindings = [binding(text) for text in args.gin]
    bindings += [
        f"{name} = {value!r}"
        for name, value in (("CORPUS", args.corpus), ("RUN", args.run), ("STEPS", args.steps))
        if value is not None
    ]
    folder, experiment = experiment_from_gin(args.gin_file or [_DEFAULT], bindings)
    if args.prepare_only:
        prepare_only(run=folder, experiment=experiment, seeds=args.seeds or ())
    elif args.seeds:
        train_seeds(run=folder, experiment=experiment, seeds=args.seeds)
    else:
        train(run=folder, experiment=experiment)
    return 0


def binding(text: str) -> str:
    """Return ``NAME=VALUE`` of the command line as gin writes it."""
    name, equals, value = text.partition("=")
    if not equals:
        raise InputError(f"--gin.{text}", expected="--gin.NAME=VALUE", fix="add a value")
    return f"{name} = {value}"
