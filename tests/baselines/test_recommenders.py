"""Popularity and item neighbours against loops over users."""

import numpy as np
import pytest
from support.tiny_interactions import interactions_of, markov_interactions

from genret_jax.baselines import recommenders
from genret_jax.baselines.recommenders import ItemNeighbours, ItemNeighboursConfig, Popularity
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.evaluation.recommendation import Recommender, measure

# The last two items of users with three or more are not for training.
SMALL = interactions_of([[0, 1, 2, 9, 9], [0, 1, 9, 9], [1, 2, 0, 3, 9, 9], [4, 1], [5, 9, 9]], 10)


def shown(interactions: Interactions) -> list[list[int]]:
    histories = [interactions.history(user).tolist() for user in range(interactions.num_users)]
    return [history[:-2] if len(history) >= 3 else history for history in histories]


def padded(*histories, width=6):
    return np.array([[*history, *[-1] * (width - len(history))] for history in histories], np.int32)


def test_popularity_counts_what_is_for_training():
    popularity = Popularity(SMALL)
    items, scores = popularity.rank(padded([3], [9, 9]), 5)
    # Items 0 … 5 occur 3, 4, 2, 1, 1, 1 times; of those that tie, the first.
    np.testing.assert_array_equal(items, [[1, 0, 2, 3, 4]] * 2)
    np.testing.assert_array_equal(scores, [[4, 3, 2, 1, 1]] * 2)
    assert popularity.rank(padded([3]), 99)[0].shape == (1, 10)


def naive_scores(interactions: Interactions, history: list[int], config: ItemNeighboursConfig) -> np.ndarray:
    histories = [set(history) for history in shown(interactions)]
    count = len(interactions.items)
    similarity = np.zeros((count, count))
    for i in range(count):
        for j in range(count):
            both = sum(i in had and j in had for had in histories)
            if i != j and both:
                users = sum(i in had for had in histories) * sum(j in had for had in histories)
                similarity[i, j] = both / np.sqrt(users)
        for j in sorted(range(count), key=lambda j: (-similarity[i, j], j))[config.neighbours :]:
            similarity[i, j] = 0
    scores = np.zeros(count)
    for age, item in enumerate(history[::-1][: config.last_items]):
        scores += config.decay**age * similarity[item]
    return scores


@pytest.mark.parametrize(
    "config",
    [ItemNeighboursConfig(), ItemNeighboursConfig(last_items=2, decay=0.5), ItemNeighboursConfig(neighbours=2)],
)
@pytest.mark.parametrize("interactions", [SMALL, markov_interactions(30, 10)])
def test_neighbours_are_a_loop_over_users(interactions, config):
    histories = [[0, 1, 2], [3], [5, 4, 1, 0], []]
    items, scores = ItemNeighbours(interactions, config).rank(padded(*histories), 10)
    for history, found, values in zip(histories, items, scores, strict=True):
        wanted = naive_scores(interactions, history, config)
        np.testing.assert_allclose(values, wanted[found], rtol=1e-5)
        np.testing.assert_allclose(values, np.sort(wanted)[::-1], rtol=1e-5)
        assert sorted(found.tolist()) == list(range(10))


def test_ties_are_in_the_order_of_the_items():
    items, scores = ItemNeighbours(SMALL).rank(padded([], [5]), 10)
    np.testing.assert_array_equal(items, [np.arange(10)] * 2)
    np.testing.assert_array_equal(scores, np.zeros((2, 10)))


def test_in_blocks_and_without_histories(monkeypatch):
    interactions = markov_interactions(30, 10)
    neighbours, histories = ItemNeighbours(interactions), interactions.histories("test", 6)
    assert isinstance(neighbours, Recommender)
    whole = neighbours.rank(histories, 4)
    monkeypatch.setattr(recommenders, "_SCORES_AT_ONCE", 10 * 7)  # seven histories a block
    for blocks, at_once in zip(neighbours.rank(histories, 4), whole, strict=True):
        np.testing.assert_array_equal(blocks, at_once)
    assert neighbours.rank(histories[:0], 4)[0].shape == (0, 4)


def test_neighbours_see_what_popularity_cannot():
    interactions = markov_interactions()
    neighbours = measure(ItemNeighbours(interactions), interactions, "test")
    assert neighbours["ndcg@5"] > 2 * measure(Popularity(interactions), interactions, "test")["ndcg@5"]


def test_wrong_settings():
    with pytest.raises(InputError, match=r"ItemNeighboursConfig\.decay is 1\.5; expected at most 1"):
        ItemNeighboursConfig(decay=1.5)
