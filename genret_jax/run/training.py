"""Prepare run folders and train in them."""

import contextlib
import dataclasses
import functools
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.gin_files import bindings_of, recipe_experiment
from genret_jax.config.record import modules_of, record_text
from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import evaluate, metric_names
from genret_jax.evaluation.trec import rankings_by_id
from genret_jax.inference import Ranker
from genret_jax.models.start import source_of
from genret_jax.parallel.agreement import code_fingerprint, require_agreement
from genret_jax.parallel.coordination import from_first, is_first
from genret_jax.problems import Problem, say
from genret_jax.run.defaults import default_experiment
from genret_jax.run.folder import LOCK, SEED_FOLDER, SETTINGS, new_or_untouched, open_run, prepare
from genret_jax.storage import fingerprint, folder_lock, remove_partial
from genret_jax.training import SeedRun, TrainerConfig
from genret_jax.training import train_seeds as train_together
from genret_jax.training.checkpoint_format import CHECKPOINTS_FOLDER, checkpoint_steps
from genret_jax.validation import reject

VALIDATION_KS = (1, 10)


def train(
    corpus: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    recipe: str | None = None,
    steps: int | None = None,
    seed: int | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Problem:
    """Train on a corpus, or go on where that was stopped.

    Example:
        >>> run = genret_jax.train("my-corpus", "runs/mine")
        >>> genret_jax.Retriever(run, run.params()).search("your query")

    Args:
        corpus: Folder with the data, as the recipe expects it.
        run: The run folder.
        recipe: Name of a shipped recipe (``genret recipes`` lists them), or a gin file. None goes on with what the run
            folder holds, or chooses what fits the corpus (:func:`genret_jax.run.defaults.choose`).
        steps: Training steps; the recipe's when left out.
        seed: Seed of the run; the recipe's when left out.
        overrides: Parameters to change, by their gin names: ``{"AdamW.b2": 0.99}``.

    Returns:
        The trained run, opened.

    Raises:
        InputError: As :func:`train_run`; if there is no such recipe or parameter.
        KeyboardInterrupt: As :func:`train_run`.
    """
    overrides = overrides or {}
    if recipe is None:
        bindings = bindings_of(overrides, keep_none=True)
        return train_run(default_experiment(corpus, run, bindings, steps=steps, seed=seed)[1], run)
    experiment = recipe_experiment(recipe, os.fspath(corpus), steps=steps, seed=seed, overrides=overrides)
    return train_run(experiment, run)


def train_run(
    experiment: BaseExperiment, run: str | os.PathLike[str], *, allow_imports: Collection[str] = ()
) -> Problem:
    """Prepare a run folder and train in it, or go on where it was stopped.

    Args:
        experiment: The experiment.
        run: The run folder.
        allow_imports: Modules outside genret_jax that the folder's record may import.

    Returns:
        The trained run, opened.

    Raises:
        InputError: If the folder holds another experiment, or anything in it cannot be used. A folder that was new is
            removed again if it could not be prepared, unless docids have begun to be learned in it.
        KeyboardInterrupt: If SIGINT or SIGTERM stopped it early, after the checkpoint to go on from was written.
    """
    _require_same_everywhere(experiment)
    return _train({os.fspath(run): experiment}, allow_imports)[0]


def train_seeds(
    experiment: BaseExperiment,
    run: str | os.PathLike[str],
    seeds: Sequence[int],
    *,
    together: bool | None = None,
    allow_imports: Collection[str] = (),
) -> list[Problem]:
    """Train several seeds of an experiment, or go on where that was stopped.

    The seeds share their docids, from ``docid_seed``. Initial parameters, order of the examples and dropout differ. The
    result of each is that of :func:`train_run`, up to rounding.

    Args:
        experiment: The experiment; its own seed is not used.
        run: Folder for the runs. Each is in ``seed_<N>`` there, a run folder like any other.
        seeds: The seeds.
        together: Side by side as one program, or one after the other. By default as
            :func:`genret_jax.training.train_seeds` chooses.
        allow_imports: Modules outside genret_jax that the folders' records may import.

    Returns:
        The trained runs, opened.

    Raises:
        InputError: As :func:`train_run`; if a seed is given twice, or there are several processes.
        KeyboardInterrupt: As :func:`train_run`.
    """
    return _train(_of_seeds(experiment, run, seeds), allow_imports, below=os.fspath(run), together=together)


def prepare_only(
    experiment: BaseExperiment,
    run: str | os.PathLike[str],
    seeds: Sequence[int] = (),
    *,
    allow_imports: Collection[str] = (),
) -> list[Problem]:
    """Make run folders that are ready to be trained, by :func:`train_run` or by t5x.

    Args:
        experiment: The experiment.
        run: The run folder, or the folder of all seeds.
        seeds: The seeds, as for :func:`train_seeds`; none for one run.
        allow_imports: Modules outside genret_jax that the folders' records may import.

    Returns:
        The runs.

    Raises:
        InputError: As :func:`train_run`.
    """
    experiments = _of_seeds(experiment, run, seeds) if seeds else {os.fspath(run): experiment}
    prepared: list[Problem] = []
    for path, of_one in experiments.items():
        folder = Path(path)
        with folder_lock(folder / LOCK, doing="preparing"), new_or_untouched(folder, Problem.of(of_one)):
            prepared.append(_prepare(folder, of_one, prepared[0].folder if prepared else None, allow_imports))
    return prepared


def _of_seeds(
    experiment: BaseExperiment, run: str | os.PathLike[str], seeds: Sequence[int]
) -> dict[str, BaseExperiment]:
    if len(set(seeds)) < len(seeds):
        raise InputError(f"seeds {' '.join(map(str, seeds))}", expected="each once", fix="leave the second one out")
    trainers = [dataclasses.replace(experiment.trainer, seed=seed) for seed in seeds]
    return {
        os.path.join(run, f"{SEED_FOLDER}{trainer.seed}"): dataclasses.replace(experiment, trainer=trainer)
        for trainer in trainers
    }


def _train(
    experiments: Mapping[str, BaseExperiment],
    allow_imports: Collection[str],
    *,
    below: str | None = None,
    together: bool | None = None,
) -> list[Problem]:
    """Prepare and train in the given folders, which may be within one that is new."""
    allowed = {*allow_imports, *(module for experiment in experiments.values() for module in modules_of(experiment))}
    kind = Problem.of(next(iter(experiments.values())))
    opened: list[Problem] = []
    seed_runs: list[SeedRun] = []
    with contextlib.ExitStack() as locks:
        with _new_or_untouched(below, kind) if below else contextlib.nullcontext():
            for path, experiment in experiments.items():
                folder, like = Path(path), opened[0].folder if opened else None
                if is_first():
                    locks.enter_context(folder_lock(folder / LOCK, doing="training"))
                with _new_or_untouched(path, kind):
                    from_first(functools.partial(_prepare_in_first, folder, experiment, like, allowed))
                    opened.append(_open_shared(folder, allowed))
                    seed_runs.append(_seed_run(opened[-1]))
        results = train_together(seed_runs, together=together)
    for result in results:
        result.require_whole()
    return opened


def _new_or_untouched(folder: str, kind: type[Problem]) -> contextlib.AbstractContextManager[None]:
    return new_or_untouched(folder, kind) if is_first() else contextlib.nullcontext()


def _prepare(folder: Path, experiment: BaseExperiment, like: Path | None, allow_imports: Collection[str]) -> Problem:
    remove_partial(folder)
    log: Callable[[str], None] = say if like is None else lambda line: None
    return prepare(experiment, folder, log, like=like, allow_imports=allow_imports)


def _prepare_in_first(
    folder: Path, experiment: BaseExperiment, like: Path | None, allow_imports: Collection[str]
) -> None:
    _prepare(folder, experiment, like, allow_imports)  # nothing is returned, as it would be sent to other processes


def _open_shared(folder: Path, allow_imports: Collection[str]) -> Problem:
    """Open the run that process 0 has prepared, the same one in every process."""
    if not (folder / SETTINGS).is_file():
        raise InputError(
            "this process does not see the run that process 0 has prepared",
            file=folder,
            expected="a folder that all processes share",
            fix="give every process the same run folder, on a shared file system",
        )
    opened = open_run(folder, allow_imports=allow_imports)
    require_agreement({f"the fingerprint of {SETTINGS} in the run folder": fingerprint(opened.settings)})
    return opened


def _seed_run(run: Problem) -> SeedRun:
    """Return what the trainer needs of a prepared run."""
    evaluators = validation_of(run)
    trainer = _trainer(run.experiment, evaluators)
    run.model.require_divides(trainer.model_parallel)
    begun = from_first(lambda: checkpoint_steps(run.folder / CHECKPOINTS_FOLDER))
    if is_first() and not begun and run.experiment.start is not None:
        say(f"start       {source_of(run.experiment.start)}")
    return SeedRun(
        task=run.task(),
        config=trainer,
        folder=run.folder,
        evaluators=evaluators,
        init_params=None if begun else run.start_params(),
        fingerprint=run.fingerprints,
    )


def validation_of(run: Problem) -> dict[str, Callable[[Mapping[str, Any], int], Mapping[str, float]]]:
    """Return the evaluators of training: searches of validation requests, never of the test; none without requests."""
    requests = run.validation()
    if requests is None:
        return {}
    settings, qrels, doc_ids = run.evaluation, requests.split.qrels, run.corpus.doc_ids
    ranker = Ranker(run.model, run.encoded, {}, run.plan_tables)

    def validate(params: Mapping[str, Any], step: int) -> dict[str, float]:
        nonlocal ranker  # on a mesh, the docid index is put there once
        ranker = ranker.with_params(params)
        ranked = ranker.rank(
            requests.tokens, beam=settings.validation_beam, batch_size=settings.batch_size, widths=requests.widths
        )
        rankings = rankings_by_id(qrels, doc_ids, ranked.documents.tolist(), ranked.scores.tolist())
        return evaluate(qrels, rankings, ks=VALIDATION_KS, beam=settings.validation_beam)

    return {"validation": validate}


def _trainer(experiment: BaseExperiment, evaluators: Mapping[str, Any]) -> TrainerConfig:
    """Return the trainer, whose best metric must be one that validation gives."""
    trainer = experiment.trainer
    if trainer.best_metric is None:
        return trainer
    if not evaluators:
        say("no validation queries: the last checkpoint will count as the best")
        return dataclasses.replace(trainer, best_metric=None)
    known = [f"validation/{name}" for name in metric_names(VALIDATION_KS, experiment.evaluation.validation_beam)]
    if trainer.best_metric not in known:
        reject(trainer, "best_metric", f"one of {', '.join(known)}")
    return trainer


def _require_same_everywhere(experiment: BaseExperiment) -> None:
    """Refuse to begin where another process has another configuration (but for the run's path) or other code."""
    if jax.process_count() == 1:
        return
    lines = record_text("", experiment).splitlines()
    settings = dict(line.split(" = ", 1) for line in lines if " = " in line and not line.startswith("#"))
    versions = {"the version of jax": jax.__version__, "the fingerprint of genret_jax's code": code_fingerprint()}
    require_agreement({**versions, **settings})
