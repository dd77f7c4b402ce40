"""Which examples a step shows, and how a history becomes tokens."""

import numpy as np
import pytest

from genret_jax.data.corpus import Corpus
from genret_jax.data.histories import HistoryConfig, HistoryExamples, HistorySampler, cold_items, history_tokens
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError


def interactions_of(histories, items=10):
    ids = tuple(f"i{number}" for number in range(items))
    return Interactions(
        items=Corpus(name="made", doc_ids=ids, titles=ids, texts=ids, source="made"),
        user_ids=tuple(f"u{number}" for number in range(len(histories))),
        offsets=np.cumsum([0, *map(len, histories)]).astype(np.int64),
        item=np.concatenate(histories).astype(np.int32),
    )


def told(examples):
    """Return each example as (user, history, target)."""
    return sorted(
        (int(user), tuple(examples.item[begin:place].tolist()), int(examples.item[place]))
        for user, begin, place in zip(examples.user, examples.begin, examples.place, strict=True)
    )


DATA = interactions_of([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9], [9, 8, 7, 6, 5, 4]])


def test_every_item_of_a_training_history_that_has_one_before_it_is_a_target_once():
    """The last two items are held out, but for users with fewer than three, who are not evaluated."""
    assert told(HistoryExamples.of(DATA, HistoryConfig(items=2))) == [
        (0, (0,), 1),
        (0, (0, 1), 2),
        (1, (5,), 6),
        (3, (8, 7), 6),
        (3, (9,), 8),
        (3, (9, 8), 7),
    ]


def test_items_held_out_are_in_no_example():
    cold = np.zeros(10, bool)
    cold[[1, 8]] = True
    assert told(HistoryExamples.of(DATA, HistoryConfig(items=9), cold=cold)) == [
        (0, (0,), 2),
        (1, (5,), 6),
        (3, (9,), 7),
        (3, (9, 7), 6),
    ]


def test_examples_are_ordered_by_length_and_the_longest_of_a_part_is_known():
    examples = HistoryExamples.of(DATA, HistoryConfig(items=9))
    lengths = examples.place - examples.begin
    assert lengths.tolist() == sorted(lengths.tolist()) == [1, 1, 1, 2, 2, 3]
    assert [examples.longest(part / 3, (part + 1) / 3) for part in range(3)] == [1, 2, 3]
    assert examples.longest(0.0, 1.0) == 3


def test_histories_too_short_to_train_on():
    with pytest.raises(InputError, match="no user has two items for training"):
        HistoryExamples.of(interactions_of([[1, 2, 3], [4]]), HistoryConfig())


@pytest.fixture(scope="module")
def sampler():
    random = np.random.default_rng(0)
    histories = [random.integers(0, 10, length) for length in random.integers(3, 40, 50)]
    examples = HistoryExamples.of(interactions_of(histories), HistoryConfig(items=12))
    return HistorySampler(examples, seed=3, batch_size=16)


def test_in_a_round_each_row_visits_its_part_once(sampler):
    count = len(sampler.examples)
    assert sampler.round >= count / 16
    shown = np.stack([sampler.batch(step) for step in range(sampler.round)])
    for row in range(16):
        part = np.arange(int(row * count / 16), min(count, int((row + 1) * count / 16) + 1))
        times = np.bincount(shown[:, row], minlength=count)
        assert set(np.flatnonzero(times)) <= set(part.tolist())
        assert times.max() <= 2
        assert (times[part] > 0).mean() > 0.6
    lengths = (sampler.examples.place - sampler.examples.begin)[shown]
    for group in range(4):  # a task relies on it
        assert lengths[:, 4 * group : 4 * group + 4].max() <= sampler.examples.longest(group / 4, (group + 1) / 4)


def test_every_example_is_equally_likely(sampler):
    count, rounds = len(sampler.examples), 60
    shown = np.concatenate([sampler.batch(step) for step in range(sampler.round * rounds)])
    times = np.bincount(shown, minlength=count)
    expected = len(shown) / count
    # Drawn independently, the deviation would be the square root of what is expected.
    assert times.std() < np.sqrt(expected)
    assert abs(times - expected).max() < 5 * np.sqrt(expected)


def test_a_batch_is_a_function_of_seed_and_step_however_it_is_divided(sampler):
    whole = sampler.batch(29)
    np.testing.assert_array_equal(whole, sampler.batch(29))
    parts = [sampler.batch(29, np.array([1, 5])), sampler.batch(29, np.arange(8, 16))]
    np.testing.assert_array_equal(np.concatenate(parts), whole[[1, 5, *range(8, 16)]])
    assert (whole != sampler.batch(30)).any()
    other = HistorySampler(sampler.examples, seed=4, batch_size=16)
    assert (whole != other.batch(29)).any()


def test_fewer_examples_than_rows():
    examples = HistoryExamples.of(DATA, HistoryConfig())
    sampler = HistorySampler(examples, seed=0, batch_size=64)
    assert set(sampler.batch(0)) == set(range(len(examples)))


def test_tokens_of_histories():
    item_tokens = np.array([[2, 5, 9], [3, 6, 0], [4, 7, 8]], np.int32)
    tokens = history_tokens(np.array([[0, 1], [2, -1]]), item_tokens, np.array([20, 0]))
    assert tokens.tolist() == [[20, 2, 5, 9, 3, 6, 0], [0, 4, 7, 8, 0, 0, 0]]
    assert history_tokens(np.array([[1]]), item_tokens, None).tolist() == [[3, 6, 0]]


def test_users_are_hashed_alike_everywhere():
    numbers = HistoryConfig(user_tokens=2000).user_numbers(["u1", "u2", "ü"])
    assert numbers.tolist() == [130, 1114, 1525]
    assert HistoryConfig(user_tokens=5).user_numbers([str(user) for user in range(100)]).max() == 4


def test_held_out_items_are_a_share_drawn_by_seed():
    assert cold_items(200, 0.05, seed=1).sum() == 10
    assert (cold_items(200, 0.05, seed=1) != cold_items(200, 0.05, seed=2)).any()
    assert not cold_items(200, 0.0, seed=1).any()


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"items": 0}, "HistoryConfig.items is 0"),
        ({"user_tokens": -1}, "HistoryConfig.user_tokens is -1"),
        ({"user_tokens": 0, "user_drop": 0.1}, "HistoryConfig.user_drop is 0.1"),
        ({"item_drop": 1.0}, "HistoryConfig.item_drop is 1.0"),
    ],
)
def test_settings_that_cannot_be(fields, says):
    with pytest.raises(InputError, match=says):
        HistoryConfig(**fields)
