"""Starts: how a network's parameters are chosen before the first training step."""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np

from genret_jax.models.config import T5Config


class VectorPair(NamedTuple):
    """Vectors of terms and of documents in one space."""

    terms: np.ndarray
    documents: np.ndarray


@runtime_checkable
class Start(Protocol):
    """Chooses a network's parameters before the first training step."""

    def initial_params(self, random_params: dict[str, Any], config: T5Config, facts: Any) -> dict[str, Any]:
        """Return the parameters."""
        ...


def source_of(start: Any) -> str:
    """Return what a start makes the parameters from, in a few words."""
    return str(getattr(start, "source", type(start).__name__))
