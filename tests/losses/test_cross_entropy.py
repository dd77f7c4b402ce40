import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.losses import cross_entropy, sampled_binary_cross_entropy, tied_softmax_cross_entropy


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


def test_tied_softmax_two_positions_by_hand():
    # Inner products [0, log 3] and [log 3, 0]; both softmaxes are of 1/4 and 3/4. Weights 1 and 2.
    hidden, table = jnp.array([[0.0, np.log(3.0)], [np.log(3.0), 0.0]]), jnp.eye(2)
    total, weight = tied_softmax_cross_entropy(hidden, table, jnp.array([0, 0]), jnp.array([1.0, 2.0]))
    assert total == pytest.approx(np.log(4) + 2 * np.log(4 / 3), rel=1e-6)
    assert weight == 3.0


def test_tied_softmax_equals_cross_entropy_of_the_products_with_its_gradient():
    keys = jax.random.split(jax.random.key(0), 3)
    hidden, table = jax.random.normal(keys[0], (3, 5, 4)), jax.random.normal(keys[1], (7, 4))
    targets, weights = jax.random.randint(keys[2], (3, 5), 0, 7), jnp.arange(15.0).reshape(3, 5) % 3
    ours = jax.value_and_grad(lambda h, t: tied_softmax_cross_entropy(h, t, targets, weights)[0], argnums=(0, 1))
    theirs = jax.value_and_grad(lambda h, t: cross_entropy(h @ t.T, targets, weights)[0], argnums=(0, 1))
    found, wanted = ours(hidden, table), theirs(hidden, table)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), found, wanted)


def test_sampled_one_position_by_hand():
    # σ(log 3) = 3/4 for the item that came, σ(-log 4) = 1/5 for the negative: -log(3/4) - log(4/5).
    total, weight = sampled_binary_cross_entropy(jnp.array([np.log(3.0)]), jnp.array([-np.log(4.0)]))
    assert total == pytest.approx(np.log(4 / 3) + np.log(5 / 4), rel=1e-6)
    assert weight == 1.0


def test_sampled_weights_of_positions_and_of_negatives():
    zeros = jnp.zeros((2, 2))  # every term is log 2
    weights, negatives = jnp.array([[1.0, 0.5], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 1.0]])
    total, weight = sampled_binary_cross_entropy(zeros, zeros, weights)
    assert (total, weight) == (pytest.approx(5 * np.log(2), rel=1e-6), 2.5)
    total, weight = sampled_binary_cross_entropy(zeros, zeros, weights, negatives)
    assert (total, weight) == (pytest.approx(4.5 * np.log(2), rel=1e-6), 2.5)


def test_sampled_equals_optax_with_its_gradient():
    positive, negative = (jax.random.normal(jax.random.key(seed), (3, 5)) * 4 for seed in (0, 1))

    def theirs(positive, negative):
        loss = optax.losses.sigmoid_binary_cross_entropy
        return (loss(positive, jnp.ones((3, 5))) + loss(negative, jnp.zeros((3, 5)))).sum()

    found = jax.value_and_grad(lambda p, n: sampled_binary_cross_entropy(p, n)[0], argnums=(0, 1))(positive, negative)
    wanted = jax.value_and_grad(theirs, argnums=(0, 1))(positive, negative)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, wanted)


def test_sampled_large_scores_stay_finite():
    scores = jnp.array([1e4, -1e4])
    total, gradient = jax.value_and_grad(lambda s: sampled_binary_cross_entropy(s, -s)[0])(scores)
    assert total == pytest.approx(2e4)
    assert np.isfinite(gradient).all()
