"""Parts of a run folder: made once, copied from a run that has the same, and among them the docids."""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from genret_jax.config.experiment import BaseExperiment, needs_vectors
from genret_jax.data.corpus import Corpus
from genret_jax.docids import DocidTable, LearnedDocids, QuantisedDocids
from genret_jax.storage import atomic_folder

QUANTISER = "quantiser"  # the part that gives later documents their docids


def make(path: Path, write: Callable[[Path], object], like: Path | None = None) -> None:
    """Write a part of a run folder unless it is there; a part that is there is whole, as writers rename at the end.

    Args:
        path: The part.
        write: Writes it.
        like: Run folder whose part of that name is the same, and is copied if it has it.
    """
    if path.exists():
        return
    if like is not None and (like / path.name).is_dir():
        with atomic_folder(path) as partial:
            shutil.copytree(like / path.name, partial, dirs_exist_ok=True)
    else:
        write(path)


def make_docids(
    experiment: BaseExperiment,
    corpus: Corpus,
    vectors: Callable[[], np.ndarray],
    make_part: Callable[[str, Callable[[Path], object]], None],
    unseen: Bool[np.ndarray, " n"] | None = None,
) -> None:
    """Make the part ``docids`` and, where a quantiser is fitted, keep it for later documents.

    Learned docids are left to the problem that learns them.

    Args:
        experiment: Has the strategy and its seed.
        corpus: The documents.
        vectors: Returns a vector of each; called only by a strategy that needs them.
        make_part: Makes a part of the run folder, given its name and what writes it.
        unseen: Documents that a quantiser is not fitted to; they get docids as if they had come later.

    Raises:
        InputError: If the docids of a given folder are not those of the corpus.
    """
    strategy, seed = experiment.docids, experiment.docid_seed
    if isinstance(strategy, QuantisedDocids):
        fitted = functools.cache(
            lambda: strategy.fit_and_assign(corpus.doc_ids, vectors(), seed, corpus.fingerprint, unseen=unseen)
        )
        make_part(QUANTISER, lambda path: fitted()[0].save(path))
        make_part("docids", lambda path: fitted()[1].save(path))
    elif isinstance(strategy, str):
        given = DocidTable.load(strategy)
        given.require_corpus(corpus.fingerprint, file=strategy)
        make_part("docids", given.save)
    elif not isinstance(strategy, LearnedDocids):

        def assigned() -> DocidTable:
            used = vectors() if needs_vectors(strategy) else None
            return strategy.assign(corpus.doc_ids, used, seed=seed, corpus_fingerprint=corpus.fingerprint)

        make_part("docids", lambda path: assigned().save(path))
