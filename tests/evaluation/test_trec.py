"""Run and qrels files, against files written by hand and ir-measures' own readers."""

import itertools

import ir_measures
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.evaluation.trec import (
    original_id,
    rankings_by_id,
    read_run,
    strictly_decreasing,
    trec_id,
    write_qrels,
    write_run,
)


def test_the_file_is_what_trec_eval_reads(tmp_path):
    write_run(tmp_path / "run.txt", {"q1": [("d2", 0.5), ("d1", 2.0)], "q2": [("d1", -1.25)], "q3": []}, tag="bm25")
    assert (tmp_path / "run.txt").read_text() == "q1 Q0 d1 1 2 bm25\nq1 Q0 d2 2 0.5 bm25\nq2 Q0 d1 1 -1.25 bm25\n"


def test_a_run_comes_back_as_it_was_written(tmp_path):
    scores = np.sort(np.random.default_rng(0).normal(size=50).astype(np.float32))[::-1]
    run = {"é1": [(f"d{i}", s) for i, s in enumerate(scores.tolist())]}
    write_run(tmp_path / "run.txt", run)
    found = read_run(tmp_path / "run.txt")
    assert [document for document, _ in found["é1"]] == [document for document, _ in run["é1"]]
    np.testing.assert_array_equal(np.array([score for _, score in found["é1"]], np.float32), scores)


def test_equal_scores_keep_their_order_and_become_strictly_smaller_in_float32(tmp_path):
    ties = [("d1", 1.0), ("d2", 1.0), ("d3", 1.0 - 1e-12), ("d4", 1.0 - 1e-7), ("d5", 0.0), ("d6", 0.0)]
    write_run(tmp_path / "run.txt", {"q": ties})
    found = read_run(tmp_path / "run.txt")["q"]
    assert [document for document, _ in found] == ["d1", "d2", "d3", "d4", "d5", "d6"]
    as_trec_eval_reads = np.array([score for _, score in found], np.float32)
    assert (np.diff(as_trec_eval_reads) < 0).all()
    np.testing.assert_allclose(as_trec_eval_reads, [s for _, s in ties], atol=1e-6)


@pytest.mark.parametrize("value", [0.0, -3.5, 1e30, 1e-45])
def test_many_ties_at_any_size(value):
    assert (np.diff(strictly_decreasing([value] * 1000)) < 0).all()


def test_scores_already_decreasing_are_left_alone():
    np.testing.assert_array_equal(strictly_decreasing([3.0, 1.0, -2.0]), np.array([3.0, 1.0, -2.0], np.float32))


def test_white_space_in_ids_cannot_shift_the_fields(tmp_path):
    write_run(tmp_path / "run.txt", {"q 1": [("my paper.txt", 1.0)]}, tag="two words")
    write_qrels(tmp_path / "qrels.txt", {"q 1": {"my paper.txt": 2}})
    assert (tmp_path / "run.txt").read_text() == "q%201 Q0 my%20paper.txt 1 1 two%20words\n"
    assert (tmp_path / "qrels.txt").read_text() == "q%201 0 my%20paper.txt 2\n"
    assert trec_id("a\u00a0b").split() == ["a%C2%A0b"]
    assert [trec_id(one) for one in ("100%", "a%2Fb", "Straße")] == ["100%", "a%2Fb", "Straße"]  # as they are


def test_different_ids_are_different_in_files_and_come_back(tmp_path):
    ids = list(map("".join, itertools.chain(*(itertools.product("%205C ", repeat=n) for n in range(1, 6)))))
    ids += ["\u00a0", "%C2%A0", "%25C2%A0", "\ufeff", "%EF%BB%BF", "a\nb", "a\x1fb", "\u3000", "日本 1"]
    written = [trec_id(one) for one in ids]
    assert len(set(written)) == len(ids)
    assert [original_id(one) for one in written] == ids
    assert all(one.split() == [one] for one in written)
    run = {one: [(one, 1.0)] for one in ids[-50:]} | {"q": [("a b", 2.0), ("a%20b", 1.0)]}
    write_run(tmp_path / "run.txt", run)
    assert read_run(tmp_path / "run.txt") == run


def test_an_id_that_no_file_can_hold():
    for wrong in ("", "a\ud800"):
        with pytest.raises(InputError, match="expected a Unicode string of at least one character"):
            trec_id(wrong)


def test_positions_become_external_ids():
    found = rankings_by_id(["p", "q"], ["a", "b", "c"], [[2, 0], [1, -1]], [[3.0, 2.0], [1.0, 0.0]])
    assert found == {"p": [("c", 3.0), ("a", 2.0)], "q": [("b", 1.0)]}


def test_equal_scores_are_read_in_the_order_of_their_ranks(tmp_path):
    (tmp_path / "run.txt").write_text("q Q0 b 2 1.0 t\nq Q0 a 1 1.0 t\nq Q0 c 3 0.5 t\n")
    assert [document for document, _ in read_run(tmp_path / "run.txt")["q"]] == ["a", "b", "c"]
    (tmp_path / "run.txt").write_text("q Q0 c 0 0.5 t\nq Q0 b 0 1.0 t\nq Q0 a 0 1.0 t\n")  # a tool without ranks
    assert [document for document, _ in read_run(tmp_path / "run.txt")["q"]] == ["b", "a", "c"]


def test_qrels_as_ir_measures_reads_them(tmp_path):
    qrels = {"q1": {"d1": 1, "d2": 4}, "q2": {"d9": 2}}
    write_qrels(tmp_path / "qrels.txt", qrels)
    read = {}
    for judged in ir_measures.read_trec_qrels(str(tmp_path / "qrels.txt")):
        read.setdefault(judged.query_id, {})[judged.doc_id] = judged.relevance
    assert read == qrels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("q Q0 d 1 2.5 tag\nq Q0 e 2 1.5\n", "run.txt:2: 'q Q0 e 2 1.5'; expected 'query Q0 document rank score tag'"),
        ("\nq Q0 d 1 high tag\n", "run.txt:2: 'q Q0 d 1 high tag'"),
        ("q Q0 d 1 nan tag\n", "run.txt:1: 'q Q0 d 1 nan tag'"),
        ("q Q0 d 1 2 t\nq Q0 d 2 1 t\n", "run.txt:2: document 'd' again for query 'q'"),
        ("q Q0 d first 2 t\n", "run.txt:1: 'q Q0 d first 2 t'"),
        ("q Q0 d 1 1 t\nq Q0 e 2 3 t\n", "run.txt:1: document 'd' has rank 1 for query 'q', but a higher score has"),
    ],
)
def test_a_broken_line_is_named(tmp_path, text, message):
    (tmp_path / "run.txt").write_text(text)
    with pytest.raises(InputError) as error:
        read_run(tmp_path / "run.txt")
    assert message in str(error.value)


def test_missing_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="the run file is missing"):
        read_run(tmp_path / "run.txt")
    (tmp_path / "run.txt").write_bytes(b"q Q0 \xff 1 1 t\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_run(tmp_path / "run.txt")


@pytest.mark.parametrize(
    ("ranking", "message"),
    [
        ([("d", 1.0), ("d", 0.5)], "document 'd' twice in the ranking of query 'q'"),
        ([("d", float("nan"))], "not finite"),
        ([("d", float("-inf"))], "not finite"),
        ([("", 1.0)], "at least one character"),
        ([("d", 1e300)], "not finite"),
    ],
)
def test_nothing_is_written_of_a_run_that_is_none(tmp_path, ranking, message):
    with pytest.raises(InputError, match=message):
        write_run(tmp_path / "run.txt", {"q0": [("d", 1.0)], "q": ranking})
    assert list(tmp_path.iterdir()) == []
