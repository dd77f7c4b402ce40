"""Read public checkpoints in tests."""

from pathlib import Path
from typing import Any

from genret_jax.models import T5Config
from genret_jax.models.convert.public_checkpoint import open_checkpoint


def read_checkpoint(path: str | Path) -> tuple[T5Config, dict[str, Any]]:
    """Return the configuration and the parameters of a checkpoint."""
    checkpoint = open_checkpoint(path)
    return checkpoint.config, checkpoint.load()
