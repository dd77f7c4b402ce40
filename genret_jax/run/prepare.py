"""From an experiment to a run folder that is ready to be trained.

Each part is written whole or not at all, so preparing again after an interruption goes on with the first part missing.
"""

import os
from collections.abc import Callable, Collection
from pathlib import Path

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.record import to_bindings
from genret_jax.evaluation.environment import environment
from genret_jax.problems import Problem
from genret_jax.run.folder import SETTINGS, VERSION, claim, new_or_untouched
from genret_jax.storage import write_json


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
    with new_or_untouched(folder):
        problem = Problem.of(experiment)(folder, experiment, {})
        data, given = problem.given()
        claim(folder, experiment, given, allow_imports)
        setup = problem.prepare(data, log, like)
        settings = {
            "version": VERSION,
            "kind": problem.kind,
            "given": given,
            "corpus": setup.name,
            "codec": setup.codec.to_json(),
            "model": to_bindings("model", setup.model),
            "fingerprints": dict(setup.fingerprints),
            "environment": environment(),
        }
        write_json(folder / SETTINGS, settings)
        return type(problem)(folder, experiment, settings)
