"""Sets of small numbers as bits of 32-bit words, of which a number's rank among those in the set can be counted."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt32

WORD = 32


def words_for(size: int) -> int:
    """Return how many words hold so many bits."""
    return -(-size // WORD)


def packed(members: np.ndarray) -> np.ndarray:
    """Pack bool ``[..., n]`` into uint32 ``[..., w]``, n being a multiple of 32; the lowest bit comes first."""
    return np.packbits(members, axis=-1, bitorder="little").view("<u4").astype(np.uint32)


def unpacked(words: UInt32[Array, "*q w"], size: int) -> Bool[Array, "*q n"]:
    """Return the first bits of each set."""
    bits = (words[..., None] >> _broadcast(jnp.arange(WORD, dtype=jnp.uint32), words)) & jnp.uint32(1)
    return bits.reshape(*words.shape[:-1], -1)[..., :size] > 0


def rank(words: UInt32[Array, "*q w"], numbers: Int[Array, "*q"]) -> Int[Array, "*q"]:
    """Count the members of each set that are below a number."""
    first = _broadcast(WORD * jnp.arange(words.shape[-1]), numbers)
    below = jnp.clip(numbers[..., None] - first, 0, WORD)  # --> [*q, w], bits of each word
    return jax.lax.population_count(words & _lowest(below)).astype(jnp.int32).sum(axis=-1)


def ranks(words: UInt32[Array, "*q w"], size: int) -> Int[Array, "*q n"]:
    """Count the members of each set that are below each of the first numbers."""
    counts = jax.lax.population_count(words).astype(jnp.int32)
    before = jnp.cumsum(counts, axis=-1) - counts
    within = words[..., None] & _broadcast(_lowest(jnp.arange(WORD)), words)
    found = before[..., None] + jax.lax.population_count(within).astype(jnp.int32)
    return found.reshape(*words.shape[:-1], -1)[..., :size]


def _lowest(count: Int[Array, "*q"]) -> UInt32[Array, "*q"]:
    """Words whose lowest bits are set, 0 to 32 of them."""
    some = (jnp.uint32(1) << jnp.minimum(count, WORD - 1).astype(jnp.uint32)) - jnp.uint32(1)
    return jnp.where(count < WORD, some, jnp.uint32(0xFFFFFFFF))


def _broadcast(line: Array, like: Array) -> Array:
    """Put a line behind all axes of another array."""
    return line.reshape((1,) * like.ndim + line.shape)
