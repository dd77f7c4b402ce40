"""Training examples of users' histories, one by one or packed, and the sampler that numbers those of a step.

A step's batch is a number for each row; the histories themselves stay on the device
(:mod:`genret_jax.training.history_task`).
"""

import dataclasses
import functools

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.histories import HistoryConfig, training_items
from genret_jax.data.interactions import Interactions

# Streams of the counter-based random numbers.
_SLOPE, _OFFSET, _WITHIN = 500, 501, 502


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class HistoryExamples:
    """All training examples: every item of a training history but the first is a target once.

    They are ordered by the length of the shown history, so that those of similar length can be computed together;
    examples of equal length are in random order.

    Attributes:
        item: Items of all training histories, one user after the other.
        place: Position in ``item`` of each example's target.
        begin: Position in ``item`` of the first item of its history, which ends before ``place``.
        user: Position of its user.
    """

    item: Int32[np.ndarray, " total"]
    place: Int32[np.ndarray, " e"]
    begin: Int32[np.ndarray, " e"]
    user: Int32[np.ndarray, " e"]

    @classmethod
    def of(
        cls, interactions: Interactions, config: HistoryConfig, *, cold: Bool[np.ndarray, " n"] | None = None
    ) -> "HistoryExamples":
        """Collect the examples of the training parts of all histories.

        Args:
            interactions: The histories.
            config: Number of items that are shown.
            cold: Items that training must not see.

        Raises:
            InputError: If no history has two items for training.
        """
        user, item = training_items(interactions, cold)
        first = np.searchsorted(user, np.arange(interactions.num_users))
        place = np.flatnonzero(np.arange(len(item)) > first[user])
        begin = np.maximum(first[user[place]], place - config.items)
        order = np.lexsort((np.random.default_rng(0).random(len(place)), place - begin))
        columns = (array[order].astype(np.int32) for array in (place, begin, user[place]))
        return cls(item=item, **dict(zip(("place", "begin", "user"), columns, strict=True)))

    def __len__(self) -> int:
        return len(self.place)

    def longest(self, first: float, last: float) -> int:
        """Return the length of the longest history among the examples between two fractions of all."""
        end = min(len(self), int(np.ceil(last * len(self) + 1e-6)))
        return int((self.place - self.begin)[int(first * len(self)) : end].max())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedHistories:
    """All training histories, several in each row, for models that encode each history once.

    Attributes:
        items: Items, padded with -1.
        targets: The item after each one, to predict from that and the earlier ones; -1 after the last item, and where
            another stretch of the history predicts it from more items.
        histories: Number of the history of each item, from 1; 0 for padding.
    """

    items: Int32[np.ndarray, "r l"]
    targets: Int32[np.ndarray, "r l"]
    histories: Int32[np.ndarray, "r l"]

    @classmethod
    def of(
        cls, interactions: Interactions, length: int, *, cold: Bool[np.ndarray, " n"] | None = None
    ) -> "PackedHistories":
        """Pack the training parts of all histories.

        A history longer than a row is cut into stretches of a row's length that overlap by half. So each item is a
        target once, with at least half a row of items before it where the history has as many. The assignment of
        histories to rows does not depend on the seed, so that runs of several seeds can share one copy.

        Args:
            interactions: The histories.
            length: Items of a row.
            cold: Items that training must not see.

        Raises:
            InputError: If no history has two items for training.
        """
        user, item = training_items(interactions, cold)
        source, size, first = _stretches(user, length)
        row, column = _packed(size, length)
        within = np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size)
        places = np.repeat(row * length + column, size) + within
        known = np.repeat(source, size) + within
        rows = int(row.max()) + 1

        def spread(values: Int[np.ndarray, " t"], empty: int) -> Int32[np.ndarray, "r l"]:
            cells = np.full(rows * length, empty, np.int32)
            cells[places] = values
            return cells.reshape(rows, length)

        return cls(
            items=spread(item[known], -1),
            targets=spread(np.where(within >= np.repeat(first, size), item[known + 1], -1), -1),
            histories=spread(np.repeat(np.arange(1, len(size) + 1), size), 0),
        )

    def __len__(self) -> int:
        return len(self.items)


def _stretches(
    user: Int64[np.ndarray, " t"], length: int
) -> tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " s"], Int64[np.ndarray, " s"]]:
    """Cut histories into stretches; return their starts, their lengths, and where in each its own targets begin."""
    begins = np.flatnonzero(np.concatenate([[True], user[1:] != user[:-1]]))
    inputs = np.diff(np.append(begins, len(user))) - 1  # the last item has none after it
    begins, inputs = begins[inputs > 0], inputs[inputs > 0]
    stride = max(1, length // 2)
    count = 1 + -(-np.maximum(inputs - length, 0) // stride)
    owner = np.repeat(np.arange(len(begins)), count)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    ends = np.minimum(length + number * stride, inputs[owner])
    starts = np.maximum(ends - length, 0)
    first = np.where(number > 0, length + (number - 1) * stride - starts, 0)
    return begins[owner] + starts, ends - starts, first


def _packed(size: Int64[np.ndarray, " s"], length: int) -> tuple[Int64[np.ndarray, " s"], Int64[np.ndarray, " s"]]:
    """Return row and column of each stretch: a row takes the longest that is left, then the longest that fits."""
    order = np.random.default_rng(0).permutation(len(size))
    of_size = [order[size[order] == wanted].tolist() for wanted in range(length + 1)]
    row, column = np.zeros(len(size), np.int64), np.zeros(len(size), np.int64)
    number, longest = 0, length
    while longest := next((wanted for wanted in range(longest, 0, -1) if of_size[wanted]), 0):
        room = length
        while wanted := next((some for some in range(min(longest, room), 0, -1) if of_size[some]), 0):
            chosen = of_size[wanted].pop()
            row[chosen], column[chosen] = number, length - room
            room -= wanted
        number += 1
    return row, column


class EvenSampler:
    """Draws the numbers of each step's examples.

    The examples are divided into b equal parts, b being the batch size. Row r goes through part r in a random order,
    and then again in another order. So all examples are equally likely, each is shown about once before any is shown
    again, and if they are ordered by length, so is every batch.

    The numbers are a pure function of (seed, step, row): training resumes exactly, and several processes can each make
    a part of a batch.

    Args:
        count: Number of examples.
        seed: Seed of all random choices.
        batch_size: Rows of a step.
    """

    def __init__(self, count: int, *, seed: int, batch_size: int):
        self.count, self.seed, self.batch_size = count, seed, batch_size

    @functools.cached_property
    def round(self) -> int:
        """Number of steps in which each row goes once through its part: a prime, so that any stride visits all."""
        return _prime_from(-(-self.count // self.batch_size))

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | slice | None = None) -> Int32[np.ndarray, " r"]:
        """Return the numbers of a step's examples, for all rows or some."""
        numbers = np.arange(self.batch_size, dtype=np.int64)
        numbers = numbers if rows is None else numbers[rows]
        turn, within = divmod(step, self.round)
        order = RowRandom(self.seed, turn, numbers)
        limit = np.full(len(numbers), self.round)
        stride, offset = 1 + order.below(_SLOPE, limit - 1), order.below(_OFFSET, limit)
        bin_ = (stride * within + offset) % self.round
        inside = RowRandom(self.seed, step, numbers).uniform(_WITHIN)
        share = (numbers + (bin_ + inside) / self.round) / self.batch_size
        return np.minimum((share * self.count).astype(np.int32), self.count - 1)


def _prime_from(number: int) -> int:
    """Return the smallest prime that is not smaller than a number."""
    number = max(2, number)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
