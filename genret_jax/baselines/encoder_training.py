"""A text encoder of T5's shape, and how it learns from pairs of queries and documents."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.data.example_store import ExampleStore
from genret_jax.data.sampler import Sampler, SamplerConfig
from genret_jax.losses import in_batch_contrastive
from genret_jax.models.config import T5Config
from genret_jax.models.layers import Embed
from genret_jax.models.network import Encoder
from genret_jax.validation import check_fields, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """One encoder for both sides; what it reads and how similarities are sharpened.

    Attributes:
        network: Shape of the encoder; fields of the decoder play no part.
        query_length: Tokens of a query.
        document_length: First tokens of a document.
        append_eos: End both with EOS, as pretrained T5 expects.
        temperature: Divides cosine similarities in the loss. 0.05 is SimCSE's (Gao et al. 2021, arXiv 2104.08821).
    """

    network: T5Config
    query_length: int = 24
    document_length: int = 64
    append_eos: bool = False
    temperature: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "query_length", self.query_length >= 2, "at least 2")
        require(self, "document_length", self.document_length >= 2, "at least 2")
        require(self, "temperature", self.temperature > 0, "a number above 0")


class TextEncoder(nn.Module):
    """T5's encoder with the mean over its outputs as a unit vector (Ni et al. 2022, Sentence-T5, arXiv 2108.08877).

    Parameters have the names they have in :class:`genret_jax.models.network.T5`.
    """

    config: T5Config

    def setup(self) -> None:
        """Declare the embedding and the stack under T5's names."""
        self.token_embedder = Embed(self.config.vocab_size, self.config.d_model, self.config.compute_dtype)
        self.encoder = Encoder(self.config, self.token_embedder)

    def __call__(self, tokens: Int[Array, "b l"], *, deterministic: bool = True) -> Float[Array, "b d"]:
        """Return unit vectors in float32; a zero vector for a text without tokens."""
        encoded = self.encoder(tokens, deterministic).astype(jnp.float32)
        summed = jnp.einsum("bld,bl->bd", encoded, (tokens > 0).astype(jnp.float32))
        # The mean's direction is the sum's. Safe at zero, also in the gradient.
        return summed * jax.lax.rsqrt(jnp.maximum(jnp.sum(summed**2, axis=-1, keepdims=True), 1e-12))


def encoder_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of T5 parameters that :class:`TextEncoder` has: embeddings and encoder."""
    return {name: params[name] for name in ("token_embedder", "encoder")}


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

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """Return queries or pseudo-queries with the first tokens of their documents."""
        examples = self.sampler.batch(step)
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
