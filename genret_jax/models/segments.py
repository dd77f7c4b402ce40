"""Positions where the input is a sequence of items: how many items apart, where within them, and how long ago.

T5 knows how far apart two tokens are and nothing else, and its exact distances end after eight tokens, which are two
items of four codes. What these add is what a user's history is made of: whole items in order, of which the latest say
most.
"""

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float, Int

from genret_jax.models.config import InputSegments, T5Config
from genret_jax.models.layers import Embed, relative_position_buckets


def places(segments: InputSegments, length: int) -> tuple[Int[np.ndarray, " l"], Int[np.ndarray, " l"]]:
    """Return for each position its item, and its place within it.

    Tokens before the first item are item -1; their places follow those of an item's tokens.
    """
    after = np.arange(length) - segments.leading
    item = np.where(after < 0, -1, after // segments.length)
    return item, np.where(after < 0, segments.length + np.arange(length), after % segments.length)


class SegmentBias(nn.Module):
    """Attention bias of two tokens: one of how many items apart they are, in T5's buckets, and one of their places."""

    config: T5Config

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "1 h l l"]:
        """Return the bias of the encoder's attention logits for inputs of one length, in float32."""
        config, segments = self.config, self.config.input_segments
        assert segments is not None
        item, place = places(segments, length)
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform")
        buckets, kinds = config.relative_attention_num_buckets, segments.length + segments.leading
        of_items = param_with_axes(
            "items", init, (config.num_heads, buckets), jnp.float32, axes=("heads", "relpos_buckets")
        )
        of_places = param_with_axes(
            "places", init, (config.num_heads, kinds * kinds), jnp.float32, axes=("heads", "relpos_buckets")
        )
        rows = relative_position_buckets(
            item[None, :] - item[:, None],
            bidirectional=True,
            num_buckets=buckets,
            max_distance=config.relative_attention_max_distance,
        )
        pairs = place[:, None] * kinds + place[None, :]
        return (jnp.take(of_items, rows, axis=1) + jnp.take(of_places, pairs, axis=1))[None]


class Recency(nn.Module):
    """A vector for how many items came after a token's item; none for what comes before the first item."""

    config: T5Config

    def setup(self) -> None:
        """Declare the table."""
        assert self.config.input_segments is not None
        self.embedder = Embed(self.config.input_segments.count, self.config.d_model, self.config.compute_dtype)

    def __call__(self, tokens: Int[Array, "b l"]) -> Float[Array, "b l d"]:
        """Return what is added to the tokens' vectors."""
        segments = self.config.input_segments
        assert segments is not None
        item, _ = places(segments, tokens.shape[1])
        shown = jnp.where(tokens > 0, jnp.asarray(item)[None], -1)
        later = shown.max(axis=1, keepdims=True) - item[None]
        return self.embedder(jnp.maximum(later, 0)) * (item >= 0)[None, :, None]
