"""The vectorised metrics against ir-measures, and reports of recommenders."""

import dataclasses

import numpy as np
import pytest
from support.tiny_interactions import interactions_of, markov_interactions

from genret_jax.baselines.recommenders import Popularity
from genret_jax.evaluation.compare import compare
from genret_jax.evaluation.metrics import evaluate
from genret_jax.evaluation.recommendation import (
    Recommender,
    answers_of,
    measure,
    rank_metrics,
    recommendation_run,
    recommendation_split,
    without,
)
from genret_jax.evaluation.report import Dataset, System


def test_three_users_by_hand():
    items = np.array([[7, 1, 2], [4, 5, 6], [9, 8, 3]], np.int32)
    # Found at rank 2, not at all, and at rank 3.
    assert rank_metrics(items, np.array([1, 0, 3]), ks=(1, 2, 3)) == {
        "recall@1": 0.0,
        "ndcg@1": 0.0,
        "recall@2": pytest.approx(1 / 3),
        "ndcg@2": pytest.approx(1 / np.log2(3) / 3),
        "recall@3": pytest.approx(2 / 3),
        "ndcg@3": pytest.approx((1 / np.log2(3) + 1 / 2) / 3),
    }


def test_they_are_those_of_ir_measures():
    interactions = markov_interactions(num_users=60, num_items=20)
    random = np.random.default_rng(0)
    items = np.stack([random.permutation(20)[:10] for _ in range(60)]).astype(np.int32)
    scores = np.sort(random.integers(0, 4, (60, 10)).astype(np.float32))[:, ::-1]  # with ties
    split = recommendation_split(interactions, "test")
    theirs = evaluate(
        split.qrels,
        recommendation_run(interactions.evaluated_ids, interactions.items.doc_ids, items, scores),
        ks=(5, 10),
        beam=10,
    )
    ours = rank_metrics(items, interactions.item[interactions.targets("test")])
    assert set(ours) == {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    assert 0 < ours["ndcg@5"] < ours["recall@5"] < ours["recall@10"] < 1


def test_users_ask_for_the_item_that_they_took_next():
    interactions = interactions_of([[0, 1, 2, 3], [3, 2], [2, 0, 1]], 4)
    assert recommendation_split(interactions, "test").qrels == {"u0": {"i3": 1}, "u2": {"i1": 1}}
    assert recommendation_split(interactions, "validation").qrels == {"u0": {"i2": 1}, "u2": {"i0": 1}}


def test_a_report_of_recommenders():
    interactions = markov_interactions(num_users=40)
    popularity = Popularity(interactions)
    assert isinstance(popularity, Recommender)
    answers = answers_of(popularity, interactions, "test", System(name="popularity"))
    dataset = Dataset(name=interactions.name, documents=len(interactions.items))
    report = compare(dataset, [(recommendation_split(interactions, "test"), [answers])], ks=(5, 10))
    measured = report.find("popularity", "test")
    assert report.splits[0].one_relevant
    assert measured.milliseconds_per_query > 0
    assert {name: measured.metrics[name].mean for name in ("recall@10", "ndcg@10")} == pytest.approx(
        {name: value for name, value in measure(popularity, interactions, "test").items() if name.endswith("@10")}
    )


def test_rankings_without_what_a_user_has_had():
    had = np.array([[3, 1, -1], [9, -1, -1]], np.int32)
    items = np.array([[1, 7, 3, 2, 5], [4, 0, 1, 2, 3]], np.int32)
    scores = np.array([[5, 4, 3, 2, 1], [9, 8, 7, 6, 5]], np.float32)
    found, kept = without(had, items, scores, 2)
    assert found.tolist() == [[7, 2], [4, 0]]
    assert kept.tolist() == [[4, 2], [9, 8]]
    assert without(had, items, scores, 9)[0].tolist() == [[7, 2, 5, -1, -1], [4, 0, 1, 2, 3]], "each all that it has"


def test_one_long_history_shortens_no_other_ranking():
    interactions = markov_interactions(num_users=40)
    everything = np.arange(len(interactions.items), dtype=np.int32)
    longest = dataclasses.replace(
        interactions,
        user_ids=(*interactions.user_ids, "everything"),
        offsets=np.append(interactions.offsets, len(interactions.item) + len(everything)),
        item=np.concatenate([interactions.item, everything]),
    )
    answers = [
        answers_of(Popularity(data), data, "test", System(name="popularity"), 5, exclude_history=True).run
        for data in (interactions, longest)
    ]
    assert {len(found) for user, found in answers[1].items() if user != "everything"} == {5}
    assert [item for item, _ in answers[1]["everything"]] == [interactions.items.doc_ids[-1]], "all else it had"
    assert set(answers[0]) < set(answers[1])
