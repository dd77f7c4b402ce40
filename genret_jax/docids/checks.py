"""Checks that every docid strategy makes of what it is given."""

from collections.abc import Sequence

import numpy as np

from genret_jax.docids.streaming import fits
from genret_jax.errors import InputError


def require_vectors(
    doc_ids: Sequence[str] | None, vectors: np.ndarray | None, *, strategy: str, memory_gib: float
) -> np.ndarray:
    """Return the document vectors, as float32 if that fits in memory, after checking them.

    Args:
        doc_ids: The documents' external ids; None for vectors that belong to none.
        vectors: One vector a document.
        strategy: Name of the strategy, for the message.
        memory_gib: What fits; values of more vectors are checked where they are read.

    Raises:
        InputError: If there are no vectors, of the wrong count or shape, or with values that are not finite.
    """
    if vectors is None:
        raise InputError(f"{strategy} without document vectors", expected="one vector a document", fix="give vectors")
    if vectors.ndim != 2 or not vectors.shape[1] or not np.issubdtype(vectors.dtype, np.number):
        raise InputError(f"vectors {vectors.dtype}{list(vectors.shape)}", expected="a numeric array [documents, width]")
    if doc_ids is not None and len(vectors) != len(doc_ids):
        raise InputError(f"{len(vectors)} vectors for {len(doc_ids)} documents", expected="one vector a document")
    if not fits(vectors, memory_gib):
        return vectors
    vectors = np.asarray(vectors, np.float32)
    if not (finite := np.isfinite(vectors).all(1)).all():
        first = int(np.flatnonzero(~finite)[0])
        of_document = "" if doc_ids is None else f" of document {doc_ids[first]!r}"
        raise InputError(
            f"the vector{of_document} (row {first}) has values that are not finite",
            expected="finite numbers",
            fix="compute the vectors again",
        )
    return vectors
