"""From an experiment to a run folder that is ready to be trained.

Each part is written whole or not at all, so preparing a run that was interrupted goes on with the first part missing.
"""

import os
from pathlib import Path

from genret_jax.config.experiment import AnyExperiment, Recommendation
from genret_jax.prepare.documents import docid_codec, prepare_documents, sized_model
from genret_jax.prepare.items import prepare_items
from genret_jax.run import Run
from genret_jax.run.folder import Log, new_or_untouched

__all__ = ["docid_codec", "prepare", "sized_model"]


def prepare(
    experiment: AnyExperiment, folder: str | os.PathLike[str], log: Log = print, *, like: Path | None = None
) -> Run:
    """Make a run folder ready to be trained, or open the one that is.

    Args:
        experiment: What to prepare.
        folder: The run folder.
        log: Receives a line for each part made.
        like: A prepared run of the same experiment but for the trainer's seed, whose parts are then copied.

    Raises:
        InputError: If the folder holds another experiment or something else, or the corpus cannot be used. A folder
            that was new is then as it was, unless docids, or some of their levels, have been learned in it.
    """
    with new_or_untouched(folder):
        if isinstance(experiment, Recommendation):
            return prepare_items(experiment, Path(folder), log, like)
        return prepare_documents(experiment, Path(folder), log, like)
