"""Search docids and sample text with the network: models and decoding, which know nothing of each other, meet here."""

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
    """Encode queries and search for their docids, in one program.

    Args:
        params: Parameters of the network.
        tokens: Queries, padded with 0.
        strategy: The docids and how to search them, or the length of unconstrained results.
        tree: The docid tree; for the prefix head.
        config: Configuration of the network.
        beams: Results per query.
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
    """Encode texts and sample the texts that the decoder writes for them, in one program.

    Args:
        params: Parameters of the network.
        tokens: Texts, padded with 0.
        key: Random key.
        config: The network's shape, with the vocabulary head.
        written: Only tokens below this number may be written.
        samples: Samples per text, n.
        length: Most tokens of a sample.
        top_k: Number of next tokens to draw from.
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
