import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.losses import in_batch_contrastive


def test_two_queries_by_hand():
    # Similarities [[2, 0], [1, 1]]: log(1 + e^-2) and log 2.
    queries, documents = jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.eye(2)
    total, weight = in_batch_contrastive(queries, documents, jnp.array([4, 9]))
    assert total == pytest.approx(np.log1p(np.exp(-2)) + np.log(2), rel=1e-6)
    assert weight == 2.0


def test_temperature_scales_similarities():
    queries, documents = jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.eye(2)
    total, _ = in_batch_contrastive(queries, documents, jnp.array([4, 9]), temperature=0.5)
    assert total == pytest.approx(np.log1p(np.exp(-4)) + np.log(2), rel=1e-6)


def test_the_same_document_is_no_negative():
    queries, documents = jnp.array([[2.0, 0.0], [1.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])
    total, gradient = jax.value_and_grad(lambda d: in_batch_contrastive(queries, d, jnp.array([7, 7]))[0])(documents)
    assert total == pytest.approx(0.0, abs=1e-7)
    np.testing.assert_allclose(gradient, np.zeros((2, 2)), atol=1e-7)


def test_hard_negatives_follow_the_positives():
    # One query; its document scores 1, a hard negative 0, and a second copy of its document (not counted) 5.
    queries, documents = jnp.array([[1.0]]), jnp.array([[1.0], [0.0], [5.0]])
    total, _ = in_batch_contrastive(queries, documents, jnp.array([3, 8, 3]))
    assert total == pytest.approx(np.log1p(np.exp(-1)), rel=1e-6)


def test_weights_and_optax():
    queries, documents = (jax.random.normal(jax.random.key(seed), (6, 4)) for seed in (0, 1))
    weights = jnp.array([1.0, 0.0, 2.0, 1.0, 1.0, 0.5])
    expected = optax.losses.softmax_cross_entropy_with_integer_labels(queries @ documents.T, jnp.arange(6)) * weights
    total, weight = in_batch_contrastive(queries, documents, jnp.arange(6), weights)
    np.testing.assert_allclose(total, expected.sum(), rtol=1e-5)
    assert weight == weights.sum()


def test_with_prefixes_only_documents_of_the_same_prefix_compete():
    queries = documents = jnp.array([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]])
    total, weight = in_batch_contrastive(queries, documents, jnp.arange(3), prefix=jnp.array([5, 5, 8]))
    # The third has nobody to be told from; the others score 4 and 2, and 2 and 2.
    assert total == pytest.approx(np.log1p(np.exp(-2)) + np.log(2), rel=1e-6)
    assert weight == 3.0
