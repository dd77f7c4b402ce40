"""A decoder without layers, for networks that generate docids from their plan alone."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.heads import Columns, NodeTree


class SilentDecoder(nn.Module):
    """A decoder whose logits are all 0, so that the plan alone decides; it has no parameters.

    It takes the place of :class:`genret_jax.models.network.Decoder` in a call and in a search, and its methods have the
    same arguments. It has no states, so there is no ``states`` or ``read``.

    Attributes:
        config: The network's shape, with ``num_decoder_layers=0``.
    """

    config: T5Config

    def __call__(
        self,
        encoded: Float[Array, "s l d"],
        encoder_input_tokens: Int[Array, "s t"],
        tokens: Int[Array, "b m"],
        nodes: Int[Array, "b m"] | None,
        tree: NodeTree | None,
        deterministic: bool,
        histories: Int[Array, "s n"] | None = None,
    ) -> Float[Array, "b m v"]:
        """Return logits of 0 for whole target sequences."""
        return jnp.zeros((*tokens.shape, self.config.output_vocab_size))

    def init_cache(
        self, encoded: Float[Array, "b l d"], encoder_input_tokens: Int[Array, "b t"], length: int
    ) -> dict[str, Any]:
        """Return a cache that holds nothing."""
        return {"beams": {}, "shared": {}, "position": None}

    def step(
        self,
        tokens: Int[Array, "b k"],
        nodes: Int[Array, "b k"] | None,
        cache: dict[str, Any],
        tree: NodeTree | None = None,
        columns: Columns = None,
    ) -> tuple[Float[Array, "b k v"], dict[str, Any]]:
        """Return logits of 0 for one position of every beam, and the cache as it is."""
        width = self.config.output_vocab_size if columns is None else columns[1]
        return jnp.zeros((*tokens.shape, width)), cache

    def forced(
        self,
        tokens: Int[Array, "b k n"],
        nodes: Int[Array, "b k n"] | None,
        cache: dict[str, Any],
        tree: NodeTree | None = None,
    ) -> Float[Array, "b k n v"]:
        """Return logits of 0 for several positions of every beam."""
        return jnp.zeros((*tokens.shape, self.config.output_vocab_size))
