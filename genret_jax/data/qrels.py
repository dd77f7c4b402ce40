"""Judgements in BEIR's layout: which documents answer which query, and how well.

An id that holds a tab or line end, or begins with a double quote, is written as a JSON string.
"""

import contextlib
from collections.abc import Collection, Mapping
from pathlib import Path

from genret_jax.data.records import Place, read_id, read_table, require_known, write_id
from genret_jax.errors import InputError

HEADER = ("query-id", "corpus-id", "score")
HIGHEST_GRADE = 2**31 - 1


def read_qrels(path: Path, queries: Collection[str], documents: Collection[str]) -> dict[str, dict[str, int]]:
    """Read one split's judgements; grades of 0 and below are dropped.

    Args:
        path: A file with the header ``query-id corpus-id score``, separated by tabs.
        queries: Known query ids.
        documents: Known document ids.

    Returns:
        Query id to document id to grade, in the order of the file.

    Raises:
        InputError: Naming the line, if the header, a column, a score or an id is wrong, a pair has two scores, or no
            judgement is positive.
    """
    rows = read_table(path)
    place, header = next(rows)
    if tuple(header) != HEADER:
        found, wanted = "\t".join(header)[:80], "query-id, corpus-id and score, separated by tabs"
        raise place.error(f"the header {found!r}", expected=wanted, fix="write this header above the judgements")
    qrels: dict[str, dict[str, int]] = {}
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for place, row in rows:
        query_id, doc_id, grade = read_id(row[0]), read_id(row[1]), _grade(row[2], place)
        require_known(query_id, "query", "queries.jsonl", queries, place)
        require_known(doc_id, "document", "corpus.jsonl", documents, place)
        first_line, first_grade = first.setdefault((query_id, doc_id), (place.line, grade))
        if grade != first_grade:
            raise place.error(
                f"{query_id!r} and {doc_id!r} with score {grade}, but with {first_grade} on line {first_line}",
                expected="one score for a pair",
                fix="remove one of the two lines",
            )
        if grade > 0:
            qrels.setdefault(query_id, {})[doc_id] = grade
    if not qrels:
        raise InputError(
            "no judgement with a positive score", file=path, expected="at least one", fix="add some or remove the file"
        )
    return qrels


def _grade(text: str, place: Place) -> int:
    with contextlib.suppress(ValueError):
        if abs(grade := int(text)) <= HIGHEST_GRADE:
            return grade
    expected = f"a whole number of at most {HIGHEST_GRADE}"
    raise place.error(f"the score {text[:40]!r}", expected=expected, fix="correct it")


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write one split's judgements for :func:`read_qrels`."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.write("\t".join(HEADER) + "\n")
        for query_id, grades in qrels.items():
            query = write_id(query_id)
            handle.writelines(f"{query}\t{write_id(doc_id)}\t{grade}\n" for doc_id, grade in grades.items())
