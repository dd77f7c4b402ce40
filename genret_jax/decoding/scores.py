"""Scores of a search: sums of log-probabilities that are always finite.

Every search reads logits in one way. They are clipped to :data:`LOWEST` and :data:`HIGHEST`, and NaN is read as
``LOWEST``. Then an ordinary log-softmax follows, whose values are clipped to ``LOWEST`` and 0. So a token of logit NaN,
-inf or the lowest finite float is as unlikely as can be and still has its place. Tokens of +inf share the probability.
In a row without any logit above ``LOWEST`` all tokens are equal.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax.linen import partitioning
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

# What cannot be has the score INVALID, and what can is never below LOWEST, whatever its logits.
INVALID = -1e30
LOWEST, HIGHEST = -1e29, 1e29
# XLA reduces so many numbers in threads of a CPU, which take longer to wake than so few take to add up; what is folded
# until few are left, it does not.
_MOST_FOLDED = 1 << 17
_FOLDED_TO = 32
# The best of so many times as many numbers a CPU finds sooner in blocks.
_WORTH_BLOCKS = 64


def exists(scores: Float[Array, "*q"]) -> Bool[Array, "*q"]:
    """Tell real scores, and sums of two of them, from those that INVALID went into."""
    return scores > INVALID / 2


def finite(logits: Float[Array, "*q"]) -> Float[Array, "*q"]:
    """Return logits in float32, clipped to ``LOWEST`` and ``HIGHEST``; NaN becomes ``LOWEST``."""
    logits = logits.astype(jnp.float32)
    return jnp.clip(jnp.where(jnp.isnan(logits), LOWEST, logits), LOWEST, HIGHEST)


def log_probs(chosen: Float[Array, "*q"], normaliser: Float[Array, "*#q"]) -> Float[Array, "*q"]:
    """Return the log-probabilities of finite logits, given the :func:`logsumexp` of their rows."""
    return jnp.clip(chosen - normaliser, LOWEST, 0.0)


def logsumexp(logits: Float[Array, "*q v"]) -> Float[Array, "*q"]:
    """Return the logarithm of the sum of exponentials, of nothing but -inf too a finite number."""
    if logits.size > _MOST_FOLDED or not jax.sharding.get_abstract_mesh().empty:  # halves may lie on other devices
        return jnp.maximum(jax.nn.logsumexp(logits, axis=-1), LOWEST)
    highest = jnp.maximum(_folded(logits, jnp.maximum).max(axis=-1), LOWEST)
    total = _folded(jnp.exp(logits - highest[..., None]), jnp.add).sum(axis=-1)
    return jnp.maximum(jnp.log(total) + highest, LOWEST)


def top_k(scores: Float[Array, "b n"], k: int) -> tuple[Float[Array, "b k"], Int[Array, "b k"]]:
    """Return the best scores and where they stand, of equal ones the first first, as ``jax.lax.top_k`` does.

    On a mesh (``jax.set_mesh``, with Flax's rules for the logical axes ``batch`` and ``vocab``) each device looks
    through its own part only: XLA by itself would bring all scores to every device.
    """
    batch, columns = _divided(scores.shape, k)
    if batch is None and columns is None:
        return _top_k_here(scores, k)

    def search(part: Array) -> tuple[Array, Array]:
        best, places = _top_k_here(part, k)
        if columns is None:
            return best, places
        places += jax.lax.axis_index(columns) * part.shape[1]
        # In the order of the devices, so that of equal scores the first still comes first.
        best, places = (jax.lax.all_gather(found, columns, axis=1, tiled=True) for found in (best, places))
        best, chosen = _top_k(best, k)
        return best, jnp.take_along_axis(places, chosen, axis=1, mode="promise_in_bounds")

    search = jax.shard_map(search, in_specs=P(batch, columns), out_specs=P(batch, None), check_vma=False)
    return search(scores)


def _divided(shape: tuple[int, ...], k: int) -> tuple[str | None, str | None]:
    """Return the axes of the mesh over which queries and their scores are divided."""
    sizes = jax.sharding.get_abstract_mesh().shape
    batch, columns = partitioning.logical_to_mesh_axes(("batch", "vocab"))
    if shape[0] % sizes.get(batch, 1) or sizes.get(batch, 1) == 1:
        batch = None
    share = sizes.get(columns, 1)
    if shape[1] % share or share == 1 or shape[1] // share < _WORTH_BLOCKS * k:
        columns = None
    return batch, columns


def _top_k_here(scores: Array, k: int) -> tuple[Array, Array]:
    if scores.shape[1] < _WORTH_BLOCKS * k:
        return _top_k(scores, k)
    return jax.lax.platform_dependent(
        scores, cpu=lambda scores: _top_k_of_blocks(scores, k), default=lambda scores: _top_k(scores, k)
    )


def _top_k(scores: Array, k: int) -> tuple[Array, Array]:
    # The barrier keeps XLA from seeing a part of the result used, for which it would sort all candidates. In their own
    # order the two would be the tuple that top_k returns, and XLA for several CPU devices dies of it in a barrier.
    best, places = jax.lax.top_k(scores, k)
    places, best = jax.lax.optimization_barrier((places, best))
    return best, places


def _top_k_of_blocks(scores: Array, k: int) -> tuple[Array, Array]:
    """Look at the best of each block, and then only into the k blocks whose best are best.

    Nothing elsewhere is among the best k: each of these blocks has a score that is higher, or as high and before it.
    """
    batch, count = scores.shape
    size = 1 << round(math.log2(count / k) / 2)  # so that both looks see about as many
    blocks = jnp.pad(scores, ((0, 0), (0, -count % size)), constant_values=-jnp.inf).reshape(batch, -1, size)
    chosen = jnp.sort(_top_k(blocks.max(axis=-1), k)[1], axis=1)
    inside = jnp.take_along_axis(blocks, chosen[..., None], axis=1, mode="promise_in_bounds").reshape(batch, -1)
    best, places = _top_k(inside, k)
    block = jnp.take_along_axis(chosen, places // size, axis=1, mode="promise_in_bounds")
    return best, block * size + places % size


def _folded(numbers: Array, fold: Callable[[Array, Array], Array]) -> Array:
    """Halve the last axis while it is long and even."""
    while numbers.shape[-1] > _FOLDED_TO and numbers.shape[-1] % 2 == 0:
        half = numbers.shape[-1] // 2
        numbers = fold(numbers[..., :half], numbers[..., half:])
    return numbers
