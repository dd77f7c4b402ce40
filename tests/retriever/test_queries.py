"""Queries written for documents: by a run and by public weights, what is left out, and the command."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from support.tiny_run import tiny_experiment, write_tiny_corpus

from genret_jax import cli
from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docids import NaiveStringDocids
from genret_jax.errors import InputError
from genret_jax.models import T5
from genret_jax.models.convert.public_checkpoint import save_checkpoint
from genret_jax.retriever import QueryWriter, Retriever, generate_queries
from genret_jax.run import open_run, train_run

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
WRITES = SamplerConfig(
    objective="documents_to_queries", indexing_rate=0.0, pseudo_query_rate=0.0, draw="query", input_length=16,
    target_length=6, word_drop=0.0, query_word_drop=0.0, append_eos=True,
)  # fmt: skip
NETWORK = {"head": "vocabulary", "encoder_final_norm": True, "tie_embeddings": True, "scale_decoder_outputs": True}


@pytest.fixture(scope="module")
def writing_run(tiny_corpus, tmp_path_factory):
    folder = tmp_path_factory.mktemp("writer") / "run"
    trainer = {"steps": 60, "evaluate_every": None, "best_metric": None, "checkpoint_every": 60}
    experiment = tiny_experiment(
        tiny_corpus, model=NETWORK, trainer=trainer, sampler=WRITES, docids=NaiveStringDocids()
    )
    train_run(experiment, folder)
    return folder


def test_queries_have_the_words_of_their_documents(writing_run, tiny_corpus):
    """Documents of a topic share words, so what is written should be told from what is written for other topics."""
    corpus = read_beir(tiny_corpus)
    generated = generate_queries(QueryWriter.load(writing_run), corpus, 8, top_k=5)
    counts = generated.counts
    assert counts["documents"] == len(corpus) - 1  # one has no text
    assert counts["written"] == 8 * counts["documents"]
    dropped = sum(count for name, count in counts.items() if name in ("empty", "repeated") or "/" in name)
    assert counts["kept"] == counts["written"] - dropped == sum(map(len, generated.queries.values()))
    words = {doc_id: set(corpus.document_text(i).split()) for i, doc_id in enumerate(corpus.doc_ids)}
    own, others = [], []
    for doc_id, queries in generated.queries.items():
        written = {word for query in queries for word in query.split()}
        own.append(len(written & words[doc_id]) / len(written))
        other = corpus.doc_ids[(corpus.document_index[doc_id] + 20) % 40]
        others.append(len(written & words[other]) / len(written))
    assert np.mean(own) > 1.5 * np.mean(others)
    again = generate_queries(QueryWriter.load(writing_run), corpus, 8, top_k=5)
    assert again == generated
    assert generate_queries(QueryWriter.load(writing_run), corpus, 8, top_k=5, seed=1) != generated


def test_greedy_queries_are_those_of_the_training_pass(writing_run, tiny_corpus):
    run, writer = open_run(writing_run), QueryWriter.load(writing_run)
    text = read_beir(tiny_corpus).document_text(3)
    (found,) = next(writer.write([text], 1, top_k=1))[:1]
    inputs = writer.vocabulary.encode_rows([text], writer.input_length, append_eos=True)
    written = np.zeros((1, writer.query_length + 1), np.int32)
    model = jax.jit(T5(run.model).apply)
    for place in range(writer.query_length):
        logits = np.array(model({"params": writer.params}, inputs, written[:, :-1]))[0, place]
        logits[[0, *range(writer.vocabulary.size, len(logits))]] = -np.inf
        written[0, place + 1] = logits.argmax()
        if written[0, place + 1] == 1:
            break
    assert found == writer.vocabulary.decode(written[0, 1:])


def test_what_is_no_use_or_would_be_a_leak_is_left_out(writing_run, monkeypatch):
    corpus = Corpus(
        name="three",
        doc_ids=("a", "b", "c"),
        titles=("", "", ""),
        texts=("one", "two", ""),
        queries={"q1": "Tested, how?", "q2": "known"},
        qrels={"train": {"q2": {"a": 1}}, "test": {"q1": {"b": 1}}},
    )
    written = [["first", "First!", " ", "known"], ["tested how", "first", "second", "third"]]
    monkeypatch.setattr(QueryWriter, "write", lambda self, texts, number, **options: iter(written))
    generated = generate_queries(QueryWriter.load(writing_run), corpus, 4)
    assert generated.queries == {"a": ("first", "known"), "b": ("first", "second", "third")}
    assert generated.counts == {
        "documents": 2, "written": 8, "kept": 5, "empty": 1, "repeated": 1, "shared": 1, "evaluation/test": 1,
    }  # fmt: skip


def test_the_command_writes_what_training_reads(writing_run, tmp_path, capsys):
    corpus = write_tiny_corpus(tmp_path / "topics")
    generate = ["queries", "generate", "--run", str(writing_run), "--corpus", str(corpus), "--number", "3"]
    assert cli.main(generate) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{corpus / 'queries_generated.jsonl'}: ")
    assert "left out of 120:" in out
    first = json.loads((corpus / "queries_generated.jsonl").read_text().splitlines()[0])
    assert read_beir(corpus).generated_queries[first["_id"]] == tuple(first["queries"])
    assert cli.main(generate) == 2
    assert "queries_generated.jsonl" in capsys.readouterr().err  # nothing is overwritten
    (tmp_path / "folder").mkdir()
    assert cli.main([*generate, "--out", str(tmp_path / "folder")]) == 2
    assert "folder: the output already exists" in capsys.readouterr().err, "before the work, not after it"


def test_no_queries_at_all_are_refused(writing_run, tiny_corpus):
    with pytest.raises(InputError, match="0 queries of each document; expected at least 1"):
        generate_queries(QueryWriter.load(writing_run), read_beir(tiny_corpus), 0)


def test_public_weights_write_too(writing_run, tiny_corpus, tmp_path):
    run = open_run(writing_run)
    model_file = run.vocabulary.model
    config = dataclasses.replace(run.model, vocab_size=run.vocabulary.size + 104, dropout_rate=0.0)
    params = jax.jit(T5(config).init)(jax.random.key(0), *[np.zeros((1, 1), np.int32)] * 2)["params"]
    save_checkpoint(
        tmp_path / "public", jax.tree.map(np.asarray, params), config, layout="huggingface", sentencepiece=model_file
    )
    writer = QueryWriter.from_public(tmp_path / "public")
    assert writer.config == dataclasses.replace(config, dropout_rate=writer.config.dropout_rate)
    (queries,) = writer.write([read_beir(tiny_corpus).document_text(0)], 2)
    assert len(queries) == 2
    assert not any("extra_id" in query for query in queries)


def test_runs_of_one_kind_are_not_taken_for_those_of_the_other(writing_run, tiny_run):
    with pytest.raises(InputError, match="writes queries for documents, not docids"):
        Retriever.load(writing_run)
    with pytest.raises(InputError, match=r"writes docids of documents.*'documents_to_queries'"):
        QueryWriter.load(tiny_run)


def test_the_shipped_recipe_writes_queries():
    _, experiment = experiment_from_gin(["runs/queries_from_scratch.gin"], ["CORPUS = 'c'", "RUN = 'r'"])
    assert experiment.sampler.writes_queries
    assert experiment.model.tie_embeddings
