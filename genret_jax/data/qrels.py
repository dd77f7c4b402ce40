"""Judgements in BEIR's layout: which documents answer which query, and how well.

An id that holds a tab or line end, or begins with a double quote, is written as a JSON string.
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from genret_jax.data.records import read_id, read_lines, require_known, write_id
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
    rows = read_lines(path)
    line, header = next(rows, (1, ""))
    if tuple(header.split("\t")) != HEADER:
        raise InputError(
            f"the header {header[:80]!r}",
            file=path,
            line=line,
            expected="query-id, corpus-id and score, separated by tabs",
            fix="write this header above the judgements",
        )
    qrels: dict[str, dict[str, int]] = {}
    first: dict[tuple[str, str], tuple[int, int]] = {}
    for line, row in rows:
        query_id, doc_id, grade = _parse_judgement(row, path, line)
        require_known(query_id, "query", "queries.jsonl", queries, path, line)
        require_known(doc_id, "document", "corpus.jsonl", documents, path, line)
        first_line, first_grade = first.setdefault((query_id, doc_id), (line, grade))
        if grade != first_grade:
            raise InputError(
                f"{query_id!r} and {doc_id!r} with score {grade}, but with {first_grade} on line {first_line}",
                file=path,
                line=line,
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


def _parse_judgement(row: str, path: Path, line: int) -> tuple[str, str, int]:
    columns = row.split("\t")
    if len(columns) != 3:
        raise InputError(
            f"{len(columns)} tab-separated column{'s' * (len(columns) != 1)} in {row[:80]!r}",
            file=path,
            line=line,
            expected="3: query-id, corpus-id, score",
            fix="repair this line",
        )
    grade: int | None
    try:
        grade = int(columns[2])
    except ValueError:
        grade = None
    if grade is None or abs(grade) > HIGHEST_GRADE:
        expected = f"a whole number of at most {HIGHEST_GRADE}"
        raise InputError(f"the score {columns[2][:40]!r}", file=path, line=line, expected=expected, fix="correct it")
    return read_id(columns[0]), read_id(columns[1]), grade


def write_qrels(path: Path, qrels: Mapping[str, Mapping[str, int]]) -> None:
    """Write one split's judgements for :func:`read_qrels`."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.write("\t".join(HEADER) + "\n")
        for query_id, grades in qrels.items():
            query = write_id(query_id)
            handle.writelines(f"{query}\t{write_id(doc_id)}\t{grade}\n" for doc_id, grade in grades.items())
