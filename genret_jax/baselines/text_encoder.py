"""A text encoder of T5's shape, which turns queries and documents into unit vectors."""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.models.config import T5Config
from genret_jax.models.encoders.t5 import T5Encoder
from genret_jax.models.layers import Embed
from genret_jax.validation import check_fields, require

_ROWS_AT_ONCE = 256  # most texts encoded in one call


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """One encoder for queries and documents, with their lengths and the temperature of the loss.

    Attributes:
        network: Shape of the encoder; fields of the decoder are ignored.
        query_length: Number of tokens of a query that are read.
        document_length: Number of tokens of a document that are read.
        append_eos: End both with EOS, as pretrained T5 expects.
        temperature: Divides cosine similarities in the loss; 0.05 as in SimCSE (Gao et al. 2021, arXiv 2104.08821).
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
    """T5's encoder and the normalised mean of its outputs (Ni et al. 2022, Sentence-T5, arXiv 2108.08877).

    Parameters have the same names as in :class:`genret_jax.models.network.T5`.
    """

    config: T5Config

    def setup(self) -> None:
        """Declare the embedding and the stack under T5's names."""
        self.token_embedder = Embed(self.config.vocab_size, self.config.d_model, self.config.compute_dtype)
        self.encoder = T5Encoder(self.config, self.token_embedder)

    def __call__(self, tokens: Int[Array, "b l"], *, deterministic: bool = True) -> Float[Array, "b d"]:
        """Return unit vectors in float32; a zero vector for a text without tokens."""
        encoded = self.encoder(tokens, deterministic).astype(jnp.float32)
        summed = jnp.einsum("bld,bl->bd", encoded, (tokens > 0).astype(jnp.float32))
        # The mean's direction is the sum's. Safe at zero, also in the gradient.
        return summed * jax.lax.rsqrt(jnp.maximum(jnp.sum(summed**2, axis=-1, keepdims=True), 1e-12))


def encoder_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the T5 parameters that :class:`TextEncoder` uses: embeddings and encoder."""
    return {name: params[name] for name in ("token_embedder", "encoder")}


def encode_tokens(
    network: T5Config, params: Mapping[str, Any], tokens: Int32[np.ndarray, "n l"]
) -> Float32[np.ndarray, "n d"]:
    """Return the unit vectors of many texts, encoded in blocks; zero vectors for texts without tokens."""
    rows = min(_ROWS_AT_ONCE, max(1, len(tokens)))
    vectors = np.zeros((len(tokens), network.d_model), np.float32)
    for start in range(0, len(tokens), rows):
        taken = tokens[start : start + rows]
        block = np.zeros((rows, tokens.shape[1]), np.int32)  # one shape, one program
        block[: len(taken)] = taken
        vectors[start : start + rows] = np.asarray(_encode(params, block, network=network))[: len(taken)]
    vectors[~tokens.any(axis=1)] = 0
    return vectors


@partial(jax.jit, static_argnames="network")
def _encode(params: Mapping[str, Any], tokens: Int[Array, "b l"], *, network: T5Config) -> Float[Array, "b d"]:
    vectors: Array = TextEncoder(network).apply({"params": params}, tokens)
    return vectors
