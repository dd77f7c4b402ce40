import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.losses import cross_entropy


def smoothed_by_hand(logits, target, smoothing, z_loss):
    """T5X's loss of one position, written out with the full target distribution."""
    logits = np.asarray(logits, np.float64)
    low = smoothing / (len(logits) - 1)
    distribution = np.full(len(logits), low)
    distribution[target] = 1 - smoothing
    log_z = np.log(np.exp(logits).sum())
    entropy = -(distribution * np.log(distribution + 1e-20)).sum()
    return -(distribution * (logits - log_z)).sum() - entropy + z_loss * log_z**2


def test_two_positions_by_hand():
    # softmax([0, log 3]) = [1/4, 3/4]; log Z = log 4. Weights 1 and 2.
    logits = jnp.array([[0.0, np.log(3.0)], [0.0, np.log(3.0)]])
    total, weight = cross_entropy(logits, jnp.array([0, 1]), jnp.array([1.0, 2.0]), z_loss=0.5)
    assert total == pytest.approx(np.log(4) + 2 * np.log(4 / 3) + 3 * 0.5 * np.log(4) ** 2, rel=1e-6)
    assert weight == 3.0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_equals_t5x_written_out(smoothing):
    random = np.random.default_rng(0)
    logits, targets = random.normal(size=(3, 4, 7)) * 3, random.integers(0, 7, (3, 4))
    weights = random.integers(0, 3, (3, 4)).astype(float)
    expected = sum(
        weights[place] * smoothed_by_hand(logits[place], targets[place], smoothing, 1e-2) for place in np.ndindex(3, 4)
    )
    total, weight = cross_entropy(
        jnp.array(logits), jnp.array(targets), jnp.array(weights), z_loss=1e-2, label_smoothing=smoothing
    )
    assert total == pytest.approx(expected, rel=1e-5)
    assert weight == weights.sum()


def test_equals_optax_with_its_gradient():
    logits = jax.random.normal(jax.random.key(0), (5, 11)) * 4
    targets = jnp.array([0, 3, 10, 3, 7])
    ours, gradient = jax.value_and_grad(lambda x: cross_entropy(x, targets)[0])(logits)
    theirs, expected = jax.value_and_grad(
        lambda x: optax.losses.softmax_cross_entropy_with_integer_labels(x, targets).sum()
    )(logits)
    np.testing.assert_allclose(ours, theirs, rtol=1e-6)
    np.testing.assert_allclose(gradient, expected, atol=1e-6)


def test_smoothing_is_zero_for_the_smoothed_distribution_itself():
    logits = jnp.log(jnp.array([[0.9, 0.05, 0.05]]))
    assert cross_entropy(logits, jnp.array([0]), label_smoothing=0.1)[0] == pytest.approx(0.0, abs=1e-6)


def test_smoothing_is_shared_by_candidates_only():
    wide = jnp.array([[1.0, -1e7, 2.0, -1e7, 0.5]])
    narrow = jnp.array([[1.0, 2.0, 0.5]])
    for logits, target in ((wide, 2), (narrow, 1)):
        total, _ = cross_entropy(logits, jnp.array([target]), label_smoothing=0.2)
        assert total == pytest.approx(smoothed_by_hand([1.0, 2.0, 0.5], 1, 0.2, 0), rel=1e-5)


def test_an_only_candidate_costs_nothing():
    logits = jnp.array([[-1e7, 3.0, -1e7]])
    total, gradient = jax.value_and_grad(lambda x: cross_entropy(x, jnp.array([1]), label_smoothing=0.1)[0])(logits)
    assert total == pytest.approx(0.0, abs=1e-6)
    np.testing.assert_array_equal(gradient, np.zeros((1, 3)))


def test_padding_has_no_loss_and_no_gradient():
    logits, weights = jnp.array([[5.0, 0.0], [0.0, 0.0]]), jnp.array([0.0, 1.0])
    (total, weight), gradient = jax.value_and_grad(
        lambda x: cross_entropy(x, jnp.array([1, 0]), weights, z_loss=0.1, label_smoothing=0.1), has_aux=True
    )(logits)
    assert weight == 1.0
    assert total == pytest.approx(smoothed_by_hand([0.0, 0.0], 0, 0.1, 0.1), rel=1e-5)
    np.testing.assert_array_equal(gradient[0], np.zeros(2))
    assert np.abs(gradient[1]).min() > 0.1


def test_bfloat16_is_summed_in_float32():
    logits = jnp.zeros((2, 3, 1000), jnp.bfloat16)
    total, weight = cross_entropy(logits, jnp.zeros((2, 3), jnp.int32))
    assert total.dtype == weight.dtype == jnp.float32
    assert total == pytest.approx(6 * np.log(1000), rel=1e-6)
