"""T5's encoder (Raffel et al. 2020, arXiv 1910.10683), also over sequences of items."""

from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.item_input import ItemBias, WholeItems
from genret_jax.models.layers import (
    Attention,
    Embed,
    LayerNorm,
    Mlp,
    RelativePositionBias,
    constrain,
    dropout,
    padding_bias,
)


class T5EncoderLayer(nn.Module):
    """Self-attention and a feed-forward layer, each reading the normalised residual stream."""

    config: T5Config

    def setup(self) -> None:
        """Declare the sublayers under t5x's names."""
        self.pre_attention_layer_norm = LayerNorm(self.config)
        self.attention = Attention(self.config)
        self.pre_mlp_layer_norm = LayerNorm(self.config)
        self.mlp = Mlp(self.config)
        self.dropout = dropout(self.config)

    def __call__(
        self, x: Float[Array, "b l d"], bias: Float[Array, "#b h l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Apply the layer to a batch of sequences."""
        normed = self.pre_attention_layer_norm(x)
        mixed = self.attention.attend(normed, *self.attention.keys_values(normed), bias, deterministic)
        x = x + self.dropout(mixed, deterministic=deterministic)
        mapped = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return constrain(x + self.dropout(mapped, deterministic=deterministic), "batch", "length", "embed")


class T5Encoder(nn.Module):
    """T5's stack of encoder layers.

    Attributes:
        config: The network's shape.
        embedding: Turns input tokens into vectors: one a token, or one an item (:class:`WholeItems`).
    """

    config: T5Config
    embedding: Embed | WholeItems

    def setup(self) -> None:
        """Declare the layers and the position bias that they share."""
        layer = nn.remat(T5EncoderLayer, static_argnums=(3,)) if self.config.remat else T5EncoderLayer
        if self.config.item_input is None:
            self.relpos_bias = RelativePositionBias(self.config, bidirectional=True)
        else:
            self.item_bias = ItemBias(self.config)
        self.layers = [layer(self.config) for _ in range(self.config.num_encoder_layers)]
        if self.config.encoder_final_norm:
            self.encoder_norm = LayerNorm(self.config)
        self.dropout = dropout(self.config)

    def __call__(
        self, tokens: Int[Array, "b t"], deterministic: bool, histories: Int[Array, "b n"] | None = None
    ) -> Float[Array, "b l d"]:
        """Encode token sequences; the vectors at padding are meaningless."""
        x = constrain(self.dropout(self.embedding(tokens), deterministic=deterministic), "batch", "length", "embed")
        if self.config.item_input is None:
            bias = self.relpos_bias(tokens.shape[1]) + padding_bias(tokens > 0)
        else:
            bias = self.item_bias(tokens, histories)
        for layer in self.layers:
            x = layer(x, bias, deterministic)
        if self.config.encoder_final_norm:
            x = self.encoder_norm(x)
        return self.dropout(x, deterministic=deterministic)
