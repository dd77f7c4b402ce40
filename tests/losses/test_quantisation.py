import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.losses import (
    cumulative_quantisation_loss,
    reconstruction_loss,
    residual_quantisation_loss,
    straight_through,
)

# The first level leaves (1, -1) of it, the second (0, -1).
LATENT, CHOSEN = jnp.array([3.0, 1.0]), jnp.array([[2.0, 2.0], [1.0, 0.0]])


def test_reconstruction_by_hand():
    vectors, reconstructed = jnp.array([[1.0, 2.0], [0.0, 0.0]]), jnp.array([[0.0, 0.0], [0.0, 3.0]])
    assert reconstruction_loss(vectors, reconstructed).tolist() == [5, 9]


@pytest.mark.parametrize("loss", [residual_quantisation_loss, cumulative_quantisation_loss])
def test_values_by_hand(loss):
    # Codes: 2 + 1. Commitment: the same, times beta.
    assert loss(LATENT, CHOSEN, 0.25) == pytest.approx(3 * 1.25)
    both = loss(jnp.stack([LATENT, LATENT - CHOSEN.sum(0)]), jnp.stack([CHOSEN, 0 * CHOSEN]), 0.5)
    np.testing.assert_allclose(both, [4.5, 3.0])  # (0, -1) twice, of codes that are nothing


def test_gradients_by_hand():
    # Of the latent: beta times twice what each level leaves, (1, -1) and (0, -1).
    of_latent, of_codes = jax.grad(residual_quantisation_loss, (0, 1))(LATENT, CHOSEN, 0.25)
    np.testing.assert_allclose(of_latent, 0.5 * np.array([1.0, -2.0]))
    # Of the codes: minus twice what their level leaves; the first is in the second's residual too.
    np.testing.assert_allclose(of_codes, [[-2.0, 2.0 + 0.5], [0.0, 2.0]])
    of_latent, of_codes = jax.grad(cumulative_quantisation_loss, (0, 1))(LATENT, CHOSEN, 0.25)
    np.testing.assert_allclose(of_latent, 0.5 * np.array([1.0, -2.0]))
    np.testing.assert_allclose(of_codes, [[-2.0, 2.0], [0.0, 2.0]])


def test_the_gradient_goes_straight_through_to_the_encoder():
    weights = jnp.array([5.0, -7.0])
    value, (of_latent, of_codes) = jax.value_and_grad(
        lambda latent, codes: jnp.sum(weights * straight_through(latent, codes.sum(0))), (0, 1)
    )(LATENT, CHOSEN)
    assert value == 5 * 3 - 7 * 2
    np.testing.assert_array_equal(of_latent, weights)
    np.testing.assert_array_equal(of_codes, np.zeros((2, 2)))
