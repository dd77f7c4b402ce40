"""Rankings of other systems, read from TREC run files, as rows of a report."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Int

from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun
from genret_jax.evaluation.report import System
from genret_jax.evaluation.trec import read_run


def external_answers(
    name: str,
    path: str | os.PathLike[str],
    split: EvaluationSplit,
    known: Mapping[str, int],
    without: Int[np.ndarray, "q w"] | None = None,
) -> tuple[SystemRun, list[str]]:
    """Return the answers of another system on a split, and sentences about them for the reader of a report.

    Its depth is the largest number of results of a query. Queries without results count as 0, and a sentence counts
    them; results of other queries are ignored.

    Args:
        name: Name of the system in the report.
        path: TREC run file (:func:`genret_jax.evaluation.trec.read_run`).
        split: The judged queries.
        known: Document id to its position, of all documents or items.
        without: Positions of documents that each query must not find, -1 for none; rankings are shown without them.

    Raises:
        InputError: If the file cannot be read, ranks documents that are not known, or has no query of the split.
    """
    found = read_run(path, known=known)
    if not any(query in found for query in split.qrels):
        raise InputError(
            f"no results for any request of split '{split.name}'",
            file=path,
            expected=f"ids such as '{next(iter(split.qrels))}' in the first column",
            fix="give the ranking of this split, or choose its split with --split",
        )
    run = {query: found[query] for query in split.qrels if query in found}
    if without is not None:
        for query, positions in zip(split.qrels, without, strict=True):
            had = set(positions.tolist())
            run[query] = [(document, score) for document, score in run.get(query, ()) if known[document] not in had]
    notes, missing = [], sum(not run.get(query) for query in split.qrels)
    if missing:
        notes = [f"'{name}' has no results for {missing:,} of {len(split.qrels):,} requests, which count as 0."]
    system = System(name=name, description=f"the ranking in the file {Path(path).name}")
    return SystemRun(system=system, run=run, depth=max(1, *map(len, run.values()))), notes
