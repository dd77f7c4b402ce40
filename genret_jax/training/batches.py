"""Batches, made in a thread ahead of time while the device computes."""

import dataclasses
import queue
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Int

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import DATA, batch_sharding
from genret_jax.training.config import TrainerConfig
from genret_jax.training.step import Batch, DeviceBatch, TrainingTask


@dataclasses.dataclass(frozen=True)
class Dispatch:
    """Steps that go to the device in one call.

    Attributes:
        first: The first step.
        count: Number of steps.
        batches: Stacked batches ``[steps_per_dispatch, b, ...]``, of which the first ``count`` are used; for several
            runs ``[steps_per_dispatch, r, b, ...]``.
    """

    first: int
    count: int
    batches: DeviceBatch

    @property
    def end(self) -> int:
        """Updates made after these steps."""
        return self.first + self.count


def spans(start: int, config: TrainerConfig) -> Iterator[tuple[int, int]]:
    """Yield ``(first, count)`` of each dispatch; none crosses a step after which the run logs, evaluates or saves."""
    periods = [p for p in (config.log_every, config.evaluate_every, config.checkpoint_every) if p]
    while start < config.steps:
        stop = min([start - start % period + period for period in periods] + [config.steps])
        count = min(config.steps_per_dispatch, stop - start)
        yield start, count
        start += count


def check_batch(batch: Batch, config: TrainerConfig, mesh: Mesh) -> None:
    """Check that a batch has the configured number of rows, and that they divide over the devices.

    Raises:
        InputError: If it has not, or they do not.
    """
    for name, array in batch.items():
        rows = array.shape[0] if array.ndim else 0
        if rows != config.batch_size:
            raise InputError(
                f"the task's batch has {rows} rows in '{name}'",
                expected=f"TrainerConfig.batch_size={config.batch_size}",
                fix="give the task and the trainer the same batch size",
            )
    parts = mesh.shape[DATA] * config.gradient_accumulation
    if config.batch_size % parts:
        raise InputError(
            f"a batch of {config.batch_size} rows for {mesh.shape[DATA]} data-parallel devices"
            + (f" in {config.gradient_accumulation} parts" if config.gradient_accumulation > 1 else ""),
            expected=f"a multiple of {parts}",
            fix="change TrainerConfig.batch_size, data_parallel or gradient_accumulation",
        )


def local_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, " r"]:
    """Return the rows of a batch that lie on devices of this process, in order.

    Args:
        mesh: All devices of the run.
        batch_size: Rows of the whole batch.
    """
    places = NamedSharding(mesh, PartitionSpec(DATA)).addressable_devices_indices_map((batch_size,))
    return np.unique(np.concatenate([np.arange(batch_size)[index] for index in places.values()]))


class Prefetcher:
    """Iterates over the dispatches of a run, and raises the errors of its thread.

    Args:
        tasks: Tasks of the runs that train together; their ``batch`` is called in the thread, once a step, in order.
        config: Settings of the runs.
        mesh: Devices over whose ``'data'`` axis batches are split.
        start: First step.
        ahead: Dispatches kept ready.
    """

    def __init__(self, tasks: Sequence[TrainingTask], config: TrainerConfig, mesh: Mesh, *, start: int, ahead: int = 2):
        self._tasks, self._config, self._start = tasks, config, start
        self._sharding = batch_sharding(mesh, len(tasks))
        self._rows = None if self._sharding.is_fully_addressable else local_rows(mesh, config.batch_size)
        self._ready: queue.Queue[Dispatch | BaseException | None] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._fill, name="batches", daemon=True)

    def __enter__(self) -> "Prefetcher":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join()

    def __iter__(self) -> Iterator[Dispatch]:
        while (item := self._ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item

    def _fill(self) -> None:
        try:
            for first, count in spans(self._start, self._config):
                if not self._put(Dispatch(first, count, self._batches(range(first, first + count)))):
                    return
            self._put(None)
        except BaseException as error:  # raised again by __iter__, in the thread that uses the batches
            self._put(error)

    def _batches(self, steps: range) -> DeviceBatch:
        if self._rows is None:
            batches = [self._of_all(step) for step in steps]
            stacked = {name: self._stack([b[name] for b in batches]) for name in batches[0]}
            placed: DeviceBatch = jax.device_put(stacked, self._sharding)
            return placed
        [task] = self._tasks  # several processes train one run at a time
        batches = [task.batch(step, self._rows) for step in steps]
        return {name: self._place(self._stack([b[name] for b in batches])) for name in batches[0]}

    def _of_all(self, step: int) -> Batch:
        batches = [task.batch(step) for task in self._tasks]
        if len(batches) == 1:
            return batches[0]
        return {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}

    def _place(self, local: np.ndarray) -> jax.Array:
        """Return the global array [s, b, ...] from this process's rows [s, r, ...]."""
        assert self._rows is not None
        rows, size = self._rows, self._config.batch_size

        def part(index: Any) -> np.ndarray:
            return local[:, np.searchsorted(rows, np.arange(size)[index[1]])]

        return jax.make_array_from_callback((local.shape[0], size, *local.shape[2:]), self._sharding, part)

    def _stack(self, arrays: list[np.ndarray]) -> np.ndarray:
        # Always the same shape, so that one program serves all; entries beyond the count are not read.
        stacked = np.zeros((self._config.steps_per_dispatch, *arrays[0].shape), arrays[0].dtype)
        for row, array in enumerate(arrays):
            stacked[row] = array
        return stacked

    def _put(self, item: Dispatch | BaseException | None) -> bool:
        while not self._stopped.is_set():
            try:
                self._ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False
