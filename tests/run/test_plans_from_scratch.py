"""Runs with a plan and no pretrained encoder: words, latent vectors, or both."""

import dataclasses

import numpy as np
import pytest
from support.tiny_run import tiny_experiment, tiny_topics, write_tiny_corpus

from genret_jax import Retriever
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docids import AtomicDocids, HierarchicalKMeans
from genret_jax.errors import InputError
from genret_jax.inference import Ranker
from genret_jax.models.config import PlanConfig
from genret_jax.models.initialize import LsaStart
from genret_jax.problems import Measured
from genret_jax.run import evaluate_runs, open_run, prepare_only, train_run

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning", "ignore:.*vectors are zero")
BOTH = PlanConfig(terms=8, dense=True)
SILENT = {"head": "vocabulary", "num_decoder_layers": 0, "num_nodes": 0}


def experiment(corpus, *, plan=BOTH, model=SILENT, docids=None, start=None, **fields):
    given = tiny_experiment(
        corpus,
        docids=docids or HierarchicalKMeans(branching=4, leaf_size=4),
        start=start or LsaStart(residual_scale=0.0),
        model={**model, "plan": plan},
        trainer={"steps": 6, "checkpoint_every": 6, "evaluate_every": 6},
        sampler=SamplerConfig(input_length=32),  # no query is cut
    )
    return dataclasses.replace(given, **fields)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_tiny_corpus(tmp_path_factory.mktemp("scratch") / "corpus")


@pytest.fixture(scope="module")
def planned(corpus, tmp_path_factory):
    return train_run(experiment(corpus), tmp_path_factory.mktemp("planned") / "run")


def untrained(run, beam=8):
    requests = run.requests("test", Measured())
    ranker = Ranker(run.model, run.encoded, run.params("start"), run.plan_tables)
    return requests, ranker.rank(requests.tokens, beam=beam)


@pytest.mark.parametrize("queries", ["with training queries", "without"])
def test_the_untrained_network_ranks_by_words_and_latent_vectors(queries, tmp_path):
    topics, known = tiny_topics(), queries == "with training queries"
    qrels = topics.qrels if known else {"test": topics.qrels["test"]}
    docids = AtomicDocids() if known else None
    folder = write_tiny_corpus(tmp_path / "corpus", dataclasses.replace(topics, qrels=qrels))
    run = prepare_only(experiment(folder, docids=docids), tmp_path / "run")[0]
    requests, found = untrained(run)
    words, vectors, *_, both = run.baselines_of_run("run", requests, 41, Measured())
    assert words.system.name == "run, words alone"
    assert "latent semantic analysis" in vectors.system.description
    for query, documents in zip(requests.split.qrels, found.documents, strict=True):
        ranking = both.run[query]
        scores = dict(ranking)
        network = [scores[run.corpus.doc_ids[document]] for document in documents]
        np.testing.assert_allclose(network, [score for _, score in ranking[:8]], atol=0.1)  # bfloat16 of the network


@pytest.mark.parametrize("kinds", ["terms", "dense", "codes"])
def test_each_kind_alone_trains_and_is_reported(kinds, corpus, tmp_path):
    plan = PlanConfig(**{kinds: 8 if kinds == "terms" else True})
    run = train_run(experiment(corpus, plan=plan), tmp_path / "run")
    assert (run.folder / "latent").is_dir() == (kinds != "terms")
    report = evaluate_runs([run.folder], tmp_path / "report")
    found = {row.system: row.metrics["mrr@10"].mean for row in report.measurements if row.split == "test"}
    assert found["run"] > (0.2 if kinds == "codes" else 0.5)
    assert ("run, words alone" in found) == (kinds == "terms")
    assert ("run, encoder alone" in found) == (kinds != "terms")
    again = open_run(run.folder)
    assert again.model == run.model


def test_the_encoder_is_trained_through_the_plan(planned):
    start, end = planned.params("start"), planned.params("last")
    assert np.abs(end["token_embedder"]["embedding"] - start["token_embedder"]["embedding"]).max() > 0
    results = Retriever(planned, end).search([planned.corpus.document_text(7)], k=3)[0]
    assert results[0].doc_id == "d7"


@pytest.mark.parametrize("head", ["prefix", "vocabulary"])
def test_a_decoder_with_layers_begins_by_saying_nothing(head, planned, corpus, tmp_path):
    layers = train_run(experiment(corpus, model={"head": head, "num_decoder_layers": 1}), tmp_path / "layers")
    (_, one), (_, other) = untrained(planned), untrained(layers)
    np.testing.assert_array_equal(one.documents, other.documents)


def test_a_dual_encoder_has_the_encoder_of_the_run(planned, tmp_path):
    report = evaluate_runs([planned.folder], tmp_path / "report", measured=Measured(dual_encoder=True, untrained=False))
    alone = {"run, words alone", "run, encoder alone", "run, sum of both"}
    assert {"run, dual encoder", *alone} <= {row.system for row in report.measurements}


def test_what_a_plan_refuses(corpus):
    with pytest.raises(InputError, match=r"Experiment\.start is None; expected LsaStart with a plan of vectors"):
        dataclasses.replace(experiment(corpus), start=None)
    with pytest.raises(InputError, match=r"T5Config\.query_width is 8; expected 0 without a vector to change"):
        experiment(corpus, plan=PlanConfig(terms=8), model={**SILENT, "query_width": 8})
    writing = SamplerConfig(objective="targets_to_inputs")
    with pytest.raises(InputError, match=r"SamplerConfig\.objective .* expected 'inputs_to_targets' with T5Config"):
        dataclasses.replace(experiment(corpus), sampler=writing)


def test_short_queries_cost_less_and_find_the_same(planned, monkeypatch):
    retriever, found, shapes = Retriever(planned, planned.params("last")), Ranker._found, []
    queries = ["d7", planned.corpus.document_text(7) + " " + planned.corpus.document_text(9)]
    whole = retriever.rank(planned.encode(queries), beam=20, limit=5)
    monkeypatch.setattr(Ranker, "_found", lambda *given: shapes.append(given[1].shape) or found(*given))
    results = retriever.search(queries, k=5)
    terms = planned.model.plan_terms
    assert shapes == [(1, 16 + terms), (1, 32 + terms)]
    for row, one in enumerate(results):
        expected = [(planned.corpus.doc_ids[document], score) for document, score in whole.of(row)]
        assert [result.doc_id for result in one] == [document for document, _ in expected]
        np.testing.assert_allclose([result.score for result in one], [score for _, score in expected], atol=1e-4)
