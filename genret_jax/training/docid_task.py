"""Tasks that learn to write docids, for any head and any input, and the task of DSI among them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genret_jax.data.examples.sampler import Sampler
from genret_jax.losses import TokenLoss, cross_entropy, shown_twice, symmetric_divergence, two_passes
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5, random_variables
from genret_jax.training.step import DeviceBatch

Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]


class DocidTask:
    """Teacher forcing, by default with cross-entropy (Tay et al. 2022, arXiv 2202.06991, section 3.1).

    Args:
        config: Configuration of the network.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        loss: Loss of the target tokens; None takes cross-entropy.
        z_loss: Weight of T5X's penalty on the logits' normaliser.
        label_smoothing: Share of the target's probability spread over the vocabulary.
        consistency: Weight of the divergence between two passes with different dropout masks, which are computed as one
            batch of twice as many rows (NCI: Wang et al. 2022, arXiv 2206.02743, section 3.4); their token loss is
            the mean of both.
    """

    def __init__(
        self,
        config: T5Config,
        tree: NodeTree | None,
        *,
        loss: TokenLoss | None = None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        consistency: float = 0.0,
    ):
        self.model, self.tree, self.consistency = T5(config), tree, consistency
        self.token_loss = loss or functools.partial(cross_entropy, z_loss=z_loss, label_smoothing=label_smoothing)

    @property
    def arrays(self) -> dict[str, Any]:
        """The docid tree of the prefix head, which the trainer adds to every batch."""
        return {} if self.tree is None else {"tree": self.tree}

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        # Parameters do not depend on the tree; zeros keep its arrays out of the compiled program.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.tree)
        return random_variables(self.model.config, rng, zeros)

    def written(
        self,
        params: Mapping[str, Any],
        inputs: Int[Array, "s l"],
        shifted: Int[Array, "b m"],
        nodes: Int[Array, "b m"],
        targets: Int[Array, "b m"],
        weights: Float[Array, "b m"],
        rng: jax.Array,
        *,
        tree: NodeTree | None = None,
        **packed: Array,
    ) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right.

        Args:
            params: Parameters of the network.
            inputs: Tokens for the encoder.
            shifted: Targets shifted right, 0 first.
            nodes: The tree's node before each target.
            targets: Tokens to write.
            weights: Weight of each target, 0 for padding.
            rng: Key for the dropout masks.
            tree: The docid tree, for the prefix head.
            **packed: ``histories``, if several share a row of the inputs (:meth:`genret_jax.models.T5.__call__`).
        """
        shown = {
            "encoder_input_tokens": inputs,
            "decoder_input_tokens": shifted,
            "decoder_prefix_nodes": nodes,
            **packed,
        }
        if self.consistency:
            both = functools.partial(shown_twice, sources=len(inputs))
            shown, targets, weights = jax.tree.map(both, (shown, targets, weights))
        rngs = {"dropout": rng}
        logits: Array = self.model.apply({"params": params}, **shown, tree=tree, deterministic=False, rngs=rngs)
        total, weight = self.token_loss(logits, targets, weights)
        right = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
        if not self.consistency:
            return total, weight, {"token_accuracy": right}
        (one, other), (_, counted) = (two_passes(array, len(inputs)) for array in (logits, weights))
        differ = symmetric_divergence(one, other, counted)
        metrics = {"token_accuracy": right / 2, "consistency": differ}
        return total / 2 + self.consistency * differ, weight / 2, metrics


class RetrievalTask(DocidTask):
    """Documents, pseudo-queries and queries in, docids out.

    Args:
        config: Configuration of the network.
        sampler: Returns the batch of any step; None to plan steps without running one.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        **losses: ``loss``, ``z_loss``, ``label_smoothing`` and ``consistency`` of
            :class:`~genret_jax.training.docid_task.DocidTask`.
    """

    def __init__(self, config: T5Config, sampler: Sampler | None, tree: NodeTree | None, **losses: Any):
        super().__init__(config, tree, **losses)
        self.sampler = sampler

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the examples of a step, or some rows of them."""
        assert self.sampler is not None, "a task without a sampler can only be planned"
        return self.sampler.batch(step, rows)

    def loss(self, params: Mapping[str, Any], batch: DeviceBatch, dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        return self.written(
            params,
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_prefix_nodes"],
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            dropout_rng,
            tree=batch.get("tree"),
        )
