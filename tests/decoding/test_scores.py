"""The best of many scores, and their normaliser, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.linen import partitioning
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from genret_jax.decoding import scores as under_test
from genret_jax.decoding.scores import INVALID, LOWEST


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    count=st.sampled_from([5, 320, 1280, 1999]),
    k=st.sampled_from([1, 3, 5]),
    values=st.sampled_from([1, 2, 7, 10_000]),
    missing=st.sampled_from([0.0, 0.5, 0.999]),
    seed=st.integers(0, 3),
)
def test_best_come_first_and_of_equals_the_first(count, k, values, missing, seed):
    random = np.random.default_rng(seed)
    scores = random.integers(-values, 0, (2, count)).astype(np.float32)
    scores[random.random(scores.shape) < missing] = INVALID
    best, places = jax.jit(under_test.top_k, static_argnums=1)(jnp.asarray(scores), k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(scores, expected, axis=1))


def test_sees_many_scores_in_blocks():
    # The reason for blocks is speed alone, so whether they are used shows only in what is compiled.
    def selections(count):
        scores = jax.ShapeDtypeStruct((1, count), np.float32)
        return jax.jit(under_test.top_k, static_argnums=1).lower(scores, 4).as_text().count("top_k(")

    assert selections(64 * 4) > selections(64 * 4 - 1)


@pytest.mark.parametrize("axis", [None, "data"])
@pytest.mark.parametrize("count", [10, 1000])
def test_best_are_found_on_a_mesh_of_devices(axis, count):
    """XLA's compiler ended the process where all devices had the scores of every query."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    scores = np.random.default_rng(0).random((8, count), np.float32)
    placed = jax.device_put(scores, NamedSharding(mesh, PartitionSpec(axis)))
    best, places = jax.jit(lambda scores: under_test.top_k(scores, 2))(placed)
    np.testing.assert_array_equal(places, np.argsort(-scores, axis=1)[:, :2])
    np.testing.assert_array_equal(best, -np.sort(-scores, axis=1)[:, :2])


@pytest.mark.parametrize(("batch", "count", "k"), [(8, 1024, 4), (3, 1024, 4), (8, 1026, 4), (8, 64, 4), (2, 4096, 1)])
@pytest.mark.parametrize("values", [2, 10_000])
def test_each_device_looks_through_its_own_scores(batch, count, k, values):
    mesh = jax.make_mesh((2, 4), ("data", "model"), axis_types=(AxisType.Auto,) * 2)
    scores = np.random.default_rng(0).integers(0, values, (batch, count)).astype(np.float32)
    with jax.set_mesh(mesh), partitioning.axis_rules((("batch", "data"), ("vocab", "model"))):
        best, places = jax.jit(under_test.top_k, static_argnums=1)(scores, k)
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(best, np.take_along_axis(scores, expected, axis=1))


@pytest.mark.parametrize("size", [1, 7, 96, 256, 40_000])
def test_normaliser_is_the_logarithm_of_the_sum(size):
    logits = np.random.default_rng(0).normal(size=(2, 5, size)).astype(np.float32) * 30
    logits[0, 0] = -np.inf
    logits[0, 1, 1:] = -np.inf
    logits[0, 2] = LOWEST
    logits[0, 3] += 1e4
    exact = np.logaddexp.reduce(logits.astype(np.float64), axis=-1)
    found = np.asarray(jax.jit(under_test.logsumexp)(jnp.asarray(logits)))
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found, np.maximum(exact, LOWEST), rtol=1e-6, atol=1e-5)
