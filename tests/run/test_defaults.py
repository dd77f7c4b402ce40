"""What is trained where no recipe is named."""

import dataclasses
import os
import shutil

import pytest
from support.encoder_folders import ENCODERS
from support.tiny_run import tiny_topics, write_tiny_corpus

import genret_jax
from genret_jax import Retriever
from genret_jax.data.interactions import write_interactions
from genret_jax.data.sources.toy_items import toy_items
from genret_jax.errors import InputError
from genret_jax.models.encoders.getting import cache_folder
from genret_jax.run import open_run
from genret_jax.run.defaults import ENCODER, choose, default_experiment

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning", "ignore:.*vectors are zero")


@pytest.fixture
def fetched(tmp_path, monkeypatch):
    """The default encoder is there; it is a tiny one under its name."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    shutil.copytree(ENCODERS / "bert", cache_folder() / ENCODER)


def corpus_of(tmp_path, **changes):
    return str(write_tiny_corpus(tmp_path / "corpus", dataclasses.replace(tiny_topics(), **changes)))


def without_queries(tmp_path):
    return corpus_of(tmp_path, qrels={"test": tiny_topics().qrels["test"]})


def test_without_an_encoder_a_run_starts_from_scratch_and_says_how_to_get_one(tmp_path):
    found = choose(corpus_of(tmp_path))
    assert found.recipe == "semantic"
    assert found.settings["STEPS"] == 60
    assert (found.settings["SamplerConfig.input_length"], found.settings["PlanConfig.terms"]) == (48, 32)
    assert found.settings["HierarchicalKMeans.branching"] == 8
    assert f"genret encoder get {ENCODER}" in found.why
    alone = choose(without_queries(tmp_path / "alone"))
    assert alone.settings["STEPS"] == 0
    assert "are found untrained, by BM25 and latent semantic analysis" in alone.why


def test_steps_follow_from_the_training_queries(tmp_path, fetched):
    few = choose(corpus_of(tmp_path))
    assert few.recipe == "pretrained"
    assert few.settings["STEPS"] == 60  # at least
    assert few.settings["Experiment.pool"] == 60 * 64
    topics = tiny_topics()
    query, judged = next(iter(topics.qrels["train"].items()))
    many = {f"{query}-{number}": judged for number in range(6400)}
    texts = dict.fromkeys(many, topics.queries[query])
    more = choose(corpus_of(tmp_path / "many", queries=topics.queries | texts, qrels=topics.qrels | {"train": many}))
    assert more.settings["STEPS"] == 300  # three times through
    assert more.settings["TrainerConfig.evaluate_every"] == 50
    assert "6,400 training queries" in more.why


def test_inputs_are_as_long_as_training_queries_and_no_longer_than_the_encoder_reads(tmp_path, fetched):
    topics = tiny_topics()
    longer = {query: " ".join([text, "also and more of it"] * 12) for query, text in topics.queries.items()}
    settings = choose(corpus_of(tmp_path, queries=longer)).settings
    assert settings["SamplerConfig.input_length"] == 20  # the encoder reads 24, four of them its own
    assert settings["PlanConfig.terms"] >= 64
    assert choose(corpus_of(tmp_path / "short")).settings["PlanConfig.terms"] == 32


def test_a_corpus_without_training_queries_is_searched_untrained(tmp_path, fetched):
    run = genret_jax.train(without_queries(tmp_path), tmp_path / "run")
    assert run.experiment.trainer.steps == 0
    text = run.corpus.document_text(5)
    assert Retriever.load(tmp_path / "run").search(text, k=1)[0].doc_id == run.corpus.doc_ids[5]
    again = genret_jax.train(without_queries(tmp_path / "again"), tmp_path / "run")
    assert again.params("last").keys() == run.params("last").keys()


def test_a_run_goes_on_as_it_was_configured(tmp_path, fetched, monkeypatch):
    corpus, folder = without_queries(tmp_path), tmp_path / "run"
    genret_jax.train(corpus, folder, overrides={"ResidualKMeans.levels": 3})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "nothing"))  # the encoder is gone; the run has a copy
    moved = shutil.copytree(corpus, tmp_path / "moved")
    run, experiment = default_experiment(moved, folder, steps=7, seed=3)
    assert (run, experiment.corpus, experiment.docids.levels) == (os.fspath(folder), os.fspath(moved), 3)
    assert (experiment.trainer.steps, experiment.trainer.seed) == (7, 3)
    assert default_experiment(None, folder)[1] == open_run(folder).experiment


def test_a_shop_gets_a_recipe_for_items(tmp_path):
    write_interactions(toy_items(), tmp_path / "shop")
    assert choose(tmp_path / "shop").recipe == "tiger"


def test_without_a_corpus_there_is_nothing_to_choose(tmp_path):
    with pytest.raises(InputError, match="--corpus is missing"):
        default_experiment(None, tmp_path / "run")
    with pytest.raises(InputError, match="set twice"):
        default_experiment(corpus_of(tmp_path), tmp_path / "run", bindings=["STEPS = 3"], steps=4)
