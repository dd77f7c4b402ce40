"""Learning to write the docid of a text: what DSI trains, for any head, docid scheme and mixture of examples."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from genret_jax.data.sampler import Sampler
from genret_jax.losses import cross_entropy
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5


class RetrievalTask:
    """Teacher forcing with cross-entropy (Tay et al. 2022, arXiv 2202.06991, section 3.1).

    Args:
        config: The network.
        sampler: Gives the batch of any step; None where no step is run, but only planned.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        z_loss: Weight of T5X's penalty on the logits' normaliser.
        label_smoothing: Share of the target's probability spread over the vocabulary.
    """

    def __init__(
        self,
        config: T5Config,
        sampler: Sampler | None,
        tree: NodeTree | None,
        *,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        self.model = T5(config)
        self.sampler = sampler
        self.tree = tree
        self.z_loss, self.label_smoothing = z_loss, label_smoothing

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        token = jnp.zeros((1, 1), jnp.int32)
        return self.model.init(rng, token, token, token, self.tree)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the examples of a step, or some rows of them."""
        assert self.sampler is not None, "planned only"
        return self.sampler.batch(step, rows)

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        logits = self.model.apply(
            {"params": params},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_prefix_nodes"],
            self.tree,
            deterministic=False,
            rngs={"dropout": dropout_rng},
        )
        targets, weights = batch["decoder_target_tokens"], batch["decoder_loss_weights"]
        total, weight = cross_entropy(
            logits, targets, weights, z_loss=self.z_loss, label_smoothing=self.label_smoothing
        )
        right = (jnp.argmax(logits, axis=-1) == targets) * weights
        return total, weight, {"token_accuracy": right.sum()}
