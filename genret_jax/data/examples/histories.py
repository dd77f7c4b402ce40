"""Users' histories as model inputs: their training part, and their tokens."""

import dataclasses
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from jaxtyping import Bool, Int, Int32, Int64

from genret_jax.data.examples.counter_random import RowRandom, hash_texts
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.validation import at_least, check_fields, less_than, require

_COLD = 510  # stream of the counter-based random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class HistoryConfig:
    """Input format of a user's history (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 4.1).

    Attributes:
        items: Number of items shown of a history, the latest ones.
        user_tokens: Number of user tokens. A user id is hashed to one of them, which comes first; 0 leaves users out.
        user_drop: Share of the training examples without the user's token, as for an unknown user.
        positions: Position information: ``"tokens"`` is the distance of two tokens in tokens, as in T5 and the paper;
            ``"items"`` is their distance in items, their places within the items, and the age of the item
            (:mod:`genret_jax.models.item_input`).
        causal: Items do not attend to later items, so that one encoding of a history serves all of its items as
            targets, at a fraction of the arithmetic. It departs from the paper, and needs ``positions="items"`` and no
            user tokens; a row of a training batch then holds ``items`` items, of several users.
        whole_items: An item takes one position of the input, with the sum of the embeddings of its codes and prefixes
            (:class:`genret_jax.models.item_input.WholeItems`), instead of one position for each code. It departs from
            the paper, and needs ``positions="items"``.
    """

    items: Annotated[int, at_least(1)] = 20
    user_tokens: Annotated[int, at_least(0)] = 2000
    user_drop: Annotated[float, at_least(0), less_than(1)] = 0.0
    positions: Literal["tokens", "items"] = "tokens"
    causal: bool = False
    whole_items: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "user_drop", self.user_tokens > 0 or not self.user_drop, "0 without user tokens")
        fits = self.positions == "items" and not self.user_tokens
        whole = self.positions == "items" or not self.whole_items
        require(self, "whole_items", whole, "False unless positions = 'items'")
        require(self, "causal", fits or not self.causal, "False unless positions = 'items' and user_tokens = 0")

    def user_numbers(self, user_ids: Sequence[str]) -> Int32[np.ndarray, " u"]:
        """Hash user ids to numbers below ``user_tokens``, with the same result on every machine."""
        return (hash_texts(user_ids) % np.uint64(max(1, self.user_tokens))).astype(np.int32)


def cold_items(num_items: int, share: float) -> Bool[np.ndarray, " n"]:
    """Mark the items to hold out of training, to measure how new items are recommended; the same every time."""
    chance = RowRandom(0, 0, np.arange(num_items)).uniform(_COLD)
    cold = np.zeros(num_items, bool)
    cold[np.argsort(chance, kind="stable")[: round(share * num_items)]] = True
    return cold


def training_items(
    interactions: Interactions, cold: Bool[np.ndarray, " n"] | None = None
) -> tuple[Int64[np.ndarray, " t"], Int32[np.ndarray, " t"]]:
    """Return user and item of all interactions for training, in the order of ``interactions``.

    Args:
        interactions: The histories.
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
    """Return histories as encoder inputs: the user's token, then the tokens of each item.

    Args:
        items: Items, oldest first, padded with -1.
        item_inputs: Encoder tokens of each item.
        users: Token of each user, 0 for an unknown one; None for a model without user tokens.
    """
    known = np.concatenate([item_inputs, np.zeros((1, item_inputs.shape[1]), np.int32)])
    tokens = known[items].reshape(len(items), -1)
    return tokens if users is None else np.concatenate([users.astype(np.int32)[:, None], tokens], axis=1)
