"""TREC run and qrels files, which every retrieval tool reads.

A run has lines ``query Q0 document rank score tag``, qrels have ``query 0 document grade``.
"""

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from genret_jax.errors import InputError
from genret_jax.storage import atomic_file

Ranking = Sequence[tuple[str, float]]
Run = Mapping[str, Ranking]
Qrels = Mapping[str, Mapping[str, int]]

_SPACE = re.compile(r"\s")


def trec_id(identifier: str) -> str:
    """Return an id as it stands in TREC files: white space, which separates their fields, becomes ``%20`` and so on."""
    if not identifier:
        raise InputError("an empty query or document id", expected="an id of at least one character")
    return _SPACE.sub(lambda space: urllib.parse.quote(space.group()), identifier)


def strictly_decreasing(scores: Sequence[float]) -> np.ndarray:
    """Return float32 scores, best first, lowered by as little as makes each smaller than the one before.

    Tools break ties differently (some by document id, some by order), so one tied run gets Success@1 = 0 beside
    RR@10 = 1. trec_eval reads scores as float32, so they have to differ there.

    Args:
        scores: Scores from best to worst, [k].

    Returns:
        Strictly decreasing scores, float32 [k].
    """
    lowered = np.asarray(scores, np.float32).copy()
    if not np.isfinite(lowered).all():
        raise InputError("a score that is not finite", expected="finite scores", fix="drop invalid results first")
    for place in np.flatnonzero(lowered[1:] >= lowered[:-1]) + 1:  # of these each pushes what follows it
        while place < len(lowered) and lowered[place] >= lowered[place - 1]:
            lowered[place] = np.nextafter(lowered[place - 1], np.float32(-np.inf))
            place += 1
    return lowered


def write_run(path: str | os.PathLike[str], run: Run, tag: str = "genret") -> None:
    """Write a run file, each query's documents from best to worst with strictly decreasing scores.

    Args:
        path: Destination, written atomically.
        run: Query id to (document id, score) pairs. Pairs are ordered by score; equal scores keep the given order.
        tag: Name of the system, the last field of each line.

    Raises:
        InputError: If a score is not finite, or a document occurs twice for a query.
    """
    tag = trec_id(tag)
    with atomic_file(path) as handle:
        for query, ranking in run.items():
            ordered = sorted(ranking, key=lambda pair: -pair[1])
            documents = [trec_id(document) for document, _ in ordered]
            if len(set(documents)) != len(documents):
                repeated = next(document for document in documents if documents.count(document) > 1)
                raise InputError(
                    f"document '{repeated}' twice in the ranking of query '{query}'",
                    file=path,
                    fix="keep each document once, with its best score",
                )
            scores = strictly_decreasing([score for _, score in ordered])
            lines = zip(documents, scores.tolist(), strict=True)
            prefix = trec_id(query)
            # Nine significant digits give every float32 back.
            handle.writelines(f"{prefix} Q0 {d} {rank} {s:.9g} {tag}\n" for rank, (d, s) in enumerate(lines, 1))


def read_run(path: str | os.PathLike[str]) -> dict[str, list[tuple[str, float]]]:
    """Read a run file; ids are kept as they stand in it.

    Returns:
        Query id to (document id, score) pairs from best to worst.

    Raises:
        InputError: With the line number, where a line is not a run's.
    """
    run: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        fields = line.split()
        if not fields:
            continue
        try:
            query, _, document, _, text, _ = fields
            score = float(text)
        except ValueError:
            score = np.nan
        if not np.isfinite(score):
            raise InputError(
                f"'{line.strip()[:80]}'", file=path, line=number, expected="'query Q0 document rank score tag'"
            )
        if document in run.setdefault(query, {}):
            raise InputError(f"document '{document}' again for query '{query}'", file=path, line=number)
        run[query][document] = score
    return {query: sorted(found.items(), key=lambda pair: -pair[1]) for query, found in run.items()}


def _lines(path: str | os.PathLike[str]) -> list[tuple[int, str]]:
    try:
        return list(enumerate(Path(path).read_text(encoding="utf-8").split("\n"), 1))
    except FileNotFoundError:
        raise InputError("the run file is missing", file=path, fix="check the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error})", file=path, fix="convert it to UTF-8") from None


def write_qrels(path: str | os.PathLike[str], qrels: Qrels) -> None:
    """Write relevance judgements, query id to document id to grade, atomically."""
    with atomic_file(path) as handle:
        for query, judged in qrels.items():
            prefix = trec_id(query)
            handle.writelines(f"{prefix} 0 {trec_id(document)} {grade}\n" for document, grade in judged.items())
