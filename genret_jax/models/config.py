"""The shape of a T5 network, and where it departs from T5."""

import dataclasses
from typing import Any, Literal

import jax.numpy as jnp

from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require

# Sizes are rounded up, so that embeddings divide evenly among the devices of the model axis: small ones, which stay
# on few devices, to the first of these, large ones to the second.
_DIVISIBLE = (8, 128)
_LARGE = 2048
_ACTIVATIONS = ("gelu", "relu", "linear", "silu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemInput:
    """Input that is a sequence of items, each of equally many tokens (:mod:`genret_jax.models.item_input`).

    Attributes:
        leading: Tokens before the first item.
        length: Tokens of an item's docid, padding included.
        count: Items at most.
        causal: Items do not see those after them, so that one encoding serves every item of it as a target.
        whole: An item is one position, the sum of the vectors of its tokens and of the tree's nodes that they lead to.
            In the input the tokens are then followed by the nodes.
    """

    leading: int
    length: int
    count: int
    causal: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "leading", self.leading >= 0, "0 or more")
        require(self, "leading", not (self.causal and self.leading), "0 where items do not see those after them")
        require(self, "length", self.length >= 1, "at least 1")
        require(self, "count", self.count >= 1, "at least 1")

    @property
    def tokens(self) -> int:
        """Numbers of an item in the input."""
        return 2 * self.length if self.whole else self.length

    @property
    def positions(self) -> int:
        """Positions of an item in the encoder."""
        return 1 if self.whole else self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape and options of :class:`genret_jax.models.network.T5`; the defaults are T5 1.1 small.

    Two public families (Raffel et al. 2020, arXiv 1910.10683, and the T5 1.1 checkpoints):

    * T5 1.1: ``activations=("gelu", "linear")``, ``tie_embeddings=False``, ``scale_decoder_outputs=False``;
    * T5 1.0: ``activations=("relu",)``, ``tie_embeddings=True``, ``scale_decoder_outputs=True``.

    Attributes:
        vocab_size: Rows of the token embedding (the encoder's, and the decoder's unless it has its own).
        decoder_vocab_size: Tokens the decoder reads and writes, with an embedding of their own; None shares the
            encoder's embedding, as T5 does.
        d_model: Width of the residual stream.
        d_kv: Width of one attention head.
        num_heads: Attention heads in every layer.
        d_ff: Width of the feed-forward layers.
        num_encoder_layers: Encoder layers.
        num_decoder_layers: Decoder layers.
        activations: One projection per entry, multiplied together.
        dropout_rate: Rate everywhere T5 has dropout.
        relative_attention_num_buckets: Rows of the relative position bias.
        relative_attention_max_distance: Distances from here on share a bucket.
        tie_embeddings: Use the decoder's token embedding (``head="vocabulary"``) or its node embedding
            (``head="prefix"``) as the output layer too.
        scale_decoder_outputs: Multiply the decoder's output by ``d_model**-0.5`` before the output layer.
        layer_norm_epsilon: Added to the mean square in RMS norm.
        encoder_final_norm: Normalise the encoder's output. False is a departure from T5 for networks that start from
            a linear model; such networks cannot be written in public layouts.
        item_input: Where the encoder's input is a sequence of items: its positions are then items and places within
            them, and not those of tokens, which is a departure from T5.
        dtype: Type of the computation; parameters, softmax, norms and logits are always float32.
        remat: Recompute each layer in the backward pass instead of storing its activations.
        head: ``"vocabulary"`` is T5's output layer, a row per token; ``"prefix"`` has a row per node of the docid tree.
        adaptive_layers: Layers of NCI's adaptive decoder, by which the tokens written so far change how the output
            layer reads a position (:mod:`genret_jax.models.adaptive`); for ``head="vocabulary"``. 0 for none; the
            authors' code has 4.
        adaptive_width: Numbers that the adaptive decoder says its matrix with, each of which costs a matrix of
            ``d_model * d_model`` parameters; None for ``d_model``, as in the paper.
        shared_codes: A node's vectors are those of the token that leads to it, the same after any prefix, and its own,
            which begin at zero; for ``head="prefix"``. Nodes that training has not seen then have their tokens'. With
            whole items the encoder has the same vectors.
        root_lookahead: Judge a first code by the nodes it leads to next, not by its own alone; for ``head="prefix"``
            (:class:`genret_jax.models.heads.PrefixHead`).
        lexical_width: Width of a second vector that the output rows are compared with beside the decoder's state: the
            normalised sum of the input tokens' vectors in a table of their own; for ``head="prefix"``. 0 for none.
        lexical_dropout: Share of training examples that do without that vector.
        num_nodes: Rows of the tables with one for each node of the docid tree, which the prefix head and whole items
            have: at least the tree's nodes, more leaves room for new documents. 0 where the docids are not yet known;
            no network can be made then.
    """

    vocab_size: int = 32128
    decoder_vocab_size: int | None = None
    d_model: int = 512
    d_kv: int = 64
    num_heads: int = 6
    d_ff: int = 1024
    num_encoder_layers: int = 8
    num_decoder_layers: int = 8
    activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: float = 0.1
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    tie_embeddings: bool = False
    scale_decoder_outputs: bool = False
    layer_norm_epsilon: float = 1e-6
    encoder_final_norm: bool = True
    item_input: ItemInput | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    head: Literal["vocabulary", "prefix"] = "vocabulary"
    adaptive_layers: int = 0
    adaptive_width: int | None = None
    shared_codes: bool = False
    root_lookahead: bool = False
    lexical_width: int = 0
    lexical_dropout: float = 0.9
    num_nodes: int = 0

    @classmethod
    def t5_1_0_small(cls, **fields: Any) -> "T5Config":
        """Return the shape of T5 1.0 small (arXiv 1910.10683, section 3.1.2 has its base size), with fields changed."""
        small: dict[str, Any] = {
            "num_heads": 8,
            "d_ff": 2048,
            "num_encoder_layers": 6,
            "num_decoder_layers": 6,
            "activations": ("relu",),
            "tie_embeddings": True,
            "scale_decoder_outputs": True,
        }
        return cls(**{**small, **fields})

    def __post_init__(self) -> None:
        """Check every field, so that a wrong binding fails here and not inside a compiled function."""
        check_fields(self)
        # gin hands over lists; a tuple keeps the configuration hashable, so that jit can take it as static.
        object.__setattr__(self, "activations", tuple(self.activations))
        positive = ("vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_encoder_layers", "num_decoder_layers")
        for field in positive:
            require(self, field, getattr(self, field) > 0, "a positive integer")
        require(
            self, "decoder_vocab_size", self.decoder_vocab_size is None or self.decoder_vocab_size > 1, "None or more"
        )
        known = bool(self.activations) and all(name in _ACTIVATIONS for name in self.activations)
        require(self, "activations", known, f"one or more of {', '.join(_ACTIVATIONS)}")
        require(self, "dropout_rate", 0 <= self.dropout_rate < 1, "a rate from 0 to below 1")
        buckets = self.relative_attention_num_buckets
        require(self, "relative_attention_num_buckets", buckets >= 4 and buckets % 4 == 0, "a multiple of 4")
        far = self.relative_attention_max_distance > buckets // 2
        require(self, "relative_attention_max_distance", far, f"more than {buckets // 2} (half of the buckets)")
        require(self, "layer_norm_epsilon", self.layer_norm_epsilon > 0, "a positive number")
        needs_nodes = self.head == "prefix"
        layers, narrow = self.adaptive_layers, self.adaptive_width
        require(self, "adaptive_layers", layers >= 0, "0 or more")
        require(self, "adaptive_layers", not (layers and needs_nodes), "0 unless head='vocabulary'")
        require(
            self, "adaptive_width", narrow is None or (narrow > 0 < layers), "None, or with adaptive_layers 1 or more"
        )
        require(self, "shared_codes", needs_nodes or not self.shared_codes, "False unless head='prefix'")
        require(self, "shared_codes", not (self.shared_codes and self.tie_embeddings), "False with tie_embeddings")
        fits = not self.ties_items or self.output_vocab_size <= self.vocab_size
        require(self, "decoder_vocab_size", fits, "at most vocab_size with whole items and shared_codes")
        require(self, "root_lookahead", needs_nodes or not self.root_lookahead, "False unless head='prefix'")
        require(self, "lexical_width", self.lexical_width >= 0, "0 or more")
        require(self, "lexical_width", needs_nodes or not self.lexical_width, "0 unless head='prefix'")
        require(self, "lexical_dropout", 0 <= self.lexical_dropout < 1, "a rate from 0 to below 1")
        form = self.item_input
        summed = form is None or not (form.causal or form.whole)
        require(self, "lexical_width", summed or not self.lexical_width, "0 with causal or whole items")
        needs_nodes |= form is not None and form.whole
        filled = self.num_nodes == 0 or (needs_nodes and self.num_nodes > 1)
        require(self, "num_nodes", filled, "0, or the tree's nodes with head='prefix' or whole items")

    def require_divides(self, parts: int) -> None:
        """Reject a model axis that does not divide what it is to split, which would then lie whole on every device.

        Raises:
            InputError: If it does not.
        """
        for field in ("num_heads", "d_ff", "vocab_size", "decoder_vocab_size", "num_nodes"):
            size = getattr(self, field)
            if size is not None and size % parts:
                raise InputError(
                    f"a model axis of {parts} and T5Config.{field} of {size}",
                    expected="a divisor",
                    fix="change TrainerConfig.model_parallel, or --mesh of a plan, or the network",
                )

    def writing_tokens(self) -> "T5Config":
        """Return the network with T5's output layer in the place of the prefix head and what comes with it."""
        if self.head == "vocabulary":
            return self
        return dataclasses.replace(
            self,
            head="vocabulary",
            decoder_vocab_size=None,
            num_nodes=0,
            root_lookahead=False,
            shared_codes=False,
            lexical_width=0,
        )

    def require_prefixes(self, codes: int) -> None:
        """Reject an adaptive decoder for docids of one code, before which there is no prefix.

        Raises:
            InputError: If there is one.
        """
        if self.adaptive_layers and codes == 1:
            raise InputError(
                "docids of one code, before which there is no prefix, with T5Config.adaptive_layers",
                expected="docids of several codes",
                fix="choose other docids, or set T5Config.adaptive_layers = 0",
            )

    @property
    def output_vocab_size(self) -> int:
        """Width of the logits."""
        return self.vocab_size if self.decoder_vocab_size is None else self.decoder_vocab_size

    @property
    def ties_items(self) -> bool:
        """Whether the decoder reads and writes items by the vectors that the encoder has for them."""
        return self.shared_codes and self.item_input is not None and self.item_input.whole

    @property
    def compute_dtype(self) -> Any:
        """The ``dtype`` field as JAX knows it."""
        return jnp.dtype(self.dtype)


def divisible(size: int) -> int:
    """Return a number of rows that is at least ``size`` and divides evenly among devices."""
    unit = _DIVISIBLE[size > _LARGE]
    return -(-size // unit) * unit
