"""Users' histories as a model reads them: which part of them is for training, and what they are as tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genret_jax.data.examples.counter_random import RowRandom, of_strings
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require

_COLD = 510  # stream of the counter-based random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """How a user's history is shown (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 4.1).

    Attributes:
        items: Items of a history, the latest; earlier ones are left out.
        user_tokens: User ids are hashed to so many tokens, one of which comes first; 0 leaves users out.
        user_drop: Share of the training examples that do without the user's token, as a history of somebody unknown.
        positions: What is known of where a token stands: ``"tokens"``, how many tokens apart two are, as in T5 and the
            paper; ``"items"``, how many items apart, the places within them, and how long ago
            (:mod:`genret_jax.models.item_input`).
        causal: Items do not see those after them, so that a history is encoded once for all of its items as targets,
            and training takes a fraction of the arithmetic. A departure from the paper, for ``positions="items"``
            without user tokens; a row of a training batch then holds ``items`` items, of several users.
        whole_items: An item is one position of the input, the sum of what its codes and its prefixes mean
            (:class:`genret_jax.models.item_input.WholeItems`), and not one for each of its codes. A departure from the
            paper, for ``positions="items"``.
    """

    items: int = 20
    user_tokens: int = 2000
    user_drop: float = 0.0
    positions: Literal["tokens", "items"] = "tokens"
    causal: bool = False
    whole_items: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "items", self.items >= 1, "at least 1")
        require(self, "user_tokens", self.user_tokens >= 0, "0 or more")
        require(self, "user_drop", 0 <= self.user_drop < 1, "a share from 0 to below 1")
        require(self, "user_drop", self.user_tokens > 0 or not self.user_drop, "0 without user tokens")
        fits = self.positions == "items" and not self.user_tokens
        whole = self.positions == "items" or not self.whole_items
        require(self, "whole_items", whole, "False unless positions = 'items'")
        require(self, "causal", fits or not self.causal, "False unless positions = 'items' and user_tokens = 0")

    def user_numbers(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"]:
        """Hash user ids to numbers below ``user_tokens``; the same on every machine."""
        return (of_strings(user_ids) % np.uint64(max(1, self.user_tokens))).astype(np.int32)


def cold_items(num_items: int, share: float) -> Bool[np.ndarray, " n"]:
    """Return which items to hold out of training, to see how such are recommended; the same every time."""
    chance = RowRandom(0, 0, np.arange(num_items)).uniform(_COLD)
    cold = np.zeros(num_items, bool)
    cold[np.argsort(chance, kind="stable")[: round(share * num_items)]] = True
    return cold


def training_items(
    interactions: Interactions, cold: Bool[np.ndarray, " n"] | None = None
) -> tuple[Int64[np.ndarray, " t"], Int32[np.ndarray, " t"]]:
    """Return user and item of all interactions that are for training, in the order of ``interactions``.

    Args:
        interactions: Everybody's histories.
        cold: Items that training must not see.

    Raises:
        InputError: If no user has two items for training.
    """
    place = np.arange(len(interactions.item))
    user = np.repeat(np.arange(interactions.num_users), interactions.lengths)
    kept = place < interactions.training_ends()[user]
    if cold is not None:
        kept &= ~cold[interactions.item]
    user = user[kept]
    if not (user[1:] == user[:-1]).any():
        raise InputError(
            "no user has two items for training",
            file=interactions.items.source or interactions.name,
            expected="users with four items or more: two for training, one each for validation and test",
            fix="give longer histories",
        )
    return user, interactions.item[kept]


def history_tokens(
    items: Int[np.ndarray, "q l"],
    item_inputs: Int32[np.ndarray, "n m"],
    users: Int64[np.ndarray, " q"] | Int32[np.ndarray, " q"] | None,
) -> Int32[np.ndarray, "q t"]:
    """Write histories as a model reads them: the user's token, then the tokens of each item.

    Args:
        items: Items, oldest first, -1 behind the last.
        item_inputs: Each item as the encoder reads it.
        users: Token of each user, 0 for somebody unknown; None where the model knows no users.
    """
    known = np.concatenate([item_inputs, np.zeros((1, item_inputs.shape[1]), np.int32)])
    tokens = known[items].reshape(len(items), -1)
    return tokens if users is None else np.concatenate([users.astype(np.int32)[:, None], tokens], axis=1)
