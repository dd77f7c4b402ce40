"""The task of DSI: learn to write the docid of a text, for any head, docid scheme and mixture of examples."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genret_jax.data.examples.sampler import Sampler
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.training.docid_task import DocidTask, Sums
from genret_jax.training.task import DeviceBatch


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
