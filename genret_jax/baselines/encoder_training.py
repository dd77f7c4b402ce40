"""How a dual encoder learns: from the sampler's queries and pseudo-queries and the documents they are about."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float32, Int

from genret_jax.baselines.text_encoder import DualEncoderConfig, TextEncoder, encode_tokens
from genret_jax.baselines.vector_search import ExactIndex, rankings
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.evaluation.metrics import evaluate
from genret_jax.losses import in_batch_contrastive


class DualEncoderTask:
    """Find the document of each query among those of the batch (Karpukhin et al. 2020, DPR, arXiv 2004.04906).

    Args:
        config: Encoder and lengths.
        store: Texts.
        sampler: Which queries and pseudo-queries are shown; their length and EOS are taken from ``config``.
        seed: Seed of the sampler.
        batch_size: Pairs in a batch.
    """

    def __init__(
        self, config: DualEncoderConfig, store: ExampleStore, sampler: SamplerConfig, *, seed: int, batch_size: int
    ):
        self.config, self.store = config, store
        self.encoder = TextEncoder(config.network)
        # Other objectives put docids into the encoder's input, which is the query here.
        shown = dataclasses.replace(
            sampler,
            objective="inputs_to_targets",
            input_length=config.query_length,
            target_length=None,
            append_eos=config.append_eos,
        )
        self.sampler = Sampler(store, shown, seed=seed, batch_size=batch_size)

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        return self.encoder.init(rng, jnp.zeros((1, 1), jnp.int32))

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return queries or pseudo-queries with the first tokens of their documents."""
        examples = self.sampler.batch(step, rows)
        documents = self.store.document_inputs(
            self.config.document_length, documents=examples["document"], append_eos=self.config.append_eos
        )
        return {
            "query_tokens": examples["encoder_input_tokens"],
            "document_tokens": documents,
            "document": examples["document"],
        }

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss, the number of queries, and how many of them find their document first."""
        query_rng, document_rng = jax.random.split(dropout_rng)
        queries = self._encode(params, batch["query_tokens"], query_rng)
        documents = self._encode(params, batch["document_tokens"], document_rng)
        loss, weight = in_batch_contrastive(queries, documents, batch["document"], temperature=self.config.temperature)
        nearest = jnp.argmax(queries @ documents.T, axis=-1)
        return loss, weight, {"in_batch_accuracy": jnp.sum(batch["document"][nearest] == batch["document"])}

    def _encode(self, params: Mapping[str, Any], tokens: jax.Array, rng: jax.Array) -> jax.Array:
        return self.encoder.apply({"params": params}, tokens, deterministic=False, rngs={"dropout": rng})


def encode_documents(
    store: ExampleStore, config: DualEncoderConfig, params: Mapping[str, Any]
) -> tuple[list[str], Float32[np.ndarray, "n d"]]:
    """Return the ids and unit vectors of a store's documents, without those that have no text."""
    documents = store.documents_with_text
    tokens = store.document_inputs(config.document_length, documents=documents, append_eos=config.append_eos)
    return [store.doc_ids[int(index)] for index in documents], encode_tokens(config.network, params, tokens)


def validate(
    store: ExampleStore, config: DualEncoderConfig, split: str, params: Mapping[str, Any], step: int
) -> dict[str, float]:
    """Evaluate parameters on a split by exact search; with the first three arguments given, a loop's evaluator."""
    params = jax.device_put(jax.device_get(params))  # from a mesh to one device
    doc_ids, vectors = encode_documents(store, config, params)
    query_ids, tokens = store.queries(split, config.query_length, append_eos=config.append_eos)
    queries = encode_tokens(config.network, params, tokens)
    found = rankings(query_ids, doc_ids, queries, *ExactIndex(vectors).search(queries, 10))
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(*(column.tolist() for column in store.pairs(split)), strict=True):
        qrels.setdefault(store.query_ids[query], {})[store.doc_ids[document]] = grade
    return evaluate(qrels, found, ks=(1, 10), beam=10)
