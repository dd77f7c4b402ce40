"""Beam search over docids, for any model that can score the next token."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genret_jax.decoding.exhaustive import Exhaustive, exhaustive_search
from genret_jax.decoding.result import INVALID, LOWEST, BeamResult, widen
from genret_jax.decoding.step import Cache, Step, reorder, take_beams
from genret_jax.decoding.strategies import Strategy
from genret_jax.errors import InputError


class _Beams(NamedTuple):
    """The state of the loop."""

    position: Int[Array, ""]  # tokens emitted so far
    states: Int[Array, "b k"]  # of the strategy
    scores: Float[Array, "b k"]  # sum of log-probabilities so far; INVALID marks a beam that does not exist
    tokens: Int[Array, "b k m"]  # emitted so far, 0 beyond
    cache: Cache  # of the model, row j belonging to beam j


def beam_search(step: Step, cache: Cache, strategy: Strategy | Exhaustive, *, batch: int, beams: int) -> BeamResult:
    """Find the best-scored docids of each query.

    Exactly the beam search of this width over what the strategy allows: at every position all continuations of all
    beams compete, together with the beams that have ended, which keep their scores. Of equal scores the lower beam
    wins, then the lower token. Places for which there is no docid are flagged.

    It is a pure function to be called inside ``jax.jit``, with the model's parameters and the strategy as arguments of
    the jitted function. Memory beside the model's: ``batch * beams * max_fanout`` candidates at a time, and for the
    first step alone ``batch * root_fanout``.

    Args:
        step: The model.
        cache: Its cache for position 0 with one beam: leaves of ``cache["beams"]`` are ``[b, 1, ...]``.
        strategy: ``TrieConstraint(index)``, ``Unconstrained(...)``, or ``Exhaustive(index)``.
        batch: Queries, b.
        beams: Results of each query, k; may exceed the number of docids.

    Returns:
        The results, ``[b, k, ...]``, by descending score.

    Raises:
        InputError: If the model's vocabulary is not the strategy's, or ``beams`` is not positive.
    """
    if beams < 1:
        raise InputError(f"a beam search with {beams} beams", expected="at least 1")
    if isinstance(strategy, Exhaustive):
        return exhaustive_search(step, cache, strategy, batch=batch, beams=beams)
    found = _first_step(step, cache, strategy, batch, strategy.width(beams))
    if strategy.max_length > 1:
        found = jax.lax.while_loop(
            lambda current: _any_live(current, strategy), lambda current: _next_step(current, step, strategy), found
        )
    return _result(found, strategy, beams)


def _first_step(step: Step, cache: Cache, strategy: Strategy, batch: int, width: int) -> _Beams:
    """Take one beam at the root to ``width`` beams of one token."""
    root = jnp.zeros((batch, 1), jnp.int32)
    logits, cache = step(root, strategy.prefix_nodes(root), cache, first=True)
    candidates = strategy.log_probs(root, logits.astype(jnp.float32), first=True)  # --> [b, 1, f]
    scores, slots = jax.lax.top_k(candidates[:, 0], min(width, candidates.shape[-1]))
    missing = ((0, 0), (0, width - slots.shape[1]))  # fewer children than beams
    scores, slots = jnp.pad(scores, missing, constant_values=INVALID), jnp.pad(slots, missing)
    tokens, states = strategy.child(root, slots)
    emitted = jnp.zeros((batch, width, strategy.max_length), jnp.int32).at[:, :, 0].set(tokens)
    return _Beams(jnp.int32(1), states, scores, emitted, reorder(cache, jnp.zeros_like(slots)))


def _next_step(current: _Beams, step: Step, strategy: Strategy) -> _Beams:
    """Take every live beam one token on and keep the best of all candidates."""
    batch, width = current.states.shape
    last = jax.lax.dynamic_index_in_dim(current.tokens, current.position - 1, axis=2, keepdims=False)
    logits, cache = step(last, strategy.prefix_nodes(current.states), current.cache, first=False)
    gained = strategy.log_probs(current.states, logits.astype(jnp.float32), first=False)  # --> [b, k, f]
    ended = strategy.ended(current.states)
    in_first_slot = (jnp.arange(gained.shape[-1]) == 0)[None, None]
    # A beam that has ended is its own only candidate and gains nothing.
    gained = jnp.where(ended[..., None], jnp.where(in_first_slot, 0.0, INVALID), gained)
    exists = (gained > INVALID) & (current.scores > INVALID)[..., None]
    candidates = jnp.where(exists, jnp.maximum(current.scores[..., None] + gained, LOWEST), INVALID)
    # Of equal scores top_k takes the lower place: the lower beam, then the lower token.
    scores, chosen = jax.lax.top_k(candidates.reshape(batch, -1), width)  # [b, k, f] --> [b, k]
    parents, slots = chosen // gained.shape[-1], chosen % gained.shape[-1]
    parent_states, goes_on = take_beams(current.states, parents), ~take_beams(ended, parents)
    tokens, states = strategy.child(parent_states, slots)
    tokens, states = jnp.where(goes_on, tokens, 0), jnp.where(goes_on, states, parent_states)
    emitted = take_beams(current.tokens, parents)
    emitted = jax.lax.dynamic_update_index_in_dim(emitted, tokens, current.position, axis=2)
    return _Beams(current.position + 1, states, scores, emitted, reorder(cache, parents))


def _any_live(current: _Beams, strategy: Strategy) -> Array:
    live = ~strategy.ended(current.states) & (current.scores > INVALID)
    return (current.position < strategy.max_length) & live.any()


def _result(found: _Beams, strategy: Strategy, beams: int) -> BeamResult:
    valid = (found.scores > INVALID) & strategy.complete(found.states)
    # Unconstrained beams may end without being results, so order once more.
    scores, order = jax.lax.top_k(jnp.where(valid, found.scores, INVALID), found.scores.shape[1])
    valid, states, tokens = (take_beams(leaf, order) for leaf in (valid, found.states, found.tokens))
    docids, rows = strategy.docids(states)
    result = BeamResult(
        tokens=jnp.where(valid[..., None], tokens, 0),
        scores=scores,
        docids=jnp.where(valid, docids, -1),
        rows=jnp.where(valid, rows, -1),
        valid=valid,
    )
    return widen(result, beams)
