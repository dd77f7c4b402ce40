"""One update: the same for a batch in parts, on any mesh, and for any number of steps a call."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from support.tiny_training_task import TinyModel, TinyTask

from genret_jax.training import train
from genret_jax.training.step import NEVER, gradient_sum, initial_state, make_train_step


def losses(records, folder):
    return np.array([record["loss"] for record in records(folder) if record["kind"] == "train"])


@pytest.fixture(scope="module")
def plain(tiny_config, records, tmp_path_factory):
    """Losses and parameters on one device, one step a call, with dropout."""
    folder = tmp_path_factory.mktemp("plain")
    result = train(TinyTask(), tiny_config(checkpoint_every=None), folder)
    return losses(records, folder), jax.device_get(result.params)


@pytest.mark.parametrize("mesh", [(2, 4), (4, 2), (8, 1)])
def test_meshes_give_the_losses_of_one_device(plain, mesh, tiny_config, records, tmp_path):
    config = tiny_config(checkpoint_every=None, data_parallel=mesh[0], model_parallel=mesh[1])
    result = train(TinyTask(), config, tmp_path)
    np.testing.assert_allclose(losses(records, tmp_path), plain[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), jax.device_get(result.params), plain[1])
    assert len(result.params["wi"].sharding.device_set) == 8


def test_several_steps_a_call_change_nothing(plain, tiny_config, records, tmp_path, assert_same_params):
    config = tiny_config(checkpoint_every=None, log_every=6, steps_per_dispatch=5)
    result = train(TinyTask(), config, tmp_path)
    assert_same_params(result.params, plain[1])
    assert [record["step"] for record in records(tmp_path)] == [6, 12]
    # Each record holds the mean since the last one, by weight.
    weights = np.array([TinyTask().batch(step)["weight"].sum() for step in range(12)])
    means = (plain[0] * weights).reshape(2, 6).sum(axis=1) / weights.reshape(2, 6).sum(axis=1)
    np.testing.assert_allclose(losses(records, tmp_path), means, rtol=1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_sum_to_the_whole(parts):
    task = TinyTask(model=TinyModel(dropout_rate=0.0))  # masks differ between a batch and its parts
    params = task.init(jax.random.key(0))["params"]
    batch = jax.tree.map(jnp.asarray, task.batch(0))
    assert len(set(np.asarray(batch["weight"]))) > 1
    whole, whole_totals = jax.jit(lambda p: gradient_sum(task, p, batch, jax.random.key(1), 1, {}))(params)
    split, split_totals = jax.jit(lambda p: gradient_sum(task, p, batch, jax.random.key(1), parts, {}))(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), split, whole)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), split_totals, whole_totals)


class Line:
    """Loss ``weight * slope * x`` summed over the batch: its gradient is known without a calculation."""

    def init(self, rng):
        return {"params": {"slope": jnp.zeros(())}}

    def batch(self, step):
        raise NotImplementedError

    def loss(self, params, batch, dropout_rng):
        return jnp.sum(params["slope"] * batch["x"] * batch["weight"]), jnp.sum(batch["weight"]), {}


def take_step(config, *, x, weight, average=None):
    """Return the state after one step of plain descent at rate 1 from slope 0."""

    descent = optax.sgd(1.0)
    state = initial_state(
        {"slope": jnp.zeros(())}, descent, keep_average=average is not None, metrics=("loss", "gradient_norm")
    )
    batch = {"x": jnp.asarray(x, jnp.float32), "weight": jnp.asarray(weight, jnp.float32)}
    return jax.jit(make_train_step(Line(), config, descent))(state, batch, jnp.uint32(config.seed), {})


def test_gradient_is_divided_by_the_weights(tiny_config):
    state = take_step(tiny_config(clip_norm=None), x=[1.0, 5.0], weight=[3.0, 1.0])
    assert float(state.params["slope"]) == -(3 * 1 + 1 * 5) / 4
    assert int(state.step) == 1


def test_long_gradients_are_clipped_and_short_ones_are_not(tiny_config):
    assert float(take_step(tiny_config(clip_norm=0.5), x=[4.0], weight=[1.0]).params["slope"]) == -0.5
    assert float(take_step(tiny_config(clip_norm=9.0), x=[4.0], weight=[1.0]).params["slope"]) == -4.0


def test_batch_without_weight_changes_nothing(tiny_config):
    state = take_step(tiny_config(), x=[4.0], weight=[0.0])
    assert float(state.params["slope"]) == 0.0
    assert int(state.first_bad_step) == NEVER


def test_first_bad_step_is_kept(tiny_config):
    assert int(take_step(tiny_config(), x=[np.nan], weight=[1.0]).first_bad_step) == 1


def test_average_forgets_the_start_soon(tiny_config):
    state = take_step(tiny_config(clip_norm=None, average_decay=0.999), x=[1.0], weight=[1.0], average=True)
    # At step 0 the decay is (1 + 0) / (10 + 0).
    np.testing.assert_allclose(state.average["slope"], 0.1 * 0.0 + 0.9 * -1.0, rtol=1e-6)
