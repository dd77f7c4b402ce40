"""Sentence encoders read from folders give the vectors of sentence-transformers."""

import hashlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.encoder_folders import ENCODERS, TEXTS, change, copy_encoder, remove_module

from genret_jax.cli import main
from genret_jax.data.corpus import read_beir
from genret_jax.data.text.encoder_vocabulary import EncoderVocabulary
from genret_jax.docids import DocidTable
from genret_jax.models.encoders.bert import BertEncoder
from genret_jax.models.encoders.config import BertConfig
from genret_jax.models.encoders.pooling import encoded
from genret_jax.models.encoders.sentence import EncoderVectors, SentenceEncoder

# Both sides compute in float32 with sums in another order. That moves states of size 1 by up to 4e-6, and by 2e-5 in
# T5, whose attention is the most peaked. A GELU of the other kind moves them by 7e-4, another epsilon by 2e-3.
STATES, VECTORS = {"bert": 1e-5, "bert_dense": 1e-5, "mpnet": 1e-5, "t5": 5e-5}, 1e-5
LENGTHS = {"bert": 24, "bert_dense": 33, "mpnet": 165, "t5": 150}  # of the longest inputs; the long text is cut to them


@pytest.mark.parametrize("name", LENGTHS)
def test_tokens_and_states_equal_the_reference(name):
    encoder, expected = SentenceEncoder.load(ENCODERS / name), load_file(ENCODERS / name / "expected.safetensors")
    tokens = encoder.tokens(TEXTS)
    kept = tokens > 0
    assert kept.sum(1).tolist() == expected["lengths"].tolist()
    assert kept.sum(1).max() == encoder.max_length == LENGTHS[name]
    exchanged = {0: encoder.pad, encoder.pad: 0}
    assert tokens[kept].tolist() == [exchanged.get(token, token) for token in expected["tokens"].tolist()]
    states = np.asarray(encoded(encoder.params, jnp.asarray(tokens), encoder.config))[kept]
    np.testing.assert_allclose(states, expected["states"], atol=STATES[name], rtol=0)


@pytest.mark.parametrize("name", LENGTHS)
def test_vectors_with_prompts_equal_the_reference(name):
    encoder, expected = SentenceEncoder.load(ENCODERS / name), load_file(ENCODERS / name / "expected.safetensors")
    for role, key in (("query", "queries"), ("passage", "documents"), (None, "mean_normalized")):
        np.testing.assert_allclose(encoder.vectors(TEXTS, role), expected[key], atol=VECTORS, rtol=0)


@pytest.mark.parametrize("key", ["mean", "cls", "cls_normalized", "max", "max_normalized"])
@pytest.mark.parametrize("name", LENGTHS)
def test_poolings_equal_the_reference(name, key, tmp_path):
    folder = copy_encoder(name, tmp_path / "encoder")
    change(folder / "1_Pooling" / "config.json", pooling_mode=key.partition("_")[0])
    if "_" not in key:
        remove_module(folder, "Normalize")
    expected = load_file(folder / "expected.safetensors")[key]
    np.testing.assert_allclose(SentenceEncoder.load(folder).vectors(TEXTS), expected, atol=VECTORS, rtol=0)


@pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
@pytest.mark.parametrize("name", ["bert", "t5"])
def test_the_command_makes_docids_from_an_encoder(name, tiny_corpus, tmp_path, capsys):
    options = ["--strategy", "residual", "--levels", "2", "--codebook", "4"]
    out = tmp_path / "docids"
    command = ["docids", "build", "--corpus", str(tiny_corpus), "--out", str(out), *options]
    assert main([*command, "--vectors", f"encoder:{ENCODERS / name}"]) == 0
    corpus = read_beir(tiny_corpus)
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    vectors = EncoderVectors(path=str(ENCODERS / name), batch_size=8).vectors(corpus)
    np.testing.assert_allclose(vectors, SentenceEncoder.load(ENCODERS / name).vectors(texts, "passage"), atol=1e-6)
    assert len(DocidTable.load(out).doc_ids) == 41
    assert main([*command, "--vectors", "encodr:x"]) == 2
    assert "did you mean 'encoder'?" in capsys.readouterr().err


def test_padding_and_the_batch_change_nothing():
    encoder = SentenceEncoder.load(ENCODERS / "bert")
    together = encoder.vectors(TEXTS)
    for size in (1, 3):
        np.testing.assert_allclose(encoder.vectors(TEXTS, batch_size=size), together, atol=1e-6)
    assert encoder.vectors([]).shape == (0, 16)


def test_lengths_are_few():
    encoder = SentenceEncoder.load(ENCODERS / "mpnet")
    words = {10: 16, 20: 32, 126: 128, 127: 160, 158: 160, 159: 165, 300: 165}  # two special tokens, at most 165
    assert {number: encoder.tokens(["fox " * number]).shape[1] for number in words} == words


@pytest.mark.parametrize("name", ["bert", "t5"])
def test_a_folder_of_transformers_alone_is_averaged(name, tmp_path):
    bare = copy_encoder(name, tmp_path / "encoder")
    for file in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (bare / file).unlink()
    encoder = SentenceEncoder.load(bare)
    assert (encoder.pooling, encoder.projection, encoder.normalize) == ("mean", None, False)
    tokens = encoder.tokens(TEXTS)
    states = np.asarray(encoded(encoder.params, jnp.asarray(tokens), encoder.config))
    expected = [row[kept].mean(0) for row, kept in zip(states, tokens > 0, strict=True)]
    np.testing.assert_allclose(encoder.vectors(TEXTS), expected, atol=1e-5)


def test_early_names_of_norms_and_a_model_around_the_encoder(tmp_path):
    folder = copy_encoder("bert", tmp_path / "encoder")
    renamed = {
        "bert." + (name.replace(".weight", ".gamma").replace(".bias", ".beta") if "LayerNorm" in name else name): value
        for name, value in load_file(folder / "model.safetensors").items()
    }
    save_file({**renamed, "cls.predictions.bias": np.zeros(3, np.float32)}, folder / "model.safetensors")
    found, expected = (SentenceEncoder.load(path).params for path in (folder, ENCODERS / "bert"))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_every_parameter_has_logical_axes():
    config = BertConfig(vocab_size=8, d_model=4, num_heads=2, d_ff=4, num_layers=1, relative_buckets=8)
    variables = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), jnp.ones((1, 3), jnp.int32))
    named = jax.tree.leaves(variables["params_axes"], is_leaf=lambda leaf: hasattr(leaf, "names"))
    assert len(named) == len(jax.tree.leaves(variables["params"]))


def test_rematerialisation_and_dropout():
    encoder = SentenceEncoder.load(ENCODERS / "bert")
    tokens, fields = jnp.asarray(encoder.tokens(TEXTS)), vars(encoder.config)
    states = BertEncoder(encoder.config).apply({"params": encoder.params}, tokens)
    again = BertEncoder(BertConfig(**{**fields, "remat": True})).apply({"params": encoder.params}, tokens)
    np.testing.assert_allclose(again, states, atol=1e-6)
    rngs = {"dropout": jax.random.key(0)}
    dropped = BertEncoder(encoder.config).apply({"params": encoder.params}, tokens, False, rngs=rngs)
    assert np.abs(np.asarray(dropped - states)).max() > 0.1


def test_the_command_shows_an_encoder(tmp_path, capsys):
    folder = copy_encoder("mpnet", tmp_path / "encoder")
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert main(["encoder", "show", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"{folder}\n  network     mpnet, ")
    assert "  licence     not named; see its source\n  source      not recorded\n" in shown
    assert f"  sha256      {digest} (recorded, with nothing to compare it with)\n" in shown
    assert main(["encoder", "show", "--json", str(folder)]) == 0
    described = json.loads(capsys.readouterr().out)
    size = sum(leaf.size for leaf in jax.tree.leaves(SentenceEncoder.load(folder).params))
    assert (described["parameters"], described["sha256"]) == (size, digest)


@pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
def test_a_downloaded_encoder_is_found_by_its_name(tiny_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "genret" / "encoders").mkdir(parents=True)
    folder = copy_encoder("bert", tmp_path / "genret" / "encoders" / "gte-small")
    corpus = read_beir(tiny_corpus)
    by_name, by_path = (EncoderVectors(path=path).vectors(corpus) for path in ("gte-small", str(folder)))
    np.testing.assert_array_equal(by_name, by_path)
    missing = ["docids", "build", "--corpus", str(tiny_corpus), "--out", str(tmp_path / "docids")]
    assert main([*missing, "--vectors", "encoder:e5-small-v2"]) == 2
    assert "next: run 'genret encoder get e5-small-v2'" in capsys.readouterr().err


@pytest.mark.parametrize("name", LENGTHS)
@pytest.mark.parametrize("role", ["query", None])
def test_words_between_the_tokens_of_the_form_are_the_tokens_of_the_text(name, role):
    """A network tokenises word by word and adds the prompt and the special tokens on the device."""
    encoder = SentenceEncoder.load(ENCODERS / name)
    form, vocabulary = encoder.form(role), EncoderVocabulary(encoder.tokenizer, pad=encoder.pad)
    for text in TEXTS:
        expected = encoder.tokens([text], role)[0]
        expected = expected[expected > 0].tolist()
        found = [*form.first_tokens, *vocabulary.encode(text), form.last_token]
        assert found == expected or (
            len(expected) == encoder.max_length and found[: len(expected) - 1] == expected[:-1]
        )
