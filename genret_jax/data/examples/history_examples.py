"""The examples of users' histories, one by one or packed, and which of them a training step shows.

What a step shows is a number for each row; the histories themselves stay on the device
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
    """All training examples: every item of a training history that has one before it is a target once.

    They are ordered by the length of the history that is shown, so that those of similar length can be computed
    together; among equals the order is random.

    Attributes:
        item: Items of all training histories, one user after the other.
        place: Where in ``item`` the target of each example is.
        begin: Where its history begins, which ends before ``place``.
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
            interactions: Everybody's histories.
            config: How much of a history is shown.
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
        """Return the most items of a history among the examples from one fraction of all to another."""
        end = min(len(self), int(np.ceil(last * len(self) + 1e-6)))
        return int((self.place - self.begin)[int(first * len(self)) : end].max())


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class PackedHistories:
    """All training histories, several of them behind one another in each row, for models that encode them once.

    Attributes:
        items: An item, -1 for padding.
        targets: The one after it, to be predicted from it and those before; -1 where it is none, or is predicted
            elsewhere, with more before it.
        histories: Number of its history, from 1; 0 for padding.
    """

    items: Int32[np.ndarray, "r l"]
    targets: Int32[np.ndarray, "r l"]
    histories: Int32[np.ndarray, "r l"]

    @classmethod
    def of(
        cls, interactions: Interactions, length: int, *, cold: Bool[np.ndarray, " n"] | None = None
    ) -> "PackedHistories":
        """Pack the training parts of all histories.

        Longer ones than a row are cut into stretches of a row's length that overlap by half, so that each item is a
        target once, with at least half a row before it where the history has that much. Who shares a row with whom is
        drawn once for all seeds, so that several may be trained side by side from one copy.

        Args:
            interactions: Everybody's histories.
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
    """Return where stretches of histories begin, how long they are, and where in each its own targets begin."""
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
    """Return row and column of each stretch: every row begins with the longest left and takes the longest that fit."""
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
    """Numbers of what every step shows.

    Row r of a batch of b shows something of the r-th of b equal parts of all there is, and goes through that part in an
    order of its own, drawn anew each time round. So each example is equally likely, each is shown about once before any
    is shown again, and where they are ordered by length, so is every batch.

    As in the example store's sampler, what is shown is a pure function of (seed, step, row): training resumes exactly,
    and any number of processes makes any part of a batch.

    Args:
        count: How many examples there are.
        seed: Seed of all random choices.
        batch_size: Rows of a step.
    """

    def __init__(self, count: int, *, seed: int, batch_size: int):
        self.count, self.seed, self.batch_size = count, seed, batch_size

    @functools.cached_property
    def round(self) -> int:
        """Steps in which each row goes once through its part: a prime, so that any stride visits all of it."""
        return _prime_from(-(-self.count // self.batch_size))

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | slice | None = None) -> Int32[np.ndarray, " r"]:
        """Return the numbers of a step's examples, or of some rows of it."""
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
    """Return the first prime that is not smaller."""
    number = max(2, number)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
