"""Docid strategies as a protocol."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from genret_jax.docids.table import DocidTable


@runtime_checkable
class DocidStrategy(Protocol):
    """Assigns docids."""

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid."""
        ...
