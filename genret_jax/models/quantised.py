"""Vectors in int8, one scale a vector: quantising them, and their inner products with vectors in float32."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int8

# Rows that are widened together on a CPU. They then stay in its cache: widening all of them first takes three times as
# long as the product, widening these takes no time beside it.
_ROWS_AT_ONCE = 1024
_LARGEST = 127


def quantised(vectors: Float[np.ndarray, "n d"]) -> tuple[Int8[np.ndarray, "n d"], Float[np.ndarray, " n"]]:
    """Return vectors as int8 rows and float32 scales, so that row times scale is the vector to half a scale.

    Args:
        vectors: The vectors. The largest number of each, in absolute value, becomes 127.
    """
    largest = np.abs(vectors).max(axis=1, initial=0.0)
    scales = np.where(largest > 0, largest / _LARGEST, 1.0).astype(np.float32)
    return np.round(vectors / scales[:, None]).astype(np.int8), scales


def scaled_products(
    vectors: Float[Array, "b d"], rows: Int8[Array, "n d"], scales: Float[Array, " n"]
) -> Float[Array, "b n"]:
    """Return the inner products of vectors with rows times their scales; the gradient reaches the vectors alone.

    The vectors are rounded to bfloat16, in which every int8 is exact; sums are in float32.

    Args:
        vectors: Vectors in float32.
        rows: From :func:`quantised`.
        scales: From :func:`quantised`.
    """
    return _products(vectors, jnp.asarray(rows)) * jnp.asarray(scales)[None]


@jax.custom_vjp
def _products(vectors: Array, rows: Array) -> Array:
    return jax.lax.platform_dependent(vectors, rows, cpu=_products_by_blocks, default=_products_at_once)


def _forward(vectors: Array, rows: Array) -> tuple[Array, Array]:
    return _products(vectors, rows), rows


def _backward(rows: Array, gradient: Array) -> tuple[Array, None]:
    return jax.lax.platform_dependent(gradient, rows, cpu=_sums_by_blocks, default=_sums_at_once), None


_products.defvjp(_forward, _backward)


def _products_at_once(vectors: Array, rows: Array) -> Array:
    return _einsum("bd,nd->bn", vectors, rows)


def _sums_at_once(weights: Array, rows: Array) -> Array:
    return _einsum("bn,nd->bd", weights, rows)


def _products_by_blocks(vectors: Array, rows: Array) -> Array:
    size = min(_ROWS_AT_ONCE, len(rows))

    def add(number: Any, products: Array) -> Array:
        start = jnp.minimum(number * size, len(rows) - size)  # the last block may begin within the one before
        some = _products_at_once(vectors, jax.lax.dynamic_slice_in_dim(rows, start, size))
        return jax.lax.dynamic_update_slice_in_dim(products, some, start, axis=1)

    return jax.lax.fori_loop(0, -(-len(rows) // size), add, jnp.zeros((len(vectors), len(rows)), jnp.float32))


def _sums_by_blocks(weights: Array, rows: Array) -> Array:
    size = min(_ROWS_AT_ONCE, len(rows))

    def add(number: Any, total: Array) -> Array:
        start = jnp.minimum(number * size, len(rows) - size)
        is_new = start + jnp.arange(size) >= number * size
        some = jnp.where(is_new[None], jax.lax.dynamic_slice_in_dim(weights, start, size, axis=1), 0.0)
        return total + _sums_at_once(some, jax.lax.dynamic_slice_in_dim(rows, start, size))

    zeros = jnp.zeros((len(weights), rows.shape[1]), jnp.float32)
    return jax.lax.fori_loop(0, -(-len(rows) // size), add, zeros)


def _einsum(subscripts: str, wide: Array, rows: Array) -> Array:
    narrow = (wide.astype(jnp.bfloat16), rows.astype(jnp.bfloat16))
    return jnp.einsum(subscripts, *narrow, preferred_element_type=jnp.float32)
