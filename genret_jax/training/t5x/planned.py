"""The loss of a network with a plan under t5x, which hands a loss nothing but parameters and a batch."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from genret_jax.data.examples.store import ExampleStore
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.plan import PlanTables
from genret_jax.training.docid_task import RetrievalTask, Sums

MOST_BYTES = 1 << 30  # of a program's constants: XLA stores a program in one message, of 2 GiB at most
_SCALARS = ("docid_row", "left_out_bias")  # one number an example, which seqio makes a vector of length 1


class PlannedLoss:
    """The loss of ``genret train`` for a network with a plan.

    The docids and the plan's tables become constants of each program.

    Args:
        task: The run's task, with the docid tree and the docids of the plan.
        config: Configuration of the network.
        store: The example store.
        **losses: ``z_loss``, ``label_smoothing`` and ``consistency`` of :class:`RetrievalTask`.

    Raises:
        InputError: If the tables are too large to be constants.
    """

    def __init__(self, task: RetrievalTask, config: T5Config, store: ExampleStore, **losses: Any):
        self._task = RetrievalTask(config, None, task.tree, plan=task.plan, **losses)
        # In host memory: constants of a program of several processes must not lie on the devices of one.
        arrays = {**task.arrays, "nodes": store.array("docid_prefix_nodes")}
        self._arrays: dict[str, Any] = jax.device_get(arrays)
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(self._arrays))
        if size > MOST_BYTES:
            raise InputError(
                f"plan tables of {size / 2**30:.1f} GiB, which t5x compiles into its programs",
                file=store.folder,
                expected=f"at most {MOST_BYTES / 2**30:.1f} GiB",
                fix="train with 'genret train', which runs on the same meshes",
            )

    @property
    def tables(self) -> PlanTables:
        """The plan's tables, for a search in the program that is traced."""
        tables: PlanTables = _constants(self._arrays["plan"].tables)
        return tables

    def __call__(self, params: Mapping[str, Any], batch: Mapping[str, Any], rng: jax.Array | None) -> Sums:
        """Return the summed loss, the summed weights, and sums of metrics; no dropout without a key."""
        arrays = _constants(self._arrays)
        one = {name: batch[name][:, 0] for name in _SCALARS if name in batch}
        nodes = arrays.pop("nodes")[one["docid_row"]]
        return self._task.loss(params, {**batch, **one, **arrays, "decoder_prefix_nodes": nodes}, rng)


def _constants(arrays: Any) -> Any:
    """Return arrays as constants that XLA takes as they are, instead of computing with them while it compiles."""
    return jax.lax.optimization_barrier(jax.tree.map(jnp.asarray, arrays))
