"""How SASRec learns: to tell at every place of a history which item came next."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32, Int64

from genret_jax.baselines.sasrec_network import SasRecConfig, SasRecNetwork
from genret_jax.data.counter_random import RowRandom
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.losses import sampled_binary_cross_entropy, tied_softmax_cross_entropy

# Streams of the counter-based random numbers.
_PACKING, _ORDER = 400, 401


@dataclasses.dataclass(frozen=True, kw_only=True)
class PackedHistories:
    """The training part of all histories, several of them behind one another in a row of the longest's width.

    A history never sees another, so the loss is that of a row for each; but the average history of a shop fills a
    tenth of a row, and nine tenths of the arithmetic would go into padding.

    Attributes:
        items: An item.
        targets: The one after it.
        positions: Of the item in its history, counted so that the last one has the width minus 1.
        segments: Number of its history from 1; 0 for padding.
    """

    items: Int32[np.ndarray, "r l"]
    targets: Int32[np.ndarray, "r l"]
    positions: Int32[np.ndarray, "r l"]
    segments: Int32[np.ndarray, "r l"]

    @property
    def num_rows(self) -> int:
        """Number of rows: batch size times steps in an epoch."""
        return len(self.items)


def pack_histories(interactions: Interactions, length: int, seed: int) -> PackedHistories:
    """Return the last ``length`` items that have a successor of every user's training part, users in random order.

    Args:
        interactions: Users and items.
        length: Width of a row.
        seed: Of the order.

    Raises:
        InputError: If there is nothing to learn from.
    """
    ends = interactions.training_ends()
    lengths = np.minimum(ends - interactions.offsets[:-1] - 1, length)
    users = np.flatnonzero(lengths > 0)
    if not len(users):
        raise InputError(
            "no user with two items for training",
            file=interactions.items.source or interactions.name,
            expected="users with four items or more: two for training, one each for validation and test",
            fix="give longer histories",
        )
    users = users[np.argsort(RowRandom(seed, 0, users).uniform(_PACKING), kind="stable")]
    lengths = lengths[users]
    begins, num_rows = _next_fit(lengths, length)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    places = np.repeat(begins, lengths) + within
    source = np.repeat(ends[users] - 1 - lengths, lengths) + within

    def spread(values: np.ndarray) -> np.ndarray:
        row = np.zeros(num_rows * length, np.int32)
        row[places] = values
        return row.reshape(num_rows, length)

    return PackedHistories(
        items=spread(interactions.item[source]),
        targets=spread(interactions.item[source + 1]),
        positions=spread(np.repeat(length - lengths, lengths) + within),
        segments=spread(np.repeat(np.arange(1, len(users) + 1), lengths)),
    )


def _next_fit(lengths: Int64[np.ndarray, " u"], width: int) -> tuple[Int64[np.ndarray, " u"], int]:
    """Return where each history begins, as ``row * width + column``, and the number of rows."""
    begins, row, used = np.zeros(len(lengths), np.int64), 0, 0
    for number, length in enumerate(lengths.tolist()):
        if used + length > width:
            row, used = row + 1, 0
        begins[number] = row * width + used
        used += length
    return begins, row + 1


class SasRecTask:
    """Predict the item after each item of a history (section III-F).

    Batches are row numbers alone; the histories lie on the device.

    Args:
        config: Network and loss.
        interactions: Users and items.
        seed: Of the order of users.
        batch_size: Rows of :class:`PackedHistories` in a batch.
    """

    def __init__(self, config: SasRecConfig, interactions: Interactions, *, seed: int, batch_size: int):
        self.config, self.seed, self.batch_size = config, seed, batch_size
        self.packed = pack_histories(interactions, config.max_length, seed)
        self.network = SasRecNetwork(config, len(interactions.items))
        self._order = functools.lru_cache(maxsize=2)(self._shuffled)  # a batch may hold the end of an epoch

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        place = jnp.zeros((1, 1), jnp.int32)
        return self.network.init(rng, place, place, place)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the numbers of the rows of a step; every row comes once an epoch, in a new order each time."""
        number = step * self.batch_size + (np.arange(self.batch_size) if rows is None else rows)
        epoch, place = np.divmod(number, self.packed.num_rows)
        epochs, which = np.unique(epoch, return_inverse=True)
        return {"row": np.stack([self._order(e) for e in epochs.tolist()])[which, place]}

    def _shuffled(self, epoch: int) -> Int32[np.ndarray, " rows"]:
        random = RowRandom(self.seed, epoch, np.arange(self.packed.num_rows))
        return np.argsort(random.uniform(_ORDER), kind="stable").astype(np.int32)

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss and the number of items predicted."""
        dropout_rng, negative_rng = jax.random.split(dropout_rng)
        packed = {f.name: jnp.asarray(getattr(self.packed, f.name)) for f in dataclasses.fields(self.packed)}
        items, targets, positions, segments = (packed[name][batch["row"]] for name in packed)  # --> [b, l]
        hidden, table = self.network.apply(
            {"params": params}, items, positions, segments, deterministic=False, rngs={"dropout": dropout_rng}
        )
        weights = (segments > 0).astype(jnp.float32)
        if self.config.loss == "cross_entropy":
            total, weight = tied_softmax_cross_entropy(hidden, table, targets, weights)
        else:
            negatives = jax.random.randint(negative_rng, targets.shape, 0, table.shape[0], jnp.int32)
            drawn_well = weights * ~in_own_history(negatives, items, targets, segments)
            positive = jnp.einsum("bld,bld->bl", hidden, table[targets])
            negative = jnp.einsum("bld,bld->bl", hidden, table[negatives])
            total, weight = sampled_binary_cross_entropy(positive, negative, weights, drawn_well)
        return total, weight, {}


def in_own_history(
    drawn: Int[Array, "b l"], items: Int[Array, "b l"], targets: Int[Array, "b l"], segments: Int[Array, "b l"]
) -> Bool[Array, "b l"]:
    """Return whether an item drawn at a place is one of the history there, and so no negative of it."""
    same = segments[:, :, None] == segments[:, None, :]  # --> [b, l, l]
    has = (drawn[:, :, None] == items[:, None, :]) | (drawn[:, :, None] == targets[:, None, :])
    return jnp.any(same & has, axis=-1)
