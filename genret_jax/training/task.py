"""What the trainer asks of a task: parameters, a loss, and the batch of any step."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

Params = dict[str, Any]
Batch = Mapping[str, np.ndarray]
DeviceBatch = Mapping[str, jax.Array]
# A sum over the batch, which is divided by the loss weights, or a sum with the weight of its own to divide it by.
MetricSum = Float[Array, ""] | tuple[Float[Array, ""], Float[Array, ""]]


@runtime_checkable
class TrainingTask(Protocol):
    """A model with its loss and its data."""

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return Linen variables: ``params``, and ``params_axes`` where parameters have logical axes."""
        ...

    def loss(
        self, params: Params, batch: DeviceBatch, dropout_rng: jax.Array
    ) -> tuple[Float[Array, ""], Float[Array, ""], Mapping[str, MetricSum]]:
        """Return the sum of the loss over the batch, the sum of its weights, and sums of further metrics.

        Sums, not means, so that a batch computed in parts gives the update of the whole. A metric is divided by the
        loss weights, or is a pair ``(sum, weight)``.
        """
        ...

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> Batch:
        """Return the batch of a step, each array ``[b, ...]``, or only these rows of it, ``[r, ...]``.

        A pure function of step and rows, called in a thread. Rows are asked for where several processes each make
        their part of a batch.
        """
        ...
