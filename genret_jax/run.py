"""A run folder: everything that belongs to one trained retriever, complete by itself.

    config.gin      the configuration as run            corpus/       the documents, queries and judgements (BEIR)
    run.json        settings, fingerprints, versions    docids/       the docid table
    checkpoints/    parameters and optimiser states     examples/     tokenised sources of the examples, vocabulary
    metrics.jsonl   losses and validation               reports/      evaluations

Each part is written whole or not at all, so preparing a run that was interrupted goes on with the first part missing.
"""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.data.corpus import Corpus, read_beir, write_beir
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.lsa import lsa
from genret_jax.data.pseudo_queries import PseudoQueries
from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.span_corruption import SpanCorruption
from genret_jax.data.splits import hold_out
from genret_jax.data.store_building import build_store
from genret_jax.data.vocabulary import EOS, ByteVocabulary, Vocabulary, from_model_file, train_sentencepiece
from genret_jax.docids import DocidCodec, DocidTable, EncodedDocids, HierarchicalKMeans, ResidualKMeans
from genret_jax.errors import InputError
from genret_jax.evaluation.environment import environment
from genret_jax.experiment import EvaluationConfig, Experiment, PretrainedStart
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.initialize import LsaStart, start_from_vectors
from genret_jax.storage import fingerprint, read_json, write_json

SETTINGS = "run.json"
_VERSION = 1
# Sizes are rounded up to this, so that embeddings divide evenly among up to so many devices of the model axis.
_DIVISIBLE = 8
_CONFIGS = (T5Config, SamplerConfig, PseudoQueries, SpanCorruption, EvaluationConfig, LsaStart, PretrainedStart)
_SAVED = {cls.__name__: cls for cls in _CONFIGS}

Log = Callable[[str], None]


class Run:
    """An opened run folder; its parts are read when first asked for.

    Attributes:
        folder: Where it is.
        settings: The content of ``run.json``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Run":
        """Open a prepared run.

        Raises:
            InputError: If the folder is missing or is no run.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise InputError(
                f"no run here ({SETTINGS} is missing)",
                file=folder,
                fix="give the folder that 'genret train --run' wrote",
            )
        settings = read_json(folder / SETTINGS)
        if settings.get("version") != _VERSION:
            raise InputError(f"a run of version {settings.get('version')}", file=folder, expected=f"version {_VERSION}")
        return cls(folder, settings)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """Documents, queries and judgements."""
        return dataclasses.replace(read_beir(self.folder / "corpus"), name=self.settings["corpus"])

    @functools.cached_property
    def table(self) -> DocidTable:
        """The docids of every document."""
        return DocidTable.load(self.folder / "docids")

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Text to tokens."""
        return self.store.vocabulary

    @functools.cached_property
    def store(self) -> ExampleStore:
        """Tokenised sources of the training examples."""
        return ExampleStore.open(self.folder / "examples")

    @functools.cached_property
    def encoded(self) -> EncodedDocids:
        """Docids as the decoder's tokens."""
        return DocidCodec.from_json(self.settings["codec"], self._docid_text()).encode(self.table)

    @functools.cached_property
    def row_of_document(self) -> Int[np.ndarray, " n"]:
        """First row of the docid table for every document."""
        rows = np.zeros(self.table.num_documents, np.int64)
        rows[self.table.document[::-1]] = np.arange(self.table.num_rows)[::-1]
        return rows

    @functools.cached_property
    def model(self) -> T5Config:
        """The network."""
        return _restored(self.settings["model"])

    @functools.cached_property
    def sampler(self) -> SamplerConfig:
        """How examples are drawn, and how long inputs are."""
        return _restored(self.settings["sampler"])

    @functools.cached_property
    def evaluation(self) -> EvaluationConfig:
        """What the report measures."""
        return _restored(self.settings["evaluation"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must agree on to be this run's."""
        return dict(self.settings["fingerprints"])

    def encode_queries(self, queries: Sequence[str]) -> Int[np.ndarray, "q l"]:
        """Tokenise queries as the encoder's input: cut to its length, padded with 0."""
        length, ends = self.sampler.input_length, self.sampler.append_eos
        tokens = np.zeros((len(queries), length), np.int32)
        for row, text in enumerate(queries):
            kept = self.vocabulary.encode(text)[: length - ends] + [EOS] * ends
            tokens[row, : len(kept)] = kept
        return tokens

    def params(self, checkpoint: str | int = "best") -> dict[str, Any]:
        """Return the parameters of a checkpoint, or those of the untrained network for ``"start"``."""
        if checkpoint == "start":
            return self.start_params()
        from genret_jax.training import restore_params

        return restore_params(self.folder, which=checkpoint)  # type: ignore[arg-type]

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        import jax

        from genret_jax.models.network import T5

        token = np.zeros((1, 1), np.int32)
        tree = node_tree(self.encoded) if self.model.head == "prefix" else None
        params = jax.jit(T5(self.model).init)(jax.random.key(self.seed), token, token, token, tree)["params"]
        start = _restored(self.settings["start"])
        if isinstance(start, LsaStart):
            found = lsa(self.store.token_counts(), self.model.d_model, self.seed)
            tokens = np.zeros((self.model.vocab_size, self.model.d_model), np.float32)
            tokens[: len(found.terms)] = found.terms * found.idf[:, None]
            nodes = node_vectors(self.encoded, found.documents) if self.model.head == "prefix" else None
            return start_from_vectors(
                params, self.model, start, token_vectors=tokens, node_vectors=nodes, seed=self.seed
            )
        if isinstance(start, PretrainedStart):
            from genret_jax.models.huggingface import load_into

            return load_into(params, self.model, start.path)
        return jax.tree.map(np.asarray, params)

    def _docid_text(self) -> Callable[[str], list[int]] | None:
        return self.vocabulary.encode if self.settings["codec"]["kind"] == "text" else None


def prepare(experiment: Experiment, folder: str | os.PathLike[str], log: Log = print) -> Run:
    """Make a run folder ready to be trained, or open the one that is.

    Args:
        experiment: What to prepare.
        folder: The run folder.
        log: Receives a line for each part made.

    Raises:
        InputError: If the folder holds another experiment or something else, or the corpus cannot be used.
    """
    folder = Path(folder)
    corpus = read_beir(experiment.corpus)
    if "validation" not in corpus.qrels and experiment.hold_out and "train" in corpus.qrels:
        corpus = hold_out(corpus, experiment.hold_out, split="validation")
    identity = fingerprint(corpus.fingerprint, experiment.identity())
    _check_folder(folder, identity)
    _make(folder / "corpus", lambda path: write_beir(corpus, path))
    log(
        f"corpus      {len(corpus):,} documents, "
        + ", ".join(f"{s} {len(q):,}" for s, q in corpus.qrels.items())
        + " queries"
    )
    _make(folder / "docids", lambda path: _table(experiment, corpus).save(path))
    table = DocidTable.load(folder / "docids")
    log(f"docids      {table.strategy.get('name', '')}: {table.num_nodes:,} nodes, at most {table.lengths.max()} codes")
    _make(folder / "examples", lambda path: _store(path, experiment, corpus, table))
    store = ExampleStore.open(folder / "examples")
    vocabulary = store.vocabulary
    log(f"examples    {store.manifest['words']:,} words in {vocabulary.size:,} tokens ({vocabulary.kind})")
    codec = _codec(experiment, table, vocabulary)
    encoded = codec.encode(table)
    model = _sized(experiment, vocabulary, codec, encoded)
    settings = {
        "version": _VERSION,
        "corpus": corpus.name,
        "identity": identity,
        "seed": experiment.seed,
        "codec": codec.to_json(),
        "model": _saved(model),
        "sampler": _saved(experiment.sampler),
        "evaluation": _saved(experiment.evaluation),
        "start": _saved(experiment.start),
        "fingerprints": {
            "corpus": corpus.fingerprint,
            "docids": table.fingerprint,
            "vocabulary": vocabulary.fingerprint,
        },
        "environment": environment(),
    }
    write_json(folder / SETTINGS, settings)
    return Run.open(folder)


def node_tree(encoded: EncodedDocids) -> NodeTree:
    """Return the docid tree as the prefix head's device arrays."""
    return NodeTree.build(encoded.tree.child_offsets, encoded.tree.child_nodes, encoded.tree.child_tokens)


def node_vectors(encoded: EncodedDocids, documents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "s d"]:
    """Return for each tree node the mean direction of the documents below it.

    Args:
        encoded: Docids and their tree.
        documents: A vector a document, of any norm.
    """
    tree, rows = encoded.tree, np.arange(len(encoded.lengths))
    norms = np.linalg.norm(documents, axis=1, keepdims=True)
    directions = documents / np.maximum(norms, 1e-9)
    # A row visits the nodes before each of its tokens, and the node that its last token leads to.
    width = int(tree.child_tokens.max()) + 1
    edges = (
        np.repeat(np.arange(tree.num_nodes), np.diff(tree.child_offsets)).astype(np.int64) * width + tree.child_tokens
    )
    last = encoded.lengths - 1
    ends = tree.child_nodes[
        np.searchsorted(edges, encoded.prefix_nodes[rows, last].astype(np.int64) * width + encoded.tokens[rows, last])
    ]
    before = np.arange(encoded.tokens.shape[1]) < encoded.lengths[:, None]
    nodes = np.concatenate([encoded.prefix_nodes[before], ends])
    visitors = np.concatenate([encoded.document[np.nonzero(before)[0]], encoded.document])
    visits = scipy.sparse.csr_matrix(
        (np.ones(len(nodes), np.float32), (nodes, visitors)), shape=(tree.num_nodes, len(documents))
    )
    return np.asarray(visits @ directions)


def stderr(line: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def _check_folder(folder: Path, identity: str) -> None:
    """Refuse a folder that another experiment, or something else, lives in."""
    marker = folder / "identity"
    if marker.is_file():
        if marker.read_text().strip() != identity:
            raise InputError(
                "this run folder belongs to another corpus or configuration",
                file=folder,
                fix="choose another --run folder",
            )
        return
    if folder.exists() and any(name for name in os.listdir(folder) if not name.startswith(".")):
        raise InputError("the folder is not empty and not a run", file=folder, fix="choose another --run folder")
    from genret_jax.storage import atomic_file

    with atomic_file(marker) as handle:
        handle.write(identity + "\n")


def _make(path: Path, write: Callable[[Path], object]) -> None:
    """Write a part unless it is there; a part that is there is whole."""
    if not path.exists():
        write(path)


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
    codec = _codec(experiment, table, vocabulary)
    build_store(path, corpus, codec.encode(table), vocabulary, codec=codec, docids_fingerprint=table.fingerprint)


def _table(experiment: Experiment, corpus: Corpus) -> DocidTable:
    if isinstance(experiment.docids, str):
        table = DocidTable.load(experiment.docids)
        table.require_corpus(corpus.fingerprint, file=experiment.docids)
        return table
    clusters = isinstance(experiment.docids, (HierarchicalKMeans, ResidualKMeans))
    vectors = experiment.vectors.vectors(corpus) if clusters else None
    return experiment.docids.assign(
        corpus.doc_ids, vectors, seed=experiment.seed, corpus_fingerprint=corpus.fingerprint
    )


def _codec(experiment: Experiment, table: DocidTable, vocabulary: Vocabulary) -> DocidCodec:
    """The prefix head writes docids only; T5's head writes text too, so docid tokens come after those of text."""
    if experiment.model.head == "prefix":
        return DocidCodec(kind="per_level", first_token=2, level_sizes=table.level_sizes, eos="needed")
    text = vocabulary.encode if experiment.codec == "text" else None
    return DocidCodec(
        kind=experiment.codec,
        first_token=vocabulary.size,
        level_sizes=table.level_sizes,
        eos="always",
        encode_text=text,
    )


def _sized(experiment: Experiment, vocabulary: Vocabulary, codec: DocidCodec, encoded: EncodedDocids) -> T5Config:
    """Fill in what the corpus decides."""
    if experiment.model.head == "prefix":
        return dataclasses.replace(
            experiment.model,
            vocab_size=_rounded(vocabulary.size),
            decoder_vocab_size=_rounded(codec.vocab_size),
            num_nodes=_rounded(encoded.tree.num_nodes),
        )
    # Public weights may have more rows than their vocabulary has tokens.
    least = experiment.model.vocab_size if isinstance(experiment.start, PretrainedStart) else 0
    return dataclasses.replace(experiment.model, vocab_size=max(least, _rounded(codec.vocab_size)))


def _rounded(size: int) -> int:
    return -(-size // _DIVISIBLE) * _DIVISIBLE


def _saved(config: Any) -> Any:
    """Return a configuration as JSON values, its class by name."""
    if not dataclasses.is_dataclass(config):
        return config
    return {
        "class": type(config).__name__,
        "fields": {field.name: _saved(getattr(config, field.name)) for field in dataclasses.fields(config)},
    }


def _restored(saved: Any) -> Any:
    """Return what :func:`_saved` was given."""
    if isinstance(saved, list):
        return tuple(_restored(value) for value in saved)
    if not isinstance(saved, dict):
        return saved
    return _SAVED[saved["class"]](**{name: _restored(value) for name, value in saved["fields"].items()})
