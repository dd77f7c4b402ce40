"""Whether docids say what vectors say: neighbours that share a prefix, and the variance that prefixes leave over."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids import code_tree
from genret_jax.docids.streaming import read
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError

# Documents that neighbours are looked for among, and documents whose neighbours are looked for.
_AMONG, _OF = 1 << 16, 1 << 11
_AT_ONCE = 256
_LONGEST = 3


def describe_vectors(table: DocidTable, vectors: np.ndarray, *, neighbours: int = 10) -> dict[str, Any]:
    """Return figures about a table and the vectors of its documents as JSON values.

    Args:
        table: Of several docids of a document, the first counts.
        vectors: One vector a document, [n, d]; of many, evenly spaced ones are looked at.
        neighbours: Nearest documents by cosine.

    Returns:
        ``documents`` that were looked at, ``neighbours``, and ``prefixes``: for the first code, the first two and so
        on, up to three, the share of a document's nearest ``neighbours`` that have the same, that of ``random`` other
        documents, and ``variance_left``, the share of the variance that is within documents with the same.

    Raises:
        InputError: If there is not one vector for each document.
    """
    if vectors.ndim != 2 or len(vectors) != table.num_documents:
        raise InputError(
            f"vectors of shape {list(vectors.shape)}",
            expected=f"[{table.num_documents}, width], one for each document of the docids",
            fix="give the vectors of the documents that the docids were made for",
        )
    rows = _evenly(len(vectors), _AMONG)
    prefixes, looked_at = _prefixes(table)[rows], read(vectors, rows)
    found = min(neighbours, len(rows) - 1)
    described: dict[str, Any] = {"documents": len(rows), "neighbours": found, "prefixes": []}
    if found < 1:
        return described
    some = _evenly(len(rows), _OF)
    nearest = nearest_by_cosine(looked_at, some, found)
    for prefix in prefixes.T[:_LONGEST]:
        same = (prefix[some][:, None] == prefix[nearest]) & (prefix[nearest] > 0)
        shares = {"neighbours": float(same.mean()), "random": _random_share(prefix)}
        described["prefixes"].append({**shares, "variance_left": _variance_left(looked_at, prefix)})
    return described


def nearest_by_cosine(
    vectors: Float32[np.ndarray, "n d"], of: Int[np.ndarray, " q"], count: int
) -> Int32[np.ndarray, "q k"]:
    """Return the nearest other vectors of some vectors.

    Args:
        vectors: All of them.
        of: Indices of those whose neighbours are wanted.
        count: Neighbours of each.
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = jnp.asarray(vectors / np.maximum(norms, 1e-30))
    blocks = np.resize(of, (-(-len(of) // _AT_ONCE), _AT_ONCE))  # the last is filled up with the first
    found = [np.asarray(_nearest(directions, block, count)) for block in blocks]
    return np.concatenate(found)[: len(of)]


@functools.partial(jax.jit, static_argnames="count")
def _nearest(directions: Float[Array, "n d"], of: Int[Array, " q"], count: int) -> Int[Array, "q k"]:
    cosines = directions[of] @ directions.T
    others = cosines.at[jnp.arange(len(of)), of].set(-jnp.inf)
    return jax.lax.top_k(others, count)[1]


def _evenly(total: int, most: int) -> Int[np.ndarray, " r"]:
    return np.unique(np.linspace(0, max(total - 1, 0), min(total, most)).astype(np.int64))


def _prefixes(table: DocidTable) -> Int32[np.ndarray, "n m"]:
    """Return the tree nodes of every document's prefixes, 0 beyond its length."""
    rows = np.unique(table.document, return_index=True)[1]
    return code_tree.paths(np.asarray(table.node_parent), np.asarray(table.row_node), table.lengths)[rows, 1:]


def _random_share(prefix: Int32[np.ndarray, " n"]) -> float:
    """Return the share of all pairs of different documents that have the same prefix."""
    counts = np.unique(prefix[prefix > 0], return_counts=True)[1].astype(np.float64)
    return float((counts * (counts - 1)).sum() / (len(prefix) * (len(prefix) - 1)))


def _variance_left(vectors: Float32[np.ndarray, "n d"], prefix: Int32[np.ndarray, " n"]) -> float:
    group = np.unique(prefix, return_inverse=True)[1].reshape(-1)
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    centred = vectors - vectors.mean(0, dtype=np.float64).astype(np.float32)[None]
    sums = np.add.reduceat(centred[order], starts, axis=0).astype(np.float64)
    explained = (np.square(sums).sum(1) / np.bincount(group)).sum()
    return float(max(0.0, 1 - explained / max(np.square(centred).sum(dtype=np.float64), 1e-30)))
