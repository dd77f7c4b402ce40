"""The network is T5: the reference implementation's weights give the reference implementation's numbers."""

import ast
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import read_checkpoint

from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.models import T5, T5Config
from genret_jax.models.convert.public_layout import tensor_shapes
from genret_jax.models.layers import relative_position_buckets

GOLDEN = Path(__file__).resolve().parent.parent / "golden"
REFERENCE = json.loads((GOLDEN / "reference.json").read_text())


@pytest.fixture(scope="module", params=["t5_1_1", "t5_1_0"])
def golden(request):
    config, params = read_checkpoint(GOLDEN / request.param)
    return T5(config), {"params": params}, load_file(GOLDEN / request.param / "expected.safetensors")


def test_logits_equal_the_reference(golden):
    model, variables, expected = golden
    source, target = jnp.asarray(expected["source"]), jnp.asarray(expected["target"])
    encoded = model.apply(variables, source, method="encode")
    kept = expected["source"] > 0
    assert kept.sum(axis=1).tolist() == [150, 97, 5]  # beyond the largest relative distance, and padded
    np.testing.assert_allclose(np.asarray(encoded)[kept], expected["encoded"][kept], atol=1e-4, rtol=0)
    logits = model.apply(variables, source, target)
    np.testing.assert_allclose(logits, expected["logits"], atol=1e-4, rtol=0)


def test_cached_decoding_equals_the_reference(golden):
    model, variables, expected = golden
    source, target = jnp.asarray(expected["source"]), jnp.asarray(expected["target"])

    @jax.jit
    def decode(source, target):
        encoded = model.apply(variables, source, method="encode")
        cache = model.apply(variables, encoded, source, target.shape[1], method="init_cache")
        first, cache = model.apply(variables, target[:, :1], None, cache, method="step")

        def one(cache, token):
            logits, cache = model.apply(variables, token[:, None], None, cache, method="step")
            return cache, logits[:, 0]

        _, rest = jax.lax.scan(one, {**cache, "position": jnp.int32(1)}, target[:, 1:].T)
        return jnp.concatenate([first, rest.swapaxes(0, 1)], axis=1)

    np.testing.assert_allclose(decode(source, target), expected["cached_logits"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["bidirectional", "causal"])
def test_position_buckets_equal_the_reference(kind):
    offsets = np.arange(-300, 301, dtype=np.int32)
    found = relative_position_buckets(offsets, bidirectional=kind == "bidirectional", num_buckets=32, max_distance=128)
    assert found.tolist() == REFERENCE["buckets_of_offsets_from_-300_to_300"][kind]


def gin_file(size):
    return gin_configs_folder() / "models" / f"{size}.gin"


def read_bindings(file):
    """Read `T5Config.name = value` lines; what gin itself makes of them is tested with the other gin files."""
    lines = [line.split("=", 1) for line in file.read_text().splitlines() if line and not line.startswith("#")]
    return {name.strip().removeprefix("T5Config."): ast.literal_eval(value.strip()) for name, value in lines}


# Tracing a deep network takes seconds; the counts from the public layout cover all sizes in every run.
SIZES = [
    pytest.param(size, marks=[] if count < 1e8 else pytest.mark.slow) for size, count in REFERENCE["parameters"].items()
]


@pytest.mark.parametrize("size", REFERENCE["parameters"])
def test_parameter_count_equals_the_reference(size):
    file = gin_file(size)
    config = T5Config(**read_bindings(file))
    count = sum(math.prod(shape) for shape in tensor_shapes(config).values())
    assert count == REFERENCE["parameters"][size]
    assert f"{count:,} parameters" in file.read_text().splitlines()[0]


@pytest.mark.parametrize("size", SIZES)
def test_initialised_parameters_are_as_many(size):
    model = T5(T5Config(**read_bindings(gin_file(size))))
    tokens = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), tokens, tokens)["params"]
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == REFERENCE["parameters"][size]


def test_every_size_has_a_reference_count():
    files = {file.stem for file in gin_file("t5_1_1_small").parent.glob("*t5_*.gin")}
    assert files == set(REFERENCE["parameters"])


def test_the_small_shape_is_that_of_its_gin_file():
    assert T5Config.t5_1_0_small() == T5Config(**read_bindings(gin_file("t5_1_0_small")))
    assert T5Config.t5_1_0_small(d_ff=8).d_ff == 8
