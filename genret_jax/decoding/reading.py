"""Reads from the large arrays of an index, in a form that is quick on a CPU too."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

# XLA on a CPU divides a read from a large array among threads, and waking them takes longer than a few reads. A loop
# over small reads becomes one kernel without threads. The loop has a branch of its own, so that it starts when its
# places are known; otherwise XLA would start it with the search and divide it among threads too.
_LARGE_ARRAY = 1 << 18
_FEW_READS = 512
_SMALL_READ = 384


def at_each(read: Callable[..., Any], arrays: Any, *places: Any) -> Any:
    """Read something at each of some places: ``[*q, ...]``.

    Args:
        read: Called with the arrays and a place of each kind, returns what is there (a pytree).
        arrays: Where to read.
        places: int ``[*q]`` of each kind, at least 0; what is beyond an array is read from its end.
    """
    arrays, shape = jax.tree.map(jnp.asarray, arrays), places[0].shape
    flat = tuple(jnp.asarray(place).reshape(-1) for place in places)

    def at_once() -> Any:
        return jax.vmap(lambda here: read(arrays, *here))(flat)

    like, count = jax.eval_shape(at_once), flat[0].size

    def one_by_one() -> Any:
        return jax.lax.map(lambda here: read(arrays, *here), flat)

    def nothing() -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), like)

    def in_a_branch() -> Any:  # The branch is always taken, but the compiler does not know that.
        return jax.lax.cond(flat[0][0] >= 0, one_by_one, nothing)

    large = any(array.nbytes > _LARGE_ARRAY for array in jax.tree.leaves(arrays))
    small = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(like)) <= _SMALL_READ * count
    if large and small and count <= _FEW_READS:
        found = jax.lax.platform_dependent(cpu=in_a_branch, default=at_once)
    else:
        found = at_once()
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), found)


def entry(array: Array, place: Int[Array, ""]) -> Array:
    """Read one entry."""
    return jax.lax.dynamic_index_in_dim(array, place, keepdims=False)


def window(array: Array, start: Int[Array, ""], size: int) -> Array:
    """Read ``size`` neighbours."""
    return jax.lax.dynamic_slice(array, (start,), (size,))
