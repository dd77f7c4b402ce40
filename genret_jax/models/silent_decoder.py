"""A decoder without layers, for networks that generate docids from their plan alone."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.heads import Columns


class SilentDecoder(nn.Module):
    """A decoder whose logits are all 0, so that the plan alone decides; it has no parameters.

    It takes the place of :class:`genret_jax.models.network.Decoder` in a call and in a search, and its methods take the
    same arguments. It has no states, so there is no ``states`` or ``read``.

    Attributes:
        config: The network's shape, with ``num_decoder_layers=0``.
    """

    config: T5Config

    def __call__(self, encoded: Any, sources: Any, tokens: Int[Array, "b m"], *_: Any, **__: Any) -> Array:
        """Return logits of 0 for whole target sequences [b, m, v]."""
        return self.forced(tokens)

    def init_cache(self, *_: Any) -> dict[str, Any]:
        """Return a cache that holds nothing."""
        return {"beams": {}, "shared": {}, "position": None}

    def step(
        self, tokens: Int[Array, "b k"], nodes: Any, cache: dict[str, Any], tree: Any = None, columns: Columns = None
    ) -> tuple[Float[Array, "b k v"], dict[str, Any]]:
        """Return logits of 0 for one position of every beam, and the cache as it is."""
        return self.forced(tokens, width=None if columns is None else columns[1]), cache

    def forced(self, tokens: Int[Array, "*b"], *_: Any, width: int | None = None) -> Float[Array, "*b v"]:
        """Return logits of 0 for several positions of every beam; ``width`` of them for each if it is given."""
        return jnp.zeros((*tokens.shape, self.config.output_vocab_size if width is None else width))
