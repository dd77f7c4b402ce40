"""Learning rates of parts of the parameters."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genret_jax.errors import InputError
from genret_jax.training.rates import divided, joined, scaled_changes, with_factors

PARAMS = {"encoder": {"low": {"w": jnp.ones(2)}, "high": {"w": jnp.ones(3)}}, "head": jnp.ones(1)}
FACTORS = (("encoder", 0.5), ("encoder/low", 0.0))


def test_parameters_with_factor_0_are_kept_and_the_longest_path_counts():
    trained, kept = divided(PARAMS, FACTORS)
    assert jax.tree.map(jnp.size, trained) == {"encoder": {"high": {"w": 3}}, "head": 1}
    assert jax.tree.map(jnp.size, kept) == {"encoder": {"low": {"w": 2}}}
    assert jax.tree.map(jnp.size, joined(trained, kept)) == jax.tree.map(jnp.size, PARAMS)
    assert divided(PARAMS, ()) == (PARAMS, {})


def test_updates_are_scaled_by_their_factors():
    trained, _ = divided(PARAMS, FACTORS)
    optimizer = with_factors(optax.sgd(1.0), FACTORS)
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, trained), optimizer.init(trained), trained)
    np.testing.assert_allclose(updates["encoder"]["high"]["w"], -0.5)
    np.testing.assert_allclose(updates["head"], -1.0)


def test_factors_of_0_and_1_leave_the_optimizer_as_it_is():
    optimizer = optax.sgd(1.0)
    assert with_factors(optimizer, (("encoder", 0.0), ("head", 1.0))) is optimizer


def test_changes_of_any_optimizer_are_scaled_likewise():
    after = scaled_changes(PARAMS, jax.tree.map(lambda leaf: leaf + 4, PARAMS), FACTORS)
    np.testing.assert_array_equal(after["encoder"]["low"]["w"], 1)
    np.testing.assert_array_equal(after["encoder"]["high"]["w"], 3)
    np.testing.assert_array_equal(after["head"], 5)


def test_a_path_of_nothing():
    with pytest.raises(InputError, match="names 'encodr', which is no part of the parameters"):
        divided(PARAMS, (("encodr", 0.0),))
