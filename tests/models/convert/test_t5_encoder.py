"""Encoders of T5 read alone."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.checkpoints import read_checkpoint
from support.encoder_folders import ENCODERS, change, copy_encoder

from genret_jax.errors import InputError
from genret_jax.models.convert.t5_encoder import read_t5_encoder


@pytest.mark.parametrize("name", ["t5_1_0", "t5_1_1"])
def test_the_encoder_of_a_whole_t5(name):
    folder = ENCODERS.parent / name
    config, params = read_t5_encoder(folder)
    whole_config, whole = read_checkpoint(folder)
    assert (config.num_encoder_layers, config.activations) == (2, whole_config.activations)
    expected = {part: whole[part] for part in ("token_embedder", "encoder")}
    jax.tree.map(np.testing.assert_array_equal, params, expected)


def test_the_embedding_under_the_name_of_its_copy(tmp_path):
    folder = copy_encoder("t5", tmp_path / "encoder")
    stored = load_file(folder / "model.safetensors")
    stored["encoder.embed_tokens.weight"] = stored.pop("shared.weight")
    save_file(stored, folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, read_t5_encoder(folder)[1], read_t5_encoder(ENCODERS / "t5")[1])


BAD = {
    "padding": ({"pad_token_id": 3}, "pad_token_id 3; expected 0"),
    "width": ({"d_ff": 21}, "do not fit config.json: .*DenseReluDense"),
    "layers": ({"num_layers": 1}, "do not fit config.json: .*unexpected"),
    "activation": ({"feed_forward_proj": "tanh"}, "feed_forward_proj 'tanh'"),
}


@pytest.mark.parametrize(("fields", "message"), BAD.values(), ids=BAD)
def test_folders_that_cannot_be_read(tmp_path, fields, message):
    folder = copy_encoder("t5", tmp_path / "encoder")
    change(folder / "config.json", **fields)
    with pytest.raises(InputError, match=message):
        read_t5_encoder(folder)
