"""Shapes of encoders of the BERT family, and how their states become one vector."""

import dataclasses
from typing import Annotated, Literal

from genret_jax.validation import at_least, check_fields, from_to, less_than, more_than, require

Pooling = Literal["mean", "cls", "max"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Shape of :class:`BertEncoder`; the defaults are MiniLM-L6-H384 (Wang et al. 2020, arXiv 2002.10957).

    Attributes:
        vocab_size: Rows of the token embedding. Token 0 is padding.
        d_model: Width of the residual stream.
        num_heads: Number of attention heads; divides ``d_model``.
        d_ff: Width of the feed-forward layers.
        num_layers: Number of layers.
        positions: Rows of the position embedding; the longest input has ``positions - first_position`` tokens.
        first_position: Row of the first token; MPNet counts from 2.
        token_types: Rows of the segment embedding, of which row 0 is added everywhere; MPNet has none.
        relative_buckets: Rows of the relative position bias that all layers share, up to a distance of 128; 0 for none,
            as in BERT.
        activation: ``"gelu"`` (exact), ``"gelu_new"`` (tanh approximation) or ``"relu"``.
        layer_norm_epsilon: Number added to the variance in layer norm.
        dropout_rate: Dropout rate of embeddings, attention weights and the output of each sublayer.
        dtype: Type of the computation; parameters, softmax and norms are always float32.
        remat: Recompute each layer in the backward pass instead of storing its activations.
    """

    vocab_size: Annotated[int, from_to(1, (1 << 31) - 1)] = 30522
    d_model: Annotated[int, from_to(1, 1 << 20)] = 384
    num_heads: Annotated[int, from_to(1, 1 << 20)] = 12
    d_ff: Annotated[int, from_to(1, 1 << 20)] = 1536
    num_layers: Annotated[int, from_to(1, 1000)] = 6
    positions: Annotated[int, from_to(1, 1 << 20)] = 512
    first_position: Annotated[int, at_least(0)] = 0
    token_types: Annotated[int, from_to(0, 1 << 20)] = 2
    relative_buckets: Annotated[int, from_to(0, 1 << 20)] = 0
    activation: Literal["gelu", "gelu_new", "relu"] = "gelu"
    layer_norm_epsilon: Annotated[float, more_than(0)] = 1e-12
    dropout_rate: Annotated[float, at_least(0), less_than(1)] = 0.1
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "num_heads", self.d_model % self.num_heads == 0, f"a divisor of d_model {self.d_model}")
        require(self, "first_position", self.first_position < self.positions, f"less than positions {self.positions}")
        even = self.relative_buckets % 4 == 0
        require(self, "relative_buckets", even, "a multiple of 4")

    @property
    def max_length(self) -> int:
        """Tokens of the longest input."""
        return self.positions - self.first_position


@dataclasses.dataclass(frozen=True, kw_only=True)
class SentenceForm:
    """How a text becomes the input of a sentence encoder, and how the encoder's states become one vector.

    Attributes:
        first_tokens: Tokens before every text, such as those of ``[CLS]`` and of a prompt.
        last_token: Token after every text; 0 for none.
        pooling: ``"mean"`` of the states, the state of the first token (``"cls"``), or their ``"max"``.
    """

    first_tokens: tuple[int, ...] = ()
    last_token: Annotated[int, at_least(0)] = 0
    pooling: Pooling = "mean"

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "first_tokens", tuple(self.first_tokens))
