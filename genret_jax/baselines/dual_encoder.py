"""A dual encoder: queries and documents become vectors, and the nearest documents are the answer."""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Float32

from genret_jax.baselines.encoder_training import DualEncoderTask, encode_documents, validate
from genret_jax.baselines.text_encoder import DualEncoderConfig, encode_tokens, encoder_params
from genret_jax.baselines.vector_search import ExactIndex, HnswIndex, VectorIndex, rankings, recall_of_exact
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.vocabulary import EOS, Vocabulary
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.report import System
from genret_jax.models.config import T5Config
from genret_jax.storage import atomic_folder, load_arrays, save_arrays
from genret_jax.training import TrainerConfig, read_metrics, restore_params, train

KIND, VERSION = "dual_encoder", 1
ARRAYS, VOCABULARY = "arrays", "vocabulary"
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
            init_params: T5 parameters of the same shape to start from (a decoder among them is left out).
            validation_split: Evaluate on this split whenever ``trainer`` says so.

        Raises:
            InputError: If the batch is to be computed in parts, which would take negatives away, or as ``train`` says.
            KeyboardInterrupt: If training was stopped by a signal; the same call goes on.
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
        task = DualEncoderTask(
            config, store, sampler or SamplerConfig(), seed=trainer.seed, batch_size=trainer.batch_size
        )
        evaluators = {}
        if validation_split is not None:
            evaluators["validation"] = functools.partial(validate, store, config, validation_split)
        result = train(
            task,
            trainer,
            folder,
            evaluators=evaluators,
            init_params=None if init_params is None else encoder_params(init_params),
            # As JSON gives it back: a tuple would not equal the list in the checkpoint that training goes on from.
            fingerprint={
                "examples": store.fingerprint,
                "dual_encoder": json.loads(json.dumps(dataclasses.asdict(config))),
            },
        )
        result.require_whole()
        params = result.params if trainer.best_metric is None else restore_params(folder, "best")
        return cls.of_store(store, config, params)

    @classmethod
    def of_store(cls, store: ExampleStore, config: DualEncoderConfig, params: Mapping[str, Any]) -> "DualEncoder":
        """Encode the documents of a store; those without text get no vector and are never found."""
        params = jax.device_put(jax.device_get(encoder_params(params)))  # from a mesh to one device
        doc_ids, vectors = encode_documents(store, config, params)
        return cls(config, params, store.vocabulary, doc_ids, vectors)

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
        return rankings(list(queries), self.doc_ids, vectors, scores, found)

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
        fields, network = manifest["config"], manifest["config"]["network"]
        network = T5Config(**{**network, "activations": tuple(network["activations"])})
        config = DualEncoderConfig(**{**fields, "network": network})
        leaves = {name.removeprefix(_PARAM): leaf for name, leaf in arrays.items() if name.startswith(_PARAM)}
        doc_ids = list(PackedStrings(arrays["doc_id_text"], arrays["doc_id_offsets"]))
        vocabulary = Vocabulary.load(Path(folder) / VOCABULARY)
        return cls(config, unflatten_dict(leaves, sep="."), vocabulary, doc_ids, np.asarray(arrays["vectors"]))


def train_and_answer(
    store: ExampleStore,
    queries: Mapping[str, str],
    depth: int,
    *,
    name: str,
    network: T5Config,
    sampler: SamplerConfig,
    trainer: TrainerConfig,
    folder: str | os.PathLike[str],
    init_params: Mapping[str, Any] | None = None,
) -> list[SystemRun]:
    """Train a dual encoder beside a generative model, and search its documents exactly and by HNSW.

    Args:
        store: Tokenised examples. If it has a ``validation`` split, the encoder is validated on it.
        queries: Query id to text, at least one.
        depth: Results per query.
        name: Name of the generative model in the report.
        network: Shape of the encoder.
        sampler: How examples are drawn; also gives the length of queries and whether they end with EOS.
        trainer: Steps, batch size, optimizer and seed; see :func:`trainer_like`.
        folder: Keeps checkpoints and metrics. An encoder that was trained there before is used again.
        init_params: T5 parameters to start from.

    Returns:
        Answers of ``"{name}, dual encoder"`` and ``"{name}, dual encoder, HNSW"``.
    """
    encoder = DualEncoder.train(
        store,
        DualEncoderConfig(network=network, query_length=sampler.input_length, append_eos=sampler.append_eos),
        trainer,
        folder,
        sampler=sampler,
        init_params=init_params,
        validation_split="validation" if "validation" in store.splits else None,
    )
    hnsw = HnswIndex(encoder.vectors)
    exact, exact_time = timed_search(encoder.search, queries, depth)
    found, hnsw_time = timed_search(lambda asked, k: encoder.search(asked, k, hnsw), queries, depth)
    about = f"the encoder of {name}, in-batch negatives"
    size = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(encoder.params))}
    recall = {"share of the exact 10 best found": recall_of_exact(found, exact, 10)}
    return [
        SystemRun(
            system=System(name=title, description=text, details=details),
            run=answers,
            depth=depth,
            milliseconds_per_query=time,
        )
        for title, text, details, answers, time in (
            (f"{name}, dual encoder", f"{about}, exact search", size, exact, exact_time),
            (f"{name}, dual encoder, HNSW", f"{about}, {hnsw.description}", size | recall, found, hnsw_time),
        )
    ]


def trainer_like(log_folder: str | os.PathLike[str], *, seed: int, validated: bool) -> TrainerConfig:
    """Return a trainer with the number of steps and the batch size of a finished training.

    Args:
        log_folder: Folder with the ``metrics.jsonl`` of that training.
        seed: Seed of the new training.
        validated: Evaluate ten times on the validation split and keep the best checkpoint.

    Raises:
        InputError: If the log has no training record with a speed.
    """
    records = [record for record in read_metrics(log_folder) if record.get("steps_per_second")]
    if not records:
        raise InputError("a run without a log of training", file=log_folder, fix="train it first")
    steps = records[-1]["step"]
    return TrainerConfig(
        steps=steps,
        batch_size=round(records[-1]["examples_per_second"] / records[-1]["steps_per_second"]),
        seed=seed,
        evaluate_every=max(1, steps // 10) if validated else None,
        best_metric="validation/mrr@10" if validated else None,
    )
