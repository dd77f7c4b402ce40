"""Encoders written as folders of sentence-transformers."""

from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.encoder_folders import ENCODERS, TEXTS, change, copy_encoder, remove_module

from genret_jax.models.convert.bert_layout import bert_tensors, read_bert
from genret_jax.models.convert.sentence_folder import write_sentence_folder
from genret_jax.models.encoders.sentence import SentenceEncoder


@pytest.mark.parametrize("name", ["bert", "mpnet"])  # whose padding is not token 0
def test_untrained_parameters_give_the_same_files(name, tmp_path):
    write_sentence_folder(tmp_path / "out", read_bert(ENCODERS / name)[1], ENCODERS / name, step=0)
    found, expected = (load_file(folder / "model.safetensors") for folder in (tmp_path / "out", ENCODERS / name))
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    encoders = [SentenceEncoder.load(folder) for folder in (tmp_path / "out", ENCODERS / name)]
    np.testing.assert_array_equal(*(encoder.vectors(TEXTS, "query") for encoder in encoders))


def test_all_minilm_comes_back_bit_for_bit():
    folder = Path.home() / ".cache" / "genret" / "encoders" / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        pytest.skip("all-MiniLM-L6-v2 has not been downloaded here")
    found, expected = bert_tensors(folder, read_bert(folder)[1]), load_file(folder / "model.safetensors")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():  # with the int64 of its positions
        assert found[name].dtype == tensor.dtype
        np.testing.assert_array_equal(found[name], tensor)


def test_half_precision_becomes_single(tmp_path):
    source = copy_encoder("bert", tmp_path / "source")
    change(source / "config.json", torch_dtype="bfloat16", dtype=None)
    weights = source / "model.safetensors"
    save_file({name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in load_file(weights).items()}, weights)
    write_sentence_folder(tmp_path / "out", read_bert(source)[1], source, step=3)
    assert {tensor.dtype for tensor in load_file(tmp_path / "out" / "model.safetensors").values()} == {np.dtype("f4")}
    assert '"torch_dtype": "float32"' in (tmp_path / "out" / "config.json").read_text()
    encoders = [SentenceEncoder.load(folder) for folder in (tmp_path / "out", source)]
    np.testing.assert_array_equal(*(encoder.vectors(TEXTS) for encoder in encoders))


@pytest.mark.parametrize("kind", ["no modules", "own folder"])
def test_other_arrangements_of_the_source(kind, tmp_path):
    """A folder of transformers alone, and one whose network has a folder of its own, as early ones do."""
    source = copy_encoder("bert", tmp_path / "source")
    if kind == "no modules":
        (source / "modules.json").unlink()
        (source / "1_Pooling" / "config.json").unlink()
    else:
        remove_module(source, "Transformer")
        modules = (source / "modules.json").read_text()
        network = '{"idx": 0, "name": "0", "path": "0_BERT", "type": "sentence_transformers.models.Transformer"}'
        (source / "modules.json").write_text(f"[{network}, {modules[1:]}")
        (source / "0_BERT").mkdir()
        for name in ("config.json", "tokenizer.json", "model.safetensors"):
            (source / name).rename(source / "0_BERT" / name)
    write_sentence_folder(tmp_path / "out", SentenceEncoder.load(source).params, source, step=0)
    assert (tmp_path / "out" / "modules.json").is_file()
    encoders = [SentenceEncoder.load(folder) for folder in (tmp_path / "out", source)]
    np.testing.assert_array_equal(*(encoder.vectors(TEXTS) for encoder in encoders))
