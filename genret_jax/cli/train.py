"""``genret train``: from a corpus and a gin file to a trained run folder."""

import argparse
import dataclasses
import os
from collections.abc import Callable
from typing import Any

from genret_jax.cli import chosen_experiment, exit_code_of, experiment_options
from genret_jax.errors import InputError
from genret_jax.parallel.cluster import ARRIVAL_SECONDS, CLUSTERS, Cluster, chosen_cluster

HELP = "prepare a run folder and train in it, or go on where it was stopped"

_EPILOG = """
example:
  genret corpus python-docs --out corpus
  genret encoder get all-MiniLM-L6-v2
  genret train --corpus corpus --run runs/first
  genret train --recipe atomic --corpus corpus --run runs/second --steps 2000
  genret train --recipe tiger --corpus shop --run runs/shop --seeds 0 1 2
  srun genret train --cluster slurm --corpus corpus --run runs/third

Without --recipe and --gin-file, a run folder that has been begun goes on as it is configured; a new one gets the recipe
and the settings that fit the corpus, on a pretrained encoder if one has been fetched.

'genret recipes' lists the recipes. A gin file is looked up here, then among the shipped ones. --gin.NAME=VALUE sets a
macro or a parameter, as in t5x: --gin.Experiment.codec=text. A run that was stopped goes on from its last checkpoint; a
finished run is extended by more --steps.

Several processes, on machines that share the run folder: run the same command in each, with --cluster, or with
--coordinator, --processes and a --process of its own (or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID).
When one of them is lost, the others exit with 75 within a minute; start all of them again.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.epilog = _EPILOG
    experiment_options(parser, "what fits the corpus")
    parser.add_argument("--corpus", metavar="DIR", help="folder with the data; sets the gin macro CORPUS")
    parser.add_argument("--run", metavar="DIR", help="run folder; sets the gin macro RUN")
    parser.add_argument("--steps", type=int, metavar="N", help="training steps; sets the gin macro STEPS")
    parser.add_argument(
        "--docids", metavar="DIR", help="folder of 'genret docids build', whose docids replace the recipe's"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        metavar="N",
        help="train a run for each seed, with the same docids, in the run folders DIR/seed_N: as one program on an "
        "accelerator, one after the other on a CPU",
    )
    parser.add_argument(
        "--prepare-only", action="store_true", help="stop before the first step; t5x can train what is prepared"
    )
    together = parser.add_argument_group("several processes")
    together.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0, to which others connect")
    together.add_argument("--processes", type=int, metavar="N", help="number of processes")
    together.add_argument("--process", type=int, metavar="I", help="number of this process, from 0")
    together.add_argument("--cluster", choices=CLUSTERS, help="kind of cluster, where jax finds these three by itself")
    together.add_argument(
        "--arrival-seconds",
        type=int,
        default=ARRIVAL_SECONDS,
        metavar="S",
        help="seconds to wait for the other processes at the start (default: %(default)s)",
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
    """Run work that several processes share in a supervised child, and return its exit code.

    Args:
        cluster: How the processes meet.
        work: Called when they have met; may raise the errors that :func:`genret_jax.cli.exit_code_of` explains.
    """
    from genret_jax.parallel.supervision import supervised

    def in_child(tell: Callable[[str], None]) -> int:
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

    return supervised(cluster, in_child)


def _experiment(args: argparse.Namespace) -> tuple[str, Any]:
    if args.recipe or args.gin_file:
        return chosen_experiment(args, {"CORPUS": args.corpus, "RUN": args.run, "STEPS": args.steps})
    from genret_jax.config.gin_files import command_line_binding
    from genret_jax.run.defaults import default_experiment

    bindings = [command_line_binding(text) for text in args.gin]
    return default_experiment(args.corpus, args.run, bindings, steps=args.steps, allow_imports=args.allow_import)


def _train(args: argparse.Namespace) -> int:
    from genret_jax.run.compiled import keep_compiled
    from genret_jax.run.training import prepare_only, train_run, train_seeds

    keep_compiled()
    run, experiment = _experiment(args)
    if args.docids is not None:
        experiment = dataclasses.replace(experiment, docids=args.docids)
    if args.prepare_only:
        prepare_only(experiment, run, args.seeds or (), allow_imports=args.allow_import)
    elif args.seeds:
        train_seeds(experiment, run, args.seeds, allow_imports=args.allow_import)
    else:
        train_run(experiment, run, allow_imports=args.allow_import)
    return 0
