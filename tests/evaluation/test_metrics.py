"""Metrics against values worked out by hand, against plain Python, and against ir-measures on random runs."""

import math

import ir_measures
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import evaluate, evaluate_queries, metric_names
from genret_jax.evaluation.trec import write_qrels, write_run


def ranking(*documents):
    return [(document, 10.0 - place) for place, document in enumerate(documents)]


QRELS = {"q1": {"a": 1}, "q2": {"b": 1, "c": 1}, "q3": {"d": 1}, "q4": {"e": 1}}
RUN = {
    "q1": ranking("a", "x"),  # found first
    "q2": ranking("x", "y", "b", "z", "w", "c"),  # third and sixth
    "q3": ranking("x", "y"),  # not found
    # q4 has no results
}


def test_hand_computed_values_query_by_query():
    found = evaluate_queries(QRELS, RUN, ks=(1, 5, 10))
    assert found.query_ids == ("q1", "q2", "q3", "q4")
    expected = {
        "hits@1": [1, 0, 0, 0],
        "hits@5": [1, 1, 0, 0],
        "hits@10": [1, 1, 0, 0],
        "mrr@5": [1, 1 / 3, 0, 0],
        "mrr@10": [1, 1 / 3, 0, 0],
        "recall@1": [1, 0, 0, 0],
        "recall@5": [1, 0.5, 0, 0],
        "recall@10": [1, 1, 0, 0],
        "ndcg@5": [1, (1 / 2) / (1 + 1 / math.log2(3)), 0, 0],
        "ndcg@10": [1, (1 / 2 + 1 / math.log2(7)) / (1 + 1 / math.log2(3)), 0, 0],
    }
    assert list(found.values) == list(expected)
    for name, values in expected.items():
        np.testing.assert_allclose(found.values[name], values, atol=1e-9, err_msg=name)


def test_queries_without_results_count_as_zero_in_the_mean():
    assert evaluate(QRELS, RUN)["hits@10"] == pytest.approx(2 / 4)
    assert evaluate(QRELS, {})["hits@10"] == 0


def test_ndcg_takes_grades_as_linear_gains():
    qrels = {"q": {"best": 4, "weak": 1}}
    ideal = 4 + 1 / math.log2(3)
    assert evaluate(qrels, {"q": ranking("weak", "best")})["ndcg@10"] == pytest.approx((1 + 4 / math.log2(3)) / ideal)
    assert evaluate(qrels, {"q": ranking("x", "x2", "best")})["ndcg@10"] == pytest.approx((4 / 2) / ideal)


def test_mrr_stops_at_its_cutoff():
    found = evaluate({"q": {"a": 1}}, {"q": ranking(*[f"x{i}" for i in range(10)], "a")})
    assert found["mrr@10"] == 0
    assert found["mrr@100"] == pytest.approx(1 / 11)


def test_ties_are_ranked_as_listed_by_all_metrics_alike():
    # By document id 'z' would come first for some tools and 'a' for others.
    for order in (("a", "z", "m"), ("z", "m", "a"), ("m", "a", "z")):
        run = {"q": [(document, 1.0) for document in order]}
        place = order.index("z") + 1
        found = evaluate({"q": {"z": 1}}, run, ks=(1, 5, 10))
        assert found["hits@1"] == (place == 1)
        assert found["mrr@10"] == pytest.approx(1 / place)
        assert found["ndcg@10"] == pytest.approx(1 / math.log2(place + 1))


def test_metrics_beyond_the_beam_are_left_out():
    assert metric_names((1, 5, 10, 100), beam=10) == (
        *("hits@1", "hits@5", "hits@10", "mrr@5", "mrr@10", "recall@1", "recall@5", "recall@10", "ndcg@5", "ndcg@10"),
    )
    assert "hits@100" in metric_names(beam=100)
    assert set(evaluate(QRELS, RUN, ks=(1, 5, 10, 100), beam=3)) == {"hits@1", "recall@1"}
    with pytest.raises(InputError, match="a beam of 3; expected at least 5"):
        evaluate(QRELS, RUN, ks=(5, 10), beam=3)


def test_a_run_file_gives_what_the_run_gives(tmp_path):
    write_run(tmp_path / "run.txt", {**RUN, "unjudged": ranking("a")})
    assert evaluate(QRELS, tmp_path / "run.txt") == evaluate(QRELS, RUN)


def test_ids_with_spaces_and_other_scripts():
    run = {"frage eins": ranking("Straße 1", "日本")}
    assert evaluate({"frage eins": {"日本": 1}}, run)["mrr@10"] == 0.5


def test_some_of_the_queries():
    seen = evaluate_queries(QRELS, RUN, ks=(10,)).only(["q3", "q1"])
    assert seen.query_ids == ("q1", "q3")
    assert seen.means()["hits@10"] == 0.5


def test_without_judgements_there_is_nothing_to_measure():
    with pytest.raises(InputError, match="no relevance judgements"):
        evaluate({}, RUN)
    with pytest.raises(InputError, match="cutoffs"):
        evaluate(QRELS, RUN, ks=(0,))


def by_hand(grades, documents, k):
    """All four metrics in plain Python."""
    top = documents[:k]
    ranks = [place for place, document in enumerate(top, 1) if grades.get(document, 0) > 0]
    gain = sum(grades.get(document, 0) / math.log2(place + 1) for place, document in enumerate(top, 1))
    best = sum(g / math.log2(place + 1) for place, g in enumerate(sorted(grades.values(), reverse=True)[:k], 1))
    return {
        f"hits@{k}": float(bool(ranks)),
        f"mrr@{k}": 1 / ranks[0] if ranks else 0.0,
        f"recall@{k}": len(ranks) / len(grades),
        f"ndcg@{k}": gain / best,
    }


def random_run(seed):
    generator = np.random.default_rng(seed)
    qrels, run = {}, {}
    for query in map(str, range(40)):
        documents = [f"d{i}" for i in generator.permutation(30)]
        relevant = generator.choice(30, size=generator.integers(1, 6), replace=False)
        qrels[query] = {f"d{i}": int(generator.integers(1, 5)) for i in relevant}
        scores = np.sort(generator.integers(0, 4, size=20))[::-1].astype(float)
        run[query] = list(zip(documents, scores.tolist(), strict=False))
    return qrels, run


def test_random_runs_with_many_ties_against_plain_python():
    qrels, run = random_run(1)
    found = evaluate_queries(qrels, run, ks=(2, 10))
    for row, query in enumerate(found.query_ids):
        for k in (2, 10):
            for name, value in by_hand(qrels[query], [d for d, _ in run[query]], k).items():
                assert found.values[name][row] == pytest.approx(value, abs=1e-6), (query, name)


@pytest.mark.parametrize("seed", [2, 3])
def test_random_runs_with_ties_against_ir_measures(tmp_path, seed):
    qrels, run = random_run(seed)
    qrels["0"] = dict.fromkeys(qrels["0"], 0)  # judged, but nothing is relevant
    qrels["1"]["d0"] = -1
    del run["2"]
    ours = evaluate_queries(qrels, run, ks=(1, 3, 10, 100))
    write_qrels(tmp_path / "qrels.txt", qrels)
    write_run(tmp_path / "run.txt", run)
    families = {"hits": "Success", "mrr": "RR", "recall": "R", "ndcg": "nDCG"}
    names = {ir_measures.parse_measure(families[n.split("@")[0]] + "@" + n.split("@")[1]): n for n in ours.values}
    theirs = {name: dict.fromkeys(qrels, 0.0) for name in ours.values}
    with open(tmp_path / "qrels.txt") as judged, open(tmp_path / "run.txt") as ranked:
        files = list(ir_measures.read_trec_qrels(judged)), list(ir_measures.read_trec_run(ranked))
        for value in ir_measures.iter_calc(list(names), *files):
            theirs[names[value.measure]][value.query_id] = value.value
    for name, values in theirs.items():
        np.testing.assert_allclose(ours.values[name], list(values.values()), atol=1e-12, err_msg=name)


def test_ids_are_compared_as_they_are():
    assert evaluate({"q": {"x y": 1}}, {"q": [("x%20y", 1.0)]}, ks=(1,))["hits@1"] == 0
    assert evaluate({"a b": {"d": 1}}, {"a%20b": [("d", 1.0)]}, ks=(1,))["hits@1"] == 0
    assert evaluate({"a\u00a0b": {"x\ny": 1}}, {"a\u00a0b": [("x\ny", 1.0)]}, ks=(1,))["hits@1"] == 1


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_a_byte_order_mark_in_a_run_file_hides_no_query(tmp_path, bom):
    (tmp_path / "run.txt").write_bytes(bom + b"q1 Q0 a 1 2.5 t\n")
    assert evaluate({"q1": {"a": 1}}, tmp_path / "run.txt", ks=(1,))["hits@1"] == 1


@pytest.mark.parametrize(
    ("ranking", "message"), [([("a", 2.0), ("a", 1.0)], "'a' twice"), ([("a", math.nan)], r"not finite \(nan\)")]
)
def test_rankings_that_are_none_are_refused(tmp_path, ranking, message):
    with pytest.raises(InputError, match=message):
        evaluate({"q": {"a": 1}}, {"q": ranking})


@pytest.mark.parametrize("grade", [10**30, 2**31, -(2**31)])
def test_grades_that_other_tools_would_read_as_others_are_refused(tmp_path, grade):
    with pytest.raises(InputError, match="at most 2147483647"):
        evaluate({"q": {"a": grade}}, {})
    with pytest.raises(InputError, match="at most 2147483647"):
        write_qrels(tmp_path / "qrels.txt", {"q": {"a": grade}})
    assert evaluate({"q": {"a": 2**31 - 1, "b": 1}}, {"q": ranking("a", "b")})["ndcg@10"] == 1
