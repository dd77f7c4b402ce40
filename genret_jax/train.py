"""Train a retriever: the one entry point that gin binds.

python -m genret_jax.train --gin_file=runs/dsi_atomic_from_scratch.gin --gin.CORPUS="'corpus'" --gin.RUN="'runs/1'"
"""

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genret_jax.config.experiment import AnyExperiment
from genret_jax.errors import InputError
from genret_jax.parallel.agreement import code_fingerprint, require_agreement
from genret_jax.parallel.coordination import from_first, is_first
from genret_jax.prepare import prepare
from genret_jax.run import CONFIGURATION, LOCK, SEED_FOLDER, SETTINGS, Run, stderr
from genret_jax.run.folder import new_or_untouched
from genret_jax.storage import atomic_file, fingerprint, folder_lock, remove_partial
from genret_jax.training import TrainerConfig
from genret_jax.validation import reject


def train(*, run: str, experiment: AnyExperiment) -> Run:
    """Prepare a run folder and train in it, or go on where it was stopped.

    Args:
        run: The run folder.
        experiment: Everything else.

    Returns:
        The run, trained.

    Raises:
        InputError: If the folder holds another experiment, or anything in it cannot be used. A folder that was new is
            removed again if it could not be prepared, unless docids have begun to be learned in it.
        KeyboardInterrupt: If SIGINT or SIGTERM stopped it early, when the checkpoint to go on from is written.
    """
    _require_same_everywhere(run, experiment)
    return _train({run: experiment})[0]


def train_seeds(
    *, run: str, experiment: AnyExperiment, seeds: Sequence[int], together: bool | None = None
) -> list[Run]:
    """Train several seeds of an experiment, or go on where that was stopped.

    They have the same docids, from ``docid_seed``; initial parameters, order of the examples and dropout differ. What
    each becomes is what :func:`train` makes of it by itself, up to rounding.

    Args:
        run: Folder for the runs, each in ``seed_<N>`` there, which is a run folder like any other.
        experiment: Everything else; its own seed is not used.
        seeds: The seeds.
        together: Side by side as one program, or one after the other; by default as
            :func:`genret_jax.training.train_seeds` chooses.

    Returns:
        The runs, trained.

    Raises:
        InputError: As :func:`train`; if a seed is given twice, or there are several processes.
        KeyboardInterrupt: As :func:`train`.
    """
    return _train(_of_seeds(run, experiment, seeds), below=run, together=together)


def prepare_only(*, run: str, experiment: AnyExperiment, seeds: Sequence[int] = ()) -> list[Run]:
    """Make run folders that are ready to be trained, by :func:`train` or by t5x.

    Args:
        run: The run folder; with seeds the folder of theirs.
        experiment: Everything else.
        seeds: As of :func:`train_seeds`; none for one run.

    Returns:
        The runs.

    Raises:
        InputError: As :func:`train`.
    """
    experiments = _of_seeds(run, experiment, seeds) if seeds else {run: experiment}
    prepared: list[Run] = []
    for of_one, changed in experiments.items():
        folder = Path(of_one)
        with folder_lock(folder / LOCK, doing="preparing"), new_or_untouched(folder):
            _prepare(of_one, changed, prepared[0].folder if prepared else None)
            prepared.append(_open(folder))
    return prepared


def _of_seeds(run: str, experiment: AnyExperiment, seeds: Sequence[int]) -> dict[str, AnyExperiment]:
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {' '.join(map(str, seeds))}", expected="each once", fix="leave the second one out")
    trainers = [dataclasses.replace(experiment.trainer, seed=seed) for seed in seeds]
    return {
        os.path.join(run, f"{SEED_FOLDER}{trainer.seed}"): dataclasses.replace(experiment, trainer=trainer)
        for trainer in trainers
    }


def _train(
    experiments: Mapping[str, AnyExperiment], *, below: str | None = None, together: bool | None = None
) -> list[Run]:
    """Prepare and train in the given folders, which may be below one that is new."""
    from genret_jax import training

    opened: list[Run] = []
    runs: list[training.SeedRun] = []
    with contextlib.ExitStack() as locks:
        with _new_or_untouched(below) if below else contextlib.nullcontext():
            for run, experiment in experiments.items():
                if is_first():
                    locks.enter_context(folder_lock(Path(run) / LOCK, doing="training"))
                with _new_or_untouched(run):
                    like = opened[0].folder if opened else None
                    from_first(functools.partial(_prepare, run, experiment, like))
                    opened.append(_open(Path(run)))
                    runs.append(_seed_run(opened[-1], experiment))
        results = training.train_seeds(runs, together=together)
    for result in results:
        result.require_whole()
    return opened


def _new_or_untouched(folder: str) -> contextlib.AbstractContextManager[None]:
    return new_or_untouched(folder) if is_first() else contextlib.nullcontext()


def _seed_run(opened: Run, experiment: AnyExperiment) -> Any:
    """Return what the trainer is given of a prepared run."""
    from genret_jax.run_training import evaluators_of, task_of
    from genret_jax.training import SeedRun
    from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_steps

    evaluators = evaluators_of(opened)
    trainer = _trainer(experiment, evaluators)
    opened.model.require_divides(trainer.model_parallel)
    begun = from_first(lambda: checkpoint_steps(opened.folder / CHECKPOINTS_FOLDER))
    if is_first() and not begun and experiment.start is not None:
        stderr(f"start       {experiment.start.source}")
    return SeedRun(
        task=task_of(opened, experiment),
        config=trainer,
        folder=opened.folder,
        evaluators=evaluators,
        init_params=None if begun else opened.start_params(),
        fingerprint=opened.fingerprints,
    )


def _require_same_everywhere(run: str, experiment: AnyExperiment) -> None:
    """Refuse to begin where another process has another configuration (but for the run's path) or other code."""
    import jax

    from genret_jax.config.gin_files import experiment_as_gin

    if jax.process_count() == 1:
        return
    lines = experiment_as_gin("", experiment).splitlines()
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))
    versions = {"the version of jax": jax.__version__, "the fingerprint of genret_jax's code": code_fingerprint()}
    require_agreement({**versions, **settings})


def _prepare(run: str, experiment: AnyExperiment, like: Path | None) -> None:
    from genret_jax.config.gin_files import experiment_as_gin

    folder = Path(run)
    remove_partial(folder)
    prepare(experiment, folder, log=stderr if like is None else lambda line: None, like=like)
    with atomic_file(folder / CONFIGURATION) as handle:
        handle.write(experiment_as_gin(run, experiment))


def _open(folder: Path) -> Run:
    """Open the run that process 0 has prepared, the same one in every process."""
    if not (folder / SETTINGS).is_file():
        raise InputError(
            "this process does not see the run that process 0 has prepared",
            file=folder,
            expected="a folder that all processes share",
            fix="give every process the same --run folder, on a shared file system",
        )
    opened = Run.open(folder)
    require_agreement({f"the fingerprint of {SETTINGS} in the run folder": fingerprint(opened.settings)})
    return opened


def _trainer(experiment: AnyExperiment, evaluators: Mapping[str, Any]) -> TrainerConfig:
    """Return the trainer with a best metric that will be there."""
    from genret_jax.evaluation.metrics import metric_names
    from genret_jax.run_training import VALIDATION_KS

    trainer = experiment.trainer
    if trainer.best_metric is None:
        return trainer
    if not evaluators:
        stderr("no validation queries: the last checkpoint will count as the best")
        return dataclasses.replace(trainer, best_metric=None)
    known = [f"validation/{name}" for name in metric_names(VALIDATION_KS, experiment.evaluation.validation_beam)]
    if trainer.best_metric not in known:
        reject(trainer, "best_metric", f"one of {', '.join(known)}")
    return trainer


def main(argv: Sequence[str] | None = None) -> int:
    """Parse gin files and bindings as t5x does, and call :func:`train`."""
    from genret_jax.cli import main as genret

    return genret(["train", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    sys.exit(main())
