"""Preparing a run: part by part, gone on with after any interruption, refused where something else lives."""

import dataclasses
import os
import shutil

import pytest
from support.small_interactions import small_shop
from support.tiny_run import tiny_experiment, tiny_recommendation, tiny_topics, write_tiny_corpus

from genret_jax.config.experiment import VocabularyConfig
from genret_jax.config.gin_text import read_record
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.interactions import write_interactions
from genret_jax.docids import AtomicDocids
from genret_jax.errors import InputError
from genret_jax.problems import problem
from genret_jax.problems.documents import Documents
from genret_jax.problems.items import Items
from genret_jax.run import open_run, prepare, train_run
from genret_jax.run.folder import LOCK, RECORD, SETTINGS, new_or_untouched, sampler_of
from genret_jax.storage import folder_lock

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


def test_preparing_again_makes_nothing_anew(whole, tiny_corpus):
    before = {file: file.stat().st_mtime_ns for part in PARTS for file in (whole.folder / part).rglob("*")}
    again, lines = prepared(atomic_experiment(tiny_corpus), whole.folder)
    assert before == {file: file.stat().st_mtime_ns for part in PARTS for file in (whole.folder / part).rglob("*")}
    assert again.fingerprints == whole.fingerprints
    assert [line.split()[0] for line in lines] == list(PARTS)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("moment", ["before", "within", "after"])
def test_preparing_goes_on_where_it_was_killed(whole, tiny_corpus, tmp_path, monkeypatch, part, moment):
    make = problem.make

    def interrupted(path, write, like):
        if path.name != part:
            return make(path, write, like)
        if moment == "within":
            monkeypatch.setattr("genret_jax.storage.os.rename", _die)  # all is written, nothing has its name yet
        if moment != "before":
            make(path, write, like)
        raise Killed

    def _die(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(problem, "make", interrupted)
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
        train_run(atomic_experiment(tiny_corpus, trainer={"best_metric": "validation/mrr@3"}), folder)
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
                train_run(experiment, folder)
            assert message in str(error.value)
            assert folder.exists() == existed
            if existed:
                assert set(os.listdir(folder)) <= {".gitkeep", LOCK}


def test_an_adaptive_decoder_needs_a_prefix_to_read(whole, tiny_corpus, tmp_path):
    model = {"head": "vocabulary", "adaptive_layers": 1}
    write_interactions(small_shop(), tmp_path / "items")
    for experiment in (
        atomic_experiment(tiny_corpus, docids=str(whole.folder / "docids"), model=model),
        atomic_experiment(tiny_corpus, model=model),
        tiny_recommendation(tmp_path / "items", docids=AtomicDocids(), model=model),
    ):
        with pytest.raises(InputError, match="docids have one code"):
            train_run(experiment, tmp_path / "run")
        assert not (tmp_path / "run").exists()


def test_t5x_is_refused_a_run_on_items_by_a_line(tmp_path):
    write_interactions(small_shop(), tmp_path / "items")
    run, _ = prepared(tiny_recommendation(tmp_path / "items", docids=AtomicDocids()), tmp_path / "run")
    with pytest.raises(InputError, match=r"a run on items for t5x; expected a run on documents; .*genret train"):
        sampler_of(run.folder)


def test_a_folder_of_something_else_is_refused_and_untouched(tiny_corpus, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"not empty and not a run \(it has 'thesis.txt'\)"):
        train_run(atomic_experiment(tiny_corpus), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_a_run_of_another_experiment_or_corpus_is_refused_by_what_differs(whole, tiny_corpus, tmp_path):
    with pytest.raises(InputError) as error:
        prepared(atomic_experiment(tiny_corpus, model={"d_ff": 48}), whole.folder)
    assert "belongs to another T5Config.d_ff = 32; expected 48" in str(error.value)
    with pytest.raises(InputError) as error:
        prepared(atomic_experiment(tiny_corpus, hold_out=0.2, trainer={"seed": 9}), whole.folder)
    assert "another TrainerConfig.seed = 0 and 1 more differences" in str(error.value)
    changed = shutil.copytree(tiny_corpus, tmp_path / "topics")
    with open(changed / "qrels" / "test.tsv", "a") as file:
        file.write("td2\td9\t1\n")
    with pytest.raises(InputError, match="belongs to another corpus"):
        prepared(atomic_experiment(changed), whole.folder)
    assert open_run(whole.folder).fingerprints == whole.fingerprints


def test_a_second_process_is_refused_in_one_line(tiny_corpus, tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder / LOCK, doing="training"), pytest.raises(InputError) as error:
        train_run(atomic_experiment(tiny_corpus), folder)
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


def test_a_corpus_of_a_few_queries_keeps_no_empty_split(tmp_path):
    few = dataclasses.replace(tiny_topics(), queries={"q": "ban"}, qrels={"train": {"q": {"d0": 1}}})
    run, _ = prepared(atomic_experiment(write_tiny_corpus(tmp_path / "few", few)), tmp_path / "run")
    assert run.corpus.qrels == {"train": {"q": {"d0": 1}}}


def test_a_run_folder_records_its_experiment_once(whole, tiny_corpus):
    assert read_record(whole.folder / RECORD) == atomic_experiment(tiny_corpus) == whole.experiment
    names = {path.name for path in whole.folder.iterdir() if path.is_file()}
    assert names == {RECORD, SETTINGS}
    assert "Docids" not in (whole.folder / SETTINGS).read_text()


@pytest.mark.parametrize("field", ["split", "unseen_split"])
def test_a_split_that_is_not_there_is_refused_before_training(tiny_corpus, tmp_path, field):
    experiment = atomic_experiment(tiny_corpus, sampler=SamplerConfig(**{field: "tset"}))
    with pytest.raises(InputError, match=r"no split 'tset'.*did you mean 'test'"):
        prepared(experiment, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("part", "kind", "stays"),
    [
        ("learning/learned_1", Documents, True),
        ("learning/1_0_together/checkpoints/10", Documents, True),
        ("seed_3/learning/learned_1", Documents, True),
        ("quantiser", Documents, True),
        ("learning/examples", Documents, False),
        ("learning/1_0_together/checkpoints", Documents, False),
        ("quantiser", Items, False),  # fitted in seconds
    ],
)
def test_a_new_folder_stays_after_an_error_where_docids_were_learned(tmp_path, part, kind, stays):
    def prepare_until_full():
        with new_or_untouched(tmp_path / "run", kind):
            (tmp_path / "run" / part).mkdir(parents=True)
            (tmp_path / "run" / RECORD).write_text("CORPUS = 'corpus'\n")
            raise InputError("full")

    with pytest.raises(InputError, match="full"):
        prepare_until_full()
    assert (tmp_path / "run" / part).exists() == (tmp_path / "run").exists() == stays


def test_an_error_leaves_the_link_that_leads_to_the_run_folder(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "target")

    def prepare_until_full():
        with new_or_untouched(tmp_path / "run", Documents):
            (tmp_path / "run" / "corpus").mkdir()
            raise InputError("full")

    with pytest.raises(InputError, match="full"):
        prepare_until_full()
    assert (tmp_path / "run").is_symlink()
    assert not any((tmp_path / "target").iterdir())


def written_for(corpus, queries):
    return dataclasses.replace(corpus, generated_queries=queries)


def test_generated_queries_that_are_held_out_for_validation_are_not_trained_on(tmp_path):
    asked = {doc_id: query for query, grades in tiny_topics().qrels["train"].items() for doc_id in grades}
    as_queries = {doc_id: (f"{tiny_topics().queries[query].upper()}?",) for doc_id, query in asked.items()}
    corpus = write_tiny_corpus(tmp_path / "topics", written_for(tiny_topics(), as_queries))
    run, lines = prepared(atomic_experiment(corpus), tmp_path / "run")
    held_out = {doc_id for grades in run.corpus.qrels["validation"].values() for doc_id in grades}
    assert run.corpus.generated_queries.keys() == as_queries.keys() - held_out
    assert [line for line in lines if "left out" in line] == [
        f"corpus      {len(held_out)} generated queries left out, because they are held out for validation"
    ]
    run, lines = prepared(atomic_experiment(corpus, hold_out=0.0), tmp_path / "all")
    assert run.corpus.generated_queries == as_queries
    assert not any("left out" in line for line in lines)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampler": SamplerConfig(generated_query_rate=0.0)},
        {
            "sampler": SamplerConfig(objective="documents_to_queries", indexing_rate=0.0),
            "model": {"head": "vocabulary"},
        },
    ],
    ids=["rate of 0", "writer"],
)
def test_a_run_that_draws_no_generated_queries_goes_on_when_some_were_written(tmp_path, fields):
    experiment = atomic_experiment(write_tiny_corpus(tmp_path / "topics"), **fields)
    before, _ = prepared(experiment, tmp_path / "run")
    write_after(tmp_path / "topics")
    after, _ = prepared(experiment, tmp_path / "run")
    assert after.fingerprints == before.fingerprints
    new, _ = prepared(experiment, tmp_path / "new")
    assert not new.corpus.generated_queries
    assert new.store.fingerprint == before.store.fingerprint


def write_after(corpus):
    (corpus / "queries_generated.jsonl").write_text('{"_id": "d0", "queries": ["ban bap"]}\n')


def test_other_runs_name_the_generated_queries_that_were_written_later(tmp_path):
    experiment = atomic_experiment(write_tiny_corpus(tmp_path / "topics"))
    prepared(experiment, tmp_path / "run")
    write_after(tmp_path / "topics")
    with pytest.raises(InputError, match=r"another queries_generated.jsonl = none; .*another run folder, or give"):
        prepared(experiment, tmp_path / "run")
    (tmp_path / "topics" / "queries_generated.jsonl").unlink()
    prepared(experiment, tmp_path / "run")
