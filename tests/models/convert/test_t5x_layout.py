"""The network that the shapes of a t5x checkpoint tell."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import flatten_dict

from genret_jax.errors import InputError
from genret_jax.models import T5, T5Config
from genret_jax.models.convert.t5x_layout import (
    config_from_shapes,
    param_shapes,
    parameters_within,
    require_fitting,
    require_inferable,
)

TOKENS = jax.ShapeDtypeStruct((1, 2), jnp.int32)
SMALL = {"d_model": 16, "d_kv": 6, "d_ff": 24, "num_heads": 3, "vocab_size": 40}
NETWORKS = {
    "t5_1_1": T5Config(**SMALL, num_encoder_layers=2, num_decoder_layers=3),
    "t5_1_0": T5Config.t5_1_0_small(**SMALL),
    # As ByT5: three times as many encoder layers, a vocabulary of 384.
    "byt5": T5Config(**{**SMALL, "vocab_size": 384}, num_encoder_layers=12, num_decoder_layers=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_shapes_are_those_of_the_network_and_tell_it(name):
    config = NETWORKS[name]
    variables = jax.eval_shape(T5(config).init, jax.random.key(0), TOKENS, TOKENS)["params"]
    shapes = param_shapes(config)
    assert shapes == {path: leaf.shape for path, leaf in flatten_dict(variables, sep="/").items()}
    assert config_from_shapes(shapes) == config
    require_inferable(config)


def test_arrays_of_something_else_are_refused_with_their_names():
    with pytest.raises(InputError) as caught:
        config_from_shapes({"conv/kernel": (3, 3), "bias": (3,)}, file="folder")
    assert "folder: not a T5: no matrix token_embedder/embedding among 2 arrays (conv/kernel [3, 3], bias [3])" in str(
        caught.value
    )
    with pytest.raises(InputError, match="no array at all"):
        config_from_shapes({})


def test_another_tree_is_refused_by_its_difference():
    shapes = param_shapes(NETWORKS["t5_1_1"])
    # One position bias in every layer, as umT5 has.
    for layer in range(2):
        shapes[f"encoder/layers_{layer}/relpos_bias/rel_embedding"] = (3, 32)
    del shapes["decoder/decoder_norm/scale"]
    shapes["decoder/layers_1/mlp/wo/kernel"] = (25, 16)
    with pytest.raises(InputError) as caught:
        config_from_shapes(shapes)
    assert (
        "1 missing: decoder/decoder_norm/scale [16]; "
        "2 unexpected: encoder/layers_*/relpos_bias/rel_embedding ×2 [3, 32]; "
        "1 different: decoder/layers_1/mlp/wo/kernel [25, 16] instead of [24, 16]"
    ) in str(caught.value)


def test_a_layer_number_beyond_all_networks_is_refused_at_once():
    shapes = {**param_shapes(NETWORKS["t5_1_1"]), "encoder/layers_999999999/mlp/wo/kernel": (24, 16)}
    with pytest.raises(InputError, match=r"folder: T5Config.num_encoder_layers is 1000000000; .*1,000"):
        config_from_shapes(shapes, file="folder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "prefix", "num_nodes": 5}, "T5Config.head is 'prefix', which public T5 layouts cannot express"),
        ({"encoder_final_norm": False}, "T5Config.encoder_final_norm is False"),
        ({"activations": ("silu", "linear")}, r"activations \('silu', 'linear'\) instead of \('gelu', 'linear'\)"),
        ({"scale_decoder_outputs": True}, "scale_decoder_outputs True instead of False"),
        ({"relative_attention_max_distance": 64}, "relative_attention_max_distance 64 instead of 128"),
        ({"layer_norm_epsilon": 1e-5}, "layer_norm_epsilon 1e-05 instead of 1e-06"),
    ],
)
def test_what_shapes_cannot_tell_is_refused(changes, message):
    with pytest.raises(InputError, match=message):
        require_inferable(dataclasses.replace(NETWORKS["t5_1_1"], **changes))


def test_what_is_no_part_of_the_network_may_differ():
    require_inferable(dataclasses.replace(NETWORKS["t5_1_1"], dropout_rate=0.0, dtype="bfloat16", remat=True))


def test_parameters_of_another_network_are_refused():
    config = NETWORKS["t5_1_1"]
    params = jax.eval_shape(T5(config).init, jax.random.key(0), TOKENS, TOKENS)["params"]
    require_fitting(params, config)
    with pytest.raises(InputError, match=r"do not fit the configuration: 28 missing: decoder/layers_\*/.* ×2 \[16\]"):
        require_fitting(params, dataclasses.replace(config, num_decoder_layers=5))


@pytest.mark.parametrize(
    ("root", "tree"),
    [
        (("optimizer", "target"), {"version": 3, "optimizer": {"target": {"a": 1}, "state": {"step": 2}}}),
        (("_optimizer", "target"), {"_optimizer": {"target": {"a": 1}}, "params_axes": None}),
        (("target",), {"target": {"a": 1}, "state": {"param_states": {"a": 3}}}),
        (("params",), {"params": {"a": 1}}),
        ((), {"a": 1}),
    ],
)
def test_parameters_are_found_in_the_tree_of_a_train_state(root, tree):
    assert parameters_within(tree) == (root, {"a": 1})
