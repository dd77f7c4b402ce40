"""The network asked for docids, or for text: where models and decoding, which know nothing of each other, meet."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Int

from genret_jax.decoding import BeamResult, Exhaustive, Strategy, beam_search, sample_tokens
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5


@functools.partial(jax.jit, static_argnames=("config", "beams"))
def search_tokens(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    strategy: Strategy | Exhaustive,
    tree: NodeTree | None,
    config: T5Config,
    beams: int,
) -> BeamResult:
    """Encode queries and search for their docids, all in one program.

    Args:
        params: Of the network.
        tokens: Queries, padded with 0.
        strategy: The docids, and how to search them; or how long anything is that may be written.
        tree: The docid tree; for the prefix head.
        config: The network's shape.
        beams: Results a query.
    """
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, strategy.max_length, method=T5.init_cache)

    def step(tokens: Array, prefix_nodes: Array, cache: Any, *, first: bool) -> tuple[Array, Any]:
        # The cache itself says whether this is the first step (T5.init_cache).
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.step)

    def forced(tokens: Array, prefix_nodes: Array, cache: Any) -> Array:
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.forced)

    return beam_search(step, cache, strategy, batch=tokens.shape[0], beams=beams, forced=forced)


@functools.partial(jax.jit, static_argnames=("config", "written", "samples", "length", "top_k", "temperature"))
def sample_texts(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    key: jax.Array,
    *,
    config: T5Config,
    written: int,
    samples: int,
    length: int,
    top_k: int,
    temperature: float,
) -> Int[Array, "b n length"]:
    """Encode texts and draw others that the decoder writes of them, all in one program.

    Args:
        params: Of the network.
        tokens: Texts, padded with 0.
        key: Of the random numbers.
        config: The network's shape, with the vocabulary head.
        written: Tokens that may be written: those below this number.
        samples: Texts of each, n.
        length: Tokens of the longest.
        top_k: Next tokens to draw from.
        temperature: Logits are divided by it.
    """
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, length, method=T5.init_cache)

    def step(tokens: Array, prefix_nodes: Array, cache: Any, *, first: bool) -> tuple[Array, Any]:
        return model.apply(variables, tokens, None, cache, columns=(0, written), method=T5.step)

    return sample_tokens(
        step, cache, key, batch=len(tokens), samples=samples, length=length, top_k=top_k, temperature=temperature
    )
