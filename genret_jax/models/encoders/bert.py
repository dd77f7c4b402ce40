"""Encoders of the BERT family: BERT (Devlin et al. 2019, arXiv 1810.04805), MPNet (Song et al. 2020, arXiv 2004.09297).

Both are post-norm Transformers with learned positions. MPNet adds T5's relative position bias, counts positions from 2
and has no segments.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float, Int

from genret_jax.models.encoders.config import BertConfig
from genret_jax.models.layers import Dense, Embed, constrain, padding_bias, relative_position_buckets

_ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
    "gelu_new": lambda x: nn.gelu(x, approximate=True),
    "relu": nn.relu,
}
_DEVIATION = 0.02  # of random parameters, as in BERT's code
_INIT = nn.initializers.normal(stddev=_DEVIATION)


class BertNorm(nn.Module):
    """Layer norm with mean and bias, computed in float32 (Ba et al. 2016, arXiv 1607.06450)."""

    config: BertConfig

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Centre every vector, scale it to unit variance, then apply the learned weights."""
        scale = param_with_axes("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",))
        bias = param_with_axes("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32, axes=("embed",))
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.config.layer_norm_epsilon)
        weighted = normed * jnp.broadcast_to(scale, normed.shape) + jnp.broadcast_to(bias, normed.shape)
        return weighted.astype(self.config.dtype)


class BiasedDense(nn.Module):
    """A linear map with bias; arguments as of :class:`~genret_jax.models.layers.Dense`, whose kernel it has."""

    features: int
    axes: tuple[str, str]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Multiply the last axis by the kernel and add the bias."""
        bias = param_with_axes("bias", nn.initializers.zeros, (self.features,), jnp.float32, axes=(self.axes[1],))
        mapped = Dense(self.features, self.axes, self.dtype, _INIT, name="map")(x)
        return mapped + jnp.broadcast_to(bias, mapped.shape).astype(self.dtype)


class BertLayer(nn.Module):
    """Self-attention and a feed-forward layer, each followed by its norm."""

    config: BertConfig

    def setup(self) -> None:
        """Declare the sublayers."""
        config = self.config
        into, out = ("embed", "joined_kv"), ("joined_kv", "embed")
        self.query, self.key, self.value = (BiasedDense(config.d_model, into, config.dtype) for _ in range(3))
        self.out = BiasedDense(config.d_model, out, config.dtype)
        self.attention_norm = BertNorm(config)
        self.wi = BiasedDense(config.d_ff, ("embed", "mlp"), config.dtype)
        self.wo = BiasedDense(config.d_model, ("mlp", "embed"), config.dtype)
        self.mlp_norm = BertNorm(config)
        self.dropout = nn.Dropout(rate=config.dropout_rate)

    def __call__(
        self, x: Float[Array, "b l d"], bias: Float[Array, "b #h #l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Apply the layer to a batch of sequences."""
        heads = (*x.shape[:2], self.config.num_heads, -1)
        axes = ("batch", "length", "heads", "kv")
        parts = (constrain(part(x).reshape(heads), *axes) for part in (self.query, self.key, self.value))
        # With the heads first, and with sums divided instead of every weight, attention takes a third of the time on
        # the CPU.
        query, key, value = (part.swapaxes(1, 2) for part in parts)
        query = query * query.shape[-1] ** -0.5
        logits = jnp.einsum("bhqd,bhld->bhql", query, key, preferred_element_type=jnp.float32) + bias
        weights = jnp.exp(logits - jax.lax.stop_gradient(logits.max(-1, keepdims=True)))
        total = weights.sum(-1, keepdims=True)
        weights = self.dropout(weights.astype(self.config.dtype), deterministic=deterministic)
        mixed = (jnp.einsum("bhql,bhld->bhqd", weights, value) / total).astype(self.config.dtype)
        mixed = self.out(mixed.swapaxes(1, 2).reshape(x.shape))
        x = self.attention_norm(x + self.dropout(mixed, deterministic=deterministic))
        hidden = constrain(_ACTIVATIONS[self.config.activation](self.wi(x)), "batch", "length", "mlp")
        mapped = self.dropout(self.wo(hidden), deterministic=deterministic)
        return constrain(self.mlp_norm(x + mapped), "batch", "length", "embed")


class BertEncoder(nn.Module):
    """The stack of layers over token, position and segment embeddings."""

    config: BertConfig

    def setup(self) -> None:
        """Declare the embeddings, the layers and the position bias that they share."""
        config = self.config
        self.token_embedder = Embed(config.vocab_size, config.d_model, deviation=_DEVIATION)
        self.position_embedder = Embed(config.positions, config.d_model, deviation=_DEVIATION)
        if config.token_types:
            self.type_embedder = Embed(config.token_types, config.d_model, deviation=_DEVIATION)
        if config.relative_buckets:
            self.relative_bias = Embed(config.relative_buckets, config.num_heads, deviation=_DEVIATION)
        self.embedding_norm = BertNorm(config)
        layer = nn.remat(BertLayer, static_argnums=(3,)) if config.remat else BertLayer
        self.layers = [layer(config) for _ in range(config.num_layers)]
        self.dropout = nn.Dropout(rate=config.dropout_rate)

    def __call__(
        self, tokens: Int[Array, "b l"], deterministic: bool = True, histories: None = None
    ) -> Float[Array, "b l d"]:
        """Encode token sequences, padded with 0; the vectors at padding are meaningless.

        T5's encoder has ``histories``; this one reads no items, so there are none.

        Raises:
            ValueError: If they are longer than the position embedding.
        """
        config, length = self.config, tokens.shape[1]
        if length > config.max_length:
            raise ValueError(f"{length} tokens; expected at most {config.max_length}")
        x = self.token_embedder(tokens) + self.position_embedder(jnp.arange(length) + config.first_position)[None]
        if config.token_types:
            x = x + self.type_embedder(jnp.zeros((1, 1), jnp.int32))
        x = self.dropout(self.embedding_norm(x), deterministic=deterministic)
        x = constrain(x, "batch", "length", "embed")
        bias = padding_bias(tokens > 0)
        if config.relative_buckets:
            bias = bias + self._position_bias(length)
        for layer in self.layers:
            x = layer(x, bias, deterministic)
        return x

    def _position_bias(self, length: int) -> Float[Array, "1 h l l"]:
        positions = np.arange(length, dtype=np.int32)
        rows = relative_position_buckets(
            positions[None, :] - positions[:, None],
            bidirectional=True,
            num_buckets=self.config.relative_buckets,
            max_distance=128,
        )
        return self.relative_bias(jnp.asarray(rows)).transpose(2, 0, 1)[None]
