"""From an experiment on documents to a run folder that is ready to be trained."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from genret_jax.data.corpus import Corpus, read_beir, write_beir
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.splits import hold_out
from genret_jax.data.store_building import build_store
from genret_jax.data.vocabulary import ByteVocabulary, Vocabulary, from_model_file, train_sentencepiece
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.evaluation.environment import environment
from genret_jax.experiment import Experiment, PretrainedStart, needs_vectors
from genret_jax.models.config import T5Config, divisible
from genret_jax.run import DOCUMENTS, SETTINGS, VERSION, Run, as_json
from genret_jax.run.folder import Log, claim, make
from genret_jax.storage import fingerprint, write_json


def prepare_documents(experiment: Experiment, folder: Path, log: Log, like: Path | None) -> Run:
    """Make a run folder of documents ready to be trained; see :func:`genret_jax.prepare.prepare`."""
    corpus = read_beir(experiment.corpus)
    everything = fingerprint(corpus.fingerprint, corpus.queries, corpus.qrels, corpus.generated_queries)
    if "validation" not in corpus.qrels and experiment.hold_out and "train" in corpus.qrels:
        corpus = hold_out(corpus, experiment.hold_out, split="validation")
    claim(folder, {"corpus": everything, **experiment.identity()})
    make(folder / "corpus", lambda path: write_beir(corpus, path), like)
    splits = "".join(f", {split} {len(qrels):,} queries" for split, qrels in corpus.qrels.items())
    log(f"corpus      {len(corpus):,} documents{splits}")
    make(folder / "docids", lambda path: _table(experiment, corpus).save(path), like)
    table = DocidTable.load(folder / "docids")
    log(f"docids      {table.strategy.get('name', '')}: {table.num_nodes:,} nodes, at most {table.lengths.max()} codes")
    make(folder / "examples", lambda path: _store(path, experiment, corpus, table), like)
    store = ExampleStore.open(folder / "examples")
    vocabulary = store.vocabulary
    log(f"examples    {store.manifest['words']:,} words in {vocabulary.size:,} tokens ({vocabulary.kind})")
    codec = docid_codec(experiment, table, vocabulary.size, vocabulary.encode)
    settings = {
        "version": VERSION,
        "kind": DOCUMENTS,
        "corpus": corpus.name,
        "seed": experiment.seed,
        "codec": codec.to_json(),
        "model": as_json(sized_model(experiment, vocabulary.size, codec, codec.encode(table).tree.num_nodes)),
        "sampler": as_json(experiment.sampler),
        "evaluation": as_json(experiment.evaluation),
        "start": as_json(experiment.start),
        "fingerprints": {
            "corpus": corpus.fingerprint,
            "docids": table.fingerprint,
            "vocabulary": vocabulary.fingerprint,
        },
        "environment": environment(),
    }
    write_json(folder / SETTINGS, settings)
    return Run.open(folder)


def _vocabulary(experiment: Experiment, corpus: Corpus) -> Vocabulary:
    wanted = experiment.vocabulary
    if wanted.kind == "bytes":
        return ByteVocabulary(normalization=wanted.normalization, extra_ids=wanted.extra_ids)
    if wanted.kind == "file":
        assert wanted.path is not None
        return from_model_file(wanted.path, normalization=wanted.normalization, extra_ids=wanted.extra_ids)
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    texts += [corpus.queries[query] for query in corpus.qrels.get("train", {})]
    return train_sentencepiece(texts, size=wanted.size, normalization=wanted.normalization, extra_ids=wanted.extra_ids)


def _store(path: Path, experiment: Experiment, corpus: Corpus, table: DocidTable) -> None:
    vocabulary = _vocabulary(experiment, corpus)
    codec = docid_codec(experiment, table, vocabulary.size, vocabulary.encode)
    build_store(path, corpus, codec.encode(table), vocabulary, codec=codec, docids_fingerprint=table.fingerprint)


def _table(experiment: Experiment, corpus: Corpus) -> DocidTable:
    if isinstance(experiment.docids, str):
        table = DocidTable.load(experiment.docids)
        table.require_corpus(corpus.fingerprint, file=experiment.docids)
        return table
    vectors = experiment.vectors.vectors(corpus) if needs_vectors(experiment.docids) else None
    return experiment.docids.assign(
        corpus.doc_ids, vectors, seed=experiment.docid_seed, corpus_fingerprint=corpus.fingerprint
    )


def docid_codec(
    experiment: Experiment, table: DocidTable, text_tokens: int, encode: Callable[[str], Sequence[int]]
) -> DocidCodec:
    """Return how the experiment's docids become tokens.

    The prefix head writes docids only; T5's head writes text too, so docid tokens come after those of text.

    Args:
        experiment: The choices.
        table: The docids.
        text_tokens: Size of the text vocabulary.
        encode: From text to its tokens.
    """
    if experiment.model.head == "prefix":
        nodes: Literal["table", "tokens"] = "tokens" if len(table.level_sizes) == 1 else "table"
        return DocidCodec(first_token=2, level_sizes=table.level_sizes, nodes=nodes)
    return DocidCodec(
        kind=experiment.codec,
        first_token=text_tokens,
        level_sizes=table.level_sizes,
        eos="always",
        encode_text=encode if experiment.codec == "text" else None,
    )


def sized_model(experiment: Experiment, text_tokens: int, codec: DocidCodec, num_nodes: int) -> T5Config:
    """Return the experiment's network with what the corpus decides filled in.

    Args:
        experiment: The choices.
        text_tokens: Size of the text vocabulary.
        codec: From :func:`docid_codec`.
        num_nodes: Nodes of the docid tree.

    Raises:
        InputError: If an adaptive decoder would have no prefix to read.
    """
    if codec.kind != "text":
        experiment.model.require_prefixes(len(codec.level_sizes))
    if experiment.model.head == "prefix":
        return dataclasses.replace(
            experiment.model,
            vocab_size=divisible(text_tokens),
            decoder_vocab_size=divisible(codec.vocab_size),
            num_nodes=divisible(num_nodes),
        )
    # Public weights may have more rows than their vocabulary has tokens.
    least = experiment.model.vocab_size if isinstance(experiment.start, PretrainedStart) else 0
    return dataclasses.replace(experiment.model, vocab_size=max(least, divisible(codec.vocab_size)))
