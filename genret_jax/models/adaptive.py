"""NCI's prefix-aware weight-adaptive decoder (PAWA): the prefix decides how the output layer reads the decoder's state.

A code has a different meaning after every prefix, but the output layer of T5 has one vector for it. In NCI (Wang et al.
2022, arXiv 2206.02743, section 3.3) the logits of a position are ``h A W``: ``h`` is the decoder's state, ``W`` the
output layer, and ``A`` a matrix that the adaptive decoder, a separate Transformer, computes from the tokens written so
far. The adaptive decoder does not see the query: the authors' code passes zeros instead (``adaptor_efficient=0``, which
is the product of the paper; the code's default adds a matrix of the whole vocabulary to ``W``).

Here ``A`` is the identity plus the adaptive decoder's matrix, which is zero at the start, so the network begins as the
same T5 without it, public weights included. ``A`` depends on the prefix only, so a search among known docids can
compute it beforehand: :func:`genret_jax.models.folding.folded`.
"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.encoders.t5 import T5EncoderLayer
from genret_jax.models.layers import (
    Dense,
    Embed,
    LayerNorm,
    RelativePositionBias,
    causal_bias,
    dropout,
    later_rows,
    project,
)


class AdaptiveLayer(T5EncoderLayer):
    """A Transformer layer without cross-attention, which can also be applied step by step."""

    def step(
        self,
        x: Float[Array, "b q d"],
        own: dict[str, Array],
        position: Int[Array, ""] | int,
        bias: Float[Array, "h n m"],
    ) -> tuple[Float[Array, "b q d"], dict[str, Array]]:
        """Apply the layer to the next n positions of every beam; return its output, and the grown keys and values."""
        normed = self.pre_attention_layer_norm(x)
        mixed, keys, values = self.attention.attend_own_past(normed, own["key"], own["value"], position, bias)
        x = x + mixed
        return x + self.mlp(self.pre_mlp_layer_norm(x), True), {"key": keys, "value": values}


class AdaptiveDecoder(nn.Module):
    """A Transformer over the prefix, and the map from its output to the adaptive matrix.

    Attributes:
        config: The network's shape; ``adaptive_layers`` and ``adaptive_width`` describe this part.
        embedding: The decoder's token embedding, shared by this Transformer.
    """

    config: T5Config
    embedding: Embed

    def setup(self) -> None:
        """Declare the layers, their position bias and the two maps to the matrix."""
        config = self.config
        layer = nn.remat(AdaptiveLayer, static_argnums=(3,)) if config.remat else AdaptiveLayer
        self.relpos_bias = RelativePositionBias(config, bidirectional=False)
        self.layers = [layer(config) for _ in range(config.adaptive_layers)]
        self.norm = LayerNorm(config)
        self.dropout = dropout(config)
        if config.adaptive_width is not None:
            self.narrow = Dense(config.adaptive_width, ("embed", "joined_kv"), config.compute_dtype)
        # One matrix per component of the prefix's vector: [state, component, changed state].
        shape = (config.d_model, config.adaptive_width or config.d_model, config.d_model)
        axes = ("embed", "kv", "mlp")
        self.kernel = param_with_axes("kernel", nn.initializers.zeros, shape, jnp.float32, axes=axes, module=self)

    def __call__(self, tokens: Int[Array, "b m"], deterministic: bool) -> Float[Array, "b m e"]:
        """Return a vector for each position from the tokens before it (0 first); it determines the adaptive matrix."""
        x = self.dropout(self.embedding(tokens), deterministic=deterministic)
        bias = self.relpos_bias(tokens.shape[1]) + causal_bias(tokens.shape[1])
        for layer in self.layers:
            x = layer(x, bias, deterministic)
        return self._narrowed(self.dropout(self.norm(x), deterministic=deterministic))

    def step(
        self, tokens: Int[Array, "b q"], own: dict[str, Any], position: Int[Array, ""] | int, new: int
    ) -> tuple[Float[Array, "b q e"], dict[str, Any]]:
        """Return these vectors for ``new`` positions of every beam after the cached ones, and the grown cache."""
        bias = later_rows(self.relpos_bias(own["layers_0"]["key"].shape[2]), position, new)
        x, grown = self.embedding(tokens), {}
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            x, grown[name] = layer.step(x, own[name], position, bias)
        return self._narrowed(self.norm(x)), grown

    def adapt(self, hidden: Float[Array, "b q d"], prefixes: Float[Array, "b q e"]) -> Float[Array, "b q d"]:
        """Return ``h A`` without computing ``A``."""
        kernel = self.kernel.astype(hidden.dtype)
        parts = project(hidden, kernel.reshape(len(kernel), -1)).reshape(*prefixes.shape, -1)
        return hidden + jnp.einsum("bqe,bqef->bqf", prefixes, parts)

    def matrices(self, prefixes: Float[Array, "p e"]) -> Float[Array, "p d d"]:
        """Return ``A`` less the identity for each prefix's vector."""
        return jnp.einsum("pe,def->pdf", prefixes, self.kernel.astype(prefixes.dtype))

    def _narrowed(self, x: Float[Array, "b q d"]) -> Float[Array, "b q e"]:
        narrowed = x if self.config.adaptive_width is None else self.narrow(x)
        return narrowed * narrowed.shape[-1] ** -0.5
