"""Search of unit vectors by inner product: exact on the device, or approximate by FAISS's HNSW graph."""

import dataclasses
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, Shaped

from genret_jax.errors import InputError
from genret_jax.evaluation.trec import rankings_by_id
from genret_jax.validation import at_least, check_fields

_SCORES_AT_ONCE = 1 << 25  # most similarities held at a time, 128 MiB

# Similarities, from best to worst, and positions of the nearest documents; -1 behind the last.
Found = tuple[Float32[np.ndarray, "q k"], Int32[np.ndarray, "q k"]]


class ExactIndex:
    """Exact search, which computes every inner product in float32.

    Args:
        vectors: Document vectors, [n, d]; they are kept in their own type.
    """

    def __init__(self, vectors: Float[np.ndarray, "n d"]):
        self._vectors = jnp.asarray(vectors)

    @property
    def num_bytes(self) -> int:
        """Size of the vectors."""
        return int(self._vectors.nbytes)

    def search(self, queries: Float32[np.ndarray, "q d"], k: int) -> Found:
        """Return similarities and positions of the k nearest; of equal ones the first documents."""
        documents = len(self._vectors)
        k = min(k, documents)
        scores, found = np.zeros((len(queries), k), np.float32), np.zeros((len(queries), k), np.int32)
        for part, block in padded_blocks(queries, _SCORES_AT_ONCE // max(1, documents)):
            best, places = _nearest(jnp.asarray(block), self._vectors, k=k)
            scores[part], found[part] = np.asarray(best)[: len(scores[part])], np.asarray(places)[: len(scores[part])]
        return scores, found


def padded_blocks(rows: Shaped[np.ndarray, "n w"], size: int) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield slices of an array, and their rows padded with 0 to one size, so that a jitted function compiles once.

    Args:
        rows: The array.
        size: Most rows of a block.
    """
    size = max(1, min(size, len(rows)))
    for start in range(0, len(rows), size):
        part = slice(start, start + size)
        yield part, np.pad(rows[part], ((0, size - len(rows[part])), (0, 0)))


@partial(jax.jit, static_argnames="k")
def _nearest(
    queries: Float[Array, "q d"], documents: Float[Array, "n d"], *, k: int
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    # The highest precision: an accelerator's default would make the exact ranking an approximate one.
    similarity = jnp.einsum("qd,nd->qn", queries, documents.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST)
    best, found = jax.lax.top_k(similarity, k)
    return best, found


@dataclasses.dataclass(frozen=True, kw_only=True)
class HnswConfig:
    """A hierarchical navigable small world graph (Malkov & Yashunin 2018, arXiv 1603.09320).

    Attributes:
        neighbours: Links per node, M.
        ef_construction: Number of candidates when a node is added.
        ef_search: Number of candidates of a search; at least the number of results.
    """

    neighbours: Annotated[int, at_least(2)] = 32
    ef_construction: Annotated[int, at_least(2)] = 80
    ef_search: Annotated[int, at_least(2)] = 64

    def __post_init__(self) -> None:
        check_fields(self)

    def effort(self, k: int) -> int:
        """Return the efSearch of a search for k results."""
        return max(self.ef_search, k)


class HnswIndex:
    """FAISS's HNSW over full vectors, built by one thread so that the graph is the same every time.

    Args:
        vectors: Document vectors, [n, d].
        config: Size of the graph and effort of a search.

    Raises:
        InputError: If faiss is not installed.
    """

    def __init__(self, vectors: Float32[np.ndarray, "n d"], config: HnswConfig | None = None):
        faiss = _import_faiss()
        self.config = config or HnswConfig()
        self._documents = len(vectors)
        self._index = faiss.IndexHNSWFlat(vectors.shape[1], self.config.neighbours, faiss.METRIC_INNER_PRODUCT)
        self._index.hnsw.efConstruction = self.config.ef_construction
        threads = faiss.omp_get_max_threads()
        faiss.omp_set_num_threads(1)
        try:
            self._index.add(np.ascontiguousarray(vectors))
        finally:
            faiss.omp_set_num_threads(threads)

    def describe(self) -> str:
        """Return one line about the graph, for a report."""
        return f"FAISS HNSW, M {self.config.neighbours}, efConstruction {self.config.ef_construction}"

    @property
    def num_bytes(self) -> int:
        """Size of the vectors, in float32, and of the graph."""
        graph = self._index.hnsw
        links = 4 * graph.neighbors.size() + 8 * graph.offsets.size() + 4 * graph.levels.size()
        return int(4 * self._index.d * self._documents + links)

    def search(self, queries: Float32[np.ndarray, "q d"], k: int) -> Found:
        """Return similarities and positions of approximately the k nearest; efSearch is at least k."""
        self._index.hnsw.efSearch = self.config.effort(k)
        scores, found = self._index.search(np.ascontiguousarray(queries), min(k, self._documents))
        return scores, found.astype(np.int32)


def ranked_by(
    index: ExactIndex | HnswIndex,
    query_ids: Sequence[str],
    queries: Float32[np.ndarray, "q d"],
    doc_ids: Sequence[str],
    k: int,
) -> dict[str, list[tuple[str, float]]]:
    """Search queries and return the results by external ids; a zero vector is similar to nothing and has none.

    Args:
        index: Index over the documents.
        query_ids: Ids of the queries.
        queries: Vectors of the queries.
        doc_ids: Ids of the documents.
        k: Most results per query.
    """
    scores, found = index.search(queries, k)
    found = np.where(np.any(queries, axis=1, keepdims=True), found, -1)
    return rankings_by_id(query_ids, doc_ids, found.tolist(), scores.tolist())


def recall_of_exact(
    approximate: Mapping[str, Sequence[tuple[str, float]]], exact: Mapping[str, Sequence[tuple[str, float]]], k: int
) -> float:
    """Return the share of the exact k best documents that an approximate search has among its k best.

    Args:
        approximate: Query id to ranking.
        exact: Exact rankings of the same queries; queries without results are left out.
        k: Number of results to compare.
    """
    shares = []
    for query, ranking in exact.items():
        wanted = {document for document, _ in ranking[:k]}
        if wanted:
            shares.append(len(wanted & {document for document, _ in approximate.get(query, ())[:k]}) / len(wanted))
    return float(np.mean(shares)) if shares else 1.0


def has_faiss() -> bool:
    """Return whether FAISS is installed."""
    return importlib.util.find_spec("faiss") is not None


def _import_faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError(
            "HNSW needs faiss, which is not installed", fix="pip install 'genret_jax[baselines]'"
        ) from None
    return faiss
