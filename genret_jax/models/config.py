"""The shape of a T5 network, and its departures from T5."""

import dataclasses
from typing import Annotated, Any, Literal

import jax.numpy as jnp

from genret_jax.errors import InputError
from genret_jax.models.encoders.config import BertConfig, SentenceForm
from genret_jax.validation import at_least, check_fields, from_to, less_than, more_than, require

# Table sizes are rounded up to a multiple of the first number, large ones to a multiple of the second, so that they
# divide evenly among the devices of the model axis.
_DIVISIBLE = (8, 128)
_LARGE = 2048
# Upper limits that no T5 comes near; a larger value is a typing error or a damaged file, and would hang or exhaust
# the memory.
_Layers = Annotated[int, from_to(1, 1000)]
_Width = Annotated[int, from_to(1, 1 << 20)]
_Rows = Annotated[int, from_to(1, (1 << 31) - 1)]
_ACTIVATIONS = ("gelu", "relu", "linear", "silu")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemInput:
    """Describes encoder input that is a sequence of items (:mod:`genret_jax.models.item_input`).

    Attributes:
        leading: Number of tokens before the first item.
        length: Number of tokens of each item's docid, including padding.
        count: Largest number of items.
        causal: Items do not attend to later items, so that one encoding serves every item as a target.
        whole: An item is one position: the sum of the vectors of its tokens and of the tree nodes that they lead to.
            In the input, the nodes then follow the tokens of each item.
    """

    leading: Annotated[int, from_to(0, 1 << 20)]
    length: _Layers
    count: _Width
    causal: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "leading", not (self.causal and self.leading), "0 with causal items")

    @property
    def tokens(self) -> int:
        """Number of input tokens of an item; nodes count as tokens."""
        return 2 * self.length if self.whole else self.length

    @property
    def positions(self) -> int:
        """Number of encoder positions of an item."""
        return 1 if self.whole else self.length


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """Scores of whole docids that guide the search (:mod:`genret_jax.models.plan`); the kinds in use add up.

    Attributes:
        codes: Add one logit per level and code, predicted in parallel.
        dense: Add the inner product with a vector per docid.
        dense_dtype: Type of these vectors on the device: ``"bfloat16"``, or ``"int8"`` with a scale per vector, which
            takes half the memory.
        terms: Most terms of a query that the lexical scores use; 0 for no lexical scores. The terms follow the tokens
            in the encoder's input.
        vocabulary: Number of terms, with padding; filled in from the data.
    """

    codes: bool = False
    dense: bool = False
    dense_dtype: Literal["bfloat16", "int8"] = "bfloat16"
    terms: Annotated[int, from_to(0, 1 << 20)] = 0
    vocabulary: Annotated[int, from_to(0, (1 << 31) - 1)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "codes", self.codes or self.dense or self.terms > 0, "True, unless dense or terms is set")
        require(self, "dense_dtype", self.dense or self.dense_dtype == "bfloat16", "'bfloat16' unless dense is True")

    @property
    def reads_vectors(self) -> bool:
        """Whether a score depends on the query's vector."""
        return self.codes or self.dense

    def sized(self, vocabulary: int) -> "PlanConfig":
        """Return the plan for data with so many terms."""
        return dataclasses.replace(self, vocabulary=vocabulary if self.terms else 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class T5Config:
    """Shape and options of :class:`genret_jax.models.network.T5`; the defaults are T5 1.1 small.

    Two public families (Raffel et al. 2020, arXiv 1910.10683, and the T5 1.1 checkpoints):

    * T5 1.1: ``activations=("gelu", "linear")``, ``tie_embeddings=False``, ``scale_decoder_outputs=False``;
    * T5 1.0: ``activations=("relu",)``, ``tie_embeddings=True``, ``scale_decoder_outputs=True``.

    Attributes:
        vocab_size: Rows of the encoder's token embedding, which the decoder shares unless it has its own.
        decoder_vocab_size: Number of tokens that the decoder reads and writes by an embedding of its own; None shares
            the encoder's embedding, as T5 does.
        d_model: Width of the residual stream.
        d_kv: Width of one attention head.
        num_heads: Number of attention heads in every layer.
        d_ff: Width of the feed-forward layers.
        num_encoder_layers: Number of encoder layers.
        num_decoder_layers: Number of decoder layers. 0, for a network with a plan, has no decoder: docids are generated
            from the plan alone.
        activations: Activation of each projection of the feed-forward layer; the projections are multiplied together.
        dropout_rate: Dropout rate at all places where T5 has dropout.
        relative_attention_num_buckets: Rows of the relative position bias.
        relative_attention_max_distance: Distance from which on all distances share a bucket.
        tie_embeddings: Use the decoder's token embedding (``head="vocabulary"``) or its node embedding
            (``head="prefix"``) as the output layer too.
        scale_decoder_outputs: Multiply the decoder's output by ``d_model**-0.5`` before the output layer.
        layer_norm_epsilon: Number added to the mean square in RMS norm.
        encoder_final_norm: Normalise the encoder's output. False departs from T5, for networks that start from a
            linear model; such networks cannot be written in public layouts.
        item_input: Describes the encoder's input if it is a sequence of items: attention then has biases for items
            and for places within them instead of for tokens, which departs from T5.
        encoder: Shape of an encoder of the BERT family, in place of T5's; filled in from the encoder's folder.
        sentence: How the encoder's states become the query's vector; None for no vector; filled in from the encoder
            and the plan. The decoder begins with this vector at every position, so that it can start as an additive
            quantised retriever.
        query_width: Width of a residual layer that changes the query's vector before it is used; 0 for none.
        query_dropout: Dropout rate of that layer.
        plan: Scores of whole docids that guide the search; None for none.
        dtype: Type of the computation; parameters, softmax, norms and logits are always float32.
        remat: Recompute each layer in the backward pass instead of storing its activations.
        head: ``"vocabulary"`` is T5's output layer, with a row per token; ``"prefix"`` has a row per node of the docid
            tree.
        adaptive_layers: Number of layers of NCI's adaptive decoder, with which the tokens written so far change how the
            output layer reads the decoder's state (:mod:`genret_jax.models.adaptive`); for ``head="vocabulary"``. 0
            turns it off; the authors' code has 4.
        adaptive_width: Rank of the adaptive matrix, which costs ``d_model * d_model`` parameters per rank; None for
            ``d_model``, as in the paper.
        shared_codes: The vectors of a node are the sum of the vectors of the token that leads to it, which are the same
            after any prefix, and of the node's own, which begin at zero; for ``head="prefix"``. Nodes that training has
            not shown then have the vectors of their tokens. With whole items the encoder uses the same vectors.
        root_lookahead: Score a first code by the children of the node that it leads to, not by that node alone; for
            ``head="prefix"`` (:class:`genret_jax.models.heads.PrefixHead`).
        num_nodes: Rows of the tables with one row per node of the docid tree, for the prefix head and for whole items.
            At least the number of nodes; more rows leave room for new documents. 0 as long as the docids are unknown;
            no network can be built then.
    """

    vocab_size: _Rows = 32128
    decoder_vocab_size: _Rows | None = None
    d_model: _Width = 512
    d_kv: _Width = 64
    num_heads: _Width = 6
    d_ff: _Width = 1024
    num_encoder_layers: _Layers = 8
    num_decoder_layers: Annotated[int, from_to(0, 1000)] = 8
    activations: tuple[str, ...] = ("gelu", "linear")
    dropout_rate: Annotated[float, at_least(0), less_than(1)] = 0.1
    relative_attention_num_buckets: Annotated[int, from_to(4, 1 << 20)] = 32
    relative_attention_max_distance: Annotated[int, from_to(3, (1 << 31) - 1)] = 128
    tie_embeddings: bool = False
    scale_decoder_outputs: bool = False
    layer_norm_epsilon: Annotated[float, more_than(0)] = 1e-6
    encoder_final_norm: bool = True
    item_input: ItemInput | None = None
    encoder: BertConfig | None = None
    sentence: SentenceForm | None = None
    query_width: Annotated[int, from_to(0, 1 << 20)] = 0
    query_dropout: Annotated[float, at_least(0), less_than(1)] = 0.0
    plan: PlanConfig | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: bool = False
    head: Literal["vocabulary", "prefix"] = "vocabulary"
    adaptive_layers: Annotated[int, from_to(0, 1000)] = 0
    adaptive_width: _Width | None = None
    shared_codes: bool = False
    root_lookahead: bool = False
    num_nodes: Annotated[int, from_to(0, (1 << 31) - 1)] = 0

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
        """Check every field, so that a wrong value fails here and not inside a compiled function."""
        check_fields(self)
        # gin hands over lists; a tuple keeps the configuration hashable, so that jit can take it as static.
        object.__setattr__(self, "activations", tuple(self.activations))
        require(self, "decoder_vocab_size", self.decoder_vocab_size != 1, "None, or at least 2")
        known = bool(self.activations) and all(name in _ACTIVATIONS for name in self.activations)
        require(self, "activations", known, f"one or more of {', '.join(_ACTIVATIONS)}")
        buckets = self.relative_attention_num_buckets
        require(self, "relative_attention_num_buckets", buckets >= 4 and buckets % 4 == 0, "a multiple of 4")
        far = self.relative_attention_max_distance > buckets // 2
        require(self, "relative_attention_max_distance", far, f"more than {buckets // 2} (half of the buckets)")
        needs_nodes = self.head == "prefix"
        layers, width = self.adaptive_layers, self.adaptive_width
        require(self, "adaptive_layers", not (layers and needs_nodes), "0 unless head='vocabulary'")
        require(self, "adaptive_width", width is None or layers > 0, "None unless adaptive_layers is 1 or more")
        require(self, "shared_codes", needs_nodes or not self.shared_codes, "False unless head='prefix'")
        require(self, "shared_codes", not (self.shared_codes and self.tie_embeddings), "False with tie_embeddings")
        fits = not self.ties_items or self.output_vocab_size <= self.vocab_size
        require(self, "decoder_vocab_size", fits, "at most vocab_size with whole items and shared_codes")
        require(self, "root_lookahead", needs_nodes or not self.root_lookahead, "False unless head='prefix'")
        needs_nodes |= self.item_input is not None and self.item_input.whole
        self._check_vector()
        filled = self.num_nodes == 0 or (needs_nodes and self.num_nodes > 1)
        require(self, "num_nodes", filled, "0, or the tree's nodes with head='prefix' or whole items")

    def _check_vector(self) -> None:
        """Check the fields of a query's vector and of what is made from it."""
        if self.encoder is not None:
            require(self, "encoder", self.item_input is None, "None with items as input")
            same = self.encoder.d_model == self.d_model
            require(self, "d_model", same, f"{self.encoder.d_model}, the width of the encoder")
            own = self.head == "prefix" or self.decoder_vocab_size is not None
            require(self, "decoder_vocab_size", own, "the number of docid tokens, with an encoder of the BERT family")
        decodes = self.num_decoder_layers > 0
        require(self, "num_decoder_layers", decodes or self.plan is not None, "1 or more without a plan")
        writes = decodes or (self.head == "vocabulary" and not self.adaptive_layers)
        require(self, "num_decoder_layers", writes, "1 or more with the prefix head or an adaptive decoder")
        require(self, "sentence", self.sentence is None or self.item_input is None, "None with items as input")

    @property
    def plan_terms(self) -> int:
        """Columns of the encoder's input that hold terms, behind the tokens."""
        return 0 if self.plan is None else self.plan.terms

    def require_divides(self, parts: int) -> None:
        """Check that a model axis divides every dimension that is split over it.

        A dimension that it does not divide would be stored whole on every device.

        Args:
            parts: Size of the model axis.

        Raises:
            InputError: If a dimension is not a multiple of it.
        """
        fields = ["num_heads", "d_ff", "vocab_size", "decoder_vocab_size", "num_nodes"]
        if self.encoder is not None:  # its vocabulary is as it is, and whole where nothing divides it
            fields.remove("vocab_size")
        for field in fields:
            size = getattr(self, field)
            if size is not None and size % parts:
                raise InputError(
                    f"a model axis of {parts} and T5Config.{field} of {size}",
                    expected="a divisor",
                    fix="change TrainerConfig.model_parallel or the mesh, or the network",
                )

    def writing_tokens(self) -> "T5Config":
        """Return the network with T5's output layer, without a plan or the options of the prefix head."""
        if self.head == "vocabulary" and self.plan is None:
            return self
        return dataclasses.replace(
            self,
            head="vocabulary",
            num_decoder_layers=max(self.num_decoder_layers, 1),
            plan=None,
            query_width=0,
            decoder_vocab_size=None,
            num_nodes=0,
            root_lookahead=False,
            shared_codes=False,
        )

    def require_prefixes(self, codes: int) -> None:
        """Check that docids are long enough for an adaptive decoder: it reads the codes before a code.

        Args:
            codes: Number of codes of the longest docid.

        Raises:
            InputError: If the network has an adaptive decoder and docids have one code only.
        """
        if self.adaptive_layers and codes == 1:
            raise InputError(
                f"T5Config.adaptive_layers is {self.adaptive_layers}, and docids have one code and so no prefix",
                expected="docids of several codes",
                fix="choose other docids, or set T5Config.adaptive_layers = 0",
            )

    @property
    def output_vocab_size(self) -> int:
        """Number of logits of a position."""
        return self.vocab_size if self.decoder_vocab_size is None else self.decoder_vocab_size

    @property
    def ties_items(self) -> bool:
        """Whether the decoder reads and writes items by the encoder's vectors of them."""
        return self.shared_codes and self.item_input is not None and self.item_input.whole

    @property
    def compute_dtype(self) -> Any:
        """The field ``dtype`` as a JAX type."""
        return jnp.dtype(self.dtype)


def divisible(size: int) -> int:
    """Round a number of rows up, so that it divides evenly among devices."""
    unit = _DIVISIBLE[size > _LARGE]
    return -(-size // unit) * unit
