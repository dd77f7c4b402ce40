"""Public checkpoints in and out, and what the user reads when they do not fit."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import read_checkpoint

from genret_jax.errors import InputError
from genret_jax.models import T5, T5Config
from genret_jax.models.convert.huggingface import find_tensors, save_safetensors
from genret_jax.models.convert.public_layout import config_from_json, config_to_json

GOLDEN = Path(__file__).resolve().parents[2] / "golden"
FAMILIES = ["t5_1_1", "t5_1_0"]
TOKENS = jax.ShapeDtypeStruct((1, 2), jnp.int32)


def assert_same(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def broken(tmp_path):
    """A copy of the untied model for tests to break."""
    return Path(shutil.copytree(GOLDEN / "t5_1_1", tmp_path / "model"))


def rewrite(folder, change):
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("shards", ["one", "many"])
def test_round_trip(family, shards, tmp_path):
    config, params = read_checkpoint(GOLDEN / family)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    save_safetensors(tmp_path / "out", params, config, max_shard_bytes=size // 3 if shards == "many" else size)
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    if shards == "one":
        assert files == ["config.json", "model.safetensors"]
    else:
        assert "model.safetensors.index.json" in files
        assert sum(name.endswith(".safetensors") for name in files) > 2
        index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
        assert index["metadata"]["total_size"] == size
        assert set(index["weight_map"].values()) == {name for name in files if name.endswith(".safetensors")}
    again, back = read_checkpoint(tmp_path / "out")
    assert again == config
    assert_same(back, params)
    original, exported = {}, {}
    original = load_file(GOLDEN / family / "model.safetensors")
    for name in files:
        if name.endswith(".safetensors"):
            exported |= load_file(tmp_path / "out" / name)
    assert_same(exported, original)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_of_the_network(family):
    config, params = read_checkpoint(GOLDEN / family)
    shapes = jax.eval_shape(T5(config).init, jax.random.key(0), TOKENS, TOKENS)["params"]
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, shapes)


def test_tying_comes_from_the_tensors_and_scaling_from_the_configuration(broken):
    described = json.loads((broken / "config.json").read_text())
    # transformers 5 writes tie_word_embeddings: true beside a head of its own.
    (broken / "config.json").write_text(
        json.dumps({**described, "tie_word_embeddings": True, "scale_decoder_outputs": False})
    )
    config, _ = read_checkpoint(broken)
    assert (config.tie_embeddings, config.scale_decoder_outputs) == (False, False)
    rewrite(broken, lambda tensors: tensors.update({"lm_head.weight": tensors["shared.weight"].copy()}))
    config, params = read_checkpoint(broken)
    assert (config.tie_embeddings, config.scale_decoder_outputs) == (True, False)
    assert "logits_dense" not in params["decoder"]


@pytest.mark.parametrize(
    ("flag", "scaled"), [({}, True), ({"tie_word_embeddings": True}, True), ({"tie_word_embeddings": False}, False)]
)
def test_older_configurations_say_the_scaling_by_their_tie_flag(flag, scaled):
    described = {"model_type": "t5", "vocab_size": 9, "d_model": 4, "num_layers": 1, "num_heads": 1, **flag}
    assert config_from_json(described, tie_embeddings=True).scale_decoder_outputs == scaled


def test_configuration_round_trip():
    config = T5Config(d_model=8, d_ff=12, num_decoder_layers=3, dropout_rate=0.05, relative_attention_max_distance=99)
    assert config_from_json(config_to_json(config), tie_embeddings=False) == config


def test_redundant_tensors_and_half_precision_are_read(broken):
    _, plain = read_checkpoint(broken)

    def change(tensors):
        bfloat16 = jnp.bfloat16
        for name in list(tensors):
            tensors[name] = np.asarray(jnp.asarray(tensors[name], bfloat16))
        tensors["encoder.embed_tokens.weight"] = tensors["shared.weight"].copy()
        tensors["decoder.embed_tokens.weight"] = tensors["shared.weight"].copy()

    rewrite(broken, change)
    _, params = read_checkpoint(broken)
    for ours, exact in zip(jax.tree.leaves(params), jax.tree.leaves(plain), strict=True):
        assert ours.dtype == np.float32
        np.testing.assert_allclose(ours, exact, rtol=2**-8)


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"encoder_final_norm": False}, "encoder_final_norm"),
        ({"decoder_vocab_size": 50}, "decoder_vocab_size"),
        ({"head": "prefix", "num_nodes": 5}, "head"),
        ({"activations": ("gelu", "relu")}, "activations"),
    ],
)
def test_departures_from_t5_are_not_written(changes, field, tmp_path):
    with pytest.raises(InputError, match=f"T5Config.{field} is .*cannot express"):
        save_safetensors(tmp_path / "out", {}, T5Config(**changes))
    assert not (tmp_path / "out").exists()


def test_tensors_of_another_model_are_named(broken):
    def change(tensors):
        del tensors["encoder.final_layer_norm.weight"]
        tensors["classifier.weight"] = np.zeros((2, 16), np.float32)
        for number in range(3):
            name = f"decoder.block.{number}.layer.2.DenseReluDense.wo.weight"
            tensors[name] = np.zeros((16, 25), np.float32)

    rewrite(broken, change)
    with pytest.raises(InputError) as caught:
        read_checkpoint(broken)
    message = str(caught.value)
    assert str(broken) in message
    assert "1 missing: encoder.final_layer_norm.weight [16]" in message
    assert "1 unexpected: classifier.weight [2, 16]" in message
    assert "3 different: decoder.block.*.layer.2.DenseReluDense.wo.weight ×3 [16, 25] instead of [16, 24]" in message


def test_missing_and_damaged_files(broken, tmp_path):
    with pytest.raises(InputError, match=r"no model.safetensors and no model.safetensors.index.json"):
        find_tensors(tmp_path)
    (broken / "config.json").rename(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config.json: the file is missing"):
        read_checkpoint(broken)
    (tmp_path / "config.json").rename(broken / "config.json")
    (broken / "model.safetensors").write_bytes((broken / "model.safetensors").read_bytes()[:-7])
    with pytest.raises(InputError, match=r"model.safetensors: damaged .* download"):
        read_checkpoint(broken)
    (broken / "model.safetensors").unlink()
    with pytest.raises(InputError, match=r"no model.safetensors and no model.safetensors.index.json"):
        read_checkpoint(broken)
    index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"model-00001-of-00002.safetensors: a shard is missing"):
        read_checkpoint(broken)
    described = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**described, "model_type": "bart"}))
    (broken / "model.safetensors.index.json").unlink()
    shutil.copy(GOLDEN / "t5_1_1" / "model.safetensors", broken)
    with pytest.raises(InputError, match=r"model_type 'bart'; expected 't5' or 'mt5'"):
        read_checkpoint(broken)


def test_shapes_are_known_before_anything_is_read(broken):
    _, params = read_checkpoint(broken)
    stored = find_tensors(broken)
    assert stored.shapes["shared.weight"] == (40, 16)
    assert {array.dtype for array in stored.arrays.values()} == {"float32"}
    assert stored.num_bytes == sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    np.testing.assert_array_equal(stored.arrays["shared.weight"].read(), params["token_embedder"]["embedding"])


def test_transformers_reads_what_we_write(tmp_path):
    torch = pytest.importorskip("torch", reason="torch, of which only this comparison has need, is not installed")
    transformers = pytest.importorskip(
        "transformers", reason="transformers, of which only this comparison has need, is not installed"
    )
    for family in FAMILIES:
        config, params = read_checkpoint(GOLDEN / family)
        save_safetensors(tmp_path / family, params, config)
        model = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / family).eval()
        expected = load_file(GOLDEN / family / "expected.safetensors")
        source, target = (torch.from_numpy(expected[name]).long() for name in ("source", "target"))
        with torch.no_grad():
            logits = model(input_ids=source, attention_mask=(source > 0).long(), decoder_input_ids=target).logits
        np.testing.assert_allclose(logits.numpy(), expected["logits"], atol=1e-4)


@pytest.mark.parametrize("name", ["../model.safetensors", "/etc/passwd", "a/../../b", 7, "", None])
def test_shards_outside_the_folder_are_refused(name, broken):
    shutil.move(broken / "model.safetensors", broken.parent)
    index = broken / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"shared.weight": name}}))
    with pytest.raises(InputError, match=r"index.json: names .* relative path within"):
        find_tensors(broken)


@pytest.mark.parametrize("content", [[], {}, {"weight_map": []}, {"weight_map": {}}, None, 3, "text"])
def test_an_index_of_another_form_is_refused(content, broken):
    (broken / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"index.json: .*(weight_map|expected an object)"):
        find_tensors(broken)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_layers": 10**9}, r"num_encoder_layers is 1000000000; expected from 1 to 1,000"),
        ({"num_decoder_layers": 10**9}, r"num_decoder_layers is 1000000000"),
        ({"d_model": 10**12}, r"d_model is 1000000000000; expected from 1 to 1,048,576"),
        ({"num_layers": "two"}, r"num_encoder_layers is 'two'; expected int"),
        ({"num_layers": None}, r"num_encoder_layers is None"),
        ({"vocab_size": [40]}, r"vocab_size is \[40\]"),
        ({"feed_forward_proj": ["relu"]}, r"feed_forward_proj \['relu'\]"),
        ({"model_type": {}}, r"model_type {}"),
        ({"scale_decoder_outputs": "yes"}, r"scale_decoder_outputs is 'yes'; expected bool"),
    ],
)
def test_values_of_config_json_that_cannot_be(changed, message, broken, annotations_unchecked):
    described = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**described, **changed}))
    with pytest.raises(InputError, match=rf"config.json: .*{message}"):
        read_checkpoint(broken)


@pytest.mark.parametrize("content", [[1], "t5", None, 5])
def test_a_config_json_of_another_form_is_refused(content, broken):
    (broken / "config.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"config.json: the JSON value is .*expected an object"):
        read_checkpoint(broken)
