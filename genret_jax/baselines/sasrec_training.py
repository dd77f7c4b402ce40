"""How SASRec learns: to tell at every place of a history which item came next."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from genret_jax.baselines.sasrec_network import SasRecConfig, SasRecNetwork
from genret_jax.data.examples.history_examples import EvenSampler, PackedHistories
from genret_jax.data.interactions import Interactions
from genret_jax.losses import sampled_binary_cross_entropy, tied_softmax_cross_entropy


class SasRecTask:
    """Predict the item after each item of a history (section III-F).

    Batches are row numbers alone; the histories lie on the device.

    Args:
        config: Network and loss.
        interactions: Users and items.
        seed: Of the order of users.
        batch_size: Rows of :class:`genret_jax.data.examples.history_examples.PackedHistories` in a batch.
        cold: Items that training must not see.
    """

    def __init__(
        self,
        config: SasRecConfig,
        interactions: Interactions,
        *,
        seed: int,
        batch_size: int,
        cold: Bool[np.ndarray, " n"] | None = None,
    ):
        self.config = config
        self.packed = PackedHistories.of(interactions, config.max_length, cold=cold)
        self.positions = positions_from_the_end(self.packed.histories)
        self.sampler = EvenSampler(len(self.packed), seed=seed, batch_size=batch_size)
        self.network = SasRecNetwork(config, len(interactions.items))

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        place = jnp.zeros((1, 1), jnp.int32)
        return self.network.init(rng, place, place, place)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the numbers of the rows of a step."""
        return {"row": self.sampler.batch(step, rows)}

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss and the number of items predicted."""
        dropout_rng, negative_rng = jax.random.split(dropout_rng)
        packed = self.packed
        items, targets, histories, positions = (
            jnp.asarray(array)[batch["row"]]
            for array in (packed.items, packed.targets, packed.histories, self.positions)
        )  # --> [b, l]
        hidden, table = self.network.apply(
            {"params": params},
            jnp.maximum(items, 0),
            positions,
            histories,
            deterministic=False,
            rngs={"dropout": dropout_rng},
        )
        weights = (targets >= 0).astype(jnp.float32)
        if self.config.loss == "cross_entropy":
            total, weight = tied_softmax_cross_entropy(hidden, table, targets, weights)
        else:
            negatives = jax.random.randint(negative_rng, targets.shape, 0, table.shape[0], jnp.int32)
            drawn_well = weights * ~in_own_history(negatives, items, targets, histories)
            positive = jnp.einsum("bld,bld->bl", hidden, table[targets])
            negative = jnp.einsum("bld,bld->bl", hidden, table[negatives])
            total, weight = sampled_binary_cross_entropy(positive, negative, weights, drawn_well)
        return total, weight, {}


def positions_from_the_end(histories: Int32[np.ndarray, "r l"]) -> Int32[np.ndarray, "r l"]:
    """Return the position of each place of packed histories, the last of each having the row's length minus 1."""
    length = histories.shape[1]
    ends = np.where(np.diff(histories, axis=1, append=-1) != 0, np.arange(length), length)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return (length - 1 - (last - np.arange(length))).astype(np.int32)


def in_own_history(
    drawn: Int[Array, "b l"], items: Int[Array, "b l"], targets: Int[Array, "b l"], histories: Int[Array, "b l"]
) -> Bool[Array, "b l"]:
    """Return whether an item drawn at a place is one of the history there, and so no negative of it."""
    same = histories[:, :, None] == histories[:, None, :]  # --> [b, l, l]
    has = (drawn[:, :, None] == items[:, None, :]) | (drawn[:, :, None] == targets[:, None, :])
    return jnp.any(same & has, axis=-1)
