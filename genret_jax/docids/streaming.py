"""Vectors that do not fit in memory: sampled for k-means, and read piece by piece to be assigned to its centroids."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.errors import InputError

# Vectors, for each centroid, that k-means is fitted to. FAISS takes 256.
SAMPLED = 1024
# Bytes of float32 vectors read at a time.
_PIECE = 1 << 25


def fits(vectors: np.ndarray, memory_gib: float) -> bool:
    """Whether vectors, as float32, take at most so much memory."""
    return 4 * vectors.size <= memory_gib * 2**30


def said(strategy: Any, in_memory: bool) -> dict[str, Any]:
    """Return a strategy's fields as JSON values, without the memory where that did not matter."""
    fields = {key: list(of) if isinstance(of, tuple) else of for key, of in dataclasses.asdict(strategy).items()}
    if in_memory:
        del fields["memory_gib"]
    return fields


def read(vectors: np.ndarray, rows: Int[np.ndarray, " r"]) -> Float32[np.ndarray, "r d"]:
    """Read some vectors into memory.

    Args:
        vectors: [n, d]; memory-mapped or not.
        rows: Which of them; ascending, so that a file is read in its order.

    Raises:
        InputError: If a vector is not finite.
    """
    found = np.asarray(vectors[rows], dtype=np.float32)
    require_finite(found, rows)
    return found


def require_finite(vectors: Float32[np.ndarray, "r d"], rows: Int[np.ndarray, " r"]) -> None:
    """Refuse vectors that are not finite, by the number of the first."""
    if not (finite := np.isfinite(vectors).all(1)).all():
        raise InputError(
            f"vector {rows[np.argmin(finite)]} has values that are not finite",
            expected="finite numbers",
            fix="compute the vectors again; float16 overflows beyond 65,504",
        )


def sample(vectors: np.ndarray, rows: Int[np.ndarray, " a"], clusters: int, seed: int) -> Float32[np.ndarray, "r d"]:
    """Read as many of some rows, ascending, as k-means with so many clusters needs.

    Args:
        vectors: [n, d]; memory-mapped or not.
        rows: To choose from.
        clusters: Of the k-means.
        seed: Decides which.
    """
    count = min(len(rows), SAMPLED * clusters)
    chosen = np.random.default_rng(seed).choice(len(rows), count, replace=False, shuffle=False)
    return read(vectors, rows[np.sort(chosen)])


def assign(
    vectors: np.ndarray, rows: Int[np.ndarray, " r"], codebooks: Float32[np.ndarray, "l c d"], progress: str
) -> tuple[Int32[np.ndarray, "r l"], Float32[np.ndarray, " r"]]:
    """Quantise vectors piece by piece, each piece spread over the devices of this process.

    Args:
        vectors: [n, d]; memory-mapped or not.
        rows: Which of them, ascending.
        codebooks: Centroids; each codebook quantises what the ones before it left over.
        progress: What a progress bar says.

    Returns:
        The nearest centroid in each codebook, and the squared distance that is left at last.

    Raises:
        InputError: If a vector is not finite.
    """
    codes, distances = in_pieces(quantise, vectors, rows, codebooks, progress)
    return codes, distances


def in_pieces(
    look: Callable[[Any, Any], Sequence[Any]],
    vectors: np.ndarray,
    rows: Int[np.ndarray, " r"],
    weights: Any,
    progress: str,
) -> list[np.ndarray]:
    """Look at vectors piece by piece, each piece spread over the devices of this process.

    Args:
        look: A jitted function of a piece [p, d] and weights; returns arrays with a row for each vector.
        vectors: [n, d]; memory-mapped or not.
        rows: Which of them, ascending; at least one.
        weights: Arrays that every device gets.
        progress: What a progress bar says.

    Returns:
        What the function returned, for all vectors.

    Raises:
        InputError: If a vector is not finite.
    """
    devices = jax.local_devices()
    mesh = Mesh(np.array(devices), ("rows",), axis_types=(AxisType.Auto,))
    everywhere, spread = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in ((), ("rows",)))
    placed = jax.device_put(weights, everywhere)
    found: list[list[np.ndarray]] = []
    # Few vectors are filled up to a power of two, so that a handful of programs serves any number of them.
    size = min(_PIECE // (4 * vectors.shape[1]), 1 << (len(rows) - 1).bit_length())
    size += -size % len(devices)  # every piece has the same shape
    for start in _starts(len(rows), size, progress):
        mine = rows[start : start + size]
        piece = np.zeros((size, vectors.shape[1]), np.float32)
        piece[: len(mine)] = read(vectors, mine)
        found.append([np.asarray(array)[: len(mine)] for array in look(jax.device_put(piece, spread), placed)])
    return [np.concatenate(pieces) for pieces in zip(*found, strict=True)]


def _starts(count: int, size: int, progress: str) -> Iterator[int]:
    from tqdm import tqdm

    with tqdm(total=count, desc=progress, unit="vector", unit_scale=True, delay=2, leave=False) as bar:
        for start in range(0, count, size):
            yield start
            bar.update(min(size, count - start))


@jax.jit
def quantise(
    vectors: Float[Array, "r d"], codebooks: Float[Array, "l c d"]
) -> tuple[Int[Array, "r l"], Float[Array, " r"]]:
    """Return the nearest centroid in each codebook to what is left over, and the squared distance left at last."""

    def next_level(left: Array, centroids: Array) -> tuple[Array, Array]:
        # Without the vector's own square, which is the same for all centroids.
        nearness = jnp.sum(centroids**2, axis=-1)[None] - 2 * left @ centroids.T
        code = jnp.argmin(nearness, axis=-1).astype(jnp.int32)
        return left - centroids[code], code

    left, codes = jax.lax.scan(next_level, vectors, codebooks)
    return codes.T, jnp.sum(left**2, axis=-1)


def on_each_device(work: Callable[[Any], Any], parts: Sequence[Any]) -> Iterator[Any]:
    """Do independent pieces of work, as many at a time as this process has devices, each on a device of its own.

    Args:
        work: Called with a part.
        parts: One for each call.

    Yields:
        What the calls return, in the order of the parts.
    """
    free: SimpleQueue[Any] = SimpleQueue()
    devices = jax.local_devices()[: len(parts)]
    for device in devices:
        free.put(device)

    def on_a_device(part: Any) -> Any:
        device = free.get()
        try:
            with jax.default_device(device):
                return work(part)
        finally:
            free.put(device)

    with ThreadPoolExecutor(max(len(devices), 1)) as pool:
        yield from pool.map(on_a_device, parts)
