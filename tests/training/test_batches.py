"""Which steps go to the device together, and batches that arrive from a thread."""

import threading

import numpy as np
import pytest
from support.tiny_training_task import TinyTask

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import make_mesh
from genret_jax.training.batches import Prefetcher, check_batch, local_rows, spans
from genret_jax.training.config import TrainerConfig


def config(**changes):
    return TrainerConfig(**{"steps": 10, "batch_size": 16, "log_every": 4, "checkpoint_every": None, **changes})


def test_spans_stop_where_something_happens():
    settings = config(steps_per_dispatch=3, checkpoint_every=5)
    assert list(spans(0, settings)) == [(0, 3), (3, 1), (4, 1), (5, 3), (8, 2)]
    assert list(spans(6, settings)) == [(6, 2), (8, 2)]
    assert list(spans(10, settings)) == []


def test_batches_are_those_of_the_steps_in_order():
    settings = config(steps_per_dispatch=3)
    task = TinyTask()
    seen = []
    with Prefetcher([task], settings, make_mesh(), start=2) as dispatches:
        for dispatch in dispatches:
            assert dispatch.batches["tokens"].shape == (3, 16, 4)
            seen += list(np.asarray(dispatch.batches["tokens"][: dispatch.count]))
    np.testing.assert_array_equal(seen, [task.batch(step)["tokens"] for step in range(2, 10)])


def test_one_process_has_all_rows():
    np.testing.assert_array_equal(local_rows(make_mesh(model_parallel=2), 16), np.arange(16))


def test_rows_of_a_task_are_those_of_its_batch():
    rows = np.array([1, 2, 9])
    whole, part = TinyTask().batch(3), TinyTask().batch(3, rows)
    assert set(whole) == set(part)
    for name, array in part.items():
        np.testing.assert_array_equal(array, whole[name][rows])


def test_error_in_the_thread_is_raised_after_the_batches_before_it():
    seen = []
    with (
        pytest.raises(RuntimeError, match="no batch for step 3"),
        Prefetcher([TinyTask(fail_at=3)], config(), make_mesh(), start=0) as dispatches,
    ):
        seen.extend(dispatch.first for dispatch in dispatches)
    assert seen == [0, 1, 2]


def test_thread_ends_when_the_loop_is_left_early():
    with Prefetcher([TinyTask()], config(steps=1000), make_mesh(), start=0) as dispatches:
        next(iter(dispatches))
    assert not any(thread.name == "batches" for thread in threading.enumerate())


@pytest.mark.parametrize(
    ("rows", "changes", "message"),
    [
        (8, {}, "the task's batch has 8 rows in 'tokens'; expected TrainerConfig.batch_size=16"),
        (12, {"batch_size": 12}, "a batch of 12 rows for 8 data-parallel devices; expected a multiple of 8"),
        (24, {"batch_size": 24, "gradient_accumulation": 2}, "in 2 parts; expected a multiple of 16"),
    ],
)
def test_batch_that_does_not_fit(rows, changes, message):
    with pytest.raises(InputError, match=message):
        check_batch(TinyTask(batch_size=rows).batch(0), config(**changes), make_mesh())
