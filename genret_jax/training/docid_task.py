"""What tasks have in common that learn to write docids, for any head and any input."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genret_jax.losses import cross_entropy
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5, random_variables

Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]


class DocidTask:
    """Teacher forcing with cross-entropy (Tay et al. 2022, arXiv 2202.06991, section 3.1).

    Args:
        config: The network.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        z_loss: Weight of T5X's penalty on the logits' normaliser.
        label_smoothing: Share of the target's probability spread over the vocabulary.
    """

    def __init__(self, config: T5Config, tree: NodeTree | None, *, z_loss: float = 0.0, label_smoothing: float = 0.0):
        self.model, self.tree = T5(config), tree
        self.z_loss, self.label_smoothing = z_loss, label_smoothing

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        return random_variables(self.model.config, rng, self.tree)

    def written(
        self,
        params: Mapping[str, Any],
        inputs: Int[Array, "s l"],
        shifted: Int[Array, "b m"],
        nodes: Int[Array, "b m"],
        targets: Int[Array, "b m"],
        weights: Float[Array, "b m"],
        rng: jax.Array,
        **packed: Array,
    ) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right.

        Args:
            params: Of the network.
            inputs: Of the encoder.
            shifted: Targets shifted right, 0 first.
            nodes: The tree's node before each target.
            targets: Tokens to write.
            weights: Of each, 0 for padding.
            rng: Of the dropout masks.
            **packed: ``histories``, where several share a row of the inputs (:meth:`genret_jax.models.T5.__call__`).
        """
        logits = self.model.apply(
            {"params": params},
            inputs,
            shifted,
            nodes,
            self.tree,
            deterministic=False,
            rngs={"dropout": rng},
            **packed,
        )
        total, weight = cross_entropy(
            logits, targets, weights, z_loss=self.z_loss, label_smoothing=self.label_smoothing
        )
        return total, weight, {"token_accuracy": jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)}
