"""Folders of sentence encoders in older forms, and those that cannot be read."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.encoder_folders import change, copy_encoder

from genret_jax.errors import InputError
from genret_jax.models.convert.sentence_modules import (
    find_modules,
    read_max_length,
    read_pooling,
    read_projection,
    read_prompts,
    read_tokenizer,
)
from genret_jax.models.encoders.sentence import SentenceEncoder

FLAGS = {"cls": "pooling_mode_cls_token", "max": "pooling_mode_max_tokens", "mean": "pooling_mode_mean_tokens"}


@pytest.mark.parametrize("pooling", FLAGS)
def test_early_folders_have_flags_of_poolings(pooling, tmp_path):
    flags = {flag: name == pooling for name, flag in FLAGS.items()} | {"pooling_mode_mean_sqrt_len_tokens": False}
    (tmp_path / "config.json").write_text(json.dumps({"word_embedding_dimension": 16, **flags}))
    assert read_pooling(tmp_path, 16) == pooling


def test_early_folders_have_the_network_in_a_folder_of_its_own(tmp_path):
    moved = copy_encoder("bert", tmp_path / "encoder")
    (moved / "0_Transformer").mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "sentence_bert_config.json"):
        (moved / name).rename(moved / "0_Transformer" / name)
    change(moved / "0_Transformer" / "sentence_bert_config.json", max_seq_length=9)
    listed = json.loads((moved / "modules.json").read_text())
    (moved / "modules.json").write_text(json.dumps([{**listed[0], "path": "0_Transformer"}, *listed[1:]]))
    encoder = SentenceEncoder.load(moved)
    assert encoder.max_length == 9
    assert encoder.prompts == {"query": "query: ", "passage": "passage: "}


def test_the_longest_input_is_that_of_the_first_file_that_names_one(tmp_path):
    assert (read_max_length(tmp_path, 40), read_max_length(tmp_path, None)) == (40, 512)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 10**30}))
    assert (read_max_length(tmp_path, 40), read_max_length(tmp_path, None)) == (40, 512)
    change(tmp_path / "tokenizer_config.json", model_max_length=30)
    assert (read_max_length(tmp_path, 20), read_max_length(tmp_path, None)) == (20, 30)
    (tmp_path / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": None}))
    assert read_max_length(tmp_path, None) == 30
    change(tmp_path / "sentence_bert_config.json", max_seq_length=256)
    assert read_max_length(tmp_path, None) == 256


PROMPTS = [
    ({}, "", ""),
    ({"query": "q: ", "document": None}, "q: ", ""),
    ({"document": "", "passage": "p: "}, "", "p: "),
    ({"query": "q: ", "document": "d: ", "corpus": "c: "}, "q: ", "d: "),
]


@pytest.mark.parametrize(("stored", "query", "passage"), PROMPTS)
def test_prompts_of_queries_and_documents(stored, query, passage, tmp_path):
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps({"prompts": stored}))
    assert read_prompts(tmp_path) == {"query": query, "passage": passage}


def test_a_tokenizer_that_keeps_capitals_may_be_told_to_lower_them(tmp_path):
    folder = copy_encoder("t5", tmp_path / "encoder")
    rows = {}
    for lower in (False, True):
        change(folder / "sentence_bert_config.json", do_lower_case=lower)
        rows[lower] = [read_tokenizer(folder).encode(text).ids for text in ("The FOX", "the fox")]
    assert rows[False][0] != rows[False][1] == rows[True][1] == rows[True][0]


def test_a_map_has_the_default_activation_and_may_have_no_bias(tmp_path):
    folder = copy_encoder("bert_dense", tmp_path / "encoder") / "2_Dense"
    stored = load_file(folder / "model.safetensors")
    change(folder / "config.json", activation_function=None, bias=False)
    save_file({"linear.weight": stored["linear.weight"]}, folder / "model.safetensors")
    found = read_projection(folder, 12)
    assert found.activation == "tanh"
    np.testing.assert_array_equal(found.kernel, stored["linear.weight"].T)
    np.testing.assert_array_equal(found.bias, np.zeros(9))


BERT, POOLING, DENSE = "config.json", "1_Pooling/config.json", "2_Dense/config.json"
CHANGED = {
    "another family": (BERT, {"model_type": "gpt2"}, "model_type 'gpt2'; expected 'bert', 'mpnet' or 't5'"),
    "relative keys": (BERT, {"position_embedding_type": "relative_key"}, "position_embedding_type 'relative_key'"),
    "wrong width": (BERT, {"intermediate_size": 21}, r"intermediate.dense.weight has shape \[20, 12\]"),
    "no layers": (BERT, {"num_hidden_layers": 0}, "BertConfig.num_layers"),
    "more layers": (BERT, {"num_hidden_layers": 2}, r"encoder.layer.1.*is missing; expected shape \[12, 12\]"),
    "padding": (BERT, {"pad_token_id": "x"}, "pad_token_id 'x'; expected a token below vocab_size 73"),
    "heads": (BERT, {"num_attention_heads": 5}, r"config.json.*BertConfig.num_heads"),
    "a length": ("sentence_bert_config.json", {"max_seq_length": "9"}, "max_seq_length '9'"),
    "pooling of another width": (POOLING, {"embedding_dimension": 8}, "width 8; expected 12"),
    "no pooling": (POOLING, {"pooling_mode": None}, "pooling by nothing"),
    "another pooling": (POOLING, {"pooling_mode": "lasttoken"}, "pooling by lasttoken"),
    "two poolings": (POOLING, {"pooling_mode": ["cls", "mean"]}, "pooling by cls, mean"),
    "a flag of another pooling": (
        POOLING,
        {"pooling_mode": None, "pooling_mode_lasttoken": True},
        "pooling by pooling_mode_lasttoken",
    ),
    "no pooling at all": (POOLING, {"pooling_mode": 3}, "pooling by 3"),
    "prompts left out": (POOLING, {"include_prompt": False}, "include_prompt False; expected True"),
    "another activation": (DENSE, {"activation_function": "torch.nn.ReLU"}, "activation_function ReLU"),
    "a map of tokens": (DENSE, {"module_input_name": "token_embeddings"}, "module_input_name 'token_embeddings'"),
    "a residual": (DENSE, {"use_residual": True}, "use_residual True; expected False"),
    "a map of another width": (DENSE, {"out_features": 5}, r"linear.weight \[9, 12\] instead of \[5, 12\]"),
    "no bias": (DENSE, {"bias": False}, "unexpected: linear.bias"),
}
SPOILED = {
    "tokenizer": ("tokenizer.json", "{", "not a tokenizer"),
    "weights": ("model.safetensors", "x", "damaged"),
    "a module": ("modules.json", '[{"type": "x.models.LSTM", "path": ""}]', "the module LSTM"),
    "a path": ("modules.json", '[{"type": "x.Pooling", "path": "../up"}]', r"names '../up' as a part"),
}


@pytest.mark.parametrize(("file", "fields", "message"), CHANGED.values(), ids=CHANGED)
def test_folders_with_a_field_that_cannot_be_read(tmp_path, file, fields, message):
    folder = copy_encoder("bert_dense", tmp_path / "encoder")
    change(folder / file, **fields)
    with pytest.raises(InputError, match=message):
        SentenceEncoder.load(folder)


@pytest.mark.parametrize(("file", "content", "message"), SPOILED.values(), ids=SPOILED)
def test_folders_with_a_damaged_file(tmp_path, file, content, message):
    folder = copy_encoder("bert", tmp_path / "encoder")
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=message):
        SentenceEncoder.load(folder)


@pytest.mark.parametrize("kinds", ["Pooling Transformer", "Transformer Pooling Normalize Dense", "Transformer Dense"])
def test_modules_in_another_order(tmp_path, kinds):
    listed = [{"type": f"x.{kind}", "path": kind} for kind in kinds.split()]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match=f"the modules {kinds.replace(' ', ', ')}; expected Transformer, Pooling"):
        find_modules(tmp_path)


def test_a_module_twice(tmp_path):
    listed = [{"type": f"x.{kind}", "path": ""} for kind in ("Transformer", "Pooling", "Dense", "Dense")]
    (tmp_path / "modules.json").write_text(json.dumps(listed))
    with pytest.raises(InputError, match="the modules Transformer, Pooling, Dense, Dense"):
        find_modules(tmp_path)


def test_layers_that_are_left_out(tmp_path):
    folder = copy_encoder("bert", tmp_path / "encoder")
    change(folder / "config.json", num_hidden_layers=1)
    with pytest.raises(InputError, match=r"16 tensors that config.json does not have"):
        SentenceEncoder.load(folder)


@pytest.mark.parametrize("module", ["", "2_Dense"])
def test_pickled_weights(tmp_path, module):
    folder = copy_encoder("bert_dense", tmp_path / "encoder")
    (folder / module / "model.safetensors").rename(folder / module / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pickled weights.*model.safetensors; next: save the encoder anew"):
        SentenceEncoder.load(folder)


def test_a_missing_pooling_file_and_a_missing_folder(tmp_path):
    folder = copy_encoder("bert", tmp_path / "encoder")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputError, match=r"1_Pooling/config.json: the file is missing"):
        SentenceEncoder.load(folder)
    with pytest.raises(InputError, match="this is not a folder"):
        SentenceEncoder.load(tmp_path / "none")
