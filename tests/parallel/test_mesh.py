"""Where parameters and optimizer states live on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny_training_task import TinyTask

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import logical_axes, make_mesh, optimizer_shardings, param_shardings, require_split
from genret_jax.training.config import Adafactor, AdamW


def specs(tree):
    return jax.tree.map(lambda sharding: sharding.spec, tree)


def test_mesh_takes_all_devices_or_the_first_ones():
    assert dict(make_mesh(model_parallel=2).shape) == {"data": 4, "model": 2}
    assert dict(make_mesh(model_parallel=2, data_parallel=1).shape) == {"data": 1, "model": 2}


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"model_parallel": 3}, "model_parallel=3 does not divide the 8 devices"),
        ({"model_parallel": 4, "data_parallel": 4}, "a mesh of 4×4 devices, but there are 8"),
    ],
)
def test_mesh_that_the_devices_cannot_make(sizes, message):
    with pytest.raises(InputError, match=message):
        make_mesh(**sizes)


def test_parameters_follow_the_rules():
    variables = jax.eval_shape(TinyTask().init, jax.random.key(0))
    shardings = param_shardings(make_mesh(model_parallel=4), variables["params"], logical_axes(variables))
    assert specs(shardings) == {
        "embedding": P("model", None),
        "scale": P(None),
        "wi": P(None, "model"),
        "wo": P("model", None),  # both axes want 'model'; the first has it
    }


def test_axis_that_does_not_divide_stays_whole():
    params = {"a": {"kernel": jax.ShapeDtypeStruct((6, 10), jnp.float32)}}
    shardings = param_shardings(make_mesh(model_parallel=4), params, {("a", "kernel"): ("embed", "mlp")})
    assert specs(shardings) == {"a": {"kernel": P(None, None)}}


def test_model_axis_that_divides_nothing_is_refused():
    mesh = make_mesh(model_parallel=4)
    params = {"a": {"kernel": jax.ShapeDtypeStruct((6, 10), jnp.float32)}}
    shardings = param_shardings(mesh, params, {("a", "kernel"): ("embed", "mlp")})
    with pytest.raises(InputError, match=r"model_parallel=4 divides no axis .* is \[6, 10\]; expected"):
        require_split(mesh, params, shardings)
    require_split(make_mesh(model_parallel=1), params, shardings)


def test_parameters_without_names_stay_whole():
    params = {"kernel": jax.ShapeDtypeStruct((8, 8), jnp.float32)}
    assert specs(param_shardings(make_mesh(model_parallel=4), params, {})) == {"kernel": P(None, None)}


def placed_optimizer(optimizer, shape, axes):
    mesh = make_mesh(model_parallel=4)
    params = {"layer": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}}
    shardings = param_shardings(mesh, params, {("layer", "kernel"): axes})
    state = jax.eval_shape(optimizer.build(10).init, params)
    return state, specs(optimizer_shardings(mesh, state, params, shardings))


def test_adams_moments_lie_with_their_parameters():
    _, placed = placed_optimizer(AdamW(), (8, 16), ("embed", "mlp"))
    assert placed[0].mu == placed[0].nu == {"layer": {"kernel": P(None, "model")}}
    assert placed[0].count == P()


def test_adafactors_moments_follow_the_axes_they_keep():
    optimizer = Adafactor(min_dim_size_to_factor=8)
    state, placed = placed_optimizer(optimizer, (8, 16), ("embed", "mlp"))
    placed_leaves = jax.tree.leaves(placed, is_leaf=lambda x: isinstance(x, P))
    by_size = {leaf.shape: spec for leaf, spec in zip(jax.tree.leaves(state), placed_leaves, strict=True)}
    assert by_size[(16,)] == P("model")
    assert by_size[(8,)] == P(None)
    assert by_size[(1,)] == P()


def test_long_axes_of_a_torus_are_split(monkeypatch):
    """A TPU slice of 16x16 has no axis of 4 or 64, which jax refuses unless told that it may split them."""
    asked = []

    def of_torus(shape, devices, allow_split_physical_axes=False):
        asked.append(allow_split_physical_axes)
        if not allow_split_physical_axes:
            raise NotImplementedError("Failed to find assignment for logical_axis_index 1")
        return np.array(devices).reshape(shape)

    monkeypatch.setattr("genret_jax.parallel.mesh.mesh_utils.create_device_mesh", of_torus)
    assert dict(make_mesh(model_parallel=4).shape) == {"data": 2, "model": 4}
    assert asked == [False, True]


def test_a_platform_that_is_not_there(monkeypatch):
    def fail():
        raise RuntimeError("Unable to initialize backend 'tpu': INTERNAL: Failed to open libtpu.so")

    monkeypatch.setattr(jax, "devices", fail)
    with pytest.raises(InputError, match=r"'tpu'.*libtpu.*unset the environment variable JAX_PLATFORMS"):
        make_mesh()
