"""Drawing text: from whom, how often, and where it ends; the model is a table of probabilities of the next token."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.decoding import sample_tokens
from genret_jax.errors import InputError

# Next-token probabilities after each token; 0 pads, 1 ends.
TABLE = np.array(
    [
        [0.3, 0.0, 0.5, 0.2, 0.0],  # the start: padding, which may not be drawn, is likely
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.0, 0.1, 0.0, 0.6, 0.3],
        [0.0, 0.9, 0.1, 0.0, 0.0],
        [0.0, 0.5, 0.0, 0.0, 0.5],
    ]
)


@functools.partial(jax.jit, static_argnames=("samples", "length", "top_k", "temperature", "batch"))
def sampled(key, samples=2000, length=5, top_k=5, temperature=1.0, batch=1):
    def step(tokens, nodes, cache, *, first):
        # The cache counts what this beam has seen, so a sample that got another's would be found out.
        seen = cache["beams"]["seen"].at[..., 0].add(tokens)
        logits = jnp.log(jnp.asarray(TABLE, jnp.float32))[tokens] + 0.0 * seen
        return logits, {**cache, "beams": {"seen": seen}}

    cache = {"beams": {"seen": jnp.zeros((batch, 1, 1), jnp.int32)}, "shared": {}}
    return sample_tokens(
        step, cache, key, batch=batch, samples=samples, length=length, top_k=top_k, temperature=temperature
    )


def shares(tokens):
    return np.bincount(np.asarray(tokens).ravel(), minlength=5) / tokens.size


def test_tokens_are_drawn_as_often_as_they_are_probable():
    tokens = np.asarray(sampled(jax.random.key(0)))
    assert tokens.shape == (1, 2000, 5)
    np.testing.assert_allclose(shares(tokens[..., 0]), np.array([0, 0, 5, 2, 0]) / 7, atol=0.04)
    after_2 = tokens[0, tokens[0, :, 0] == 2, 1]
    np.testing.assert_allclose(shares(after_2), TABLE[2], atol=0.04)
    ends = tokens == 1
    after_end = np.cumsum(ends, axis=-1) - ends > 0
    assert (tokens[after_end] == 0).all()
    assert (tokens[~after_end] > 0).all(), "padding is never drawn"


def test_of_the_best_only():
    tokens = np.asarray(sampled(jax.random.key(1), top_k=2))
    assert set(tokens[0, tokens[0, :, 0] == 2, 1]) == {3, 4}
    np.testing.assert_allclose(shares(tokens[0, tokens[0, :, 0] == 2, 1])[3], 2 / 3, atol=0.04)
    greedy = np.asarray(sampled(jax.random.key(2), top_k=1, batch=3))
    np.testing.assert_array_equal(greedy, np.broadcast_to([2, 3, 1, 0, 0], greedy.shape))


def test_a_low_temperature_is_nearly_greedy_and_a_high_one_nearly_even():
    cold = np.asarray(sampled(jax.random.key(3), temperature=0.1))
    assert (cold[0, :, 0] == 2).mean() > 0.99
    hot = np.asarray(sampled(jax.random.key(4), temperature=50.0))
    np.testing.assert_allclose(shares(hot[..., 0])[[2, 3]], 0.5, atol=0.05)


def test_the_key_decides():
    first, again, other = (np.asarray(sampled(jax.random.key(seed), samples=20)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


def test_one_token_is_a_sequence_too():
    assert np.asarray(sampled(jax.random.key(0), length=1, samples=3)).shape == (1, 3, 1)


@pytest.mark.parametrize("wrong", [{"samples": 0}, {"length": 0}, {"top_k": 0}, {"temperature": 0.0}])
def test_nothing_to_draw_is_refused(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        sampled(jax.random.key(0), **wrong)
