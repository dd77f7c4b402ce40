"""Fold an adaptive decoder into an output vector per docid node, before a search among known docids."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config, divisible
from genret_jax.models.heads import NodeTree
from genret_jax.models.layers import constrain
from genret_jax.models.network import T5
from genret_jax.models.shapes import decoder_embedding

# Limits of a batch: numbers in the adaptive matrices, and docids.
_NUMBERS_AT_ONCE = 1 << 24
_DOCIDS_AT_ONCE = 256


def folded(
    params: Mapping[str, Any],
    config: T5Config,
    tree: NodeTree,
    *,
    tokens: Int[np.ndarray, "r m"],
    prefix_nodes: Int[np.ndarray, "r m"],
    node_tokens: Int[np.ndarray, " s"],
) -> tuple[dict[str, Any], T5Config]:
    """Return a network with the prefix head that scores these docids like a network with an adaptive decoder.

    The output vector of a node is the vector of its token, transformed by the adaptive matrix of its parent's prefix.
    So the logits of tokens that lead to nodes are the same. All other tokens are impossible: the probability is shared
    among existing continuations, as with ``TrieConstraint(..., normalize="children")``.

    Args:
        params: Parameters of a network with an adaptive decoder (:mod:`genret_jax.models.adaptive`).
        config: Configuration of the parameters.
        tree: Tree of the docids.
        tokens: The docids, padded with 0.
        prefix_nodes: Node before each token.
        node_tokens: Token that leads to each node.

    Returns:
        Parameters and configuration with ``head="prefix"``; the vectors of nodes are in host memory.
    """
    decoder = dict(params["decoder"])
    embedding = decoder_embedding(params)
    output = embedding.T if config.tie_embeddings else decoder["logits_dense"]["kernel"]
    for name in {"adaptive", "logits_dense"} & decoder.keys():
        del decoder[name]
    count = divisible(len(node_tokens))
    table = np.zeros((count, config.d_model), np.float32)
    parents, prefixes = _parent_prefixes(params, config, tokens, prefix_nodes)
    at_once = max(1, _NUMBERS_AT_ONCE // config.d_model**2)
    for start in range(0, len(parents), at_once):
        chosen = slice(start, start + at_once)
        part = _with_rows(parents[chosen], at_once), _with_rows(prefixes[chosen], at_once)
        children, rows = jax.device_get(_vectors(params, output, *part, tree, config))
        exists = children[: len(parents[chosen])] > 0
        table[children[: len(exists)][exists]] = rows[: len(exists)][exists]
    inputs = np.asarray(_taken(embedding, np.pad(node_tokens, (0, count - len(node_tokens)))))
    decoder["prefix_head"] = {"input_nodes": inputs, "output_nodes": table}
    kept = {name: part for name, part in params.items() if name != "decoder_token_embedder"}
    return {**kept, "decoder": decoder}, folded_shape(config, len(node_tokens))


def folded_shape(config: T5Config, num_nodes: int) -> T5Config:
    """Return the configuration that :func:`folded` returns; a network without an adaptive decoder stays as it is."""
    if not config.adaptive_layers:
        return config
    return dataclasses.replace(
        config,
        head="prefix",
        decoder_vocab_size=config.output_vocab_size,
        tie_embeddings=False,
        adaptive_layers=0,
        adaptive_width=None,
        num_nodes=divisible(num_nodes),
    )


def _parent_prefixes(
    params: Mapping[str, Any],
    config: T5Config,
    tokens: Int[np.ndarray, "r m"],
    prefix_nodes: Int[np.ndarray, "r m"],
) -> tuple[Int[np.ndarray, " p"], Float[np.ndarray, "p e"]]:
    """Return the nodes that have children, and the adaptive decoder's vector of each one's prefix."""
    width = tokens.shape[1]
    parents, first = np.unique(np.where(tokens > 0, prefix_nodes, -1), return_index=True)
    parents, first = parents[parents >= 0], first[parents >= 0]
    shifted = np.pad(tokens, ((0, 0), (1, 0)))[:, :width]
    rows, of_parent = np.unique(first // width, return_inverse=True)
    vectors = []
    for start in range(0, len(rows), _DOCIDS_AT_ONCE):
        chosen = rows[start : start + _DOCIDS_AT_ONCE]
        found = _prefix_vectors(params, _with_rows(shifted[chosen], _DOCIDS_AT_ONCE), config)
        vectors.append(np.asarray(found)[: len(chosen)])
    return parents.astype(np.int32), np.concatenate(vectors)[of_parent, first % width]


@functools.partial(jax.jit, static_argnames="config")
def _prefix_vectors(params: Mapping[str, Any], shifted: Int[Array, "r m"], config: T5Config) -> Float[Array, "r m e"]:
    found: Array = T5(config).apply(
        {"params": params}, shifted, method=lambda t5, shifted: t5.decoder.adaptive(shifted, True)
    )
    return constrain(found.astype(jnp.float32), None, None, None)


@jax.jit
def _taken(table: Float[Array, "v d"], rows: Int[Array, " s"]) -> Float[Array, "s d"]:
    return constrain(jnp.take(table, rows, axis=0, mode="clip"), None, None)


@functools.partial(jax.jit, static_argnames="config")
def _vectors(
    params: Mapping[str, Any],
    output: Float[Array, "d v"],
    parents: Int[Array, " p"],
    prefixes: Float[Array, "p e"],
    tree: NodeTree,
    config: T5Config,
) -> tuple[Int[Array, "p f"], Float[Array, "p f d"]]:
    """Return the children of some nodes, padded with 0, and the children's output vectors."""
    edges, exists = tree.edges_of(parents, max(tree.fanouts))
    own = jnp.take(output.T, tree.child_tokens[edges], axis=0, mode="clip")
    vectors = prefixes.astype(config.compute_dtype)
    matrices = T5(config).apply(
        {"params": params}, vectors, method=lambda t5, vectors: t5.decoder.adaptive.matrices(vectors)
    )
    changed = own + jnp.einsum("pde,pfe->pfd", matrices.astype(jnp.float32), own)
    return jnp.where(exists, tree.child_nodes[edges], 0), constrain(changed, None, None, None)


def _with_rows(array: np.ndarray, rows: int) -> np.ndarray:
    return np.pad(array, ((0, rows - len(array)), *[(0, 0)] * (array.ndim - 1)))
