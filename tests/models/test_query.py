"""Inputs of encoders, and vectors of queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.models.config import PlanConfig, T5Config
from genret_jax.models.encoders.config import SentenceForm
from genret_jax.models.query import QueryVector, pooled_states, query_terms, source_tokens

INPUTS = np.array([[5, 6, 0, 90, 91], [7, 8, 9, 92, 0], [0, 0, 0, 0, 0]])


def config(**form):
    return T5Config(vocab_size=10, d_model=4, sentence=SentenceForm(**form), plan=PlanConfig(terms=2, vocabulary=99))


def test_special_tokens_stand_around_the_text_and_terms_behind_it():
    shape = config(first_tokens=(2, 4), last_token=3)
    expected = [[2, 4, 5, 6, 3, 0], [2, 4, 7, 8, 9, 3], [2, 4, 3, 0, 0, 0]]
    assert source_tokens(shape, jnp.asarray(INPUTS)).tolist() == expected
    assert query_terms(shape, jnp.asarray(INPUTS)).tolist() == [[90, 91], [92, 0], [0, 0]]


def test_an_encoder_without_special_tokens_reads_the_text_as_it_is():
    assert source_tokens(config(), jnp.asarray(INPUTS)).tolist() == INPUTS[:, :3].tolist()
    without = T5Config(vocab_size=10, d_model=4)
    assert source_tokens(without, jnp.asarray(INPUTS)).tolist() == INPUTS.tolist()


@pytest.mark.parametrize(
    ("pooling", "expected"), [("mean", [[2.0, 4.0], [0, 0]]), ("cls", [[1, 5], [0, 0]]), ("max", [[3, 5], [0, 0]])]
)
def test_pooling_reads_the_tokens_that_are_there(pooling, expected):
    states = jnp.array([[[1.0, 5.0], [3.0, 3.0], [99.0, 99.0]]] * 2)
    tokens = jnp.array([[4, 5, 0], [0, 0, 0]])
    np.testing.assert_allclose(pooled_states(states, tokens, pooling, normalize=False), expected)
    lengths = np.linalg.norm(pooled_states(states, tokens, pooling, normalize=True), axis=1)
    np.testing.assert_allclose(lengths, [1, 0], atol=1e-6)


def test_the_residual_layer_begins_at_the_vector_of_the_encoder():
    shape = T5Config(vocab_size=10, d_model=4, query_width=8, sentence=SentenceForm())
    states, tokens = jax.random.normal(jax.random.key(0), (2, 3, 4)), jnp.array([[1, 2, 3], [1, 0, 0]])
    module = QueryVector(shape)
    params = module.init(jax.random.key(1), states, tokens)
    first = pooled_states(states, tokens, "mean", normalize=True)
    np.testing.assert_allclose(module.apply(params, states, tokens), first, atol=1e-6)
    moved = jax.tree.map(lambda leaf: leaf + 0.1, params)
    assert np.abs(module.apply(moved, states, tokens) - first).max() > 0.01
