"""From an experiment on documents to a run folder that is ready to be trained."""

import dataclasses
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

import jax

from genret_jax.config.experiment import Experiment, PretrainedStart, needs_vectors
from genret_jax.data.corpus import Corpus, read_beir, write_beir
from genret_jax.data.examples.building import build_store
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.splits import hold_out, without_generated
from genret_jax.data.text.vocabulary import ByteVocabulary, Vocabulary, from_model_file, train_sentencepiece
from genret_jax.docid_learning.learner import learn_docids
from genret_jax.docid_learning.model import Tokeniser
from genret_jax.docids import AtomicDocids, DocidCodec, DocidTable, LearnedDocids, QuantisedDocids
from genret_jax.errors import InputError
from genret_jax.evaluation.environment import environment
from genret_jax.models.config import T5Config, divisible
from genret_jax.run import DOCUMENTS, LEARNING, QUANTISER, SETTINGS, VERSION, Run, as_json
from genret_jax.run.folder import Log, claim, make
from genret_jax.storage import fingerprint, write_json


def prepare_documents(experiment: Experiment, folder: Path, log: Log, like: Path | None) -> Run:
    """Make a run folder of documents ready to be trained; see :func:`genret_jax.prepare.prepare`."""
    corpus = read_beir(experiment.corpus)
    if not experiment.sampler.draws_generated_queries:  # so that such a run goes on when some have been written
        corpus = dataclasses.replace(corpus, generated_queries={})
    identity = {"corpus": fingerprint(corpus.fingerprint, corpus.queries, corpus.qrels)}
    if corpus.generated_queries:
        identity["queries_generated.jsonl"] = fingerprint(corpus.generated_queries)
    claim(folder, {**identity, **experiment.identity()})
    if "validation" not in corpus.qrels and experiment.hold_out and "train" in corpus.qrels:
        corpus = hold_out(corpus, experiment.hold_out, split="validation")
        corpus, left_out = without_generated(corpus, split="validation")
        if left_out:
            log(f"corpus      {left_out:,} generated queries left out, as they are queries held out for validation")
    make(folder / "corpus", lambda path: write_beir(corpus, path), like)
    splits = "".join(f", {split} {len(qrels):,} queries" for split, qrels in corpus.qrels.items())
    log(f"corpus      {len(corpus):,} documents{splits}")
    make_docids = _learned if isinstance(experiment.docids, LearnedDocids) else _given
    make_docids(experiment, corpus, folder, log, like)
    table = DocidTable.load(folder / "docids")
    log(f"docids      {table.strategy.get('name', '')}: {table.num_nodes:,} nodes, at most {table.lengths.max()} codes")
    make(folder / "examples", lambda path: _store(path, experiment, corpus, table), like)
    shutil.rmtree(folder / LEARNING, ignore_errors=True)
    store = ExampleStore.open(folder / "examples")
    vocabulary = store.vocabulary
    log(f"examples    {store.manifest['words']:,} words in {vocabulary.size:,} tokens ({vocabulary.kind})")
    codec = docid_codec(experiment, table, vocabulary.size, vocabulary.encode)
    # It refuses splits that are not there.
    Sampler(store, experiment.sampler, seed=experiment.seed, batch_size=experiment.trainer.batch_size)
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
    before = path.parent / LEARNING / "examples"
    vocabulary = ExampleStore.open(before).vocabulary if before.is_dir() else _vocabulary(experiment, corpus)
    codec = docid_codec(experiment, table, vocabulary.size, vocabulary.encode)
    build_store(path, corpus, codec.encode(table), vocabulary, codec=codec, docids_fingerprint=table.fingerprint)


def _given(experiment: Experiment, corpus: Corpus, folder: Path, log: Log, like: Path | None) -> None:
    """Make docids of what is there before anything is trained."""
    make(folder / "docids", lambda path: _table(experiment, corpus).save(path), like)


def _table(experiment: Experiment, corpus: Corpus) -> DocidTable:
    assert not isinstance(experiment.docids, LearnedDocids)
    if isinstance(experiment.docids, str):
        table = DocidTable.load(experiment.docids)
        table.require_corpus(corpus.fingerprint, file=experiment.docids)
        return table
    vectors = experiment.vectors.vectors(corpus) if needs_vectors(experiment.docids) else None
    return experiment.docids.assign(
        corpus.doc_ids, vectors, seed=experiment.docid_seed, corpus_fingerprint=corpus.fingerprint
    )


def _learned(experiment: Experiment, corpus: Corpus, folder: Path, log: Log, like: Path | None) -> None:
    """Learn docids, and keep the network that writes them."""
    strategy = experiment.docids
    assert isinstance(strategy, LearnedDocids)
    if jax.process_count() > 1 and not (folder / "docids").is_dir():
        raise InputError(
            "docids are learned by one process, and there are several",
            file=folder,
            fix="prepare the run first, in one process: add --prepare-only to 'genret train', and then train it",
        )

    @functools.cache
    def learned() -> tuple[Tokeniser, DocidTable]:
        learning = folder / LEARNING
        # Every document needs a docid in a store, and has none yet: these are not read.
        table = AtomicDocids().assign(corpus.doc_ids, None, 0, corpus.fingerprint)
        make(learning / "examples", lambda path: _store(path, experiment, corpus, table))
        store = ExampleStore.open(learning / "examples")
        sizes = (strategy.codebook,) * strategy.levels
        codec = DocidCodec(first_token=store.vocabulary_size, level_sizes=sizes)
        writing = dataclasses.replace(experiment, model=experiment.model.writing_tokens())
        model = sized_model(writing, store.vocabulary_size, codec, 0)
        return learn_docids(experiment, corpus, store, model, learning, log)

    make(folder / QUANTISER, lambda path: learned()[0].save(path), like)
    make(folder / "docids", lambda path: learned()[1].save(path), like)


def room(strategy: object, table: DocidTable) -> tuple[int, ...]:
    """Return level sizes with room for later documents.

    Of the codes that separate there are as many as in a codebook, as in TIGER, and twice as many as are used.
    """
    sizes = table.level_sizes
    if isinstance(strategy, LearnedDocids) or (isinstance(strategy, QuantisedDocids) and strategy.separate):
        return (*sizes[:-1], max([*sizes[:-1], 2 * sizes[-1]]))
    return sizes


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
    learned = isinstance(experiment.docids, LearnedDocids)  # only those are kept with what later ones need
    level_sizes = room(experiment.docids, table) if learned else table.level_sizes
    if experiment.model.head == "prefix":
        nodes: Literal["table", "tokens"] = "tokens" if len(level_sizes) == 1 else "table"
        return DocidCodec(first_token=2, level_sizes=level_sizes, nodes=nodes)
    return DocidCodec(
        kind=experiment.codec,
        first_token=text_tokens,
        level_sizes=level_sizes,
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
