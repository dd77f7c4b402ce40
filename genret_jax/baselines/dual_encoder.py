"""A dual encoder: queries and documents become vectors, and the nearest documents are the answer."""

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.baselines.encoder_training import DualEncoderConfig, DualEncoderTask, TextEncoder, encoder_params
from genret_jax.baselines.vector_search import ExactIndex, VectorIndex
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.vocabulary import EOS, Vocabulary
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import evaluate
from genret_jax.models.config import T5Config
from genret_jax.storage import atomic_folder, load_arrays, save_arrays
from genret_jax.training import TrainerConfig, restore_params, train

KIND, VERSION = "dual_encoder", 1
ARRAYS, VOCABULARY = "arrays", "vocabulary"
_ROWS_AT_ONCE = 256  # texts encoded in one call
_PARAM = "param."  # array names: parameters have this and their path


class DualEncoder:
    """An encoder with the vectors of a corpus; :meth:`train` or :meth:`load` gives one.

    Args:
        config: Encoder and lengths.
        params: Of the encoder.
        vocabulary: Text to tokens.
        doc_ids: External ids of the documents that have a vector.
        vectors: Their unit vectors, [n, d].
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        params: Mapping[str, Any],
        vocabulary: Vocabulary,
        doc_ids: Sequence[str],
        vectors: Float32[np.ndarray, "n d"],
    ):
        self.config, self.vocabulary = config, vocabulary
        self.params = jax.device_put(dict(params))
        self.doc_ids, self.vectors = doc_ids, vectors

    @classmethod
    def train(
        cls,
        store: ExampleStore,
        config: DualEncoderConfig,
        trainer: TrainerConfig,
        folder: str | os.PathLike[str],
        *,
        sampler: SamplerConfig | None = None,
        seed: int = 0,
        init_params: Mapping[str, Any] | None = None,
        validation_split: str | None = None,
    ) -> "DualEncoder":
        """Train by the loop and from the examples that the generative model has.

        Args:
            store: Texts, queries and judgements.
            config: Encoder and lengths.
            trainer: Steps, batch size, optimizer; with ``best_metric="validation/mrr@10"`` the best step is taken.
            folder: For checkpoints and metrics; training goes on where it was stopped.
            sampler: Which queries and pseudo-queries are shown.
            seed: Seed of the sampler.
            init_params: T5 parameters of the same shape to start from (a decoder among them is left out).
            validation_split: Evaluate on this split whenever ``trainer`` says so.

        Raises:
            InputError: If the batch is to be computed in parts, which would take negatives away, or as ``train`` says.
        """
        if trainer.gradient_accumulation != 1:
            raise InputError(
                f"gradient_accumulation {trainer.gradient_accumulation} for a dual encoder",
                expected="1, as the negatives of a query are its whole batch",
                fix="set it to 1; T5Config.remat and a smaller batch save memory too",
            )
        if config.network.vocab_size < store.vocabulary_size:
            raise InputError(
                f"T5Config.vocab_size is {config.network.vocab_size}",
                expected=f"at least the vocabulary's {store.vocabulary_size}",
                fix="change T5Config.vocab_size",
            )
        task = DualEncoderTask(config, store, sampler or SamplerConfig(), seed=seed, batch_size=trainer.batch_size)
        evaluators = {}
        if validation_split is not None:
            evaluators["validation"] = functools.partial(_validate, store, config, validation_split)
        result = train(
            task,
            trainer,
            folder,
            evaluators=evaluators,
            init_params=None if init_params is None else encoder_params(init_params),
            fingerprint={"examples": store.fingerprint, "dual_encoder": dataclasses.asdict(config)},
        )
        params = result.params if trainer.best_metric is None else restore_params(folder, "best")
        return cls.of_store(store, config, params)

    @classmethod
    def of_store(cls, store: ExampleStore, config: DualEncoderConfig, params: Mapping[str, Any]) -> "DualEncoder":
        """Encode the documents of a store; those without text get no vector and are never found."""
        params = jax.device_put(jax.device_get(encoder_params(params)))  # from a mesh to one device
        documents = store.documents_with_text
        tokens = store.document_inputs(config.document_length, documents=documents, append_eos=config.append_eos)
        doc_ids = [store.doc_ids[int(index)] for index in documents]
        return cls(config, params, store.vocabulary, doc_ids, encode_tokens(config.network, params, tokens))

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "q d"]:
        """Return unit vectors of texts; zero vectors for those without a word."""
        length, append_eos = self.config.query_length, self.config.append_eos
        tokens = np.zeros((len(texts), length), np.int32)
        for row, text in enumerate(texts):
            ids = self.vocabulary.encode(text)[: length - append_eos]
            if ids:
                tokens[row, : len(ids)] = ids
                tokens[row, len(ids) : len(ids) + append_eos] = EOS
        return encode_tokens(self.config.network, self.params, tokens)

    @functools.cached_property
    def exact_index(self) -> ExactIndex:
        """The documents, for exact search."""
        return ExactIndex(self.vectors)

    def search(
        self, queries: Mapping[str, str], k: int, index: VectorIndex | None = None
    ) -> dict[str, list[tuple[str, float]]]:
        """Rank documents for queries by cosine similarity.

        Args:
            queries: Query id to text.
            k: Most results a query.
            index: What searches ``self.vectors``, e.g. ``HnswIndex(encoder.vectors)``; exact by default.

        Returns:
            Query id to (document id, similarity) from best to worst; nothing for a query without a word.
        """
        vectors = self.encode_queries(list(queries.values()))
        scores, found = (index or self.exact_index).search(vectors, k)
        return _run(list(queries), self.doc_ids, vectors, scores, found)

    def save(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write encoder, vocabulary and document vectors, whole or not at all."""
        arrays = {_PARAM + name: np.asarray(leaf) for name, leaf in flatten_dict(self.params, sep=".").items()}
        packed = PackedStrings.pack(list(self.doc_ids))
        arrays |= {"vectors": self.vectors, "doc_id_text": packed.text, "doc_id_offsets": packed.offsets}
        details = {"config": dataclasses.asdict(self.config)}
        with atomic_folder(folder, replace=replace) as partial:
            self.vocabulary.save(partial / VOCABULARY)
            save_arrays(partial / ARRAYS, arrays, kind=KIND, version=VERSION, details=details)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> "DualEncoder":
        """Open what :meth:`save` wrote.

        Raises:
            InputError: If it is missing, damaged, or something else.
        """
        arrays, manifest = load_arrays(Path(folder) / ARRAYS, kind=KIND, version=VERSION)
        fields = manifest["config"]
        config = DualEncoderConfig(**{**fields, "network": T5Config(**fields["network"])})
        leaves = {name.removeprefix(_PARAM): leaf for name, leaf in arrays.items() if name.startswith(_PARAM)}
        doc_ids = list(PackedStrings(arrays["doc_id_text"], arrays["doc_id_offsets"]))
        vocabulary = Vocabulary.load(Path(folder) / VOCABULARY)
        return cls(config, unflatten_dict(leaves, sep="."), vocabulary, doc_ids, np.asarray(arrays["vectors"]))


def encode_tokens(
    network: T5Config, params: Mapping[str, Any], tokens: Int32[np.ndarray, "n l"]
) -> Float32[np.ndarray, "n d"]:
    """Return the unit vectors of many texts, encoded a block at a time."""
    rows = min(_ROWS_AT_ONCE, max(1, len(tokens)))
    vectors = np.zeros((len(tokens), network.d_model), np.float32)
    for start in range(0, len(tokens), rows):
        taken = tokens[start : start + rows]
        block = np.zeros((rows, tokens.shape[1]), np.int32)  # one shape, one program
        block[: len(taken)] = taken
        vectors[start : start + rows] = np.asarray(_encode(params, block, network=network))[: len(taken)]
    vectors[~tokens.any(axis=1)] = 0
    return vectors


@functools.partial(jax.jit, static_argnames="network")
def _encode(params: Mapping[str, Any], tokens: Int[Array, "b l"], *, network: T5Config) -> Float[Array, "b d"]:
    vectors: Array = TextEncoder(network).apply({"params": params}, tokens)
    return vectors


def _run(
    query_ids: Sequence[str],
    doc_ids: Sequence[str],
    vectors: np.ndarray,
    scores: np.ndarray,
    found: np.ndarray,
) -> dict[str, list[tuple[str, float]]]:
    run: dict[str, list[tuple[str, float]]] = {}
    rows = zip(query_ids, vectors.any(axis=1).tolist(), scores.tolist(), found.tolist(), strict=True)
    for query, has_words, of_query, places in rows:
        pairs = zip(places, of_query, strict=True) if has_words else ()
        run[query] = [(doc_ids[place], score) for place, score in pairs if place >= 0]
    return run


def _validate(
    store: ExampleStore, config: DualEncoderConfig, split: str, params: Mapping[str, Any], step: int
) -> dict[str, float]:
    """Evaluate parameters by exact search; an evaluator of the training loop."""
    encoder = DualEncoder.of_store(store, config, params)
    query_ids, tokens = store.queries(split, config.query_length, append_eos=config.append_eos)
    vectors = encode_tokens(config.network, encoder.params, tokens)
    scores, found = encoder.exact_index.search(vectors, 10)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(*(column.tolist() for column in store.pairs(split)), strict=True):
        qrels.setdefault(store.query_ids[query], {})[store.doc_ids[document]] = grade
    return evaluate(qrels, _run(query_ids, encoder.doc_ids, vectors, scores, found), ks=(1, 10), beam=10)
