"""T5, an encoder-decoder Transformer (Raffel et al. 2020, arXiv 1910.10683), with t5x's parameter names."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.models.adaptive import AdaptiveDecoder
from genret_jax.models.config import T5Config
from genret_jax.models.encoders.bert import BertEncoder
from genret_jax.models.encoders.t5 import T5Encoder
from genret_jax.models.heads import Columns, NodeTree, PrefixHead, VocabularyHead
from genret_jax.models.item_input import RecencyBias, WholeItems
from genret_jax.models.layers import (
    Attention,
    Embed,
    LayerNorm,
    Mlp,
    RelativePositionBias,
    causal_bias,
    constrain,
    dropout,
    later_rows,
    padding_bias,
)
from genret_jax.models.plan import DocidPlan, LeftOut, PlanTables
from genret_jax.models.query import QueryVector, query_terms, source_tokens
from genret_jax.models.silent_decoder import SilentDecoder

Cache = dict[str, Any]
# Names of the parameters that have one row per node of the docid tree.
NODE_TABLES = ("input_nodes", "output_nodes", "nodes")


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the encoder, and feed-forward."""

    config: T5Config

    def setup(self) -> None:
        """Declare the sublayers under t5x's names."""
        self.pre_self_attention_layer_norm = LayerNorm(self.config)
        self.self_attention = Attention(self.config)
        self.pre_cross_attention_layer_norm = LayerNorm(self.config)
        self.encoder_decoder_attention = Attention(self.config)
        self.pre_mlp_layer_norm = LayerNorm(self.config)
        self.mlp = Mlp(self.config)
        self.dropout = dropout(self.config)

    def __call__(
        self,
        x: Float[Array, "b m d"],
        encoded: Float[Array, "s l d"],
        bias: Float[Array, "1 h m m"],
        cross_bias: Float[Array, "s #h #q l"],
        deterministic: bool,
    ) -> Float[Array, "b m d"]:
        """Apply the layer to whole target sequences.

        Each source has the same number of targets, and the targets of a source follow each other.
        """
        normed = self.pre_self_attention_layer_norm(x)
        mixed = self.self_attention.attend(normed, *self.self_attention.keys_values(normed), bias, deterministic)
        x = x + self.dropout(mixed, deterministic=deterministic)
        cross = self.encoder_decoder_attention.keys_values(encoded)
        return self._attend_encoded(x, cross, cross_bias, deterministic)

    def step(
        self,
        x: Float[Array, "b q d"],
        own: dict[str, Array],
        cross: tuple[Array, Array],
        position: Int[Array, ""] | int,
        bias: Float[Array, "h n m"],
        cross_bias: Float[Array, "b #h 1 l"],
    ) -> tuple[Float[Array, "b q d"], dict[str, Array]]:
        """Apply the layer to the next n positions of every beam.

        The attention to the encoder's output treats the beams of a query as positions of one sequence, so that all
        beams share its keys and values.

        Returns:
            The layer's output, and the beams' own keys and values with the new positions added.
        """
        normed = self.pre_self_attention_layer_norm(x)
        mixed, keys, values = self.self_attention.attend_own_past(normed, own["key"], own["value"], position, bias)
        return self._attend_encoded(x + mixed, cross, cross_bias, True), {"key": keys, "value": values}

    def _attend_encoded(self, x: Array, cross: tuple[Array, Array], cross_bias: Array, deterministic: bool) -> Array:
        # The attention treats the targets of a source as positions of one sequence.
        of_sources = self.pre_cross_attention_layer_norm(x).reshape(len(cross[0]), -1, x.shape[-1])
        mixed = self.encoder_decoder_attention.attend(of_sources, *cross, cross_bias, deterministic).reshape(x.shape)
        x = x + self.dropout(mixed, deterministic=deterministic)
        mapped = self.mlp(self.pre_mlp_layer_norm(x), deterministic)
        return constrain(x + self.dropout(mapped, deterministic=deterministic), "batch", "length", "embed")


class Decoder(nn.Module):
    """The stack of decoder layers with its output head.

    Attributes:
        config: The network's shape.
        embedding: The decoder's token embedding. The prefix head has input vectors of its own: there it is None, or
            the whole items whose vectors the head shares.
        query_vector: Returns the vectors of the sources, with which every position begins; None without
            ``T5Config.sentence``.
    """

    config: T5Config
    embedding: Embed | WholeItems | None
    query_vector: QueryVector | None

    def setup(self) -> None:
        """Declare the layers, their position bias and the head."""
        layer = nn.remat(DecoderLayer, static_argnums=(5,)) if self.config.remat else DecoderLayer
        self.relpos_bias = RelativePositionBias(self.config, bidirectional=False)
        if self.config.item_input is not None:
            self.recency_bias = RecencyBias(self.config)
        self.layers = [layer(self.config) for _ in range(self.config.num_decoder_layers)]
        self.decoder_norm = LayerNorm(self.config)
        self.dropout = dropout(self.config)
        if self.config.head == "prefix":
            self.head = PrefixHead(self.config, self.embedding, name="prefix_head")
        else:
            self.head = VocabularyHead(self.config, self.embedding, name="logits_dense")
        if self.config.adaptive_layers:
            self.adaptive = AdaptiveDecoder(self.config, self.embedding)

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
        """Return the logits of whole target sequences; the arguments are those of :class:`T5`."""
        x = self.states(encoded, encoder_input_tokens, tokens, nodes, deterministic, histories)
        logits = self.head.logits(self._scaled(x), nodes, tree)
        return constrain(logits, "batch", "length", "vocab")

    def states(
        self,
        encoded: Float[Array, "s l d"],
        encoder_input_tokens: Int[Array, "s t"],
        tokens: Int[Array, "b m"],
        nodes: Int[Array, "b m"] | None = None,
        deterministic: bool = True,
        histories: Int[Array, "s n"] | None = None,
    ) -> Float[Array, "b m d"]:
        """Return the decoder's states, which the head compares with its rows; the arguments are those of a call."""
        x = self.head.embed(tokens, nodes)
        if (query := self._query_input(encoded, encoder_input_tokens, deterministic)) is not None:
            x += jnp.repeat(query, len(tokens) // len(encoded), axis=0)
        x = self.dropout(x, deterministic=deterministic)
        length = tokens.shape[1]
        bias = self.relpos_bias(length) + causal_bias(length)
        cross_bias = self._cross_bias(encoder_input_tokens, histories)
        for layer in self.layers:
            x = layer(x, encoded, bias, cross_bias, deterministic)
        x = self.dropout(self.decoder_norm(x), deterministic=deterministic)
        if self.config.adaptive_layers:
            x = self.adaptive.adapt(x, self.adaptive(tokens, deterministic))
        return x

    def read(self, states: Float[Array, "b m d"], columns: tuple[int, int]) -> Float[Array, "b m c"]:
        """Return some logits of states from :meth:`states`; only for the vocabulary head.

        Args:
            states: The states.
            columns: First logit, and number of logits.
        """
        assert isinstance(self.head, VocabularyHead)
        logits: Array = self.head.logits(self._scaled(states), None, None, columns=columns)
        return logits

    def _query_input(
        self, encoded: Float[Array, "s l d"], encoder_input_tokens: Int[Array, "s t"], deterministic: bool = True
    ) -> Float[Array, "s 1 d"] | None:
        """Return the vectors of the sources, which have length 1, at the scale of the decoder's states; or None."""
        if self.query_vector is None:
            return None
        vectors: Array = self.query_vector(encoded, encoder_input_tokens, deterministic)
        return (vectors * self.config.d_model**0.5).astype(self.config.compute_dtype)[:, None]

    def _cross_bias(
        self, tokens: Int[Array, "s t"], histories: Int[Array, "s n"] | None = None
    ) -> Float[Array, "s #h #q l"]:
        if self.config.item_input is None:
            return padding_bias(source_tokens(self.config, tokens) > 0)
        bias: Array = self.recency_bias(tokens, histories)
        return bias

    def _scaled(self, x: Array) -> Array:
        return x * self.config.d_model**-0.5 if self.config.scale_decoder_outputs else x

    def init_cache(self, encoded: Float[Array, "b l d"], encoder_input_tokens: Int[Array, "b t"], length: int) -> Cache:
        """Return a cache with room for ``length`` positions, for one beam per query.

        Returns:
            ``beams``: keys and values of each beam's past, leaves ``[b, 1, length, h, d_kv]``. To reorder, copy or drop
            beams, index axis 1 of these leaves and nothing else.
            ``shared``: keys and values of the encoder's output, stored once per query.
            ``position``: number of positions decoded so far. It is None before the first step. None is part of the
            pytree's structure, so the first step, in which all beams are at the root, compiles to its own program.
        """
        shape = (encoded.shape[0], 1, length, self.config.num_heads, self.config.d_kv)
        empty = jnp.zeros(shape, self.config.compute_dtype)
        cross = {
            f"layers_{i}": layer.encoder_decoder_attention.keys_values(encoded) for i, layer in enumerate(self.layers)
        }
        beams: dict[str, Any] = {name: {"key": empty, "value": empty} for name in cross}
        if layers := self.config.adaptive_layers:
            beams["adaptive"] = {f"layers_{i}": {"key": empty, "value": empty} for i in range(layers)}
        return {
            "beams": beams,
            "shared": {
                "layers": cross,
                "query": self._query_input(encoded, encoder_input_tokens),
                "bias": self._cross_bias(encoder_input_tokens),
            },
            "position": None,
        }

    def step(
        self,
        tokens: Int[Array, "b k"],
        nodes: Int[Array, "b k"] | None,
        cache: Cache,
        tree: NodeTree | None = None,
        columns: Columns = None,
    ) -> tuple[Float[Array, "b k v"], Cache]:
        """Decode one position of every beam.

        Args:
            tokens: Token before this position, 0 at the first position; the prefix head does not read it.
            nodes: Tree node of each beam, 0 at the first position; for the prefix head.
            cache: Cache from :meth:`init_cache` (one beam) or the previous step, with as many beams as ``tokens``.
            tree: Docid tree; for the prefix head.
            columns: First logit and number of logits to return; by default all.

        Returns:
            Logits in float32, and the cache of the next step.
        """
        at_root = cache["position"] is None
        position, shared = 0 if at_root else cache["position"], cache["shared"]
        state, beams = self._next_positions(tokens, nodes, cache, position, 1)
        logits = self.head.logits(state, nodes, tree, at_root, columns)
        return logits, {"beams": beams, "shared": shared, "position": position + 1}

    def forced(
        self, tokens: Int[Array, "b k n"], nodes: Int[Array, "b k n"] | None, cache: Cache, tree: NodeTree | None = None
    ) -> Float[Array, "b k n v"]:
        """Decode several positions of every beam at once, after the first step, given their tokens.

        Args:
            tokens: Token before each position.
            nodes: Tree node of each beam at each position, none of them the root; for the prefix head.
            cache: Cache from the previous step.
            tree: Docid tree; for the prefix head.

        Returns:
            Logits in float32.
        """
        flat = tokens.reshape(len(tokens), -1)
        flat_nodes = None if nodes is None else nodes.reshape(flat.shape)
        state, _ = self._next_positions(flat, flat_nodes, cache, cache["position"], tokens.shape[2])
        logits = self.head.logits(state, flat_nodes, tree, False)
        return logits.reshape(*tokens.shape, -1)

    def _next_positions(
        self,
        tokens: Int[Array, "b q"],
        nodes: Int[Array, "b q"] | None,
        cache: Cache,
        position: Int[Array, ""] | int,
        new: int,
    ) -> tuple[Float[Array, "b q d"], dict[str, Any]]:
        """Return the states of the ``new`` positions of every beam that follow the cached ones, and the grown cache."""
        bias = later_rows(self.relpos_bias(cache["beams"]["layers_0"]["key"].shape[2]), position, new)
        x, beams = self.head.embed(tokens, nodes), {}
        if (query := cache["shared"]["query"]) is not None:
            x += query
        for i, layer in enumerate(self.layers):
            name = f"layers_{i}"
            own, cross = cache["beams"][name], cache["shared"]["layers"][name]
            x, beams[name] = layer.step(x, own, cross, position, bias, cache["shared"]["bias"])
        x = self.decoder_norm(x)
        if self.config.adaptive_layers:
            prefixes, beams["adaptive"] = self.adaptive.step(tokens, cache["beams"]["adaptive"], position, new)
            x = self.adaptive.adapt(x, prefixes)
        return self._scaled(x), beams


def random_variables(config: T5Config, key: Array, tree: NodeTree | None) -> dict[str, Any]:
    """Return random ``params`` of a network, and ``params_axes``, the logical axis names of every parameter."""
    form, token = config.item_input, jnp.zeros((1, 1), jnp.int32)
    source = token if form is None else jnp.zeros((1, form.leading + form.tokens), jnp.int32)
    source = jnp.zeros((1, 1 + config.plan_terms), jnp.int32) if config.plan_terms else source

    def run(network: T5) -> None:
        if config.plan is None:
            network(source, token, token, tree)
        else:
            network.planned(PlanTables.empty(config), source, token, token, tree)

    variables: dict[str, Any] = T5(config).init(key, method=run)
    return variables


def with_nodes(params: Mapping[str, Any], num_nodes: int) -> dict[str, Any]:
    """Return parameters whose tables with one row per docid node have ``num_nodes`` rows.

    New rows are zero: with ``T5Config.shared_codes`` and whole items, the nodes then have the vectors of their tokens.
    """

    def grown(path: Any, leaf: Any) -> Any:
        more = num_nodes - len(leaf) if path[-1].key in NODE_TABLES else 0
        return jnp.pad(leaf, ((0, more), (0, 0))) if more > 0 else leaf

    widened: dict[str, Any] = jax.tree_util.tree_map_with_path(grown, params)
    return widened


def _of_decoder(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return the method of :class:`T5` that calls its decoder's method of this name with the same arguments."""

    @functools.wraps(method)
    def call(self: "T5", *args: Any, **options: Any) -> Any:
        return getattr(self.decoder, method.__name__)(*args, **options)

    return call


class T5(nn.Module):
    """The whole network; :func:`random_variables` initialises it.

    Dropout draws from the ``dropout`` stream with JAX's partitionable generator, so the masks do not depend on how a
    batch is spread over devices.
    """

    config: T5Config

    def setup(self) -> None:
        """Declare the embeddings, the two stacks, the query's vector and the plan."""
        config = self.config
        self.encoder: Any
        source: Embed | WholeItems | None = None
        if config.encoder is not None:
            self.encoder = BertEncoder(config.encoder)
        else:
            deviation = config.d_model**-0.5 if config.ties_items else 1.0
            source = self.token_embedder = Embed(config.vocab_size, config.d_model, config.compute_dtype, deviation)
            if config.item_input is not None and config.item_input.whole:
                source = self.items = WholeItems(config, self.token_embedder)
            self.encoder = T5Encoder(config, source)
        self.query_vector = None if config.sentence is None else QueryVector(config)
        self.decoder: Any
        if config.num_decoder_layers:
            self.decoder = Decoder(config, self._decoder_embedding(source), self.query_vector)
        else:
            self.decoder = SilentDecoder(config)
        if config.plan is not None:
            self.plan = DocidPlan(config)

    def _decoder_embedding(self, source: Embed | WholeItems | None) -> Embed | WholeItems | None:
        """Return the decoder's embedding, declaring its own if it has one; ``source`` is the encoder's."""
        config = self.config
        if config.head == "prefix":
            return source if config.ties_items else None
        if config.decoder_vocab_size is None:
            return self.token_embedder
        self.decoder_token_embedder = Embed(config.decoder_vocab_size, config.d_model, config.compute_dtype)
        return self.decoder_token_embedder

    def __call__(
        self,
        encoder_input_tokens: Int[Array, "s t"],
        decoder_input_tokens: Int[Array, "b m"],
        decoder_prefix_nodes: Int[Array, "b m"] | None = None,
        tree: NodeTree | None = None,
        *,
        deterministic: bool = True,
        histories: Int[Array, "s n"] | None = None,
        encoded: Float[Array, "s l d"] | None = None,
    ) -> Float[Array, "b m v"]:
        """Return the logits of target sequences given their sources.

        Args:
            encoder_input_tokens: Sources, padded with 0.
            decoder_input_tokens: Targets shifted right, beginning with 0; the prefix head does not read them.
            decoder_prefix_nodes: Tree node before each target token, the root (0) first; for the prefix head.
            tree: Docid tree; for the prefix head.
            deterministic: Turn dropout off.
            histories: For causal items (:class:`genret_jax.models.config.ItemInput`): number of the history to which
                each item of a source belongs. Each item is then followed by a target, so ``b = s * n``.
            encoded: States of the sources, where they are known.

        Returns:
            Logits in float32.
        """
        if encoded is None:
            encoded = self.encode(encoder_input_tokens, deterministic=deterministic, histories=histories)
        logits: Array = self.decoder(
            encoded,
            encoder_input_tokens,
            decoder_input_tokens,
            decoder_prefix_nodes,
            tree,
            deterministic=deterministic,
            histories=histories,
        )
        return logits

    def planned(
        self,
        tables: PlanTables,
        encoder_input_tokens: Int[Array, "b t"],
        *targets: Any,
        left_out: LeftOut | None = None,
        deterministic: bool = True,
        encoded: Float[Array, "b l d"] | None = None,
    ) -> tuple[Float[Array, "b m v"], Float[Array, "b n"]]:
        """Return the logits of target sequences, without the plan, and the plan's score of each docid.

        Args:
            tables: The docids.
            encoder_input_tokens: Sources, as in a call.
            *targets: Target tokens, their nodes and the docid tree, as in a call.
            left_out: What the targets know from the queries themselves, to be left out of their scores.
            deterministic: Turn dropout off.
            encoded: States of the sources, where they are known.
        """
        if encoded is None:
            encoded = self.encode(encoder_input_tokens, deterministic=deterministic)
        logits = self(encoder_input_tokens, *targets, deterministic=deterministic, encoded=encoded)
        return logits, self.plan_scores(encoded, encoder_input_tokens, tables, left_out, deterministic)

    def plan_scores(
        self,
        encoded: Float[Array, "b l d"],
        encoder_input_tokens: Int[Array, "b t"],
        plan: PlanTables,
        left_out: LeftOut | None = None,
        deterministic: bool = True,
    ) -> Float[Array, "b n"]:
        """Return the plan's score of each docid for each query.

        Args:
            encoded: From :meth:`encode`.
            encoder_input_tokens: The queries.
            plan: The docids.
            left_out: As in :meth:`planned`.
            deterministic: Turn dropout off.
        """
        vectors = jnp.zeros((len(encoded), 1))  # lexical scores read none
        if self.query_vector is not None:
            vectors = self.query_vector(encoded, encoder_input_tokens, deterministic)
        scores: Array = self.plan(vectors, query_terms(self.config, encoder_input_tokens), plan, left_out)
        return scores

    def encode(
        self,
        encoder_input_tokens: Int[Array, "s t"],
        *,
        deterministic: bool = True,
        histories: Int[Array, "s n"] | None = None,
    ) -> Float[Array, "s l d"]:
        """Return the encoder's output; the vectors at padding (token 0) are meaningless."""
        encoded: Array = self.encoder(source_tokens(self.config, encoder_input_tokens), deterministic, histories)
        return encoded.astype(self.config.compute_dtype)

    states = _of_decoder(Decoder.states)
    read = _of_decoder(Decoder.read)
    init_cache = _of_decoder(Decoder.init_cache)
    step = _of_decoder(Decoder.step)
    forced = _of_decoder(Decoder.forced)
