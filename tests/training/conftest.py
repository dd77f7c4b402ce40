"""A tiny run that the training tests share: a few settings, and what to compare."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from genret_jax.training import AdamW, Constant, TrainerConfig, read_metrics

CLOCK = ("steps_per_second", "examples_per_second")


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., TrainerConfig]:
    """Twelve steps of Adam at a constant rate on one device, a record a step, a checkpoint every four."""

    def make(**changes: Any) -> TrainerConfig:
        settings: dict[str, Any] = {
            "steps": 12,
            "batch_size": 16,
            "data_parallel": 1,
            "optimizer": AdamW(learning_rate=Constant(rate=0.02)),
            "log_every": 1,
            "checkpoint_every": 4,
            "tensorboard": False,
        }
        return TrainerConfig(**{**settings, **changes})

    return make


@pytest.fixture(scope="session")
def records() -> Callable[[Path], list[dict[str, Any]]]:
    """Read a run's records without the times in them."""

    def read(folder: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in record.items() if k not in CLOCK} for record in read_metrics(folder)]

    return read


@pytest.fixture(scope="session")
def assert_same_params() -> Callable[[Any, Any], None]:
    """Compare two trees of parameters to the last bit."""

    def check(found: Any, wanted: Any) -> None:
        jax.tree.map(np.testing.assert_array_equal, jax.device_get(found), jax.device_get(wanted))

    return check


@pytest.fixture(scope="session")
def t5x_engine() -> Any:
    """The module that imports t5x; what needs it is skipped where t5x is not."""
    pytest.importorskip("t5x.train", reason="t5x is not installed; bash scripts/test_t5x.sh installs and tests it")
    from genret_jax.training.t5x import engine as t5x_engine

    return t5x_engine


@pytest.fixture
def as_t5x_computes() -> Iterator[None]:
    """Allow what this library's own code does not need: sums of arrays of different ranks."""
    with jax.numpy_rank_promotion("allow"):
        yield
