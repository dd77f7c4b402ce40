"""Rankings of other systems as rows of a report, from files written by hand."""

import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit, compare
from genret_jax.evaluation.external import external_answers
from genret_jax.evaluation.report import Dataset

KNOWN = {"d0": 0, "d1": 1, "a b": 2}
SPLIT = EvaluationSplit(name="test", qrels={"q0": {"d0": 1}, "q1": {"d1": 1}, "q 2": {"a b": 1}})


def answers(folder, text, **options):
    (folder / "other.run").write_text(text)
    return external_answers("SPLADE", folder / "other.run", SPLIT, KNOWN, **options)


def test_a_ranking_becomes_a_row(tmp_path):
    lines = ["q0 Q0 d1 1 3 t", "q0 Q0 d0 2 2 t", "q%202 Q0 a%20b 1 9 t", "other Q0 d1 1 1 t", "other Q0 d0 2 0.5 t"]
    found, notes = answers(tmp_path, "\n".join(lines))
    assert found.run == {"q0": [("d1", 3.0), ("d0", 2.0)], "q 2": [("a b", 9.0)]}
    assert (found.system.name, found.system.description) == ("SPLADE", "the ranking in the file other.run")
    assert notes == ["'SPLADE' has no results for 1 of 3 requests, which count as 0."]
    report = compare(Dataset(name="toy", documents=3), [(SPLIT, [found])])
    metrics = report.find("SPLADE", "test").metrics
    assert metrics["hits@1"].mean == pytest.approx(1 / 3)
    # At most two results a query, so nothing can be said at 5.
    assert set(metrics) == {"hits@1", "recall@1"}


def test_the_depth_is_that_of_the_longest_ranking(tmp_path):
    every = "".join(f"{q} Q0 {d} {r} {-r} t\n" for q in ("q0", "q1", "q%202") for r, d in enumerate(("d0", "d1")))
    found, notes = answers(tmp_path, every + "q0 Q0 a%20b 2 -2 t\n")
    assert found.depth == 3
    assert notes == []


def test_documents_that_must_not_be_found_are_left_out(tmp_path):
    found, notes = answers(
        tmp_path, "q0 Q0 d1 1 3 t\nq0 Q0 d0 2 2 t\nq1 Q0 d1 1 3 t\n", without=np.array([[1, -1], [1, 2], [-1, -1]])
    )
    assert found.run == {"q0": [("d0", 2.0)], "q1": [], "q 2": []}
    assert found.depth == 1
    assert notes == ["'SPLADE' has no results for 2 of 3 requests, which count as 0."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q0 Q0 d0 1 3 t\nq0 Q0 dO 2 1 t\n", "other.run:2: the corpus has no 'dO'; expected ids of the corpus"),
        ("q0 Q0 d00 1 3 t\n", "did you mean 'd0'?"),
        ("q0 Q0 d0 1 3\n", "other.run:1: 'q0 Q0 d0 1 3'; expected 'query Q0 document rank score tag'"),
        ("q7 Q0 d0 1 3 t\n", "no results for any request of split 'test'; expected ids such as 'q0'"),
        ("", "no results for any request of split 'test'"),
    ],
)
def test_rankings_that_cannot_be_used(tmp_path, text, message):
    with pytest.raises(InputError) as error:
        answers(tmp_path, text)
    assert message in str(error.value)
    assert str(error.value).startswith(f"{tmp_path / 'other.run'}:")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"nowhere\.run: the file is missing"):
        external_answers("SPLADE", tmp_path / "nowhere.run", SPLIT, KNOWN)
