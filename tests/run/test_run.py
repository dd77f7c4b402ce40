"""Run folders: opened with all their parts, and refused where the parts are of another run."""

import json
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest
from support.tiny_run import EMPTY, tiny_experiment

from genret_jax.config.experiment import EvaluationConfig, VocabularyConfig
from genret_jax.data.corpus import read_beir
from genret_jax.docids import AtomicDocids, DocidCodec, DocidTable
from genret_jax.errors import InputError
from genret_jax.run import open_run, prepare
from genret_jax.storage import read_json, write_json

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
PARTS = ("corpus", "docids", "examples")


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """A prepared, untrained run of atomic docids; not to be changed."""
    experiment = tiny_experiment(tiny_corpus, docids=AtomicDocids(), vocabulary=VocabularyConfig(kind="bytes"))
    return prepare(experiment, tmp_path_factory.mktemp("whole") / "run", log=lambda line: None)


def test_a_run_opens_again_with_all_its_parts(whole, tiny_corpus):
    again = open_run(whole.folder)
    given = read_beir(tiny_corpus)
    assert again.corpus.doc_ids == given.doc_ids
    assert again.corpus.fingerprint == given.fingerprint
    assert {q for split in ("train", "validation") for q in again.corpus.qrels[split]} == set(given.qrels["train"])
    assert again.table.num_documents == len(given)
    assert again.model == whole.model
    assert again.sampler == whole.sampler
    assert again.evaluation == EvaluationConfig(beam=10, validation_beam=10, batch_size=16)
    assert again.fingerprints == whole.fingerprints
    assert again.model.num_nodes >= again.encoded.tree.num_nodes
    assert again.model.output_vocab_size > again.encoded.tokens.max()
    assert (again.model.vocab_size % 8, again.model.output_vocab_size % 8, again.model.num_nodes % 8) == (0, 0, 0)
    np.testing.assert_array_equal(again.encoded.tokens, whole.store.array("docid_tokens"))
    assert again.corpus.empty_documents == (again.corpus.document_index[EMPTY],)


def test_queries_are_tokenised_as_the_store_has_them(whole):
    ids, tokens = whole.store.queries("test", whole.sampler.input_length)
    np.testing.assert_array_equal(whole.encode([whole.corpus.queries[i] for i in ids]), tokens)


def test_what_is_no_run_is_refused(tmp_path, whole):
    with pytest.raises(InputError, match=r"no run here \(run.json is missing\)"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        open_run(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**whole.settings, "version": 99}))
    with pytest.raises(InputError, match="a run of version 99"):
        open_run(tmp_path)


def test_parts_of_another_run_are_noticed(whole, tmp_path):
    copy = shutil.copytree(whole.folder, tmp_path / "copy")
    corpus = (copy / "corpus" / "corpus.jsonl").read_text()
    (copy / "corpus" / "corpus.jsonl").write_text(corpus.replace("ban", "bananas"))
    with pytest.raises(InputError, match="another corpus than this run was made with"):
        open_run(copy).corpus  # noqa: B018
    shutil.rmtree(copy / "docids")
    table = whole.table
    DocidTable.from_codes(
        list(table.doc_ids),
        table.padded()[::-1].copy(),
        strategy={"name": "other"},
        corpus_fingerprint=table.corpus_fingerprint,
    ).save(copy / "docids")
    with pytest.raises(InputError, match="another docids than this run was made with"):
        open_run(copy).table  # noqa: B018


def test_a_checkpoint_of_another_model_or_corpus_is_refused(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    settings = read_json(copy / "run.json")
    settings["model"]["T5Config.d_ff"] = "48"
    write_json(copy / "run.json", settings)
    for look in (open_run(copy).params, open_run(copy).require_checkpoint):
        with pytest.raises(InputError) as error:
            look()
        assert "a checkpoint of another model (" in str(error.value)
        assert "float32[32, 32] instead of float32[48, 32]" in str(error.value)
    settings["model"]["T5Config.d_ff"] = "32"
    settings["fingerprints"]["vocabulary"] = "0123456789abcdef"
    write_json(copy / "run.json", settings)
    run = open_run(copy)
    for look in (run.params, run.require_checkpoint):
        with pytest.raises(InputError, match="a checkpoint made with another vocabulary"):
            look()
    for look in (open_run(tiny_run).params, open_run(tiny_run).require_checkpoint):
        with pytest.raises(InputError, match=r"no checkpoint 7; expected|no checkpoint 7: "):
            look(7)


def test_a_run_not_yet_trained_says_so(whole):
    for look in (whole.params, whole.require_checkpoint):
        with pytest.raises(InputError, match="no checkpoints here"):
            look()
    whole.require_checkpoint("start")


def test_the_untrained_network_is_the_same_every_time(tiny_run):
    first, second = open_run(tiny_run).params("start"), open_run(tiny_run).params("start")
    import jax

    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_node_vectors_by_hand():
    """Documents 0 and 1 lie below node (0,), document 2 in (1,), document 3 has no vector."""
    sequences = [(0, 0), (0, 1), (1,), (2,)]
    table = DocidTable.from_codes(list("abcd"), sequences, strategy={"name": "hand"}, corpus_fingerprint="")
    encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes).encode(table)
    vectors = encoded.node_vectors(np.array([[2.0, 0.0], [0.0, 3.0], [-5.0, 0.0], [0.0, 0.0]], np.float32))
    by_path = {(): [0, 1], (0,): [1, 1], (0, 0): [1, 0], (0, 1): [0, 1], (1,): [-1, 0], (2,): [0, 0]}
    for node in range(table.num_nodes):
        path, at = (), node
        while at:
            path, at = (int(table.node_code[at]), *path), int(table.node_parent[at])
        np.testing.assert_allclose(vectors[node], by_path[path], atol=1e-6)


def test_node_means_by_hand():
    """As before; a node is as long as the documents below it are in the mean, however they differ."""
    sequences = [(0, 0), (0, 1), (1,), (2,)]
    table = DocidTable.from_codes(list("abcd"), sequences, strategy={"name": "hand"}, corpus_fingerprint="")
    encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes).encode(table)
    means = encoded.node_means(np.array([[3.0, 0.0], [0.0, 4.0], [-5.0, 0.0], [0.0, 0.0]], np.float32))
    by_path = {(0,): [2.1, 2.8], (0, 0): [3, 0], (0, 1): [0, 4], (1,): [-5, 0], (2,): [0, 0]}
    for path, expected in by_path.items():
        node = 0
        for code in path:
            node = int(np.flatnonzero((table.node_parent == node) & (table.node_code == code))[0])
        np.testing.assert_allclose(means[node], expected, atol=1e-6)


def test_a_document_of_several_docids_gives_its_direction_to_each_and_eos_edges_have_nodes():
    table = DocidTable.from_codes(
        ["a", "b"], [(0,), (0, 1), (1,)], document=[0, 1, 1], strategy={"name": "hand"}, corpus_fingerprint=""
    )
    encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes).encode(table)
    vectors = encoded.node_vectors(np.array([[4.0, 0.0], [0.0, 9.0]], np.float32))
    ends = np.flatnonzero(encoded.tree.node_token == 1)
    assert len(ends) == 1
    np.testing.assert_allclose(vectors[ends[0]], [1, 0])
    np.testing.assert_allclose(vectors[0], [1, 2])  # the root is passed once a row


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_end(tiny_corpus, tiny_run, tmp_path):
    """SIGKILL right after a checkpoint's name appears, then the same command again."""
    folder = tmp_path / "run"
    script = textwrap.dedent(f"""
        import os, signal, sys, threading, time
        from support.tiny_run import tiny_experiment
        from genret_jax.run import train_run
        def watch():
            while not os.path.isdir({str(folder / "checkpoints" / "10")!r}):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[1] == "kill":
            threading.Thread(target=watch, daemon=True).start()
        train_run(tiny_experiment({str(tiny_corpus)!r}), {str(folder)!r})
    """)
    codes = [
        subprocess.run([sys.executable, "-c", script, mode], capture_output=True, timeout=1200).returncode
        for mode in ("kill", "go on")
    ]
    assert codes == [-9, 0]
    ours, theirs = (
        [json.loads(line) for line in (where / "metrics.jsonl").read_text().splitlines()]
        for where in (folder, tiny_run)
    )
    assert [(record["step"], record["kind"]) for record in ours] == [(r["step"], r["kind"]) for r in theirs]
    # Bit for bit within a process kind (tests/training); another process may divide its sums among threads otherwise.
    for mine, other in zip(ours, theirs, strict=True):
        for timed in ("steps_per_second", "examples_per_second", "kind"):
            mine.pop(timed, None), other.pop(timed, None)
        assert mine == pytest.approx(other, rel=1e-5)
