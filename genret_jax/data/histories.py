"""Histories as a model reads them, and which of them a training step shows.

As in the example store's sampler, an example is a pure function of (seed, step, row): training resumes exactly, and any
number of processes makes any part of a batch. What a step shows is a number for each row; the histories themselves stay
on the device (:class:`genret_jax.training.history_task.HistoryTask`).
"""

import dataclasses
import functools
import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genret_jax.data.counter_random import RowRandom
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require

# Streams of the counter-based random numbers.
_SLOPE, _OFFSET, _WITHIN = 500, 501, 502
_COLD = 503


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """How a user's history is shown (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 4.1).

    Attributes:
        items: Items of a history, the latest; earlier ones are left out.
        user_tokens: User ids are hashed to so many tokens, one of which comes first; 0 leaves users out.
        user_drop: Share of the training examples that do without the user's token, as a history of somebody unknown.
        positions: What the encoder knows of where a token stands: ``"tokens"``, how many tokens apart two are, as in
            T5 and the paper; ``"items"``, how many items apart, the places within them, and how long ago.
        item_drop: Chance of each item of a history, but the latest, to be left out of a training example.
    """

    items: int = 20
    user_tokens: int = 2000
    user_drop: float = 0.0
    positions: Literal["tokens", "items"] = "tokens"
    item_drop: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "items", self.items >= 1, "at least 1")
        require(self, "user_tokens", self.user_tokens >= 0, "0 or more")
        for name in ("user_drop", "item_drop"):
            require(self, name, 0 <= getattr(self, name) < 1, "a share from 0 to below 1")
        require(self, "user_drop", self.user_tokens > 0 or not self.user_drop, "0 without user tokens")

    def user_numbers(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"]:
        """Hash user ids to numbers below ``user_tokens``; the same on every machine."""
        digests = (hashlib.blake2b(user.encode(), digest_size=8).digest() for user in user_ids)
        numbers = (int.from_bytes(digest, "little") % max(1, self.user_tokens) for digest in digests)
        return np.fromiter(numbers, np.int32, len(user_ids))


def cold_items(num_items: int, share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Return which items to hold out of training, to see how such are recommended; a share of them, drawn by seed."""
    chance = RowRandom(seed, 0, np.arange(num_items)).uniform(_COLD)
    cold = np.zeros(num_items, bool)
    cold[np.argsort(chance, kind="stable")[: round(share * num_items)]] = True
    return cold


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
        everything = np.arange(len(interactions.item))
        user = np.repeat(np.arange(interactions.num_users), interactions.lengths)
        kept = everything < interactions.training_ends()[user]
        if cold is not None:
            kept &= ~cold[interactions.item]
        item, user = interactions.item[kept], user[kept]
        first = np.searchsorted(user, np.arange(interactions.num_users))
        place = np.flatnonzero(np.arange(len(item)) > first[user])
        if not len(place):
            raise InputError(
                "no user has two items for training",
                file=interactions.items.source,
                expected="histories of four items or more: one for the test, one for validation",
                fix="give longer histories",
            )
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


class HistorySampler:
    """Numbers of the examples of every step.

    Row r of a batch of b shows an example of the r-th of b equal parts of all examples, and goes through that part in
    an order of its own, drawn anew each time round. So each example is equally likely, each is shown about once before
    any is shown again, and as examples are ordered by length, so is every batch.

    Args:
        examples: The examples.
        seed: Seed of all random choices.
        batch_size: Rows of a step.
    """

    def __init__(self, examples: HistoryExamples, *, seed: int, batch_size: int):
        self.examples, self.seed, self.batch_size = examples, seed, batch_size

    @functools.cached_property
    def round(self) -> int:
        """Steps in which each row goes once through its part: a prime, so that any stride visits all of it."""
        return _prime_from(-(-len(self.examples) // self.batch_size))

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
        return np.minimum((share * len(self.examples)).astype(np.int32), len(self.examples) - 1)


def history_tokens(
    items: Int[np.ndarray, "q l"],
    item_tokens: Int32[np.ndarray, "n m"],
    users: Int64[np.ndarray, " q"] | Int32[np.ndarray, " q"] | None,
) -> Int32[np.ndarray, "q t"]:
    """Write histories as a model reads them: the user's token, then the tokens of each item.

    Args:
        items: Items, oldest first, -1 behind the last.
        item_tokens: The docid of each item, padded with 0.
        users: Token of each user, 0 for somebody unknown; None where the model knows no users.
    """
    known = np.concatenate([item_tokens, np.zeros((1, item_tokens.shape[1]), np.int32)])
    tokens = known[items].reshape(len(items), -1)
    return tokens if users is None else np.concatenate([users.astype(np.int32)[:, None], tokens], axis=1)


def _prime_from(number: int) -> int:
    """Return the first prime that is not smaller."""
    number = max(2, number)
    while any(number % divisor == 0 for divisor in range(2, int(number**0.5) + 1)):
        number += 1
    return number
