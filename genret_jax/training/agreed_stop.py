"""Several processes stop at the same step, whichever of them was asked to."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.parallel.mesh import DATA, MODEL


class AgreedStop:
    """Turns a signal that one process got into an answer that all get after the same step.

    The devices take the maximum of all processes' signals while they compute the steps anyway; the answer is read one
    turn of the loop later, when it has long arrived.

    Args:
        mesh: All devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._shape, self._places = (mesh.size,), NamedSharding(mesh, PartitionSpec((DATA, MODEL)))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: jax.Array | None = None

    def agreed(self, signal_name: str | None) -> str | None:
        """Return the signal on which all processes stop now, or None; to be called by all, once a turn.

        Args:
            signal_name: What this process got: ``'SIGINT'``, ``'SIGTERM'`` or None.
        """
        if self._alone:
            return signal_name
        number = np.array([0 if signal_name is None else signal.Signals[signal_name].value], np.int32)
        answered = self._asked
        self._asked = self._largest(jax.make_array_from_callback(self._shape, self._places, lambda _: number))
        found = 0 if answered is None else int(answered)
        return signal.Signals(found).name if found else None
