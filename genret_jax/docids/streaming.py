"""Document vectors that may not fit in memory: checks, samples for k-means, and passes piece by piece."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int

from genret_jax.errors import InputError

# Sampled vectors per centroid of a k-means. FAISS takes 256.
SAMPLES_PER_CENTROID = 1024
# Bytes of float32 vectors that are read at a time.
_PIECE_BYTES = 1 << 25


def recorded_fields(strategy: Any, in_memory: bool) -> dict[str, Any]:
    """Return a strategy's fields as JSON values, without the memory limit where it made no difference."""
    fields = {key: list(of) if isinstance(of, tuple) else of for key, of in dataclasses.asdict(strategy).items()}
    if in_memory:
        del fields["memory_gib"]
    return fields


def require_vectors(
    doc_ids: Sequence[str], vectors: np.ndarray | None, *, strategy: str, memory_gib: float
) -> tuple[np.ndarray, bool]:
    """Check document vectors; return them, as float32 if that fits in memory, and whether it does.

    Args:
        doc_ids: External ids of the documents.
        vectors: One vector per document.
        strategy: Name of the strategy, for the message.
        memory_gib: Memory limit. The values of larger arrays are checked when they are read.

    Raises:
        InputError: If vectors are missing, of the wrong count or shape, or not finite.
    """
    if vectors is None:
        raise InputError(f"{strategy} without document vectors", expected="one vector a document", fix="give vectors")
    if vectors.ndim != 2 or not vectors.shape[1] or not np.issubdtype(vectors.dtype, np.number):
        raise InputError(f"vectors {vectors.dtype}{list(vectors.shape)}", expected="a numeric array [documents, width]")
    if len(vectors) != len(doc_ids):
        raise InputError(f"{len(vectors)} vectors for {len(doc_ids)} documents", expected="one vector a document")
    if 4 * vectors.size > memory_gib * 2**30:
        return vectors, False
    vectors = np.asarray(vectors, np.float32)
    _require_finite(vectors, np.arange(len(vectors)), doc_ids)
    return vectors, True


def evenly_spaced(total: int, most: int) -> Int[np.ndarray, " r"]:
    """Return at most ``most`` of the numbers below ``total``, ascending and evenly spaced."""
    return np.unique(np.linspace(0, max(total - 1, 0), min(total, most)).astype(np.int64))


def read(vectors: np.ndarray, rows: Int[np.ndarray, " r"]) -> Float32[np.ndarray, "r d"]:
    """Read rows into memory as float32.

    Args:
        vectors: [n, d]; may be memory-mapped.
        rows: Rows to read; ascending, so that a file is read in its order.

    Raises:
        InputError: If a vector is not finite.
    """
    selected = np.asarray(vectors[rows], dtype=np.float32)
    _require_finite(selected, rows)
    return selected


def _require_finite(
    vectors: Float32[np.ndarray, "r d"], rows: Int[np.ndarray, " r"], doc_ids: Sequence[str] | None = None
) -> None:
    """Raise if a vector is not finite, with the number of the first one."""
    if (finite := np.isfinite(vectors).all(1)).all():
        return
    row = int(rows[np.argmin(finite)])
    raise InputError(
        f"the vector in row {row}{'' if doc_ids is None else f', of document {doc_ids[row]!r},'} is not finite",
        expected="finite numbers",
        fix="compute the vectors again; float16 overflows beyond 65,504",
    )


def sample(vectors: np.ndarray, rows: Int[np.ndarray, " a"], clusters: int, seed: int) -> Float32[np.ndarray, "r d"]:
    """Read a random sample of ``rows``, sized for k-means.

    Args:
        vectors: [n, d]; may be memory-mapped.
        rows: Rows to choose from, ascending.
        clusters: Number of clusters of the k-means.
        seed: Decides the choice.
    """
    count = min(len(rows), SAMPLES_PER_CENTROID * clusters)
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False, shuffle=False)
    return read(vectors, rows[np.sort(chosen)])


def in_pieces(
    function: Callable[[Any, Any], Sequence[Any]],
    vectors: np.ndarray,
    rows: Int[np.ndarray, " r"],
    weights: Any,
    progress: str,
) -> list[np.ndarray]:
    """Apply a function to vectors piece by piece, each piece spread over the devices of this process.

    Args:
        function: Maps a piece [p, d] and the weights to arrays with a row per vector.
        vectors: [n, d]; may be memory-mapped.
        rows: Rows to read, ascending; at least one.
        weights: Arrays that every device gets a copy of.
        progress: Text of the progress bar.

    Returns:
        The function's results for all rows.

    Raises:
        InputError: If a vector is not finite.
    """
    from tqdm import tqdm

    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("rows",)))
    placed = jax.device_put(weights, everywhere)
    results: list[list[np.ndarray]] = []
    # Short inputs are padded to a power of two, so that a handful of programs serves any number of vectors.
    size = min(_PIECE_BYTES // (4 * vectors.shape[1]), 1 << (len(rows) - 1).bit_length())
    size += -size % len(devices)  # every piece has the same shape
    with tqdm(total=len(rows), desc=progress, unit="vector", unit_scale=True, delay=2, leave=False) as bar:
        for start in range(0, len(rows), size):
            piece_rows = rows[start : start + size]
            piece = np.zeros((size, vectors.shape[1]), np.float32)
            piece[: len(piece_rows)] = read(vectors, piece_rows)
            found = function(jax.device_put(piece, spread), placed)
            results.append([np.asarray(array)[: len(piece_rows)] for array in found])
            bar.update(len(piece_rows))
    return [np.concatenate(pieces) for pieces in zip(*results, strict=True)]


def nearest(vectors: Float[Array, "r d"], centroids: Float[Array, "c d"]) -> Int[Array, " r"]:
    """Return the index of the centroid nearest to each vector."""
    # Without the square of the vector, which is the same for all centroids.
    distances = jnp.sum(centroids**2, axis=-1)[None] - 2 * vectors @ centroids.T
    return jnp.argmin(distances, axis=-1).astype(jnp.int32)


@jax.jit
def quantise(
    vectors: Float[Array, "r d"], codebooks: Float[Array, "l c d"]
) -> tuple[Int[Array, "r l"], Float[Array, " r"]]:
    """Return the nearest centroid in each codebook, and the squared length of the last residual.

    Each codebook after the first quantises the residuals of the one before.
    """

    def next_level(residual: Array, centroids: Array) -> tuple[Array, Array]:
        code = nearest(residual, centroids)
        return residual - centroids[code], code

    residual, codes = jax.lax.scan(next_level, vectors, codebooks)
    return codes.T, jnp.sum(residual**2, axis=-1)


def on_each_device(work: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Run independent calls in parallel, one per device of this process at a time.

    Args:
        work: Function of a part.
        parts: One argument per call.

    Yields:
        The results, in the order of the parts.
    """
    free: SimpleQueue[Any] = SimpleQueue()
    devices = jax.local_devices()[: len(parts)]
    for device in devices:
        free.put(device)

    def on_free_device(part: Any) -> Any:
        device = free.get()
        try:
            with jax.default_device(device):
                return work(part)
        finally:
            free.put(device)

    with ThreadPoolExecutor(max(len(devices), 1)) as pool:
        yield from pool.map(on_free_device, parts)
