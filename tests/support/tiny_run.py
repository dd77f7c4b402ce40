"""Corpora and experiments so small that a run of them is trained in seconds."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genret_jax.config.experiment import EvaluationConfig, Experiment, Recommendation, VocabularyConfig
from genret_jax.data.corpus import Corpus, write_beir
from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.vectors import LsaVectors
from genret_jax.docids import HierarchicalKMeans, LearnedDocids, ResidualKMeans
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoder_start import EncoderStart
from genret_jax.models.initialize import LsaStart
from genret_jax.training import AdamW, Constant, TrainerConfig
from support.encoder_folders import ENCODERS
from support.tiny_model import tiny_t5

TOPICS, OF_TOPIC = 8, 5
EMPTY = "d40"
_FIRST, _MIDDLE, _LAST = "bdfghklm", "aeiou", "nprstvxz"


def word(topic: int, number: int) -> str:
    """Return a word that only one topic has: ``"ban"``, ``"bap"``, ... for topic 0."""
    return _FIRST[topic] + _MIDDLE[number % 5] + _LAST[number // 5 % 8]


def tiny_topics() -> Corpus:
    """Return 41 documents: 8 topics of 5, each with words of its own and of its topic, and one without text.

    Every document has a training query; every third has a test query, which also judges its neighbour (grade 1).
    """
    doc_ids: list[str] = []
    titles: list[str] = []
    texts: list[str] = []
    queries: dict[str, str] = {}
    train: dict[str, dict[str, int]] = {}
    test: dict[str, dict[str, int]] = {}
    for topic in range(TOPICS):
        for number in range(OF_TOPIC):
            doc_id, own = f"d{len(doc_ids)}", [word(topic, 10 + 4 * number + i) for i in range(4)]
            shared = [word(topic, i) for i in range(5)]
            titles.append(f"{own[0]} {shared[number]}" if number else "")
            texts.append(
                f"{own[0]} {shared[0]} {own[1]}. {own[2]} {own[3]} {shared[1]} {own[0]}, {shared[2]} {own[2]}."
            )
            doc_ids.append(doc_id)
            queries[f"q{doc_id}"] = f"{own[1]} {own[2]} {shared[0]}"
            train[f"q{doc_id}"] = {doc_id: 1}
            if len(doc_ids) % 3 == 0:
                queries[f"t{doc_id}"] = f"{own[0]} {own[3]}"
                neighbour = f"d{topic * OF_TOPIC + (number + 1) % OF_TOPIC}"
                test[f"t{doc_id}"] = {doc_id: 2, neighbour: 1}
    return Corpus(
        name="topics",
        doc_ids=(*doc_ids, EMPTY),
        titles=(*titles, ""),
        texts=(*texts, ""),
        queries=queries,
        qrels={"train": train, "test": test},
        source="topics",
    )


def write_tiny_corpus(folder: str | os.PathLike[str], corpus: Corpus | None = None) -> Path:
    """Write :func:`tiny_topics`, or another corpus, as a BEIR folder."""
    write_beir(corpus or tiny_topics(), folder)
    return Path(folder)


def tiny_experiment(
    corpus: str | os.PathLike[str],
    *,
    model: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Experiment:
    """Return an experiment from scratch on one device.

    Args:
        corpus: BEIR folder.
        model: Fields of its T5Config to override.
        trainer: Fields of its TrainerConfig to override.
        **fields: Fields of the experiment to override.
    """
    network = {"d_model": 32, "d_kv": 16, "dropout_rate": 0.1, "encoder_final_norm": False, "head": "prefix"}
    training: dict[str, Any] = {
        "steps": 30,
        "batch_size": 16,
        "data_parallel": 1,
        "optimizer": AdamW(learning_rate=Constant(rate=1e-3)),
        "log_every": 10,
        "evaluate_every": 10,
        "checkpoint_every": 10,
        "best_metric": "validation/mrr@10",
        "tensorboard": False,
    }
    defaults: dict[str, Any] = {
        "docids": HierarchicalKMeans(branching=4, leaf_size=4),
        "vocabulary": VocabularyConfig(size=200),
        "start": LsaStart(),
        "evaluation": EvaluationConfig(beam=10, validation_beam=10, batch_size=16),
    }
    return Experiment(
        corpus=os.fspath(corpus),
        model=tiny_t5(**{**network, **(model or {})}),
        trainer=TrainerConfig(**{**training, **(trainer or {})}),
        **{**defaults, **fields},
    )


def learned_experiment(
    corpus: str | os.PathLike[str], docids: LearnedDocids | None = None, **fields: Any
) -> Experiment:
    """Return an experiment whose docids are learned, two codes of four; arguments as of :func:`tiny_experiment`."""
    learned = docids or LearnedDocids(levels=2, codebook=4, steps=40, alike=4, document_length=12)
    return tiny_experiment(corpus, **{"docids": learned, "model": {"head": "vocabulary"}, **fields})


def tiny_recommendation(
    corpus: str | os.PathLike[str],
    *,
    model: Mapping[str, Any] | None = None,
    trainer: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Recommendation:
    """Return an experiment on items, on one device; arguments as of :func:`tiny_experiment`."""
    training: dict[str, Any] = {
        "steps": 60,
        "batch_size": 32,
        "steps_per_dispatch": 10,
        "data_parallel": 1,
        "optimizer": AdamW(learning_rate=Constant(rate=5e-3)),
        "log_every": 20,
        "evaluate_every": 30,
        "checkpoint_every": 30,
        "best_metric": "validation/ndcg@10",
        "tensorboard": False,
    }
    defaults: dict[str, Any] = {
        "docids": ResidualKMeans(levels=2, codebook=5),
        "vectors": LsaVectors(dimensions=8),
        "histories": HistoryConfig(items=6, user_tokens=8),
        "evaluation": EvaluationConfig(beam=10, validation_beam=10, batch_size=32),
    }
    return Recommendation(
        corpus=os.fspath(corpus),
        model=tiny_t5(**{"d_model": 32, "d_kv": 16, **(model or {})}),
        trainer=TrainerConfig(**{**training, **(trainer or {})}),
        **{**defaults, **fields},
    )


def text_head_experiment(corpus: str | os.PathLike[str]) -> Experiment:
    """Return an experiment that both engines can train alike: T5's head, no dropout, one task, Adam at a constant rate.

    Args:
        corpus: BEIR folder.
    """
    return tiny_experiment(
        corpus,
        model={"head": "vocabulary", "encoder_final_norm": True, "dropout_rate": 0.0},
        trainer={"steps": 20, "log_every": 1, "evaluate_every": None, "checkpoint_every": 20, "clip_norm": None}
        | {"best_metric": None, "data_parallel": None, "optimizer": AdamW(learning_rate=Constant(rate=3e-3))},
        sampler=SamplerConfig(
            indexing_rate=0.0, pseudo_query_rate=0.0, retrieval_rate=1.0, draw="query", append_eos=True
        ),
        start=None,
        z_loss=1e-4,
    )


def planned_experiment(corpus: str | os.PathLike[str], plan: PlanConfig, *, layers: int = 0) -> Experiment:
    """Return an experiment on a tiny pretrained encoder, which is kept, that both engines can train alike.

    Args:
        corpus: BEIR folder.
        plan: The network's plan.
        layers: Layers of the decoder.
    """
    given = text_head_experiment(corpus)
    plain = {"num_nodes": 0, "num_decoder_layers": layers, "plan": plan}
    rates = (("encoder", 0.0), ("query_vector", 3.0))
    return dataclasses.replace(
        given,
        encoder=os.fspath(ENCODERS / "bert"),
        docids=ResidualKMeans(levels=3, codebook=4),
        vectors=None,
        vocabulary=None,
        start=EncoderStart(dense_scale=1.0),
        model=dataclasses.replace(given.model, query_width=8, **plain),
        sampler=dataclasses.replace(given.sampler, input_length=12, append_eos=False),
        trainer=dataclasses.replace(given.trainer, learning_rates=rates),
    )
