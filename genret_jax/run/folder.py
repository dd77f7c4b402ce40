"""A run folder: everything that belongs to one trained model, complete by itself.

    config.gin      the record of the experiment, defaults included: the only place that says how the run was configured
    run.json        what preparing found out: sizes, fingerprints, versions
    metrics.jsonl   losses and validation
    corpus/         the data as given: documents with queries (BEIR), or items with users' histories
    docids/         the docid table
    quantiser/      gives later documents their docids
    examples/       tokenised sources of the examples, and the vocabulary
    checkpoints/    parameters and optimiser states
    reports/        evaluations

Each part is written whole or not at all, so preparing again after an interruption goes on with the first part missing.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.gin_text import read_record
from genret_jax.config.record import modules_of, record_text, to_bindings
from genret_jax.errors import InputError
from genret_jax.evaluation.environment import environment
from genret_jax.problems import Problem
from genret_jax.storage import atomic_file, list_folder, read_json, write_json

RECORD, SETTINGS = "config.gin", "run.json"
LOCK = ".in-use"  # a folder of its own, so that training can lock the run's itself
SEED_FOLDER = "seed_"  # followed by the seed; within the folder of several seeds
VERSION = 2
_PREPARED = {"corpus": str, "codec": dict, "model": dict, "fingerprints": dict}  # what a prepared run's settings hold
_IDENTITY_1 = "identity.json"  # of version 1, with the gin bindings and fingerprints that had to agree


def prepare(
    experiment: BaseExperiment,
    folder: str | os.PathLike[str],
    log: Callable[[str], None] = print,
    *,
    like: Path | None = None,
    allow_imports: Collection[str] = (),
) -> Problem:
    """Make a run folder ready to be trained, or open the one that is.

    Args:
        experiment: The experiment.
        folder: The run folder.
        log: Receives a line for each part.
        like: Prepared run of the same experiment but for the trainer's seed, whose parts are copied.
        allow_imports: Modules outside genret_jax that the folder's record may import.

    Returns:
        The run's problem on this folder.

    Raises:
        InputError: If the folder holds another experiment or something else, or the data cannot be used. A folder that
            was new is then removed again, unless docids, or some of their levels, have been learned in it.
    """
    folder = Path(folder)
    kind = Problem.of(experiment)
    with new_or_untouched(folder, kind):
        problem = kind(folder, experiment, {})
        data, given = problem.given()
        _claim(folder, experiment, given, allow_imports)
        setup = problem.prepare(data, log, like)
        settings = {
            "version": VERSION,
            "kind": kind.kind,
            "given": given,
            "corpus": setup.name,
            "codec": setup.codec.to_json(),
            "model": to_bindings("model", setup.model),
            "fingerprints": dict(setup.fingerprints),
            "environment": environment(),
        }
        write_json(folder / SETTINGS, settings)
        return kind(folder, experiment, settings)


def open_run(folder: str | os.PathLike[str], *, allow_imports: Collection[str] = ()) -> Problem:
    """Open a prepared run; its parts are read when first asked for.

    Args:
        folder: Folder written by ``genret train``.
        allow_imports: Modules outside genret_jax that the run's configuration may import, which runs their code.

    Returns:
        The run's problem on this folder, such as :class:`genret_jax.problems.documents.Documents`.

    Raises:
        InputError: If the folder is missing, is no prepared run, or needs a module that is not allowed.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        seeds = [path.name for path in run_folders(folder) if path != folder]
        fix = f"give one of its seeds, such as {folder / seeds[0]}" if seeds else "give the folder of a trained run"
        raise InputError(f"no run here ({SETTINGS} is missing)", file=folder, fix=fix)
    settings = read_settings(folder)
    if "fingerprints" not in settings:
        raise InputError("a run that is not prepared yet", file=folder, fix="run 'genret train' again to go on")
    experiment = read_record(folder / RECORD, allow_imports)
    return Problem.of(experiment)(folder, experiment, settings)


def model_of(run: str | os.PathLike[str]) -> object:
    """Return the network of a run, for gin files that train it with t5x."""
    return open_run(run).model


def sampler_of(run: str | os.PathLike[str]) -> object:
    """Return how a run's examples are drawn, for such gin files."""
    return open_run(run).sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(open_run(run).folder / "examples")


def planned_task_of(run: str | os.PathLike[str]) -> object:
    """Return the task of a run whose network has a plan, without examples, for such gin files; None without a plan."""
    return open_run(run).planned_task()


def learning_rates_of(run: str | os.PathLike[str]) -> object:
    """Return the factors of a run's learning rates, for such gin files."""
    return open_run(run).experiment.trainer.learning_rates


def encoder_start_of(run: str | os.PathLike[str]) -> object:
    """Return the first parameters of a run with a pretrained encoder, for such gin files; None without an encoder."""
    opened = open_run(run)
    return None if opened.model.encoder is None else opened.start_params()


def run_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the run folders of the seeds within a folder, by seed; the folder itself where there are none."""
    folder = Path(folder)
    names = list_folder(folder) if folder.is_dir() else []
    seeds = [folder / name for name in names if name.startswith(SEED_FOLDER) and (folder / name / SETTINGS).is_file()]
    if (folder / SETTINGS).is_file() or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: (len(path.name), path.name))


def _claim(folder: Path, experiment: BaseExperiment, given: Mapping[str, str], allow_imports: Collection[str]) -> None:
    """Make a folder this experiment's, and refuse one that holds another experiment or something else.

    Args:
        folder: The run folder.
        experiment: The experiment.
        given: Fingerprints of the data it was given.
        allow_imports: Modules that the folder's record may import.

    Raises:
        InputError: If the folder holds another experiment or something else.
    """
    if not (folder / RECORD).is_file() and not (folder / _IDENTITY_1).is_file():
        if there := sorted(set(_visible(folder)) - {LOCK}):
            raise InputError(
                f"the folder is not empty and not a run (it has {there[0]!r})",
                file=folder,
                expected="a new folder, or one of an earlier 'genret train'",
                fix="choose another run folder",
            )
    else:
        allowed = {*allow_imports, *modules_of(experiment)}  # whoever hands over an experiment trusts its modules
        _require_same(folder, _made_with(folder, experiment, allowed), {**given, **experiment.identity()})
    with atomic_file(folder / RECORD) as handle:
        handle.write(record_text(os.fspath(folder), experiment))
    settings = read_settings(folder)
    if settings.get("given") != dict(given):
        write_json(folder / SETTINGS, {"version": VERSION, **settings, "given": dict(given)})


def _made_with(folder: Path, experiment: BaseExperiment, allow_imports: Collection[str]) -> dict[str, str]:
    """Return the bindings and fingerprints that a folder's run was made with."""
    if (folder / _IDENTITY_1).is_file():
        found: dict[str, str] = read_json(folder / _IDENTITY_1, expect=dict)
        fingerprints = {name: value for name, value in found.items() if "." not in name or name.endswith(".jsonl")}
        if not (folder / RECORD).is_file():  # killed while it was prepared
            return {**experiment.identity(), **found}
    else:
        fingerprints = dict(read_settings(folder).get("given", {}))
    recorded: BaseExperiment = read_record(folder / RECORD, allow_imports)
    return {**fingerprints, **recorded.identity()}


def _require_same(folder: Path, made_with: Mapping[str, str], wanted: Mapping[str, str]) -> None:
    if "corpus" not in made_with:  # killed before it had been written
        wanted = {name: value for name, value in wanted.items() if name in made_with}
    different = [name for name in {**made_with, **wanted} if made_with.get(name) != wanted.get(name)]
    if not different:
        return
    name = different[0]
    what = "corpus" if name == "corpus" else f"{name} = {made_with.get(name, 'none')}"
    more = f" and {len(different) - 1} more differences" if len(different) > 1 else ""
    raise InputError(
        f"this run folder belongs to another {what}{more}",
        file=folder,
        expected=f"{wanted.get(name, 'none')}, as this experiment has",
        fix="choose another run folder, or give what this run was made with",
    )


def read_settings(folder: Path) -> dict[str, Any]:
    """Return the content of a run's ``run.json``; empty where there is none.

    Raises:
        InputError: If it is of an unknown version or not what this library writes.
    """
    if not (folder / SETTINGS).is_file():
        return {}
    settings = read_json(folder / SETTINGS, expect=dict)
    if settings.get("version") not in (1, VERSION):
        raise InputError(f"a run of version {settings.get('version')}", file=folder, expected=f"version 1 or {VERSION}")
    if "fingerprints" in settings:
        for name, kind in _PREPARED.items():
            if not isinstance(settings.get(name), kind):
                raise InputError(
                    f"'{name}' is {settings.get(name)!r:.80}",
                    file=folder / SETTINGS,
                    expected="a text" if kind is str else "an object",
                    fix="restore the file from a copy, or prepare the run again in a new folder",
                )
        if settings["version"] == 1:
            settings["model"] = _bindings_of_version_1("model", settings["model"])
    settings["version"] = VERSION
    return settings


def _bindings_of_version_1(name: str, saved: Any) -> dict[str, str]:
    """Return the gin bindings of a configuration that version 1 saved as ``{"class": ..., "fields": {...}}``."""
    if not isinstance(saved, dict):
        return {name: repr(tuple(saved) if isinstance(saved, list) else saved)}
    found = {name: f"@{saved['class']}()"}
    for field, value in saved["fields"].items():
        found |= _bindings_of_version_1(f"{saved['class']}.{field}", value)
    return found


@contextlib.contextmanager
def new_or_untouched(folder: str | os.PathLike[str], kind: type[Problem]) -> Iterator[None]:
    """Remove what an :class:`InputError` in the block leaves of a run folder that was new.

    A folder is kept if it, or a seed's folder within, holds a part that took long to make.

    Args:
        folder: The run folder, or the folder of several seeds.
        kind: Problem of the run; it says which parts those are.
    """
    folder = Path(folder)
    was_new = not _visible(folder)
    try:
        yield
    except InputError:
        if was_new and folder.is_dir() and not any(map(kind.is_costly, (folder, *folder.glob(f"{SEED_FOLDER}*")))):
            for name in _visible(folder):
                path = folder / name
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            if not set(os.listdir(folder)) - {LOCK} and not folder.is_symlink():  # the user's link stays
                shutil.rmtree(folder)
        raise


def _visible(folder: Path) -> list[str]:
    return [name for name in list_folder(folder) if not name.startswith(".")] if folder.is_dir() else []
