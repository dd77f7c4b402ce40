"""genret checkpoint: what it shows, writes and refuses."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file
from support.checkpoints import read_checkpoint
from support.encoder_folders import ENCODERS, TEXTS
from support.encoder_runs import encoder_experiment
from support.tiny_run import tiny_experiment

from genret_jax.cli import main
from genret_jax.data.text.vocabulary import train_sentencepiece
from genret_jax.models.config import PlanConfig
from genret_jax.models.convert.public_checkpoint import open_checkpoint
from genret_jax.models.convert.t5x_legacy import save_t5x
from genret_jax.models.encoders.provenance import provenance
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.run import open_run, prepare, train_run
from genret_jax.training.t5x.checkpoint import read_t5x_params

GOLDEN = Path(__file__).resolve().parent.parent / "golden"


@pytest.fixture
def t5x(tmp_path):
    config, params = read_checkpoint(GOLDEN / "t5_1_0")
    save_t5x(tmp_path / "t5x", params, config, step=1_000_000)
    return tmp_path / "t5x"


def output(capsys, *arguments):
    assert main(["checkpoint", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def error(capsys, *arguments):
    assert main(["checkpoint", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_show(t5x, capsys):
    shown = output(capsys, "show", GOLDEN / "t5_1_1")
    leaves = jax.tree.leaves(read_checkpoint(GOLDEN / "t5_1_1")[1])
    assert f"T5 of {sum(leaf.size for leaf in leaves):,} parameters: vocabulary 40, width 16" in shown
    assert "2 encoder and 3 decoder layers, " in shown
    assert "3 heads of 6, feed-forward 24 (gelu × linear), output layer separate" in shown
    assert f"Hugging Face safetensors, {len(leaves)} arrays of 0.06 MiB" in shown
    assert "decoder.block.*.layer.2.DenseReluDense.wi_0.weight ×3" in shown
    shown = output(capsys, "show", t5x)
    assert "T5X, its own layout" in shown
    assert "step 1,000,000, 1 other arrays" in shown
    assert "(relu), output layer tied to the embedding" in shown


def test_show_of_a_run(tiny_run, capsys):
    shown = output(capsys, "show", tiny_run)
    assert "a run of 'genret train', its best checkpoint; T5Config.head = 'prefix'" in shown
    assert "token_embedder/embedding" in shown
    described = json.loads(output(capsys, "show", tiny_run, "--json"))
    assert described["network"]["head"] == "prefix"
    assert described["step"] in (10, 20, 30)


def test_show_as_json(t5x, capsys):
    shown = json.loads(output(capsys, "show", t5x, "--json"))
    assert (shown["step"], shown["other_arrays"]) == (1_000_000, 1)
    assert shown["arrays"]["token_embedder/embedding"] == {"dtype": "float32", "shape": [40, 16]}
    assert shown["network"]["num_decoder_layers"] == 3
    assert shown["bytes"] == sum(4 * np.prod(array["shape"]) for array in shown["arrays"].values())


def test_show_of_another_network_prints_what_is_there_and_fails(t5x, capsys):
    shutil.rmtree(t5x / "checkpoint_1000000" / "target.decoder.decoder_norm.scale")
    assert "decoder_norm.scale: no Zarr array" in error(capsys, "show", t5x)
    broken = shutil.copytree(GOLDEN / "t5_1_1", t5x / "other")
    described = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps({**described, "d_ff": 32}))
    assert main(["checkpoint", "show", str(broken)]) == 2
    printed = capsys.readouterr()
    assert "shared.weight" in printed.out
    assert "decoder.block.*.layer.2.DenseReluDense.wi_0.weight ×3 [24, 16] instead of [32, 16]" in printed.err


def test_import_between_layouts_and_back(t5x, tmp_path, capsys):
    printed = output(capsys, "import", t5x, "--out", tmp_path / "hf")
    assert "vocabulary 40" in printed
    output(capsys, "import", tmp_path / "hf", "--out", tmp_path / "back", "--layout", "t5x")
    config, params = read_checkpoint(GOLDEN / "t5_1_0")
    for name in ("hf", "back"):
        checkpoint = open_checkpoint(tmp_path / name)
        assert checkpoint.config == config
        embedding = checkpoint.load()["token_embedder"]["embedding"]
        np.testing.assert_array_equal(embedding, params["token_embedder"]["embedding"])


def test_import_with_more_rows_and_the_vocabulary(t5x, tmp_path, capsys):
    model = train_sentencepiece(["one two three four"] * 9, size=50, normalization="none").model
    (tmp_path / "pieces.model").write_bytes(model)
    arguments = ["--vocabulary", tmp_path / "pieces.model", "--rows", "64", "--seed", "5"]
    printed = output(capsys, "import", t5x, "--out", tmp_path / "more", *arguments)
    assert "vocabulary 64" in printed
    assert (tmp_path / "more" / "spiece.model").read_bytes() == model
    config, params = read_checkpoint(tmp_path / "more")
    assert config.vocab_size == 64
    old = read_checkpoint(GOLDEN / "t5_1_0")[1]["token_embedder"]["embedding"]
    np.testing.assert_array_equal(params["token_embedder"]["embedding"][:40], old)
    # What lies beside a checkpoint goes with it.
    output(capsys, "import", tmp_path / "more", "--out", tmp_path / "t5x-again", "--layout", "t5x")
    assert (tmp_path / "t5x-again" / "spiece.model").read_bytes() == model


def test_bad_input_leaves_nothing(t5x, tmp_path, capsys):
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    assert "the output already exists" in error(capsys, "import", t5x, "--out", tmp_path / "taken")
    assert "a vocabulary of 3 rows" in error(capsys, "import", t5x, "--out", tmp_path / "out", "--rows", 3)
    assert "no checkpoint here" in error(capsys, "import", tmp_path / "taken", "--out", tmp_path / "out")
    wrong = ["--vocabulary", tmp_path / "taken" / "mine.txt"]
    assert "not a SentencePiece model" in error(capsys, "import", t5x, "--out", tmp_path / "out", *wrong)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.fixture(scope="module")
def text_run(tiny_corpus, tmp_path_factory):
    """An untrained run of T5's own head."""
    model = {"head": "vocabulary", "encoder_final_norm": True, "num_nodes": 0}
    experiment = tiny_experiment(tiny_corpus, model=model, start=None)
    with pytest.warns(UserWarning, match="neither title nor text"):
        return prepare(experiment, tmp_path_factory.mktemp("text") / "run", log=lambda line: None)


@pytest.mark.parametrize("layout", ["huggingface", "t5x"])
def test_export_of_a_run(layout, text_run, tmp_path, capsys):
    arguments = ["--run", text_run.folder, "--out", tmp_path / "out", "--layout", layout, "--checkpoint", "start"]
    printed = output(capsys, "export", *arguments)
    assert "step 0, T5 of" in printed
    assert f"text is tokens 0 to {text_run.vocabulary.size - 1:,}" in printed
    checkpoint = open_checkpoint(tmp_path / "out")
    assert checkpoint.config.vocab_size == text_run.model.vocab_size
    params, start = checkpoint.load(), text_run.start_params()
    for stack in ("encoder", "decoder"):
        found, expected = (tree[stack]["layers_0"]["mlp"]["wo"]["kernel"] for tree in (params, start))
        np.testing.assert_array_equal(found, expected)
    # The tiny run's vocabulary normalises words itself, which a SentencePiece model alone would not.
    assert not (tmp_path / "out" / "spiece.model").exists()


def test_a_head_of_its_own_is_not_exported(tiny_run, tmp_path, capsys):
    printed = error(capsys, "export", "--run", tiny_run, "--out", tmp_path / "out")
    assert "T5Config.head is 'prefix', which public T5 layouts cannot express" in printed
    assert not (tmp_path / "out").exists()
    assert "no run here" in error(capsys, "export", "--run", tmp_path, "--out", tmp_path / "out")


def test_any_network_for_t5x(tiny_run, tmp_path, capsys):
    arguments = ["--run", tiny_run, "--out", tmp_path / "out", "--layout", "t5x-orbax", "--checkpoint", "20"]
    path = tmp_path / "out" / "checkpoint_20"
    assert f"--gin.INITIAL_CHECKPOINT_PATH=\"'{path.resolve()}'\"" in output(capsys, "export", *arguments)
    wanted = open_run(tiny_run).params(20)
    jax.tree.map(np.testing.assert_array_equal, read_t5x_params(path, wanted), wanted)
    assert "the output already exists" in error(capsys, "export", *arguments)
    elsewhere = [*arguments[:3], tmp_path / "other", *arguments[4:-1], "3"]
    assert "no checkpoint 3" in error(capsys, "export", *elsewhere)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def encoder_run(tiny_corpus, tmp_path_factory):
    """A run whose encoder was trained, behind a query layer."""
    plan = PlanConfig(dense=True)
    experiment = encoder_experiment(tiny_corpus, plan=plan, rates=(), steps=2, model={"query_width": 8})
    with pytest.warns(UserWarning, match="neither title nor text"):
        return train_run(experiment, tmp_path_factory.mktemp("encoder") / "run")


def test_export_of_an_untrained_encoder_gives_its_tensors_back(encoder_run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--run", encoder_run.folder, "--out", out, "--layout", "sentence-transformers"]
    printed = output(capsys, "export", *arguments, "--checkpoint", "start")
    assert f"for SentenceTransformer('{out}') or Experiment.encoder" in printed
    assert "the query layer (T5Config.query_width = 8) is not in it" in printed
    found, expected = (load_file(folder / "model.safetensors") for folder in (out, ENCODERS / "bert"))
    assert found.keys() == expected.keys()
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    for name in ("config.json", "modules.json", "tokenizer.json", "1_Pooling/config.json"):
        assert (out / name).read_bytes() == (ENCODERS / "bert" / name).read_bytes()


def test_export_of_a_trained_encoder(encoder_run, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["--run", encoder_run.folder, "--out", out, "--layout", "sentence-transformers"]
    output(capsys, "export", *arguments, "--checkpoint", "last")
    exported, began = SentenceEncoder.load(out), encoder_run.parts.encoder
    trained = dataclasses.replace(began, params=encoder_run.params("last")["encoder"])
    for role in ("query", "passage"):  # with their prompts
        np.testing.assert_array_equal(exported.vectors(TEXTS, role), trained.vectors(TEXTS, role))
        assert np.abs(exported.vectors(TEXTS, role) - began.vectors(TEXTS, role)).max() > 1e-3
    assert provenance(out)["source"].startswith("2 steps of genret_jax, begun with ")
    assert "the output already exists" in error(capsys, "export", *arguments)


def test_export_of_all_parameters_by_their_names(encoder_run, tmp_path, capsys):
    out = tmp_path / "out"
    printed = output(capsys, "export", "--run", encoder_run.folder, "--out", out, "--layout", "safetensors")
    params, found = encoder_run.params("best"), load_file(out / "model.safetensors")
    assert f"{len(jax.tree.leaves(params))} arrays in model.safetensors, the network in network.json" in printed
    np.testing.assert_array_equal(found["query_vector/wi/kernel"], params["query_vector"]["wi"]["kernel"])
    np.testing.assert_array_equal(found["plan/dense_scale"], params["plan"]["dense_scale"])
    described = json.loads((out / "network.json").read_text())
    assert described["network"] == json.loads(json.dumps(dataclasses.asdict(encoder_run.model)))
    assert described["fingerprints"]["docids"] == encoder_run.table.fingerprint
    shown = json.loads(output(capsys, "show", out, "--json"))
    assert shown["network"]["query_width"] == 8
    assert {name: tuple(array["shape"]) for name, array in shown["arrays"].items()} == {
        name: array.shape for name, array in found.items()
    }


def test_layouts_that_do_not_hold_a_run(encoder_run, tiny_run, tmp_path, capsys):
    out = tmp_path / "out"
    printed = error(capsys, "export", "--run", encoder_run.folder, "--out", out)
    assert "T5Config.encoder is a BertConfig, which public T5 layouts cannot express" in printed
    assert "or export it with --layout safetensors" in printed
    printed = error(capsys, "export", "--run", tiny_run, "--out", out, "--layout", "sentence-transformers")
    assert "does not begin with a pretrained sentence encoder; expected a run with Experiment.encoder" in printed
    assert not out.exists()
