"""``genret docids``: tables built, tables shown, and what is refused."""

import dataclasses
import json

import numpy as np
import pytest
from support.small_interactions import small_shop

from genret_jax import cli
from genret_jax.config.gin_files import recipe_experiment
from genret_jax.data.interactions import EMBEDDINGS, read_corpus, write_interactions
from genret_jax.data.vectors import LsaVectors
from genret_jax.docids import DocidTable, HierarchicalKMeans, ResidualKMeans, load_quantiser


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    words = ["rose", "tulip", "lily", "iron", "copper", "zinc"]
    documents = [
        {"_id": f"d{i}", "title": f"{word} {i}", "text": f"{word} about {word}"} for i, word in enumerate(words * 5)
    ]
    (folder / "corpus.jsonl").write_text("\n".join(map(json.dumps, documents)))
    return folder


def genret(capsys, *arguments):
    code = cli.main(["docids", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_semantic_docids_are_built_from_lsa_and_shown_with_titles(corpus, tmp_path, capsys):
    out = tmp_path / "docids"
    options = ("--branching", 3, "--leaf-size", 5, "--seed", 2)
    code, printed, _ = genret(capsys, "build", "--corpus", corpus, "--out", out, *options)
    assert code == 0
    assert "30 documents, 30 docids" in printed
    table = DocidTable.load(out)
    assert dict(table.strategy) == {"name": "semantic", "branching": 3, "leaf_size": 5, "seed": 2}
    assert max(table.padded().max(0)) < 5
    code, printed, _ = genret(capsys, "inspect", out, "--corpus", corpus)
    assert code == 0
    assert "collisions: none" in printed
    assert "root: 30 docids" in printed
    assert "rose 0" in printed
    code, printed, _ = genret(capsys, "inspect", out, "--json")
    assert json.loads(printed)["documents"] == 30


def test_vectors_come_from_a_file(corpus, tmp_path, capsys):
    np.save(tmp_path / "v.npy", np.repeat(np.eye(3), 10, axis=0))
    out = tmp_path / "docids"
    options = ("--strategy", "residual", "--levels", 1, "--codebook", 3, "--vectors", tmp_path / "v.npy")
    assert genret(capsys, "build", "--corpus", corpus, "--out", out, *options)[0] == 0
    codes = DocidTable.load(out).padded()
    assert [len(set(codes[start : start + 10, 0].tolist())) for start in (0, 10, 20)] == [1, 1, 1]
    assert codes[:, 1].tolist() == [*range(10)] * 3


@pytest.mark.parametrize(("strategy", "levels"), [("atomic", (30,)), ("naive", (10, 10))])
def test_docids_without_vectors(corpus, tmp_path, capsys, strategy, levels):
    out = tmp_path / "docids"
    assert genret(capsys, "build", "--corpus", corpus, "--out", out, "--strategy", strategy)[0] == 0
    assert DocidTable.load(out).level_sizes == levels


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--strategy", "semantc"], "invalid choice: 'semantc'"),
        (["--strategy", "atomic", "--branching", "3"], "--branching with --strategy atomic"),
        (["--levels", "3"], "leave it out, or choose --strategy residual"),
        (["--strategy", "naive", "--vectors", "lsa"], "--vectors with --strategy naive, which needs none"),
        (["--vectors", "lsaa"], "did you mean 'lsa'?"),
        (["--vectors", "absent.npy"], "absent.npy: the file is missing"),
        (["--vectors", "WRONG.npy"], "29 vectors"),
        (["--branching", "1"], "--branching 1; expected at least 2"),
        (["--seed", "-1"], "--seed -1"),
        (["--strategy", "rq-vae"], "30 documents for codebooks of 256"),
        (["--strategy", "rq-vae", "--optimizer", "adam"], "--optimizer adam; expected one of 'adamw', 'adagrad'"),
        (["--strategy", "codes.npy"], "invalid choice: 'codes.npy'"),
        (
            ["--strategy", "file:codes"],
            "choose from semantic, atomic, naive, residual, product, rq-vae, lsh, random, file:",
        ),
        (["--strategy", "file:absent.npy"], "absent.npy: the file is missing"),
        (["--strategy", "file:absent.npy", "--levels", "2"], "--levels with --strategy file:absent.npy"),
        (["--strategy", "random", "--hyperplanes", "2"], "leave it out, or choose --strategy lsh"),
        (["--strategy", "random", "--no-rotation"], "--rotation with --strategy random"),
        (
            ["--strategy", "product", "--levels", "999"],
            "999 levels of product quantisation; expected at least one number",
        ),
        (["--strategy", "random", "--quantiser-out", "q"], "--quantiser-out with --strategy random, which fits none"),
        (["--strategy", "lsh", "--quantiser-out", "docids"], "expected two folders, neither within the other"),
        (["--strategy", "lsh", "--quantiser-out", "docids/q"], "expected two folders, neither within the other"),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_mistakes_leave_nothing_behind(corpus, tmp_path, capsys, monkeypatch, options, message):
    monkeypatch.chdir(tmp_path)
    np.save("WRONG.npy", np.zeros((29, 2)))
    before = sorted(tmp_path.iterdir())
    code, printed, error = genret(capsys, "build", "--corpus", corpus, "--out", tmp_path / "docids", *options)
    assert code == 2
    assert not printed
    assert message in error
    assert error.count("\n") == 1
    assert sorted(tmp_path.iterdir()) == before


def test_items_are_described_by_the_file_beside_them_as_in_training(tmp_path, capsys):
    shop = small_shop()
    write_interactions(shop, tmp_path / "shop")
    np.save(tmp_path / "shop" / EMBEDDINGS, np.random.default_rng(0).standard_normal((len(shop.items), 5)))
    arguments = ("--corpus", tmp_path / "shop", "--strategy", "lsh", "--quantiser-out", tmp_path / "quantiser")
    code, _, error = genret(capsys, "build", *arguments, "--out", tmp_path / "docids")
    assert code == 0
    assert EMBEDDINGS in error
    assert load_quantiser(tmp_path / "quantiser").arrays["hyperplanes"].shape[-1] == 5


def test_codes_come_from_a_file(corpus, tmp_path, capsys):
    codes = np.stack([np.arange(30) % 3, np.arange(30) // 3], 1)
    np.save(tmp_path / "codes.npy", codes)
    build = ("build", "--corpus", corpus, "--strategy", f"file:{tmp_path / 'codes.npy'}")
    assert genret(capsys, *build, "--out", tmp_path / "docids")[0] == 0
    np.testing.assert_array_equal(DocidTable.load(tmp_path / "docids").padded(), codes)
    assert genret(capsys, *build, "--separate", "--out", tmp_path / "separate")[0] == 0
    assert DocidTable.load(tmp_path / "separate").padded().shape == (30, 3)


@pytest.mark.parametrize("strategy", ["random", "lsh", "residual", "product"])
def test_codes_without_the_one_that_separates(corpus, tmp_path, capsys, strategy):
    arguments = ("--corpus", corpus, "--out", tmp_path / "docids", "--strategy", strategy, "--levels", 2)
    code = genret(capsys, "build", *arguments, "--no-separate")[0]
    assert code == 0
    assert DocidTable.load(tmp_path / "docids").padded().shape == (30, 2)


def test_a_quantiser_is_saved_and_the_docids_compared_with_vectors(corpus, tmp_path, capsys):
    vectors, saved, out = tmp_path / "v.npy", tmp_path / "quantiser", tmp_path / "docids"
    np.save(vectors, np.random.default_rng(0).standard_normal((30, 4)).astype(np.float32))
    options = ("--levels", 2, "--codebook", 4, "--width", 2, "--epochs", 3, "--batch-size", 16)
    arguments = ("--corpus", corpus, "--strategy", "rq-vae", "--vectors", vectors, *options)
    code, printed, _ = genret(capsys, "build", *arguments, "--out", out, "--quantiser-out", saved)
    assert code == 0
    assert "variance that is not reconstructed" in printed
    table = DocidTable.load(out)
    assert table.strategy["epochs"] == 3
    np.testing.assert_array_equal(load_quantiser(saved).codes(np.load(vectors)), table.padded()[:, :2])
    code, printed, _ = genret(capsys, "inspect", out, "--vectors", vectors, "--quantiser", saved, "--json")
    described = json.loads(printed)
    assert code == 0
    assert len(described["vectors"]["relative_errors"]) == 2
    assert len(described["vectors"]["prefixes"]) == 3
    code, _, error = genret(capsys, "inspect", out, "--quantiser", saved)
    assert (code, "--quantiser without --vectors" in error) == (2, True)
    np.save(vectors, np.zeros((29, 4)))
    code, _, error = genret(capsys, "inspect", out, "--vectors", vectors)
    assert (code, "[29, 4]; expected [30, width]" in error) == (2, True)


def test_an_existing_output_is_kept(corpus, tmp_path, capsys):
    (tmp_path / "docids").mkdir()
    (tmp_path / "docids" / "mine.txt").write_text("precious")
    code, _, error = genret(capsys, "build", "--corpus", corpus, "--out", tmp_path / "docids", "--strategy", "atomic")
    assert code == 2
    assert "the output already exists" in error
    assert (tmp_path / "docids" / "mine.txt").read_text() == "precious"


def test_inspect_refuses_what_it_cannot_show(corpus, tmp_path, capsys):
    code, _, error = genret(capsys, "inspect", corpus)
    assert code == 2
    assert "no docid_table here" in error
    out = tmp_path / "docids"
    genret(capsys, "build", "--corpus", corpus, "--out", out, "--strategy", "atomic")
    assert "--depth 0" in genret(capsys, "inspect", out, "--depth", 0)[2]
    (corpus / "corpus.jsonl").write_text('{"_id": "other", "text": "x"}')
    code, _, error = genret(capsys, "inspect", out, "--corpus", corpus)
    assert code == 2
    assert f"{out}: docids of another corpus" in error


def test_help_lists_the_defaults_of_the_strategies_classes(capsys):
    printed = " ".join(genret(capsys, "build", "--help")[1].split())
    for text in (
        f"--branching BRANCHING clusters that a cluster is divided into (semantic: {HierarchicalKMeans().branching})",
        f"--leaf-size LEAF_SIZE largest number of documents of a cluster that is not divided (semantic: "
        f"{HierarchicalKMeans().leaf_size})",
        "(residual, rq-vae, random: 3; product: 8; lsh: 4)",
        f"codes per level (residual, product, rq-vae, random: {ResidualKMeans().codebook})",
        "--optimizer NAME adamw or adagrad (rq-vae: adamw)",
        "learning rate (rq-vae: 0.001)",
        "documents with equal codes (residual, product, rq-vae, lsh, random: yes; file: no)",
        "(semantic, residual, product, rq-vae, lsh: 4)",
        "rotate the vectors so that their sub-vectors quantise best (product: yes)",
        "'genret train --docids DIR' uses these",
    ):
        assert text in printed


@pytest.mark.parametrize("recipe", ["semantic", "nci"])
def test_documents_get_the_docids_that_training_would_give_them(recipe, corpus, tmp_path, capsys):
    experiment = recipe_experiment(recipe, str(corpus), overrides={})
    strategy = [] if recipe == "semantic" else ["--branching", 30, "--leaf-size", 30]
    assert genret(capsys, "build", "--corpus", corpus, "--out", tmp_path / "docids", *strategy)[0] == 0
    documents = read_corpus(corpus)
    vectors = experiment.vectors.vectors(documents)
    trained = experiment.docids.assign(documents.doc_ids, vectors, experiment.docid_seed, documents.fingerprint)
    built = DocidTable.load(tmp_path / "docids")
    assert (built.fingerprint, built.strategy) == (trained.fingerprint, trained.strategy)
    assert built.corpus_fingerprint == trained.corpus_fingerprint


def test_items_get_the_docids_that_training_would_give_them(tmp_path, capsys):
    write_interactions(small_shop(), tmp_path / "shop")
    experiment = recipe_experiment("tiger", str(tmp_path / "shop"), overrides={})
    arguments = ("--corpus", tmp_path / "shop", "--out", tmp_path / "docids", "--codebook", 4)
    assert genret(capsys, "build", *arguments)[0] == 0
    items = read_corpus(tmp_path / "shop")
    strategy = dataclasses.replace(experiment.docids, codebook=4)
    trained = strategy.assign(items.doc_ids, LsaVectors().vectors(items), experiment.docid_seed, items.fingerprint)
    assert DocidTable.load(tmp_path / "docids").fingerprint == trained.fingerprint


@pytest.mark.parametrize("action", ["build", "inspect"])
def test_help_has_an_example(capsys, action):
    code, printed, _ = genret(capsys, action, "--help")
    assert code == 0
    assert f"genret docids {action}" in printed.partition("example:")[2]


@pytest.mark.parametrize("strategy", ["semantic", "residual"])
def test_vectors_beyond_the_memory_are_read_piece_by_piece(strategy, corpus, tmp_path, capsys):
    np.save(tmp_path / "vectors.npy", np.random.default_rng(0).standard_normal((30, 4)).astype(np.float16))
    arguments = ("build", "--corpus", corpus, "--strategy", strategy, "--vectors", tmp_path / "vectors.npy")
    code, printed, _ = genret(capsys, *arguments, "--out", tmp_path / "docids", "--memory-gib", 1e-7)
    assert code == 0
    assert "30 documents, 30 docids" in printed
    assert DocidTable.load(tmp_path / "docids").strategy["memory_gib"] == 1e-7
    code, _, err = genret(capsys, *arguments, "--out", tmp_path / "none", "--memory-gib", 0)
    assert code == 2
    assert "--memory-gib 0.0; expected more than 0" in err


def test_items_get_docids_as_documents_do(tmp_path, capsys):
    write_interactions(small_shop(), tmp_path / "shop")
    strategy = ["--strategy", "random", "--out", tmp_path / "ids"]
    code, out, _ = genret(capsys, "build", "--corpus", tmp_path / "shop", *strategy)
    assert code == 0
    assert "24 documents" in out
    code, out, _ = genret(capsys, "inspect", tmp_path / "ids", "--corpus", tmp_path / "shop")
    assert code == 0
    assert any(title in out for title in small_shop().items.titles)
