"""Runs and relevance judgements (qrels), in memory and as TREC files, which every retrieval tool reads.

A run file has lines ``query Q0 document rank score tag``, a qrels file ``query 0 document grade``.

In memory an id is any Unicode string with at least one character, and ids are compared as they are. White space would
shift the fields of a file, so :func:`trec_id` percent-encodes it there, and :func:`read_run` decodes it.
"""

import itertools
import math
import os
import re
import urllib.parse
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from genret_jax.data.qrels import HIGHEST_GRADE
from genret_jax.data.records import read_lines
from genret_jax.errors import InputError, nearest
from genret_jax.storage import atomic_file

Ranking = Sequence[tuple[str, float]]
Run = Mapping[str, Ranking]
Qrels = Mapping[str, Mapping[str, int]]

_FEW = 20_000  # most ids that a misspelt one is compared with

# All white space of Unicode is below U+3001. A byte order mark would be lost at the start of a file.
_SPACES = [*filter(str.isspace, map(chr, range(0x3001))), "\ufeff"]
_CODES = {urllib.parse.quote(character): character for character in ("%", *_SPACES)}
_CODE, _SPACE = re.compile("|".join(_CODES)), re.compile(f"[{''.join(_SPACES)}]")


def trec_id(identifier: str) -> str:
    """Return an id as it is written to TREC files, different for different ids.

    White space becomes its percent-code: ``a b`` is written ``a%20b``. Where an id has such a code itself, the code's
    ``%`` becomes ``%25``: ``a%20b`` is written ``a%2520b``. Everything else stays, such as ``100%`` and ``a%2Fb``.

    Raises:
        InputError: If the id is empty, or holds half of a surrogate pair, which no UTF-8 file can hold.
    """
    if not identifier or (not identifier.isascii() and re.search("[\ud800-\udfff]", identifier)):
        raise InputError(f"the id {identifier!r}", expected="a Unicode string of at least one character")
    marked = _CODE.sub(lambda code: f"%25{code[0][1:]}", identifier)
    return _SPACE.sub(lambda space: urllib.parse.quote(space[0]), marked)


def original_id(written: str) -> str:
    """Return the id that :func:`trec_id` encoded."""
    return _CODE.sub(lambda code: _CODES[code[0]], written)


def rankings_by_id(
    queries: Iterable[str], ids: Sequence[str], positions: Iterable[Iterable[int]], scores: Iterable[Iterable[float]]
) -> dict[str, list[tuple[str, float]]]:
    """Turn positions of documents into a run with external ids.

    Args:
        queries: Query ids, [q].
        ids: External ids of all documents, or items.
        positions: For each query the positions of its results, best first; negative ones are left out.
        scores: For each query the scores of its results.
    """
    return {
        query: [(ids[place], score) for place, score in zip(found, values, strict=True) if place >= 0]
        for query, found, values in zip(queries, positions, scores, strict=True)
    }


def best_first(query: str, ranking: Ranking, *, file: str | os.PathLike[str] | None = None) -> list[tuple[str, float]]:
    """Return a ranking ordered by score; equal scores keep the given order.

    Args:
        query: Id of its query, for errors.
        ranking: Pairs of document id and score.
        file: File that the ranking is written to, for errors.

    Raises:
        InputError: If a score is not finite, or a document occurs twice.
    """
    seen: set[str] = set()
    for document, score in ranking:
        if not math.isfinite(score):
            found, fix = f"a score that is not finite ({score})", "drop invalid results first"
        elif document in seen:
            found, fix = f"document '{document}' twice", "keep each document once, with its best score"
        else:
            seen.add(document)
            continue
        raise InputError(f"{found} in the ranking of query '{query}'", file=file, fix=fix)
    return sorted(ranking, key=lambda pair: -pair[1])


def strictly_decreasing(scores: Sequence[float]) -> np.ndarray:
    """Return float32 scores, lowered by as little as makes each smaller than the one before.

    Tools break ties differently (some by document id, some by order), so one tied run gets Success@1 = 0 beside
    RR@10 = 1. trec_eval reads scores as float32, so they have to differ there.

    Args:
        scores: Scores from best to worst, [k].

    Returns:
        Strictly decreasing scores, float32 [k].

    Raises:
        InputError: If a score is not finite in float32.
    """
    with np.errstate(over="ignore"):
        lowered = np.array(scores, np.float32)
    if not np.isfinite(lowered).all():
        raise InputError("a score that is not finite", expected="finite float32 scores", fix="scale the scores")
    for place in np.flatnonzero(lowered[1:] >= lowered[:-1]) + 1:  # each of these may push down those after it
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
        InputError: If an id is empty, a score is not finite, or a document occurs twice for a query.
    """
    tag = trec_id(tag)
    with atomic_file(path) as handle:
        for query, ranking in run.items():
            ordered = best_first(query, ranking, file=path)
            scores = strictly_decreasing([score for _, score in ordered]).tolist()
            prefix = trec_id(query)
            # Nine significant digits give every float32 back.
            handle.writelines(
                f"{prefix} Q0 {trec_id(document)} {rank} {score:.9g} {tag}\n"
                for rank, ((document, _), score) in enumerate(zip(ordered, scores, strict=True), 1)
            )


def read_run(
    path: str | os.PathLike[str], *, known: Collection[str] | None = None
) -> dict[str, list[tuple[str, float]]]:
    """Read a run file of this package or of another tool; ids are decoded (:func:`original_id`).

    Results are ordered by score, equal scores by rank. A byte order mark at the start of the file is ignored.

    Args:
        path: The file.
        known: Ids of the documents that may occur; by default any.

    Returns:
        Query id to (document id, score) pairs from best to worst.

    Raises:
        InputError: If the file cannot be read; or, with the line number, if a line has other fields, a score is not
            finite, a document is not among the known ones, a query has a document twice, or ranks and scores of a
            query disagree.
    """
    found: dict[str, dict[str, tuple[float, int, int]]] = {}
    for line, text in read_lines(Path(path)):
        try:
            query, _, document, rank, score, _ = text.split()
            result = (-float(score), int(rank), line)
        except ValueError:
            result = (math.nan, 0, 0)
        if not math.isfinite(result[0]):
            raise InputError(
                f"'{text.strip()[:80]}'", file=path, line=line, expected="'query Q0 document rank score tag'"
            )
        identifier = original_id(document)
        if known is not None and identifier not in known:
            raise InputError(
                f"the corpus has no '{identifier}'",
                file=path,
                line=line,
                expected="ids of the corpus that is evaluated",
                fix=(nearest(identifier, known) if len(known) <= _FEW else "") or "check that it ranks this corpus",
            )
        results = found.setdefault(original_id(query), {})
        if results.setdefault(identifier, result) is not result:
            raise InputError(f"document '{document}' again for query '{query}'", file=path, line=line)
    return {query: _in_order(query, results, path) for query, results in found.items()}


def _in_order(
    query: str, results: Mapping[str, tuple[float, int, int]], path: str | os.PathLike[str]
) -> list[tuple[str, float]]:
    """Sort results by score and rank, and check that the ranks agree; a result is (-score, rank, line)."""
    ordered = sorted(results.items(), key=lambda item: item[1])
    for (_, (_, before, _)), (document, (_, rank, line)) in itertools.pairwise(ordered):
        if rank < before:
            raise InputError(
                f"document '{document}' has rank {rank} for query '{query}', but a higher score has rank {before}",
                file=path,
                line=line,
                expected="ranks in the order of the scores",
                fix="number each query's documents from the highest score",
            )
    return [(document, -negative) for document, (negative, _, _) in ordered]


def write_qrels(path: str | os.PathLike[str], qrels: Qrels) -> None:
    """Write relevance judgements, query id to document id to grade, atomically.

    Raises:
        InputError: If an id is empty, or a grade cannot be written (:func:`checked_grade`).
    """
    with atomic_file(path) as handle:
        for query, judged in qrels.items():
            prefix = trec_id(query)
            handle.writelines(
                f"{prefix} 0 {trec_id(document)} {checked_grade(grade)}\n" for document, grade in judged.items()
            )


def checked_grade(grade: int) -> int:
    """Return a grade.

    Raises:
        InputError: If it is outside of -(2**31 - 1) to 2**31 - 1; trec_eval reads grades as 32-bit integers.
    """
    if abs(grade) > HIGHEST_GRADE:
        raise InputError(f"a grade of {grade}", expected=f"a whole number of at most {HIGHEST_GRADE}")
    return grade
