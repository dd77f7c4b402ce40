"""Open a prepared run folder."""

import os
from collections.abc import Collection
from pathlib import Path

from genret_jax.config.record import read_record
from genret_jax.errors import InputError
from genret_jax.problems import Problem
from genret_jax.run.folder import RECORD, SETTINGS, read_settings, run_folders


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
    return open_run(run).experiment.sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(open_run(run).folder / "examples")
