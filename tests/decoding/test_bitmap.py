import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.decoding.bitmap import WORD, packed, rank, ranks, unpacked, words_for


def test_bits_drawn():
    """Members 0, 2 and 33 of 64 numbers: the lowest bit of a word comes first."""
    members = np.isin(np.arange(64), [0, 2, 33])
    np.testing.assert_array_equal(packed(members), [0b101, 0b10])
    words, numbers = jnp.tile(packed(members), (6, 1)), jnp.array([0, 1, 3, 33, 34, 63])
    np.testing.assert_array_equal(rank(words, numbers), [0, 1, 2, 2, 3, 3])


@pytest.mark.parametrize("size", [1, 31, 32, 33, 70])
def test_sets_of_all_sizes(size):
    members = np.random.default_rng(size).random((2, 3, words_for(size) * WORD)) < 0.5
    members[..., size:] = False
    below = np.cumsum(members, axis=-1) - members
    words = jnp.asarray(packed(members))
    np.testing.assert_array_equal(unpacked(words, size), members[..., :size])
    np.testing.assert_array_equal(ranks(words, size), below[..., :size])
    for number in range(size):
        np.testing.assert_array_equal(rank(words, jnp.full((2, 3), number)), below[..., number])
