"""The dual encoder, end to end on a corpus whose queries share no word with their documents."""

import dataclasses
import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.baselines import dual_encoder
from genret_jax.baselines.dual_encoder import (
    DualEncoder,
    DualEncoderConfig,
    DualEncoderTask,
    TextEncoder,
    train_and_answer,
    trainer_like,
)
from genret_jax.baselines.vector_search import HnswIndex, recall_of_exact
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.building import build_store
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.vocabulary import train_sentencepiece
from genret_jax.docids.codec import DocidCodec
from genret_jax.docids.strategies.arbitrary import AtomicDocids
from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import evaluate
from genret_jax.models.config import T5Config
from genret_jax.models.network import T5
from genret_jax.training import AdamW, TrainerConfig, restore_params
from genret_jax.training.config import LinearWarmupLinearDecay

TOPICS = {
    "cat": "feline whiskers purring claws",
    "dog": "hound barking leash kennel",
    "car": "engine wheels driving petrol",
    "ship": "harbour sailing anchor captain",
    "bread": "flour baking oven dough",
    "piano": "keys melody concert chords",
    "rose": "petals garden thorns blossom",
    "moon": "orbit lunar crater eclipse",
}


def topics_corpus():
    """Every pair of topics is a document, told by its words; queries name the topics, which no document does."""
    pairs = [(a, b) for i, a in enumerate(TOPICS) for b in list(TOPICS)[i + 1 :]]
    texts = [f"{TOPICS[a]} {TOPICS[b]}" for a, b in pairs] + [""]
    doc_ids = tuple(f"d{i}" for i in range(len(texts)))
    queries = {f"q{i}": f"{a} {b}" for i, (a, b) in enumerate(pairs)}
    relevant = {f"q{i}": {f"d{i}": 1} for i in range(len(pairs))}
    held_out = [f"q{i}" for i in range(0, len(pairs), 4)]
    qrels = {
        "train": {query: grades for query, grades in relevant.items() if query not in held_out},
        "test": {query: relevant[query] for query in held_out},
    }
    titles = ("",) * len(texts)
    return Corpus(name="topics", doc_ids=doc_ids, titles=titles, texts=tuple(texts), queries=queries, qrels=qrels)


NETWORK = T5Config(
    vocab_size=512,
    d_model=32,
    d_kv=16,
    num_heads=2,
    d_ff=32,
    num_encoder_layers=1,
    num_decoder_layers=1,
    dropout_rate=0.0,
)
CONFIG = DualEncoderConfig(network=NETWORK, query_length=8, document_length=24)
SAMPLER = SamplerConfig(indexing_rate=0.0, pseudo_query_rate=0.0, retrieval_rate=1.0, draw="query", query_word_drop=0.0)
TRAINER = TrainerConfig(
    steps=60,
    batch_size=16,
    optimizer=AdamW(learning_rate=LinearWarmupLinearDecay(peak=1e-2)),
    data_parallel=1,
    log_every=30,
    evaluate_every=30,
    best_metric="validation/mrr@10",
    tensorboard=False,
)


TOKEN = jnp.ones((1, 1), jnp.int32)


def t5_params(seed):
    return jax.jit(T5(NETWORK).init)(jax.random.key(seed), TOKEN, TOKEN)["params"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> ExampleStore:
    corpus = topics_corpus()
    vocabulary = train_sentencepiece([*corpus.texts, *corpus.queries.values()], size=400)
    table = AtomicDocids().assign(corpus.doc_ids, None, 0, corpus.fingerprint)
    codec = DocidCodec(first_token=2, level_sizes=table.level_sizes)
    folder = tmp_path_factory.mktemp("store") / "examples"
    return build_store(folder, corpus, codec.encode(table), vocabulary, codec=codec)


@pytest.fixture(scope="module")
def trained(store, tmp_path_factory) -> DualEncoder:
    folder = tmp_path_factory.mktemp("run")
    return DualEncoder.train(store, CONFIG, TRAINER, folder, sampler=SAMPLER, validation_split="test")


def test_it_learns_what_no_shared_word_tells(store, trained):
    corpus = topics_corpus()
    queries = {query: corpus.queries[query] for query in corpus.qrels["test"]}
    untrained = DualEncoder.of_store(store, CONFIG, t5_params(0))
    before = evaluate(corpus.qrels["test"], untrained.search(queries, 10), ks=(10,))
    after = evaluate(corpus.qrels["test"], trained.search(queries, 10), ks=(10,))
    assert before["mrr@10"] < 0.3
    assert after["mrr@10"] > 0.6


def test_search_gives_cosines_from_best_to_worst(trained):
    run = trained.search({"q": "cat dog", "none": ""}, 5)
    assert run["none"] == []
    scores = [score for _, score in run["q"]]
    assert len(scores) == 5
    assert scores == sorted(scores, reverse=True)
    assert all(-1.001 <= score <= 1.001 for score in scores)


def test_a_document_without_text_is_never_found(trained):
    found = {document for document, _ in trained.search({"q": "cat dog"}, 100)["q"]}
    assert found == {f"d{i}" for i in range(28)}  # d28 is empty


def test_hnsw_finds_what_exact_search_finds(trained):
    queries = {str(i): f"{a} {b}" for i, (a, b) in enumerate(zip(TOPICS, list(TOPICS)[1:], strict=False))}
    exact, approximate = trained.search(queries, 5), trained.search(queries, 5, HnswIndex(trained.vectors))
    assert recall_of_exact(approximate, exact, 5) > 0.95


def test_a_batch_pairs_each_query_with_its_document(store):
    corpus = topics_corpus()
    batch = DualEncoderTask(CONFIG, store, SAMPLER, seed=0, batch_size=64).batch(3)
    vocabulary = store.vocabulary
    for query, text, index in zip(batch["query_tokens"], batch["document_tokens"], batch["document"], strict=True):
        assert text[text > 0].tolist() == vocabulary.encode(corpus.texts[index])[: CONFIG.document_length]
        asked = vocabulary.decode(query[query > 0].tolist()).split()
        assert set(asked) <= set(corpus.queries[f"q{index}"].split())


def test_padding_does_not_move_a_vector():
    encoder = TextEncoder(NETWORK)
    params = jax.jit(encoder.init)(jax.random.key(0), TOKEN)
    short, padded = jnp.array([[5, 6, 7]]), jnp.array([[5, 6, 7, 0, 0, 0, 0, 0]])
    apply = jax.jit(encoder.apply)
    vectors = np.concatenate([apply(params, short), apply(params, padded)])
    np.testing.assert_allclose(vectors[0], vectors[1], atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)


def test_what_a_signal_has_stopped_is_not_taken_for_trained(store, tmp_path, monkeypatch):
    signals = [signal.SIGTERM]

    def stopped(*_):
        if signals:  # a second one would not wait for the steps in progress
            signal.raise_signal(signals.pop())
        return {"mrr@10": 1.0}

    monkeypatch.setattr(dual_encoder, "validate", stopped)
    with pytest.raises(KeyboardInterrupt):
        DualEncoder.train(
            store,
            CONFIG,
            dataclasses.replace(TRAINER, evaluate_every=10),
            tmp_path,
            sampler=SAMPLER,
            validation_split="test",
        )


def test_training_refuses_what_would_be_another_loss(store, tmp_path):
    in_parts = TrainerConfig(steps=1, batch_size=8, gradient_accumulation=2)
    with pytest.raises(InputError, match="gradient_accumulation 2 for a dual encoder"):
        DualEncoder.train(store, CONFIG, in_parts, tmp_path)
    small = DualEncoderConfig(network=T5Config(vocab_size=16))
    with pytest.raises(InputError, match=r"T5Config\.vocab_size is 16; expected at least the vocabulary's"):
        DualEncoder.train(store, small, TRAINER, tmp_path)


def test_an_encoder_is_trained_from_the_start_of_a_generative_model(store, tmp_path):
    corpus = topics_corpus()
    queries = {query: corpus.queries[query] for query in corpus.qrels["test"]}
    answer = functools.partial(
        train_and_answer,
        store,
        queries,
        10,
        name="topics",
        network=NETWORK,
        sampler=SAMPLER,
        trainer=TrainerConfig(steps=3, batch_size=16, data_parallel=1, tensorboard=False),
        folder=tmp_path / "dual_encoder",
        init_params=t5_params(7),
    )
    exact, hnsw = answer()
    assert exact.system.name == "topics, dual encoder"
    assert hnsw.system.name == "topics, dual encoder, HNSW"
    assert "M 32" in hnsw.system.description
    assert hnsw.system.details["efSearch"] == 64
    assert exact.system.details["parameters"] == hnsw.system.details["parameters"] > 0
    width = NETWORK.d_model * 4
    assert hnsw.system.details["bytes per document"] > exact.system.details["bytes per document"] == width
    assert hnsw.system.details["share of the exact 10 best found"] > 0.9
    assert set(exact.run) == set(queries)
    assert exact.milliseconds_per_query > 0
    after_three_steps = restore_params(tmp_path / "dual_encoder", which=3)
    assert set(after_three_steps) == {"token_embedder", "encoder"}
    moved = np.abs(after_three_steps["token_embedder"]["embedding"] - t5_params(7)["token_embedder"]["embedding"])
    assert 0 < moved.max() < 0.01  # three small steps away from the given start
    again, _ = answer()
    assert again.run == exact.run  # the encoder in the folder is used again


def test_a_trainer_takes_steps_and_batch_size_from_a_log(tmp_path):
    with pytest.raises(InputError, match="a run that was not trained"):
        trainer_like(tmp_path, seed=3, validated=True)
    records = [
        {"step": step, "kind": "train", "loss": 1.0, "steps_per_second": 3.0, "examples_per_second": 96.0}
        for step in (50, 70)
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    trainer = trainer_like(tmp_path, seed=3, validated=True)
    assert (trainer.steps, trainer.batch_size, trainer.evaluate_every, trainer.seed) == (70, 32, 7, 3)
    assert trainer.best_metric == "validation/mrr@10"
    assert trainer_like(tmp_path, seed=3, validated=False).best_metric is None
