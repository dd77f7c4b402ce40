"""Start a network from vectors of the corpus instead of random numbers.

A decoder that attends to its input uniformly, copies what it reads and compares it with a vector per docid node is a
nearest-centroid retriever. The weights made here turn the network into that retriever at step 0, up to small random
residual branches, so training begins at the quality of latent semantic analysis and not at zero.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.plan_start import PlanScales, shrink_residual_branches, start_decoder
from genret_jax.models.shapes import decoder_embedding
from genret_jax.models.start import ItemFacts, Params, TextFacts
from genret_jax.validation import at_most, check_fields, more_than

# Token vectors smaller than this share of the largest are rounding errors of the analysis.
_ROUNDING = 1e-4


@dataclass(frozen=True, kw_only=True)
class _Copying:
    """Scales of a network that copies what it reads and compares it with a vector per docid node."""

    node_scale: float = 1.3
    value_scale: float = 2.0
    query_scale: float = 0.3
    residual_scale: float = 0.05

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class LsaStart(PlanScales, _Copying):
    """Start from latent semantic analysis of the corpus; the default scales were chosen on validation queries.

    Args:
        node_scale: Norm of the vector of a docid node.
        value_scale: Factor of the values of the last cross-attention, which are its normalised input.
        query_scale: Factor of the queries of that attention; a small one makes it begin close to a mean over the input.
        residual_scale: Factor of the output of all other residual branches.
        token_scale: Median root mean square of the token vectors.
        code_scale: As in :class:`~genret_jax.models.plan_start.PlanScales`, like the next three.
        dense_scale: Factor of the inner products of queries and documents.
        lexical_scale: Factor of the BM25 scores.
        stop_word_weight: Factor of the weights of English stop words.
    """

    token_scale: float = 0.5

    source = "the words of the corpus"
    covers_new_documents = True

    def __post_init__(self) -> None:
        super().__post_init__()

    def initial_params(self, random_params: Params, config: T5Config, facts: TextFacts) -> Params:
        """Return the parameters of the nearest-centroid retriever; see :class:`~genret_jax.models.start.Start`.

        With a plan, the mean of the encoder's states is the query's latent vector, which the plan compares with those
        of the documents. A decoder, if there is one, says nothing at first.
        """
        if config.plan is not None:
            return self._planned(random_params, config, facts)
        latent, docids = facts.latent(config.d_model), facts.docids
        tokens, nodes, edges = _with_all_tokens(latent.terms, config), None, None
        if docids is not None and config.head == "vocabulary":
            nodes = docids.node_vectors(latent.documents * facts.shown()[:, None])
            edges = docids.tree.node_token, docids.tree.parents
        elif docids is not None:
            nodes = docids.node_vectors(latent.documents)
        return start_from_vectors(
            random_params, config, self, token_vectors=tokens, node_vectors=nodes, edges=edges, seed=facts.seed
        )

    def _planned(self, random_params: Params, config: T5Config, facts: TextFacts) -> Params:
        assert config.plan is not None
        changed: dict[str, Any] = copied(random_params)
        vectors = None
        if config.plan.reads_vectors:
            latent = facts.latent(config.d_model)
            tokens, vectors = _with_all_tokens(latent.terms, config), latent.documents
            embedding = changed["token_embedder"]["embedding"]
            _set_tokens(embedding, tokens, self.token_scale)
            embedding[~tokens.any(axis=1)] *= self.residual_scale  # tokens that no document has say little
        shrink_residual_branches(changed["encoder"], config.num_encoder_layers, self.residual_scale)
        if config.num_decoder_layers:
            rows = np.zeros((config.output_vocab_size, config.d_model), np.float32)
            nodes = np.zeros((config.num_nodes, config.d_model), np.float32)
            start_decoder(changed, config, self.residual_scale, rows, nodes)
        self.start_plan(changed, config, facts, vectors)
        return changed


@dataclass(frozen=True, kw_only=True)
class ItemStart(_Copying):
    """Start a network on whole items from vectors of the items.

    Args:
        node_scale: Norm of the vector of an item.
        value_scale: Factor of the values of the last cross-attention, which are its normalised input.
        query_scale: Factor of the queries of that attention; a small one makes it begin close to a decaying mean over
            the history.
        residual_scale: Factor of the output of all other residual branches.
        decay: Weight of each item of the history relative to the item after it.
    """

    decay: Annotated[float, more_than(0), at_most(1)] = 0.4

    source = "the vectors of the items, and who had them"

    def __post_init__(self) -> None:
        super().__post_init__()

    def initial_params(self, random_params: Params, config: T5Config, facts: ItemFacts) -> Params:
        """Return parameters that compare a decaying mean of the history's vectors with the vectors of the items.

        The sum of vectors along the path to a node has the direction of the mean of the items below the node, so the
        sum along the whole path of an item is the item's own vector; all sums have the norm ``node_scale``. Each step
        of a path is split: the token that leads to the node gets the mean over its items, the node gets the rest. Items
        that training does not show therefore have the vectors of their codes. Tokens of users begin at zero.

        Args:
            random_params: Random parameters of a network that ties items
                (:attr:`~genret_jax.models.config.T5Config.ties_items`); they are not changed.
            config: Configuration of the parameters; ``num_heads * d_kv`` must equal ``d_model``.
            facts: Docids and vectors of the items that training shows.

        Raises:
            InputError: If the attention is not as wide as the model.
        """
        tokens, nodes = facts.item_tokens(), facts.item_nodes()
        rotated = facts.item_vectors() @ _rotation(config, facts.seed)
        changed: dict[str, Any] = copied(random_params)
        tables = changed["token_embedder"]["embedding"], changed["items"]["nodes"]
        for table in tables:
            table[:] = 0
        reached = np.zeros_like(rotated)
        for token, node in zip(tokens.T, nodes.T, strict=True):
            below = _means(rotated, node, len(tables[1]))[0]
            wanted = self.node_scale * _directions(below)[node]
            step = np.where(node[:, None] > 0, wanted - reached, np.float32(0))
            reached += step
            for keys, table in zip((token, node), tables, strict=True):
                means, known = _means(step, keys, len(table))
                table[known] = means[known]
                step = step - means[keys]
        recency = changed["decoder"]["recency_bias"]["recency"]
        recency[:, :-1] = np.log(self.decay) * np.arange(recency.shape[1] - 1)
        _set_residual_branches(changed, config, self)
        return changed


def start_from_vectors(
    params: Mapping[str, Any],
    config: T5Config,
    settings: LsaStart,
    *,
    token_vectors: Float[np.ndarray, "v d"],
    node_vectors: Float[np.ndarray, "s d"] | None,
    edges: tuple[Int[np.ndarray, " s"], Int[np.ndarray, " s"]] | None = None,
    seed: int,
) -> dict[str, Any]:
    """Return parameters whose embeddings and attention are set from vectors.

    The rows of the prefix head get the directions of the nodes' vectors. With the vocabulary head, a docid token gets
    the mean of all steps that it stands for, each from the direction of a node to that of its child: a first code gets
    the direction of its documents, a later one the change that all prefixes before it share.

    Args:
        params: Random parameters of :class:`genret_jax.models.network.T5`; they are not changed.
        config: Configuration of the parameters; ``num_heads * d_kv`` must equal ``d_model``.
        settings: Scales of the start.
        token_vectors: One row per token of the encoder; includes the token's weight.
        node_vectors: One row per docid node, of any norm; None if docids are text.
        edges: For the vocabulary head, the token that leads to each node, and the node's parent (0 for the root).
        seed: Seed of a random rotation of all vectors, which spreads the leading dimensions over the heads.

    Raises:
        InputError: If the attention is not as wide as the model.
    """
    rotation = _rotation(config, seed)
    changed: dict[str, Any] = copied(params)
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
    _set_residual_branches(changed, config, settings)
    return changed


def _rotation(config: T5Config, seed: int) -> Float[np.ndarray, "d d"]:
    width = config.d_model
    if config.num_heads * config.d_kv != width:
        raise InputError(
            f"T5Config.num_heads * d_kv is {config.num_heads * config.d_kv}",
            expected=f"d_model ({width}) for a start from vectors",
            fix="change T5Config.num_heads or T5Config.d_kv, or set the experiment's start to None",
        )
    return np.asarray(np.linalg.qr(np.random.default_rng(seed).standard_normal((width, width)))[0], np.float32)


def _means(
    vectors: Float[np.ndarray, "n d"], keys: Int[np.ndarray, " n"], count: int
) -> tuple[Float[np.ndarray, "k d"], Int[np.ndarray, " u"]]:
    """Return the mean of the vectors of each key (zero for key 0 and unused keys), and the used keys but 0."""
    frequency = np.bincount(keys, minlength=count)
    frequency[0] = 0
    ones = np.ones(len(keys), np.float32)
    sums = scipy.sparse.csr_matrix((ones, (keys, np.arange(len(keys)))), shape=(count, len(keys))) @ vectors
    means = np.where(frequency[:, None] > 0, sums / np.maximum(frequency, 1)[:, None], np.float32(0))
    return means, np.flatnonzero(frequency)


def _with_all_tokens(vectors: Float[np.ndarray, "v d"], config: T5Config) -> Float[np.ndarray, "t d"]:
    """Append rows of zeros for the tokens that are not text."""
    return np.pad(vectors, ((0, config.vocab_size - len(vectors)), (0, 0)))


def copied(tree: Any) -> Any:
    """Return a copy of parameters as NumPy arrays in float32."""
    if isinstance(tree, Mapping):
        return {name: copied(branch) for name, branch in tree.items()}
    return np.array(tree, dtype=np.float32)


def _set_tokens(embedding: Float[np.ndarray, "r d"], vectors: Float[np.ndarray, "v d"], scale: float) -> None:
    sizes = np.sqrt(np.mean(vectors**2, axis=1))
    # A token that the corpus never uses has no vector: its row stays random, at the scale of the others.
    known = np.flatnonzero(sizes > 0)
    # The analysis gives some unused tokens rounding errors instead of zero. They may be many, as with bytes, and must
    # not count in the median.
    used = sizes > _ROUNDING * sizes.max(initial=0.0)
    embedding *= scale / np.sqrt(np.mean(embedding**2))
    embedding[known] = vectors[known] * (scale / np.median(sizes[used]))


def _set_codes(
    params: dict[str, Any], nodes: Float[np.ndarray, "s d"], token: Int[np.ndarray, " s"], parent: Int[np.ndarray, " s"]
) -> None:
    embedding = decoder_embedding(params)
    above = np.where(parent[:, None] > 0, nodes[parent], np.float32(0))
    shown = np.any(nodes != 0, axis=1)  # nodes above documents that training does not show have no vector
    means, known = _means((nodes - above)[shown], token[shown], len(embedding))
    embedding[known] = means[known]
    embedding[0] = nodes[0]
    if "logits_dense" in params["decoder"]:
        params["decoder"]["logits_dense"]["kernel"][:, known] = means[known].T


def _directions(vectors: Float[np.ndarray, "s d"]) -> Float[np.ndarray, "s d"]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9)


def _set_residual_branches(params: dict[str, Any], config: T5Config, settings: _Copying) -> None:
    """Shrink all residual branches but the last cross-attention, which is made to copy its input."""
    for stack, depth in (("encoder", config.num_encoder_layers), ("decoder", config.num_decoder_layers)):
        shrink_residual_branches(params[stack], depth, settings.residual_scale)
    copying = params["decoder"][f"layers_{config.num_decoder_layers - 1}"]["encoder_decoder_attention"]
    identity = np.eye(config.d_model, dtype=np.float32)
    copying["query"]["kernel"] *= settings.query_scale
    copying["value"]["kernel"][:] = settings.value_scale * identity
    copying["out"]["kernel"][:] = identity
