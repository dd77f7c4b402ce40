"""Ctrl-C and SIGTERM end training between two steps, and in several processes after the same step."""

import signal
import threading
from types import FrameType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.parallel.mesh import DATA, MODEL


class Interruption:
    """Context manager that records the first SIGINT or SIGTERM; a second one acts as it did before.

    Outside the main thread, in which alone Python allows signal handlers, it does nothing.

    Attributes:
        signal_name: ``'SIGINT'`` or ``'SIGTERM'`` once one has come, else None.
    """

    def __init__(self) -> None:
        self.signal_name: str | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Interruption":
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._restore()

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.signal_name = signal.Signals(number).name
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()


class AgreedStop:
    """Lets all processes stop after the same step when one of them gets a signal.

    The devices compute the maximum of all processes' signals beside the steps; the answer is read one turn of the loop
    later, when it has long arrived.

    Args:
        mesh: All devices of the run.
    """

    def __init__(self, mesh: Mesh):
        self._alone = jax.process_count() == 1
        self._shape, self._places = (mesh.size,), NamedSharding(mesh, PartitionSpec((DATA, MODEL)))
        self._largest = jax.jit(jnp.max, out_shardings=NamedSharding(mesh, PartitionSpec()))
        self._asked: jax.Array | None = None

    def agreed(self, signal_name: str | None) -> str | None:
        """Return the signal on which all processes stop now, or None; every process must call this once a turn.

        Args:
            signal_name: The signal that this process got: ``'SIGINT'``, ``'SIGTERM'`` or None.
        """
        if self._alone:
            return signal_name
        number = np.array([0 if signal_name is None else signal.Signals[signal_name].value], np.int32)
        answered = self._asked
        self._asked = self._largest(jax.make_array_from_callback(self._shape, self._places, lambda _: number))
        found = 0 if answered is None else int(answered)
        return signal.Signals(found).name if found else None
