"""Run folders: prepared part by part, gone on with after any interruption, and refused where they do not fit."""

import json
import os
import shutil
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from genret_jax import prepare as prepare_module
from genret_jax.data.corpus import read_beir
from genret_jax.docids import AtomicDocids, DocidCodec, DocidTable
from genret_jax.errors import InputError
from genret_jax.experiment import EvaluationConfig, VocabularyConfig
from genret_jax.prepare import prepare
from genret_jax.run import IDENTITY, LOCK, Run, node_vectors
from genret_jax.storage import folder_lock, read_json, write_json
from genret_jax.testing.tiny_run import EMPTY, tiny_experiment, tiny_topics, write_tiny_corpus
from genret_jax.train import train

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
PARTS = ("corpus", "docids", "examples")


class Killed(BaseException):
    """The process is gone; nothing of ours catches this."""


def atomic_experiment(corpus, **fields):
    """An experiment whose preparation compiles nothing."""
    return tiny_experiment(corpus, **{"docids": AtomicDocids(), "vocabulary": VocabularyConfig(kind="bytes"), **fields})


def prepared(experiment, folder):
    lines = []
    return prepare(experiment, folder, log=lines.append), lines


@pytest.fixture(scope="module")
def whole(tiny_corpus, tmp_path_factory):
    """A prepared, untrained run of atomic docids; not to be changed."""
    return prepared(atomic_experiment(tiny_corpus), tmp_path_factory.mktemp("whole") / "run")[0]


def test_a_run_opens_again_with_all_its_parts(whole, tiny_corpus):
    again = Run.open(whole.folder)
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
    np.testing.assert_array_equal(whole.encode_queries([whole.corpus.queries[i] for i in ids]), tokens)


def test_preparing_again_makes_nothing_anew(whole, tiny_corpus):
    before = {file: file.stat().st_mtime_ns for part in PARTS for file in (whole.folder / part).rglob("*")}
    again, lines = prepared(atomic_experiment(tiny_corpus), whole.folder)
    assert before == {file: file.stat().st_mtime_ns for part in PARTS for file in (whole.folder / part).rglob("*")}
    assert again.fingerprints == whole.fingerprints
    assert [line.split()[0] for line in lines] == list(PARTS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_preparing_goes_on_where_it_was_killed(whole, tiny_corpus, tmp_path, monkeypatch, part, moment):
    make = prepare_module._make

    def interrupted(path, write):
        if path.name != part:
            return make(path, write)
        if moment == "within":
            monkeypatch.setattr("genret_jax.storage.os.rename", _die)  # all is written, nothing has its name yet
        if moment != "before":
            make(path, write)
        raise Killed

    def _die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "_make", interrupted)
        with pytest.raises(Killed):
            prepared(atomic_experiment(tiny_corpus), tmp_path / "run")
    monkeypatch.undo()
    made = {name for name in PARTS if (tmp_path / "run" / name).exists()}
    assert made == set(PARTS[: PARTS.index(part) + (moment == "after")])
    again, _ = prepared(atomic_experiment(tiny_corpus), tmp_path / "run")
    assert again.fingerprints == whole.fingerprints
    assert again.store.fingerprint == whole.store.fingerprint


def test_a_killed_writer_leaves_a_name_that_training_sweeps_away(tmp_path, tiny_corpus):
    folder = tmp_path / "run"
    (folder / ".docids.partial-1-ab").mkdir(parents=True)
    (folder / ".run.json.partial-1-ab").write_text("{")
    with pytest.raises(InputError, match="best_metric"):
        train(run=str(folder), experiment=atomic_experiment(tiny_corpus, trainer={"best_metric": "validation/mrr@3"}))
    assert not folder.exists()


def test_what_cannot_be_prepared_leaves_nothing(tiny_corpus, tmp_path):
    cases = {
        "no such corpus": (atomic_experiment(tmp_path / "nowhere"), "the folder is missing"),
        "no such model": (
            atomic_experiment(tiny_corpus, vocabulary=VocabularyConfig(kind="file", path=str(tmp_path / "x.model"))),
            "x.model: cannot be read",
        ),
        "no such table": (atomic_experiment(tiny_corpus, docids=str(tmp_path / "no-table")), "no docid_table here"),
        "best metric": (
            atomic_experiment(tiny_corpus, trainer={"best_metric": "validation/mmr@10"}),
            "TrainerConfig.best_metric is 'validation/mmr@10'; expected one of validation/hits@1",
        ),
        "attention too narrow": (atomic_experiment(tiny_corpus, model={"d_kv": 8}), "T5Config.num_heads * d_kv is 16"),
    }
    for name, (experiment, message) in cases.items():
        for existed in (False, True) if name.startswith("no such") else (False,):
            folder = tmp_path / f"{name} {existed}"
            if existed:
                folder.mkdir()
                (folder / ".gitkeep").touch()
            with pytest.raises(InputError) as error:
                train(run=str(folder), experiment=experiment)
            assert message in str(error.value)
            assert folder.exists() == existed
            if existed:
                assert set(os.listdir(folder)) <= {".gitkeep", LOCK}


def test_a_folder_of_something_else_is_refused_and_untouched(tiny_corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and not a run \(it has 'thesis.txt'\)"):
        train(run=str(tmp_path), experiment=atomic_experiment(tiny_corpus))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_run_of_another_experiment_or_corpus_is_refused_by_what_differs(whole, tiny_corpus, tmp_path):
    with pytest.raises(InputError) as error:
        prepared(atomic_experiment(tiny_corpus, model={"d_ff": 48}), whole.folder)
    assert "belongs to another T5Config.d_ff = 32; expected 48" in str(error.value)
    with pytest.raises(InputError) as error:
        prepared(atomic_experiment(tiny_corpus, hold_out=0.2, trainer={"seed": 9}), whole.folder)
    assert "another Experiment.hold_out = 0.1 and 1 more differences" in str(error.value)
    changed = shutil.copytree(tiny_corpus, tmp_path / "topics")
    with open(changed / "qrels" / "test.tsv", "a") as file:
        file.write("td2\td9\t1\n")
    with pytest.raises(InputError, match="belongs to another corpus"):
        prepared(atomic_experiment(changed), whole.folder)
    assert Run.open(whole.folder).fingerprints == whole.fingerprints


def test_a_second_process_is_refused_in_one_line(tiny_corpus, tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder / LOCK, doing="training"), pytest.raises(InputError) as error:
        train(run=str(folder), experiment=atomic_experiment(tiny_corpus))
    assert f"another process is using this folder (training, process {os.getpid()})" in str(error.value)
    assert (folder / LOCK).is_dir()


def test_docids_of_another_corpus_are_refused(tmp_path, tiny_corpus, whole):
    other = write_tiny_corpus(tmp_path / "other")
    text = (other / "corpus.jsonl").read_text().replace("ban", "bananas")
    (other / "corpus.jsonl").write_text(text)
    with pytest.raises(InputError) as error:
        prepared(atomic_experiment(other, docids=str(whole.folder / "docids")), tmp_path / "run")
    assert "docids of another corpus" in str(error.value)
    assert not (tmp_path / "run").exists()
    used, _ = prepared(atomic_experiment(tiny_corpus, docids=str(whole.folder / "docids")), tmp_path / "run")
    assert used.table.fingerprint == whole.table.fingerprint


def test_what_is_no_run_is_refused(tmp_path, whole):
    with pytest.raises(InputError, match=r"no run here \(run.json is missing\)"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        Run.open(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**whole.settings, "version": 99}))
    with pytest.raises(InputError, match="a run of version 99"):
        Run.open(tmp_path)


def test_parts_of_another_run_are_noticed(whole, tmp_path):
    copy = shutil.copytree(whole.folder, tmp_path / "copy")
    corpus = (copy / "corpus" / "corpus.jsonl").read_text()
    (copy / "corpus" / "corpus.jsonl").write_text(corpus.replace("ban", "bananas"))
    with pytest.raises(InputError, match="another corpus than this run was made with"):
        Run.open(copy).corpus  # noqa: B018
    shutil.rmtree(copy / "docids")
    table = whole.table
    DocidTable.from_codes(
        list(table.doc_ids),
        table.padded()[::-1].copy(),
        strategy={"name": "other"},
        corpus_fingerprint=table.corpus_fingerprint,
    ).save(copy / "docids")
    with pytest.raises(InputError, match="another docids than this run was made with"):
        Run.open(copy).table  # noqa: B018


def test_a_checkpoint_of_another_model_or_corpus_is_refused(tiny_run, tmp_path):
    copy = shutil.copytree(tiny_run, tmp_path / "copy")
    settings = read_json(copy / "run.json")
    settings["model"]["fields"]["d_ff"] = 48
    write_json(copy / "run.json", settings)
    with pytest.raises(InputError) as error:
        Run.open(copy).params()
    assert "a checkpoint of another model (" in str(error.value)
    assert "wi_0/kernel: checkpoint float32[32, 32], this run float32[32, 48]" in str(error.value)
    settings["model"]["fields"]["d_ff"] = 32
    settings["fingerprints"]["vocabulary"] = "0123456789abcdef"
    write_json(copy / "run.json", settings)
    run = Run.open(copy)
    with pytest.raises(InputError, match="a checkpoint made with another vocabulary"):
        run.params()
    with pytest.raises(InputError, match=r"no checkpoint 7; expected|no checkpoint 7: "):
        Run.open(tiny_run).params(7)


def test_a_run_not_yet_trained_says_so(whole):
    with pytest.raises(InputError, match="no checkpoints here"):
        whole.params()


def test_a_run_remembers_its_identity_by_name(whole, tiny_corpus):
    identity = read_json(whole.folder / IDENTITY)
    assert identity["Experiment.docids"] == "@AtomicDocids()"
    assert {**atomic_experiment(tiny_corpus).identity(), "corpus": identity["corpus"]} == identity


def test_the_untrained_network_is_the_same_every_time(tiny_run):
    first, second = Run.open(tiny_run).params("start"), Run.open(tiny_run).params("start")
    import jax

    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_node_vectors_by_hand():
    """Documents 0 and 1 lie below node (0,), document 2 in (1,), document 3 has no vector."""
    sequences = [(0, 0), (0, 1), (1,), (2,)]
    table = DocidTable.from_codes(list("abcd"), sequences, strategy={"name": "hand"}, corpus_fingerprint="")
    encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes).encode(table)
    vectors = node_vectors(encoded, np.array([[2.0, 0.0], [0.0, 3.0], [-5.0, 0.0], [0.0, 0.0]], np.float32))
    by_path = {(): [0, 1], (0,): [1, 1], (0, 0): [1, 0], (0, 1): [0, 1], (1,): [-1, 0], (2,): [0, 0]}
    for node in range(table.num_nodes):
        path, at = (), node
        while at:
            path, at = (int(table.node_code[at]), *path), int(table.node_parent[at])
        np.testing.assert_allclose(vectors[node], by_path[path], atol=1e-6)


def test_a_document_of_several_docids_gives_its_direction_to_each_and_eos_edges_have_nodes():
    table = DocidTable.from_codes(
        ["a", "b"], [(0,), (0, 1), (1,)], document=[0, 1, 1], strategy={"name": "hand"}, corpus_fingerprint=""
    )
    encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes).encode(table)
    vectors = node_vectors(encoded, np.array([[4.0, 0.0], [0.0, 9.0]], np.float32))
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
        from genret_jax.testing.tiny_run import tiny_experiment
        from genret_jax.train import train
        def watch():
            while not os.path.isdir({str(folder / "checkpoints" / "10")!r}):
                time.sleep(0.001)
            os.kill(os.getpid(), signal.SIGKILL)
        if sys.argv[1] == "kill":
            threading.Thread(target=watch, daemon=True).start()
        train(run={str(folder)!r}, experiment=tiny_experiment({str(tiny_corpus)!r}))
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


def test_a_corpus_of_a_few_queries_keeps_no_empty_split(tmp_path):
    import dataclasses

    few = dataclasses.replace(tiny_topics(), queries={"q": "ban"}, qrels={"train": {"q": {"d0": 1}}})
    run, _ = prepared(atomic_experiment(write_tiny_corpus(tmp_path / "few", few)), tmp_path / "run")
    assert run.corpus.qrels == {"train": {"q": {"d0": 1}}}
