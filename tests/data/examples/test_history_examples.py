"""Which examples histories give, how they are packed, and which of them a step shows."""

import numpy as np
import pytest
from support.tiny_interactions import interactions_of

from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.examples.history_examples import EvenSampler, HistoryExamples, PackedHistories
from genret_jax.errors import InputError

DATA = interactions_of([[0, 1, 2, 3, 4], [5, 6], [7, 8, 9], [9, 8, 7, 6, 5, 4]], 10)


def triples(examples):
    """Return each example as (user, history, target)."""
    return sorted(
        (int(user), tuple(examples.item[begin:place].tolist()), int(examples.item[place]))
        for user, begin, place in zip(examples.user, examples.begin, examples.place, strict=True)
    )


def test_every_item_of_a_training_history_that_has_one_before_it_is_a_target_once():
    """The last two items are held out, but for users with fewer than three, who are not evaluated."""
    assert triples(HistoryExamples.of(DATA, HistoryConfig(items=2))) == [
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
    assert triples(HistoryExamples.of(DATA, HistoryConfig(items=9), cold=cold)) == [
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
        HistoryExamples.of(interactions_of([[1, 2, 3], [4]], 10), HistoryConfig())


@pytest.fixture(scope="module")
def sampled():
    random = np.random.default_rng(0)
    histories = [random.integers(0, 10, length).tolist() for length in random.integers(3, 40, 50)]
    examples = HistoryExamples.of(interactions_of(histories, 10), HistoryConfig(items=12))
    return EvenSampler(len(examples), seed=3, batch_size=16), examples


def test_in_a_round_each_row_visits_its_part_once(sampled):
    sampler, examples = sampled
    count = sampler.count
    assert sampler.round >= count / 16
    shown = np.stack([sampler.batch(step) for step in range(sampler.round)])
    for row in range(16):
        part = np.arange(int(row * count / 16), min(count, int((row + 1) * count / 16) + 1))
        times = np.bincount(shown[:, row], minlength=count)
        assert set(np.flatnonzero(times)) <= set(part.tolist())
        assert times.max() <= 2
        assert (times[part] > 0).mean() > 0.6
    lengths = (examples.place - examples.begin)[shown]
    for group in range(4):  # a task relies on it
        assert lengths[:, 4 * group : 4 * group + 4].max() <= examples.longest(group / 4, (group + 1) / 4)


def test_every_example_is_equally_likely(sampled):
    sampler, _examples = sampled
    count, rounds = sampler.count, 60
    shown = np.concatenate([sampler.batch(step) for step in range(sampler.round * rounds)])
    times = np.bincount(shown, minlength=count)
    expected = len(shown) / count
    # Drawn independently, the deviation would be the square root of what is expected.
    assert times.std() < np.sqrt(expected)
    assert abs(times - expected).max() < 5 * np.sqrt(expected)


def test_a_batch_is_a_function_of_seed_and_step_however_it_is_divided(sampled):
    sampler, _examples = sampled
    whole = sampler.batch(29)
    np.testing.assert_array_equal(whole, sampler.batch(29))
    parts = [sampler.batch(29, np.array([1, 5])), sampler.batch(29, np.arange(8, 16))]
    np.testing.assert_array_equal(np.concatenate(parts), whole[[1, 5, *range(8, 16)]])
    assert (whole != sampler.batch(30)).any()
    other = EvenSampler(sampler.count, seed=4, batch_size=16)
    assert (whole != other.batch(29)).any()


def test_fewer_examples_than_rows():
    examples = HistoryExamples.of(DATA, HistoryConfig())
    sampler = EvenSampler(len(examples), seed=0, batch_size=64)
    assert set(sampler.batch(0)) == set(range(len(examples)))


def unpacked(packed):
    """Return each target with what is before it in its row, as (history, target)."""
    found = []
    for row in range(len(packed)):
        for column, target in enumerate(packed.targets[row].tolist()):
            if target >= 0:
                own = packed.histories[row] == packed.histories[row, column]
                found.append((tuple(packed.items[row, : column + 1][own[: column + 1]].tolist()), target))
    return found


def test_packed_histories_have_every_target_once_with_its_history():
    packed = PackedHistories.of(DATA, 4)
    assert sorted(unpacked(packed)) == sorted((history, target) for _, history, target in triples(whole(DATA, 9)))
    assert len(packed) == 2, "histories of 3, 2 and 1 items with one after them fill two rows of four"
    assert ((packed.items >= 0) == (packed.histories > 0)).all()


def whole(data, items):
    return HistoryExamples.of(data, HistoryConfig(items=items))


def test_a_long_history_is_cut_into_stretches_that_overlap_by_half():
    """Ten items for training and rows of four: each item is a target once, after at least two."""
    packed = PackedHistories.of(interactions_of([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 1, 2]], 10), 4)
    assert sorted(unpacked(packed)) == [
        ((0,), 1),
        ((0, 1), 2),
        ((0, 1, 2), 3),
        ((0, 1, 2, 3), 4),
        ((2, 3, 4), 5),
        ((2, 3, 4, 5), 6),
        ((4, 5, 6), 7),
        ((4, 5, 6, 7), 8),
        ((5, 6, 7, 8), 9),
    ]


def test_packed_rows_are_nearly_full_whatever_the_lengths():
    random = np.random.default_rng(0)
    data = interactions_of([random.integers(0, 10, length).tolist() for length in random.geometric(0.12, 400) + 3], 10)
    packed = PackedHistories.of(data, 20)
    assert (packed.histories > 0).mean() > 0.98
    expected = sorted(target for _, _, target in triples(whole(data, 20)))
    assert sorted(target for _, target in unpacked(packed)) == expected
    apart = np.diff(packed.histories, axis=1)[packed.histories[:, 1:] > 0]
    assert (np.abs(apart[apart != 0]) > 5).mean() > 0.8, "who shares a row with whom is drawn, not the order of users"


def test_packing_leaves_out_items_held_out():
    cold = np.zeros(10, bool)
    cold[[1, 8]] = True
    packed = PackedHistories.of(DATA, 4, cold=cold)
    assert sorted(unpacked(packed)) == [((0,), 2), ((5,), 6), ((9,), 7), ((9, 7), 6)]
