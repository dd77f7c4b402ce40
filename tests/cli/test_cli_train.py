"""``genret train``: everything that may be wrong with what it is given, each in one line, and nothing left behind."""

import errno
import os
import shutil

import numpy as np
import pytest
from support.tiny_run import tiny_experiment

from genret_jax import cli, training
from genret_jax.config.experiment import VocabularyConfig
from genret_jax.config.record import record_text
from genret_jax.data.vectors import NpyVectors
from genret_jax.docids import AtomicDocids, HierarchicalKMeans
from genret_jax.run import open_run, prepare
from genret_jax.training import TrainResult

# Preparing it compiles nothing.
PLAIN = {"docids": AtomicDocids(), "vocabulary": VocabularyConfig(kind="bytes")}


@pytest.fixture
def place(tmp_path, tiny_corpus):
    """A folder with a corpus to damage and a gin file to train it by."""
    shutil.copytree(tiny_corpus, tmp_path / "corpus")
    write_gin(tmp_path)
    return tmp_path


def write_gin(place, **fields):
    experiment = tiny_experiment(place / "corpus", **{**PLAIN, **fields})
    (place / "tiny.gin").write_text(record_text(str(place / "run"), experiment))


def genret(place, *options):
    return cli.main(["train", f"--gin_file={place / 'tiny.gin'}", *map(str, options)])


def refused(place, capsys, *options):
    """Return the one error line of a command that must leave nothing."""
    assert genret(place, *options) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = [line for line in captured.err.splitlines() if line.startswith("genret: error: ")]
    assert len(lines) == 1, captured.err
    assert "Traceback" not in captured.err
    assert captured.err.splitlines()[-1] == lines[0]
    assert not (place / "run").exists()
    return lines[0].removeprefix("genret: error: ")


def set_line(file, number, text):
    lines = file.read_text().splitlines()
    lines[number - 1] = text
    file.write_text("\n".join(lines) + "\n")


DAMAGE = {
    "no folder": (lambda c: shutil.rmtree(c), "corpus: the folder is missing; expected a BEIR folder"),
    "no file": (lambda c: (c / "corpus.jsonl").unlink(), "corpus.jsonl: the file is missing"),
    "no documents": (lambda c: (c / "corpus.jsonl").write_text("\n"), "corpus.jsonl: no documents; expected"),
    "broken JSON": (lambda c: set_line(c / "corpus.jsonl", 3, '{"_id": "d2"'), "corpus.jsonl:3: broken JSON"),
    "no id": (lambda c: set_line(c / "corpus.jsonl", 2, '{"text": "x"}'), "corpus.jsonl:2: a record without '_id'"),
    "duplicate ids": (
        lambda c: set_line(c / "corpus.jsonl", 4, '{"_id": "d0", "text": "x"}'),
        "corpus.jsonl:4: '_id' 'd0' again, first on line 1",
    ),
    "unknown document": (
        lambda c: set_line(c / "qrels" / "train.tsv", 3, "qd1\td99\t1"),
        "train.tsv:3: unknown document 'd99' (did you mean 'd9'?)",
    ),
    "unknown query": (lambda c: set_line(c / "qrels" / "test.tsv", 2, "zzz\td1\t1"), "test.tsv:2: unknown query 'zzz'"),
    "no text": (
        lambda c: (c / "corpus.jsonl").write_text("".join(f'{{"_id": "d{i}", "text": ""}}\n' for i in range(41))),
        "corpus.jsonl: none of the 41 documents has any text",
    ),
    "not UTF-8": (
        lambda c: (c / "queries.jsonl").write_bytes(b'{"_id": "q", "text": "gr\xf6\xdfe"}\n'),
        "queries.jsonl:1: byte 0xf6 at position",
    ),
    "a bad score": (lambda c: set_line(c / "qrels" / "test.tsv", 2, "td2\td1\tmuch"), "test.tsv:2: the score 'much'"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_corpus(place, capsys, damage):
    change, message = DAMAGE[damage]
    change(place / "corpus")
    line = refused(place, capsys)
    assert line.startswith(str(place / "corpus"))
    assert message in line
    assert "next: " in line


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.zeros((40, 4)), "expected 41"),
        (np.full((41, 4), np.nan), "NaN"),
        (np.zeros(41), "float64[41]"),
        (None, "the file is missing"),
    ],
)
def test_vectors_that_do_not_fit(place, capsys, vectors, message):
    file = place / "vectors.npy"
    if vectors is not None:
        np.save(file, vectors)
    write_gin(place, docids=HierarchicalKMeans(), vectors=NpyVectors(path=str(file)))
    line = refused(place, capsys)
    assert line.startswith(str(file))
    assert message.lower() in line.lower()


def test_docids_of_another_corpus(place, capsys, tmp_path):
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare(tiny_experiment(place / "corpus", **PLAIN), tmp_path / "first", log=lambda line: None)
    set_line(place / "corpus" / "corpus.jsonl", 1, '{"_id": "d0", "text": "something else"}')
    write_gin(place, docids=str(tmp_path / "first" / "docids"))
    line = refused(place, capsys)
    assert line.startswith(f"{tmp_path / 'first' / 'docids'}: docids of another corpus")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--steps=10", "--gin.STEPS=5000"], "'STEPS' is set twice on the command line"),
        (["--epochs=3"], "no option --epochs=3; training is counted in steps: --steps N"),
        (["--gin.STEP=3"], "the gin macro 'STEP' is set but nothing uses it; next: did you mean 'STEPS'?"),
        (["--gin.T5Config.d_modle=3"], "unknown gin name 'T5Config.d_modle'; next: did you mean 'd_model'?"),
        (["--gin.T5Confg.d_model=3"], "unknown gin name 'T5Confg'; next: did you mean 'T5Config'?"),
        (["--gin.Experiment.hold_out=2"], "Experiment.hold_out is 2; expected less than 1"),
        (["--gin.TrainerConfig.batch_size='many'"], "TrainerConfig.batch_size is 'many'; expected int"),
        (["--gin.Experiment.codec=text"], "Experiment.codec is 'text'; expected 'per_level' with the prefix head"),
        (["--gin.STEPS"], "--gin.STEPS; expected --gin.NAME=VALUE"),
        (["--steps", "-1"], "--steps -1; expected 0 or more; next: change --steps"),
        (["--steps", "ten"], "argument --steps: invalid int value: 'ten'"),
        (["--gin_file=runs/dsi_atomic_from_scrach.gin"], "did you mean 'runs/dsi_atomic_from_scratch.gin'?"),
        (["--corpos", "x"], "no option --corpos; did you mean '--corpus'?"),
        (
            ["--gin.TrainerConfig.best_metric='validation/mrr'"],
            "TrainerConfig.best_metric is 'validation/mrr'; expected one",
        ),
    ],
)
@pytest.mark.usefixtures("annotations_unchecked")
def test_a_wrong_option_or_binding(place, capsys, options, message):
    assert message in refused(place, capsys, *options)


def test_a_corpus_and_a_run_are_asked_for(capsys):
    assert cli.main(["train", "--run", "x"]) == 2
    assert "error: --corpus is missing" in capsys.readouterr().err
    assert cli.main(["train", "--corpus", "x"]) == 2
    assert "error: --run is missing" in capsys.readouterr().err


@pytest.mark.parametrize("at", ["corpus.jsonl", "codes.npy", "arrays", "run.json"])
def test_a_full_disk_leaves_nothing_and_says_where(place, capsys, monkeypatch, at):
    sync = os.fsync

    def full(descriptor):
        if at in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    monkeypatch.setattr("genret_jax.storage.os.fsync", full)
    line = refused(place, capsys)
    assert line.startswith(str(place / "run"))
    assert "no space left on the disk; next: free some space" in line


def test_a_folder_in_use_by_something_else(place, capsys):
    taken = place / "taken"
    taken.mkdir()
    (taken / "thesis.txt").write_text("mine")
    line = refused(place, capsys, "--run", taken)
    assert line.startswith(f"{taken}: the folder is not empty and not a run")
    assert set(os.listdir(taken)) <= {"thesis.txt", ".in-use"}


def test_it_trains_and_goes_on_and_another_experiment_is_refused(place, capsys):
    few = ["--gin.Experiment.hold_out=0.0", "--gin.TrainerConfig.log_every=1"]
    assert genret(place, "--steps=2", *few) == 0
    assert open_run(place / "run").seed == 0
    err = capsys.readouterr().err
    assert "genret: warning: " in err
    assert "corpus      41 documents" in err
    assert "start       the words of the corpus" in err
    assert "no validation queries: the last checkpoint will count as the best" in err
    assert genret(place, "--steps=3", *few) == 0
    assert "resuming after step 2" in capsys.readouterr().err
    assert training.read_metrics(place / "run")[-1]["step"] == 3
    assert "STEPS = 3" in (place / "run" / "config.gin").read_text()
    before = (place / "run" / "run.json").read_bytes()
    assert genret(place, "--gin.SEED=1", *few) == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert "this run folder belongs to another TrainerConfig.seed = 0; expected 1" in line
    assert (place / "run" / "run.json").read_bytes() == before
    assert genret(place, "--gin.Experiment.hold_out=0.5", "--gin.T5Config.d_ff=40") == 2
    assert "this run folder belongs to another" in capsys.readouterr().err


def test_an_interrupted_training_is_not_a_success(place, monkeypatch, capsys):
    stopped = TrainResult(params={}, step=1, metrics={}, best_step=None, interrupted="SIGTERM")
    monkeypatch.setattr("genret_jax.run.training.train_together", lambda runs, together=None: [stopped])
    assert genret(place) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "genret: interrupted"
    assert (place / "run" / "run.json").is_file()


def test_a_run_can_be_prepared_without_a_step(place):
    assert genret(place, "--prepare-only") == 0
    assert open_run(place / "run").start_params()
    assert (place / "run" / "config.gin").is_file()
    assert not (place / "run" / "checkpoints").exists()
    assert not (place / "run" / "metrics.jsonl").exists()


def test_several_processes_do_not_prepare_together(place, capsys):
    several = ["--coordinator", "127.0.0.1:8476", "--processes", "2", "--process", "0"]
    assert genret(place, "--prepare-only", *several) == 2
    assert "--prepare-only in several processes; next: prepare the run in one process" in capsys.readouterr().err


def test_a_model_axis_that_does_not_divide_the_network(place, capsys):
    """It is known when the network is: the run folder stays, prepared for the next try."""
    write_gin(place, trainer={"model_parallel": 4, "data_parallel": 2})
    assert genret(place) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("genret: error: ")]
    assert "a model axis of 4 and T5Config.num_heads of 2; expected a divisor; next: change TrainerConfig" in line
    assert not (place / "run" / "checkpoints").exists()
