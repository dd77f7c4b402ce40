"""Metrics and reports of recommenders, with and without the items of the history."""

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
    recommendation_split,
    takes_again,
    without,
)
from genret_jax.evaluation.report import Dataset, System
from genret_jax.evaluation.trec import rankings_by_id


@dataclasses.dataclass
class FixedRankings:
    """A recommender that returns given rankings."""

    items: np.ndarray
    scores: np.ndarray
    history_length: int = 1

    def rank(self, histories, k):
        return self.items[:, :k], self.scores[:, :k]


def test_three_users_by_hand():
    interactions = interactions_of([[0, 2, 1], [1, 2, 0], [0, 1, 3]], 10)
    items = np.array([[7, 1, 2], [4, 5, 6], [9, 8, 3]], np.int32)
    # The test items 1, 0 and 3 are found at rank 2, not at all, and at rank 3.
    assert measure(FixedRankings(items, -items), interactions, "test") == {
        "recall@5": pytest.approx(2 / 3),
        "ndcg@5": pytest.approx((1 / np.log2(3) + 1 / 2) / 3),
        "recall@10": pytest.approx(2 / 3),
        "ndcg@10": pytest.approx((1 / np.log2(3) + 1 / 2) / 3),
    }


def test_positions_and_ids_give_the_same_metrics():
    interactions = markov_interactions(num_users=60, num_items=20)
    random = np.random.default_rng(0)
    items = np.stack([random.permutation(20)[:10] for _ in range(60)]).astype(np.int32)
    scores = np.sort(random.integers(0, 4, (60, 10)).astype(np.float32))[:, ::-1]  # with ties
    split = recommendation_split(interactions, "test")
    run = rankings_by_id(interactions.evaluated_ids, interactions.items.doc_ids, items.tolist(), scores.tolist())
    theirs = evaluate(split.qrels, run, ks=(5, 10), beam=10)
    ours = measure(FixedRankings(items, scores), interactions, "test")
    assert set(ours) == {"recall@5", "ndcg@5", "recall@10", "ndcg@10"}
    assert ours == pytest.approx({name: theirs[name] for name in ours})
    assert 0 < ours["ndcg@5"] < ours["recall@5"] < ours["recall@10"] < 1


def test_users_ask_for_the_item_that_they_took_next():
    interactions = interactions_of([[0, 1, 2, 3], [3, 2], [2, 0, 1]], 4)
    assert recommendation_split(interactions, "test").qrels == {"u0": {"i3": 1}, "u2": {"i1": 1}}
    assert recommendation_split(interactions, "validation").qrels == {"u0": {"i2": 1}, "u2": {"i0": 1}}


def test_new_and_known_items_are_parts_only_where_there_are_both():
    interactions = interactions_of([[0, 1, 2, 3], [2, 0, 1]], 4)
    cold = np.array([False, False, False, True])
    assert recommendation_split(interactions, "test", cold=cold).parts == {
        "test, known items": ["u1"],
        "test, new items": ["u0"],
    }
    for same in (np.zeros(4, bool), np.ones(4, bool)):
        assert recommendation_split(interactions, "test", cold=same).parts == {}


def test_users_who_take_an_item_again_are_counted():
    interactions = interactions_of([[0, 1, 2, 0], [1, 2, 1, 3], [3, 3], [2, 1, 0], [3, 1, 2, 3]], 4)
    assert takes_again(interactions, "test").tolist() == [True, False, False, True]  # of u0, u1, u3 and u4
    assert takes_again(interactions, "validation").tolist() == [False, True, False, False]
    (note,) = recommendation_split(interactions, "test", exclude_history=True).notes
    assert "left out" in note
    assert "2 of 4 users" in note
    (note,) = recommendation_split(interactions, "test").notes
    assert "left out" not in note


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
