import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.losses import cross_entropy, tied_softmax_cross_entropy


def test_two_positions_by_hand():
    # Inner products [0, log 3] and [log 3, 0]; both softmaxes are of 1/4 and 3/4. Weights 1 and 2.
    hidden, table = jnp.array([[0.0, np.log(3.0)], [np.log(3.0), 0.0]]), jnp.eye(2)
    total, weight = tied_softmax_cross_entropy(hidden, table, jnp.array([0, 0]), jnp.array([1.0, 2.0]))
    assert total == pytest.approx(np.log(4) + 2 * np.log(4 / 3), rel=1e-6)
    assert weight == 3.0


def test_equals_cross_entropy_of_the_products_with_its_gradient():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, table = jax.random.normal(keys[0], (3, 5, 4)), jax.random.normal(keys[1], (7, 4))
    targets, weights = jax.random.randint(keys[2], (3, 5), 0, 7), jnp.arange(15.0).reshape(3, 5) % 3
    ours = jax.value_and_grad(lambda h, t: tied_softmax_cross_entropy(h, t, targets, weights)[0], argnums=(0, 1))
    theirs = jax.value_and_grad(lambda h, t: cross_entropy(h @ t.T, targets, weights)[0], argnums=(0, 1))
    found, wanted = ours(hidden, table), theirs(hidden, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)
