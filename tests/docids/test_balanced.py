"""Balanced assignments: by an optimal-transport oracle, and by what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from genret_jax.docids.balanced import balanced_codes, balanced_kmeans, balanced_plan


@pytest.fixture(scope="module")
def scores():
    return np.random.default_rng(0).normal(size=(24, 6)).astype(np.float32)


def test_rows_have_one_unit_and_codes_equal_shares(scores):
    plan = np.exp(balanced_plan(jnp.asarray(scores), 1.0, 200))
    np.testing.assert_allclose(plan.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(plan.sum(0), 4, rtol=1e-4)


def test_the_plan_is_scores_up_to_a_factor_a_row_and_one_a_code(scores):
    # What makes it the one of highest score plus entropy (Cuturi 2013, section 3).
    plan = np.asarray(balanced_plan(jnp.asarray(scores), 0.5, 200)) - scores / 0.5
    apart = plan - plan.mean(0, keepdims=True) - plan.mean(1, keepdims=True) + plan.mean()
    np.testing.assert_allclose(apart, 0, atol=1e-4)


def test_with_little_entropy_it_is_the_best_even_assignment(scores):
    rows, columns = linear_sum_assignment(-np.repeat(scores, 4, axis=1))
    expected = np.empty(24, int)
    expected[rows] = columns // 4
    found = jnp.argmax(balanced_plan(jnp.asarray(scores), 0.01, 5000), axis=1)
    np.testing.assert_array_equal(found, expected)


def test_scores_that_would_overflow_outside_logarithms():
    scores = jnp.array([[1e4, 0.0], [1e4, 1.0], [0.0, 0.0], [1.0, 0.0]])
    plan = balanced_plan(scores, 0.1)
    assert jnp.isfinite(plan).all()
    assert jnp.bincount(balanced_codes(scores, 0.1), length=2).tolist() == [2, 2]


def test_one_code_that_all_rows_like_best_is_shared_out():
    # Each row likes code 0 best, and by a margin of its own: those with the largest keep it.
    scores = jnp.stack([jnp.linspace(1.0, 2.0, 10), jnp.zeros(10)], axis=1)
    assert jnp.argmax(scores, axis=1).tolist() == [0] * 10
    assert balanced_codes(scores, 0.05).tolist() == [1] * 5 + [0] * 5


def test_balanced_clusters_follow_the_vectors_evenly():
    random = np.random.default_rng(1)
    # Two heaps, one three times as large, whose four clusters are three and one.
    vectors = random.normal(size=(200, 8)).astype(np.float32)
    vectors[150:] += 6
    centroids = balanced_kmeans(vectors, 4, seed=0)
    nearest = np.argmin(((vectors[:, None] - centroids[None]) ** 2).sum(-1), axis=1)
    assert np.bincount(nearest[:150], minlength=4).tolist().count(0) == 1
    assert np.bincount(nearest, minlength=4).min() >= 35


def test_the_seed_decides(scores):
    one, same, other = (balanced_kmeans(scores, 3, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).max() > 1e-3


def test_it_runs_inside_jit(scores):
    np.testing.assert_array_equal(jax.jit(balanced_codes)(scores), balanced_codes(jnp.asarray(scores)))
