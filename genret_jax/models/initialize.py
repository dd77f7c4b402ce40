"""Start a network from vectors of the corpus instead of random numbers.

A decoder that attends to its input uniformly, copies what it reads and compares it with a vector per docid node is a
nearest-centroid retriever. These weights make the network exactly that at step 0, up to small random residual branches,
so training begins at the quality of latent semantic analysis and not at zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.validation import check_fields, require

# Rows of an analysis that are smaller than so much of the largest are rounding.
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class _Copying:
    """Scales of a network that copies what it reads and compares it with a vector per docid node.

    Args:
        node_scale: Norm of a docid node's vector.
        value_scale: The last cross-attention's values are this times its (normalised) input.
        query_scale: Shrinks that attention's queries, so that it starts close to a mean over the input.
        residual_scale: Shrinks the output of every other residual branch.
    """

    node_scale: float = 1.3
    value_scale: float = 2.0
    query_scale: float = 0.3
    residual_scale: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LsaStart(_Copying):
    """Scales of the start from latent semantic analysis; the defaults were chosen on validation queries.

    Args:
        node_scale: Norm of a docid node's vector.
        value_scale: The last cross-attention's values are this times its (normalised) input.
        query_scale: Shrinks that attention's queries, so that it starts close to a mean over the input.
        residual_scale: Shrinks the output of every other residual branch.
        token_scale: Median root-mean-square of the token rows.
        lexical_scale: Mean norm of the documents' lexical vectors, which are compared with vectors of norm 1.
        query_weight: Weight of a training query's words in the lexical vectors of the documents that answer it; the
            documents' own words count 1. None chooses it on held-out training queries
            (:func:`~genret_jax.data.text.lsa.best_query_weight`).
    """

    token_scale: float = 0.5
    lexical_scale: float = 60.0
    query_weight: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "query_weight", self.query_weight is None or self.query_weight >= 0, "None, or 0 or more")

    @property
    def source(self) -> str:
        """What the network starts from, in a few words."""
        return "the words of the corpus"

    #: Documents that are added later get node vectors from their texts.
    covers_new_documents: ClassVar[bool] = True

    def initial_params(self, random_params: dict[str, Any], config: T5Config, facts: Any) -> dict[str, Any]:
        """Return the parameters made from the corpus."""

        def padded(vectors: np.ndarray) -> np.ndarray:
            return np.pad(vectors, ((0, config.vocab_size - len(vectors)), (0, 0)))

        found = facts.latent(config.d_model)
        nodes = edges = words = None
        if facts.docids is not None and config.head == "vocabulary":
            nodes = facts.docids.node_vectors(found.documents * facts.shown()[:, None])
            edges = facts.docids.tree.node_token, facts.docids.tree.parents
        elif facts.docids is not None:
            nodes = facts.docids.node_vectors(found.documents)
            if config.lexical_width:
                exact = facts.lexical(config.lexical_width, self.query_weight)
                words = padded(exact.terms), facts.docids.node_means(exact.documents)
        return start_from_vectors(
            random_params,
            config,
            self,
            token_vectors=padded(found.terms),
            node_vectors=nodes,
            edges=edges,
            lexical=words,
            seed=facts.seed,
        )


@dataclass(frozen=True, kw_only=True)
class ItemStart(_Copying):
    """Scales of the start of a network on whole items from vectors of them (:func:`start_from_items`).

    Args:
        node_scale: Norm of an item's vector.
        value_scale: The last cross-attention's values are this times its (normalised) input.
        query_scale: Shrinks that attention's queries, so that it starts close to a decaying mean over the history.
        residual_scale: Shrinks the output of every other residual branch.
        decay: Weight of each item of the history relative to the one after it.
    """

    decay: float = 0.4

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self, "decay", 0 < self.decay <= 1, "a number above 0, up to 1")

    @property
    def source(self) -> str:
        """What the network starts from, in a few words."""
        return "the vectors of the items, and who had them"

    def initial_params(self, random_params: dict[str, Any], config: T5Config, facts: Any) -> dict[str, Any]:
        """Return the parameters made from the items."""
        return start_from_items(
            random_params,
            config,
            self,
            tokens=facts.item_tokens(),
            nodes=facts.item_nodes(),
            vectors=facts.item_vectors(),
            seed=facts.seed,
        )


def start_from_vectors(
    params: Mapping[str, Any],
    config: T5Config,
    settings: LsaStart,
    *,
    token_vectors: Float[np.ndarray, "v d"],
    node_vectors: Float[np.ndarray, "s d"] | None,
    lexical: tuple[Float[np.ndarray, "v w"], Float[np.ndarray, "s w"]] | None = None,
    edges: tuple[Int[np.ndarray, " s"], Int[np.ndarray, " s"]] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Return ``params`` with embeddings and attention set from vectors.

    The prefix head has the directions of the nodes' vectors. With the vocabulary head, a docid token gets the mean of
    the steps that it stands for, each from a node's direction to that of a child: a first code has the direction of
    its documents as there, a later one what the prefixes before it agree on.

    Args:
        params: Randomly initialised parameters of :class:`genret_jax.models.network.T5`.
        config: Its configuration; ``num_heads * d_kv`` must equal ``d_model``.
        settings: Scales.
        token_vectors: One row per text token, its weight in the analysis included.
        node_vectors: One row per docid node (any norm); None where docids are written as text.
        lexical: Vectors of ``lexical_width`` dimensions for text tokens and nodes, where the configuration has them;
            the mean document has length 1.
        edges: For the vocabulary head, the token that leads to each node, and its parent (0 of the root).
        seed: Of the one random rotation given to all vectors, which spreads the leading dimensions over the heads.

    Raises:
        InputError: If the attention is not as wide as the model.
    """
    rotation = _rotation(config, seed)
    changed: dict[str, Any] = _copy(params)
    decoder = changed["decoder"]
    _set_tokens(changed["token_embedder"]["embedding"], token_vectors @ rotation, settings.token_scale)
    if node_vectors is not None:
        nodes = settings.node_scale * _directions(node_vectors @ rotation)
        if edges is None:
            head = decoder["prefix_head"]
            for name in {"input_nodes", "output_nodes"} & head.keys():
                head[name][: len(nodes)] = nodes
        else:
            _set_codes(changed, nodes, *edges)
    if lexical is not None:
        terms, documents = lexical
        sizes = np.linalg.norm(terms, axis=1)
        # A token that no document holds says nothing: its row stays zero.
        usual = np.median(sizes[sizes > 0]) / terms.shape[1] ** 0.5
        decoder["lexical_embedder"]["embedding"][:] = terms * (settings.token_scale / usual)
        rows = decoder["prefix_head"]["lexical_nodes"]
        rows[: len(documents)] = settings.lexical_scale * documents
    _quieten(changed, config, settings)
    return changed


def start_from_items(
    params: Mapping[str, Any],
    config: T5Config,
    settings: ItemStart,
    *,
    tokens: Int[np.ndarray, "n m"],
    nodes: Int[np.ndarray, "n m"],
    vectors: Float[np.ndarray, "n d"],
    seed: int,
) -> dict[str, Any]:
    """Return ``params`` that compare a decaying mean of the history's vectors with those of the items.

    The sum that ends with a node has the direction of the mean of the items below it, and the length that all have, so
    that an item's is its own vector. Of what a node adds to the sum before it, the token that leads there gets the mean
    over its items, and the node the rest. Items that are not among these have what their codes say; tokens of users
    begin at zero.

    Args:
        params: Randomly initialised, of a network that ties items (:attr:`~genret_jax.models.config.T5Config.
            ties_items`).
        config: Its configuration; ``num_heads * d_kv`` must equal ``d_model``.
        settings: Scales.
        tokens: The docids of the items that training is shown, padded with 0.
        nodes: The nodes that the tokens lead to.
        vectors: Of the items, each of length 1.
        seed: Of the one random rotation given to all vectors, which spreads the dimensions over the heads.

    Raises:
        InputError: If the attention is not as wide as the model.
    """
    turned = vectors @ _rotation(config, seed)
    changed: dict[str, Any] = _copy(params)
    tables = changed["token_embedder"]["embedding"], changed["items"]["nodes"]
    for table in tables:
        table[:] = 0
    reached = np.zeros_like(turned)
    for place in range(tokens.shape[1]):
        of_place = tokens[:, place], nodes[:, place]
        below = _means(turned, of_place[1], len(tables[1]))[0]
        wanted = settings.node_scale * _directions(below)[of_place[1]]
        step = np.where(of_place[1][:, None] > 0, wanted - reached, np.float32(0))
        reached += step
        for keys, table in zip(of_place, tables, strict=True):
            means, known = _means(step, keys, len(table))
            table[known] = means[known]
            step = step - means[keys]
    recency = changed["decoder"]["recency_bias"]["recency"]
    recency[:, :-1] = np.log(settings.decay) * np.arange(recency.shape[1] - 1)
    _quieten(changed, config, settings)
    return changed


def _rotation(config: T5Config, seed: int) -> Float[np.ndarray, "d d"]:
    width = config.d_model
    if config.num_heads * config.d_kv != width:
        raise InputError(
            f"T5Config.num_heads * d_kv is {config.num_heads * config.d_kv}",
            expected=f"d_model ({width}) for a start from vectors",
            fix="change T5Config.num_heads or T5Config.d_kv, or set the experiment's start = None",
        )
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0], np.float32)


def _means(
    vectors: Float[np.ndarray, "n d"], keys: Int[np.ndarray, " n"], count: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, " u"]]:
    """Return the mean of the vectors of each key but 0, zero where there are none, and the keys that there are."""
    numbers = np.bincount(keys, minlength=count)
    numbers[0] = 0
    ones = np.ones(len(keys), np.float32)
    sums = scipy.sparse.csr_matrix((ones, (keys, np.arange(len(keys)))), shape=(count, len(keys))) @ vectors
    means = np.where(numbers[:, None] > 0, sums / np.maximum(numbers, 1)[:, None], np.float32(0))
    return means, np.flatnonzero(numbers)


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {name: _copy(branch) for name, branch in tree.items()}
    return np.array(tree, dtype=np.float32)


def _set_tokens(embedding: Float[np.ndarray, "r d"], vectors: Float[np.ndarray, "v d"], scale: float) -> None:
    sizes = np.sqrt(np.mean(vectors**2, axis=1))
    # A token the corpus never uses has no vector: its row stays random, at the scale of the others.
    known = np.flatnonzero(sizes > 0)
    # Some of those come out of the analysis with the rounding of zero, and where they are many, as most bytes are, they
    # must not be the measure of the others.
    used = sizes > _ROUNDING * sizes.max(initial=0.0)
    embedding *= scale / np.sqrt(np.mean(embedding**2))
    embedding[known] = vectors[known] * (scale / np.median(sizes[used]))


def _set_codes(
    params: dict[str, Any], nodes: Float[np.ndarray, "s d"], token: Int[np.ndarray, " s"], parent: Int[np.ndarray, " s"]
) -> None:
    embedding = params.get("decoder_token_embedder", params["token_embedder"])["embedding"]
    above = np.where(parent[:, None] > 0, nodes[parent], np.float32(0))
    shown = np.any(nodes != 0, axis=1)  # documents that are not give their nodes no vector
    means, known = _means((nodes - above)[shown], token[shown], len(embedding))
    embedding[known] = means[known]
    embedding[0] = nodes[0]
    if "logits_dense" in params["decoder"]:
        params["decoder"]["logits_dense"]["kernel"][:, known] = means[known].T


def _directions(vectors: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s d"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _quieten(params: dict[str, Any], config: T5Config, settings: _Copying) -> None:
    """Shrink every residual branch but the last cross-attention, which copies instead."""
    for stack, depth in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        for number in range(depth):
            layer = params[stack][f"layers_{number}"]
            layer["mlp"]["wo"]["kernel"] *= settings.residual_scale
            for name in ("attention", "self_attention", "encoder_decoder_attention"):
                if name in layer:
                    layer[name]["out"]["kernel"] *= settings.residual_scale
    copying = params["decoder"][f"layers_{config.num_decoder_layers - 1}"]["encoder_decoder_attention"]
    identity = np.eye(config.d_model, dtype=np.float32)
    copying["query"]["kernel"] *= settings.query_scale
    copying["value"]["kernel"][:] = settings.value_scale * identity
    copying["out"]["kernel"][:] = identity
