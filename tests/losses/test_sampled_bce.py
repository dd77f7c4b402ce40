import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.losses import sampled_binary_cross_entropy


def test_one_position_by_hand():
    # σ(log 3) = 3/4 for the item that came, σ(-log 4) = 1/5 for the negative: -log(3/4) - log(4/5).
    total, weight = sampled_binary_cross_entropy(jnp.array([np.log(3.0)]), jnp.array([-np.log(4.0)]))
    assert total == pytest.approx(np.log(4 / 3) + np.log(5 / 4), rel=1e-6)
    assert weight == 1.0


def test_weights_of_positions_and_of_negatives():
    zeros = jnp.zeros((2, 2))  # every term is log 2
    weights, negatives = jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    total, weight = sampled_binary_cross_entropy(zeros, zeros, weights)
    assert (total, weight) == (pytest.approx(5 * np.log(2), rel=1e-6), 2.5)
    total, weight = sampled_binary_cross_entropy(zeros, zeros, weights, negatives)
    assert (total, weight) == (pytest.approx(4.5 * np.log(2), rel=1e-6), 2.5)


def test_equals_optax_with_its_gradient():
    positive, negative = (jax.random.normal(jax.random.key(seed), (3, 5)) * 4 for seed in (0, 1))

    def theirs(positive, negative):
        loss = optax.losses.sigmoid_binary_cross_entropy
        return (loss(positive, jnp.ones((3, 5))) + loss(negative, jnp.zeros((3, 5)))).sum()

    found = jax.value_and_grad(lambda p, n: sampled_binary_cross_entropy(p, n)[0], argnums=(0, 1))(positive, negative)
    wanted = jax.value_and_grad(theirs, argnums=(0, 1))(positive, negative)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_large_scores_stay_finite():
    scores = jnp.array([1e4, -1e4])
    total, gradient = jax.value_and_grad(lambda s: sampled_binary_cross_entropy(s, -s)[0])(scores)
    assert total == pytest.approx(2e4)
    assert np.isfinite(gradient).all()
