"""Sentence encoders read from folders, against the same arithmetic in NumPy."""

import hashlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.special import erf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from genret_jax.cli import main
from genret_jax.data.corpus import read_beir
from genret_jax.docids import DocidTable
from genret_jax.errors import InputError
from genret_jax.models.encoders.bert import BertConfig, BertEncoder
from genret_jax.models.encoders.sentence import EncoderVectors, SentenceEncoder

LAYERS, HEADS, WIDTH, HIDDEN, POSITIONS = 2, 3, 12, 20, 40
WORDS = ["a", "fox", "runs", "over", "the", "lazy", "dog", "query:", "passage:"]
TEXTS = ["the fox", "a lazy dog runs over the fox over the dog", "", "unknown words"]
SPECIAL = {"bert": ["[PAD]", "[CLS]", "[SEP]", "[UNK]"], "mpnet": ["[CLS]", "[PAD]", "[SEP]", "[UNK]"]}


def write_folder(folder, kind, *, pooling="pooling_mode_mean_tokens", normalize=True, prompts=None, **changed):
    """Write a random encoder in the layout of sentence-transformers."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL[kind], *WORDS])}
    described = {
        "model_type": kind,
        "vocab_size": len(vocabulary),
        "hidden_size": WIDTH,
        "num_attention_heads": HEADS,
        "intermediate_size": HIDDEN,
        "num_hidden_layers": LAYERS,
        "max_position_embeddings": POSITIONS,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "hidden_dropout_prob": 0.1,
        "pad_token_id": vocabulary["[PAD]"],
    }
    described |= {"type_vocab_size": 2} if kind == "bert" else {"relative_attention_num_buckets": 8}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(described | changed))
    save_file(random_tensors(kind, len(vocabulary)), folder / "model.safetensors")
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    tokenizer.save(str(folder / "tokenizer.json"))
    parts = [("", "Transformer"), ("1_Pooling", "Pooling"), *([("2_Normalize", "Normalize")] if normalize else [])]
    listed = [{"path": path, "type": f"sentence_transformers.models.{name}"} for path, name in parts]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    modes = {name: name == pooling for name in ("pooling_mode_cls_token", "pooling_mode_mean_tokens")}
    modes |= {pooling: True, "word_embedding_dimension": WIDTH}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(modes))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 9}))
    (folder / "config_sentence_transformers.json").write_text(json.dumps({"prompts": prompts or {}}))
    return folder


def random_tensors(kind, vocab_size):
    shapes = {"embeddings.word_embeddings.weight": (vocab_size, WIDTH)}
    shapes["embeddings.position_embeddings.weight"] = (POSITIONS, WIDTH)
    norms = ["embeddings.LayerNorm"]
    if kind == "bert":
        shapes["embeddings.token_type_embeddings.weight"] = (2, WIDTH)
        names = {part: f"attention.self.{part}" for part in ("query", "key", "value")}
        names |= {"out": "attention.output.dense", "norm": "attention.output.LayerNorm"}
    else:
        shapes["encoder.relative_attention_bias.weight"] = (8, HEADS)
        names = {part: f"attention.attn.{part[0]}" for part in ("query", "key", "value")}
        names |= {"out": "attention.attn.o", "norm": "attention.LayerNorm"}
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}."
        maps = {names[part]: (WIDTH, WIDTH) for part in ("query", "key", "value", "out")}
        maps |= {"intermediate.dense": (HIDDEN, WIDTH), "output.dense": (WIDTH, HIDDEN)}
        for name, shape in maps.items():
            shapes |= {f"{layer}{name}.weight": shape, f"{layer}{name}.bias": shape[:1]}
        norms += [layer + names["norm"], f"{layer}output.LayerNorm"]
    for name in norms:
        shapes |= {f"{name}.weight": (WIDTH,), f"{name}.bias": (WIDTH,)}
    draw = np.random.default_rng(0)
    return {name: draw.normal(size=shape, scale=0.5).astype(np.float32) for name, shape in shapes.items()}


def states_by_numpy(folder, kind, ids):
    """Return the states of one text without padding, from the stored tensors."""
    stored = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}

    def mapped(x, name):
        return x @ stored[f"{name}.weight"].T + stored[f"{name}.bias"]

    def normed(x, name):
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return scaled * stored[f"{name}.weight"] + stored[f"{name}.bias"]

    length = len(ids)
    first = 0 if kind == "bert" else 2
    x = stored["embeddings.word_embeddings.weight"][ids]
    x = x + stored["embeddings.position_embeddings.weight"][first : first + length]
    bias = np.zeros((HEADS, length, length))
    if kind == "bert":
        x = x + stored["embeddings.token_type_embeddings.weight"][0]
    else:
        for query in range(length):
            for key in range(length):
                bias[:, query, key] = stored["encoder.relative_attention_bias.weight"][bucket(key - query)]
    x = normed(x, "embeddings.LayerNorm")
    attention = "attention.self.{}" if kind == "bert" else "attention.attn.{}"
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}."
        parts = [part if kind == "bert" else part[0] for part in ("query", "key", "value")]
        q, k, v = (mapped(x, layer + attention.format(part)).reshape(length, HEADS, -1) for part in parts)
        mixed = np.empty_like(q)
        for head in range(HEADS):
            logits = q[:, head] @ k[:, head].T / math.sqrt(WIDTH // HEADS) + bias[head]
            weights = np.exp(logits - logits.max(-1, keepdims=True))
            mixed[:, head] = weights / weights.sum(-1, keepdims=True) @ v[:, head]
        out, norm = ("output.dense", "output.LayerNorm") if kind == "bert" else ("attn.o", "LayerNorm")
        x = normed(x + mapped(mixed.reshape(length, -1), f"{layer}attention.{out}"), f"{layer}attention.{norm}")
        hidden = mapped(x, f"{layer}intermediate.dense")
        hidden = hidden * 0.5 * (1 + erf(hidden / math.sqrt(2)))
        x = normed(x + mapped(hidden, f"{layer}output.dense"), f"{layer}output.LayerNorm")
    return x


def bucket(offset):
    """MPNet's bucket of a distance, of 8: 4 for each direction, 2 of them exact, up to 128."""
    row, far = (4 if offset > 0 else 0), abs(offset)
    return row + (far if far < 2 else min(3, 2 + int(math.log(far / 2) / math.log(128 / 2) * 2)))


@pytest.mark.parametrize("pooling", ["pooling_mode_mean_tokens", "pooling_mode_cls_token", "pooling_mode_max_tokens"])
@pytest.mark.parametrize("kind", ["bert", "mpnet"])
def test_vectors_are_those_of_the_formulas(kind, pooling, tmp_path):
    normalize = pooling != "pooling_mode_max_tokens"
    folder = write_folder(tmp_path / "encoder", kind, pooling=pooling, normalize=normalize)
    encoder = SentenceEncoder.load(folder)
    found = encoder.vectors(TEXTS, batch_size=3)
    for text, vector in zip(TEXTS, found, strict=True):
        ids = encoder.tokenizer.encode(text).ids
        assert len(ids) <= 9
        states = states_by_numpy(folder, kind, ids)
        expected = {"mean": states.mean(0), "cls": states[0], "max": states.max(0)}[pooling.split("_")[2]]
        if normalize:
            expected /= np.linalg.norm(expected)
        np.testing.assert_allclose(vector, expected, atol=2e-5)


def test_long_texts_are_cut_and_prompts_are_put_before(tmp_path):
    prompts = {"query": "query: ", "passage": "passage: "}
    encoder = SentenceEncoder.load(write_folder(tmp_path / "encoder", "mpnet", prompts=prompts))
    tokens = encoder.tokens([" ".join(["fox"] * 30), "fox"])
    assert (tokens > 0).sum(1).tolist() == [9, 3]
    np.testing.assert_array_equal(encoder.vectors(["fox"], "query"), encoder.vectors(["query: fox"]))
    assert np.abs(encoder.vectors(["fox"], "query") - encoder.vectors(["fox"], "passage")).max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
def test_the_command_makes_docids_from_an_encoder(tiny_corpus, tmp_path, capsys):
    folder = write_folder(tmp_path / "encoder", "bert")
    options = ["--strategy", "residual", "--levels", "2", "--codebook", "4"]
    out = tmp_path / "docids"
    command = ["docids", "build", "--corpus", str(tiny_corpus), "--out", str(out), *options]
    assert main([*command, "--vectors", f"encoder:{folder}"]) == 0
    corpus = read_beir(tiny_corpus)
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    vectors = EncoderVectors(path=str(folder), batch_size=8).vectors(corpus)
    np.testing.assert_allclose(vectors, SentenceEncoder.load(folder).vectors(texts), atol=1e-6)
    assert len(DocidTable.load(out).doc_ids) == 41
    assert main([*command, "--vectors", "encodr:x"]) == 2
    assert "did you mean 'encoder'?" in capsys.readouterr().err


def test_the_command_shows_an_encoder(tmp_path, capsys):
    folder = write_folder(tmp_path / "encoder", "mpnet", prompts={"query": "query: "})
    digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert main(["encoder", "show", str(folder)]) == 0
    size = sum(array.size for array in load_file(folder / "model.safetensors").values())
    assert capsys.readouterr().out == (
        f"{folder}\n"
        f"  network     mpnet, 2 layers, width 12, 3 heads, {size:,} parameters\n"
        f"  input       9 tokens at most, vocabulary 13\n"
        f"  output      mean pooling, scaled to length 1\n"
        f"  prompts     query 'query: '\n"
        f"  licence     not named; see its source\n"
        f"  source      not recorded\n"
        f"  sha256      {digest} (recorded, with nothing to compare it with)\n"
    )
    assert main(["encoder", "show", "--json", str(folder)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["parameters"], shown["pooling"], shown["sha256"]) == (size, "mean", digest)


@pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
def test_a_downloaded_encoder_is_found_by_its_name(tiny_corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "genret" / "encoders").mkdir(parents=True)
    folder = write_folder(tmp_path / "genret" / "encoders" / "gte-small", "bert")
    corpus = read_beir(tiny_corpus)
    by_name, by_path = (EncoderVectors(path=path).vectors(corpus) for path in ("gte-small", str(folder)))
    np.testing.assert_array_equal(by_name, by_path)
    assert main(["encoder", "show", "gte-small"]) == 0
    assert str(folder) in capsys.readouterr().out
    missing = ["docids", "build", "--corpus", str(tiny_corpus), "--out", str(tmp_path / "docids")]
    assert main([*missing, "--vectors", "encoder:e5-small-v2"]) == 2
    assert "next: run 'genret encoder get e5-small-v2'" in capsys.readouterr().err


def test_padding_and_the_batch_change_nothing(tmp_path):
    encoder = SentenceEncoder.load(write_folder(tmp_path / "encoder", "bert"))
    together = encoder.vectors(TEXTS)
    alone = np.concatenate([encoder.vectors([text], batch_size=1) for text in TEXTS])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_a_folder_of_transformers_alone_is_averaged(tmp_path):
    whole, bare = (write_folder(tmp_path / name, "bert", normalize=False) for name in ("whole", "bare"))
    for name in ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"):
        (bare / name).unlink()
    encoder = SentenceEncoder.load(bare)
    assert encoder.max_length == POSITIONS
    np.testing.assert_array_equal(encoder.vectors(["the fox"]), SentenceEncoder.load(whole).vectors(["the fox"]))


def test_early_names_of_norms_and_a_model_around_the_encoder(tmp_path):
    new, early = (write_folder(tmp_path / name, "bert") for name in ("new", "early"))
    renamed = {
        "bert." + (name.replace(".weight", ".gamma").replace(".bias", ".beta") if "LayerNorm" in name else name): value
        for name, value in load_file(early / "model.safetensors").items()
    }
    save_file({**renamed, "cls.predictions.bias": np.zeros(3, np.float32)}, early / "model.safetensors")
    found, expected = (SentenceEncoder.load(folder).vectors(TEXTS) for folder in (early, new))
    np.testing.assert_array_equal(found, expected)


def test_every_parameter_has_logical_axes():
    config = BertConfig(vocab_size=8, d_model=4, num_heads=2, d_ff=4, num_layers=1, relative_buckets=8)
    variables = jax.eval_shape(BertEncoder(config).init, jax.random.key(0), jnp.ones((1, 3), jnp.int32))
    named = jax.tree.leaves(variables["params_axes"], is_leaf=lambda leaf: hasattr(leaf, "names"))
    assert len(named) == len(jax.tree.leaves(variables["params"]))


def test_rematerialisation_and_dropout(tmp_path):
    encoder = SentenceEncoder.load(write_folder(tmp_path / "encoder", "bert"))
    tokens, fields = jnp.asarray(encoder.tokens(TEXTS)), vars(encoder.config)
    states = BertEncoder(encoder.config).apply({"params": encoder.params}, tokens)
    again = BertEncoder(BertConfig(**{**fields, "remat": True})).apply({"params": encoder.params}, tokens)
    np.testing.assert_allclose(again, states, atol=1e-6)
    rngs = {"dropout": jax.random.key(0)}
    dropped = BertEncoder(encoder.config).apply({"params": encoder.params}, tokens, False, rngs=rngs)
    assert np.abs(np.asarray(dropped - states)).max() > 0.1


BAD = {
    "another family": ({"model_type": "gpt2"}, None, "model_type 'gpt2'; expected 'bert' or 'mpnet'"),
    "relative keys": ({"position_embedding_type": "relative_key"}, None, "position_embedding_type 'relative_key'"),
    "wrong width": ({"intermediate_size": 21}, None, r"intermediate.dense.weight has shape \[20, 12\]"),
    "layers left out": ({"num_hidden_layers": 1}, None, r"16 tensors that config.json does not have"),
    "padding": ({"pad_token_id": "x"}, None, "pad_token_id 'x'; expected a token below vocab_size 13"),
    "a length": ({}, ("sentence_bert_config.json", '{"max_seq_length": "9"}'), "max_seq_length '9'"),
    "heads": ({"num_attention_heads": 5}, None, r"config.json.*BertConfig.num_heads"),
    "pooling of another width": ({}, ("1_Pooling/config.json", '{"word_embedding_dimension": 8}'), "width 8"),
    "no pooling": ({}, ("1_Pooling/config.json", f'{{"word_embedding_dimension": {WIDTH}}}'), "pooling by nothing"),
    "a module": ({}, ("modules.json", '[{"type": "x.models.LSTM", "path": ""}]'), "the module LSTM"),
    "a path": ({}, ("modules.json", '[{"type": "x.Pooling", "path": "../up"}]'), r"names '../up' as a part"),
    "tokenizer": ({}, ("tokenizer.json", "{"), "not a tokenizer"),
    "weights": ({}, ("model.safetensors", "x"), "damaged"),
}


@pytest.mark.parametrize(("changed", "spoiled", "message"), BAD.values(), ids=BAD)
def test_folders_that_cannot_be_read(tmp_path, changed, spoiled, message):
    folder = write_folder(tmp_path / "encoder", "bert", **changed)
    if spoiled:
        (folder / spoiled[0]).write_text(spoiled[1])
    with pytest.raises(InputError, match=message):
        SentenceEncoder.load(folder)


def test_a_missing_pooling_file_and_a_missing_folder(tmp_path):
    folder = write_folder(tmp_path / "encoder", "bert")
    (folder / "1_Pooling" / "config.json").unlink()
    with pytest.raises(InputError, match=r"1_Pooling/config.json: the file is missing"):
        SentenceEncoder.load(folder)
    with pytest.raises(InputError, match="this is not a folder"):
        SentenceEncoder.load(tmp_path / "none")
