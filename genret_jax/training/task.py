"""The protocol of a training task: parameters, a loss, and the batch of any step."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Array, Float, Int

Params = dict[str, Any]
Batch = Mapping[str, np.ndarray]
# Arrays of a batch on the devices, beside the task's ``arrays``.
DeviceBatch = Mapping[str, Any]
# A sum over the batch to divide by the loss weights, or a sum with a weight of its own to divide by.
MetricSum = Float[Array, ""] | tuple[Float[Array, ""], Float[Array, ""]]


@runtime_checkable
class TrainingTask(Protocol):
    """A model with its loss and its data.

    A task may have an attribute ``arrays``: a mapping from names to pytrees of arrays that the loss needs at every
    step, such as the tokens of all items. The trainer puts them on all devices once and gives them to ``loss`` as
    entries of the batch. An array that ``loss`` takes from elsewhere becomes a constant of the compiled program, which
    then is as large as the array and must be compiled again when the array changes.
    """

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return Linen variables: ``params``, and ``params_axes`` if parameters have logical axes."""
        ...

    def loss(
        self, params: Params, batch: DeviceBatch, dropout_rng: jax.Array
    ) -> tuple[Float[Array, ""], Float[Array, ""], Mapping[str, MetricSum]]:
        """Return the sum of the loss over the batch, the sum of its weights, and sums of further metrics.

        Sums, not means, so that a batch computed in parts gives the update of the whole. A metric is divided by the
        loss weights, or is a pair ``(sum, weight)``.

        Args:
            params: Parameters.
            batch: From :meth:`batch`, or a part of its rows; and ``arrays``, whole.
            dropout_rng: Key for the dropout masks.
        """
        ...

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> Batch:
        """Return the batch of a step, each array ``[b, ...]``, or only the given rows of it, ``[r, ...]``.

        Must be a pure function of step and rows; it is called in a thread. Rows are given if there are several
        processes, which each make a part of a batch.
        """
        ...


def arrays_of(task: TrainingTask) -> dict[str, Any]:
    """Return the arrays that a task's loss needs at every step, by name; empty for a task without any."""
    return dict(getattr(task, "arrays", {}))
