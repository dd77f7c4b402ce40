import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.losses import symmetric_divergence


def test_by_hand():
    # p = (1/4, 3/4), q = (1/2, 1/2): KL(p|q) = log 2 - H(p), KL(q|p) = -log(3/16)/2 - log 2.
    one, other = jnp.log(jnp.array([[0.25, 0.75]])), jnp.zeros((1, 2))
    forward = 0.25 * np.log(0.5) + 0.75 * np.log(1.5)
    backward = 0.5 * np.log(2.0) + 0.5 * np.log(2 / 3)
    assert symmetric_divergence(one, other) == pytest.approx((forward + backward) / 2, rel=1e-6)
    assert symmetric_divergence(other, one) == pytest.approx((forward + backward) / 2, rel=1e-6)


def test_it_is_the_mean_of_optax_divergences_of_positions_that_count():
    one, other = (jax.random.normal(jax.random.key(seed), (3, 4, 7)) for seed in (0, 1))
    weights = jnp.array([[1.0, 1, 1, 0], [1, 0, 0, 0], [0.5, 1, 0, 0]])
    logs = [jax.nn.log_softmax(logits) for logits in (one, other)]
    forward, backward = (optax.losses.kl_divergence_with_log_targets(a, b) for a, b in (logs, logs[::-1]))
    expected = jnp.sum(weights * (forward + backward)) / 2
    assert symmetric_divergence(one, other, weights) == pytest.approx(float(expected), rel=1e-5)


def test_what_is_impossible_in_both_does_not_matter():
    one, other = jnp.array([[0.0, 1.0, -1e7]]), jnp.array([[0.5, 0.0, -1e7]])
    assert symmetric_divergence(one, other) == pytest.approx(float(symmetric_divergence(one[:, :2], other[:, :2])))
    gradient = jax.grad(lambda logits: symmetric_divergence(logits, other))(one)
    assert np.isfinite(gradient).all()
    assert symmetric_divergence(one, one) == 0.0
