"""Reads from an index's large arrays, in the way that is quickest on the platform."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

# XLA divides a read from a large array among the threads of a CPU, and waking them takes longer than few reads do. A
# loop over the reads it makes one kernel of, if each is of few bytes; and in a branch of its own the loop starts when
# what it reads is known, not with the search, where so many ready tasks would be divided among threads too.
_LARGE_ARRAY = 1 << 18
_FEW_READS = 512
_SMALL_READ = 384


def at_each(read: Callable[..., Any], arrays: Any, *places: Any) -> Any:
    """Read something at each of some places: ``[*q, ...]``.

    Args:
        read: Called with the arrays and a place of each kind, returns what is there (a pytree).
        arrays: Where to read.
        places: int ``[*q]`` of each kind.
    """
    arrays, shape = jax.tree.map(jnp.asarray, arrays), places[0].shape
    flat = tuple(jnp.asarray(place).reshape(-1) for place in places)

    def at_once() -> Any:
        return jax.vmap(lambda here: read(arrays, *here))(flat)

    def one_by_one() -> Any:
        return jax.lax.map(lambda here: read(arrays, *here), flat)

    def nothing() -> Any:
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), found)

    found = jax.eval_shape(at_once)
    size, count = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found)), flat[0].size
    large = any(array.nbytes > _LARGE_ARRAY for array in jax.tree.leaves(arrays))
    if large and count <= _FEW_READS and size <= _SMALL_READ * count:
        found = jax.lax.platform_dependent(
            cpu=lambda: jax.lax.cond(flat[0][0] >= 0, one_by_one, nothing), default=at_once
        )
    else:
        found = at_once()
    return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), found)


def entry(array: Array, place: Int[Array, ""]) -> Array:
    """Read one entry; what is beyond the array belongs to no beam."""
    return jax.lax.dynamic_index_in_dim(array, place, keepdims=False)


def window(array: Array, start: Int[Array, ""], size: int) -> Array:
    """Read ``size`` neighbours."""
    return jax.lax.dynamic_slice(array, (start,), (size,))
