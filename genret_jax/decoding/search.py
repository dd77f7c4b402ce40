"""Beam search over docids, for any model that can score the next token."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.constraint import TrieConstraint
from genret_jax.decoding.exhaustive import Exhaustive, exhaustive_search
from genret_jax.decoding.layout import Level
from genret_jax.decoding.result import BeamResult, widen
from genret_jax.decoding.scores import INVALID, LOWEST, exists, finite, log_probs, logsumexp, top_k
from genret_jax.decoding.step import Cache, Forced, Step, reorder, take_beams
from genret_jax.decoding.strategies import Ends, Unconstrained
from genret_jax.errors import InputError

Strategy = TrieConstraint | Unconstrained

# Forced ends of up to this number of tokens are scored in one pass of exactly their length, longer ones in multiples.
_EXACT_ENDS = 8
# Largest size of the logits of a pass over forced ends; beyond it, step by step is as quick.
_MOST_FORCED_BYTES = 1 << 26


class _Beams(NamedTuple):
    """The state of the loop."""

    depth: Int[Array, ""] | int  # tokens emitted so far
    states: Any  # [b, k, ...]  of the strategy
    scores: Float[Array, "b k"]  # sum of log-probabilities so far; INVALID marks a beam that does not exist
    last: Int[Array, "b k"]  # token emitted last
    bound: Float[Array, " b"]  # best score that was dropped
    has_nan: Bool[Array, " b"]  # whether a live beam was given a logit that is NaN
    cache: Cache  # of the model, row j belonging to beam j


def beam_search(
    step: Step,
    cache: Cache,
    strategy: Strategy | Exhaustive,
    *,
    batch: int,
    beams: int,
    forced: Forced | None = None,
) -> BeamResult:
    """Find the best-scored docids of each query.

    This is exactly the beam search of this width over the continuations that the strategy allows: at every depth, all
    continuations of all beams compete with the beams that have ended, which keep their scores. Among equal scores the
    lower beam wins, then the lower token. Places without a docid are flagged as invalid.

    It is a pure function to be called inside ``jax.jit``, with the model's parameters and the strategy as arguments of
    the jitted function. Memory beside the model's: ``batch * beams * width`` candidates at a time, the width being
    that of the widest level; and for the first step alone ``batch`` times the children of the root.

    Args:
        step: The model.
        cache: Its cache for depth 0 with one beam: leaves of ``cache["beams"]`` are ``[b, 1, ...]``.
        strategy: ``TrieConstraint(index)``, ``Unconstrained(...)``, or ``Exhaustive(index)``.
        batch: Queries, b.
        beams: Results of each query, k; may exceed the number of docids.
        forced: The model at several positions at once. If the index shows that it pays, the search scores the rest of
            all docids in one pass, as soon as every beam has only one docid left.

    Returns:
        The results, ``[b, k, ...]``, by descending score.

    Raises:
        InputError: If the model's vocabulary is not the strategy's, or ``beams`` is not positive.
    """
    if beams < 1:
        raise InputError(f"a beam search with {beams} beams", expected="at least 1")
    if isinstance(strategy, Exhaustive):
        return exhaustive_search(step, cache, strategy, batch=batch, beams=beams)
    width = strategy.width(beams)

    def next_step(current: _Beams, level: Level) -> _Beams:
        return _next_step(current, step, strategy, level, width)

    nothing = jnp.zeros((batch, 1))
    found = _Beams(
        0,
        strategy.start(batch),
        nothing,
        nothing.astype(jnp.int32),
        jnp.full(batch, INVALID),
        jnp.zeros(batch, bool),
        cache,
    )
    found = next_step(found, strategy.levels[0])
    check_from = _check_from(strategy, forced, batch * width)
    for level in strategy.levels[1:]:
        found = _through(found, level, strategy, check_from, next_step)
    ends = strategy.ends(found.states)
    if forced is not None and check_from < strategy.max_length and not strategy.forced_is_free:
        scores, order, has_nan = _score_forced(found, ends, forced, strategy, check_from)
        found, ends = found._replace(scores=scores, has_nan=found.has_nan | has_nan), take_beams(ends, order)
    return _result(found, ends, beams)


def _check_from(strategy: Strategy, forced: Forced | None, beams: int) -> int:
    """Return the first depth at which to check for forced ends; ``max_length`` for never."""
    first, left = strategy.forced_from, strategy.max_length - strategy.forced_from
    if strategy.forced_is_free:
        return first
    fits = 4 * beams * left * strategy.vocab_size <= _MOST_FORCED_BYTES
    return first if forced is not None and left > 1 and fits else strategy.max_length


def _through(
    found: _Beams, level: Level, strategy: Strategy, check_from: int, next_step: Callable[[_Beams, Level], _Beams]
) -> _Beams:
    """Run the search through the depths of a level; it ends early if no beam needs another step."""
    checks_forced = level.stop > check_from
    if level.stop == level.start + 1 and not strategy.mixed and not checks_forced:
        return next_step(found._replace(depth=level.start), level)

    def go_on(current: _Beams) -> Array:
        live = exists(current.scores)
        if strategy.mixed:
            live &= ~strategy.ended(current.states, current.depth)
        if checks_forced:
            left = strategy.max_length - current.depth
            at_exit = strategy.forced_is_free | (left <= _EXACT_ENDS) | (left % _EXACT_ENDS == 0)
            at_exit &= current.depth >= check_from
            live &= ~(strategy.forced(current.states, current.depth) & at_exit)
        return (current.depth < level.stop) & live.any()

    found = found._replace(depth=jnp.asarray(found.depth, jnp.int32))
    return jax.lax.while_loop(go_on, lambda current: next_step(current, level), found)


def _next_step(current: _Beams, step: Step, strategy: Strategy, level: Level, width: int) -> _Beams:
    """Extend every live beam by one token and keep the best of all candidates."""
    depth, first = current.depth, level.start == 0
    logits, cache = step(current.last, strategy.prefix_nodes(current.states, depth), current.cache, first=first)
    has_nan = current.has_nan | (jnp.isnan(logits).any(axis=-1) & exists(current.scores)).any(axis=-1)
    # --> [b, k, f]
    candidates, ahead, read = strategy.candidates(current.states, current.scores, finite(logits), depth, level)
    ended = strategy.ended(current.states, depth) if strategy.mixed and not first else None
    fanout = candidates.shape[-1]
    if ended is not None:  # a beam that has ended is its own only candidate
        itself = (np.arange(fanout) == 0)[None, None]
        candidates = jnp.where(ended[..., None], jnp.where(itself, current.scores[..., None], INVALID), candidates)
        ahead = None if ahead is None else jnp.where(ended[..., None], 0.0, ahead)
    scores, chosen, dropped = _best(candidates, ahead, width)
    bound = current.bound if dropped is None else jnp.maximum(current.bound, dropped)
    parents, slots = chosen // fanout, chosen % fanout
    parent_states = take_beams(current.states, parents)
    tokens, states = strategy.child(parent_states, parents, slots, read, depth, level)
    if ended is not None:
        goes_on = ~take_beams(ended, parents)
        tokens = jnp.where(goes_on, tokens, 0)
        states = jax.tree.map(
            lambda new, old: jnp.where(goes_on.reshape(goes_on.shape + (1,) * (new.ndim - 2)), new, old),
            states,
            parent_states,
        )
    return _Beams(depth + 1, states, scores, tokens, bound, has_nan, reorder(cache, parents))


def _best(
    candidates: Float[Array, "b k f"], ahead: Float[Array, "b k f"] | None, width: int
) -> tuple[Float[Array, "b w"], Int[Array, "b w"], Float[Array, " b"] | None]:
    """Choose the beams of the next step.

    Args:
        candidates: Scores; INVALID where there is no candidate.
        ahead: Added to the scores for the choice only.
        width: Number of beams to choose.

    Returns:
        Their scores, best first; their places among the candidates of a query; and the best score of a candidate that
        was not chosen, None where all were.
    """
    candidates = candidates.reshape(len(candidates), -1)
    count = candidates.shape[1]
    order = (
        candidates if ahead is None else jnp.where(exists(candidates), candidates + ahead.reshape(-1, count), INVALID)
    )
    # Of equal scores top_k takes the lower place: the lower beam, then the lower token.
    scores, chosen = top_k(order, min(width + 1, count))
    dropped = None
    if ahead is not None:
        scores = jnp.take_along_axis(candidates, chosen, axis=1)
    if count > width:
        dropped, chosen = scores[:, width], chosen[:, :width]
        scores = scores[:, :width]
        if ahead is not None:
            rows = np.arange(len(candidates))[:, None]
            dropped = candidates.at[rows, chosen].set(INVALID, unique_indices=True).max(axis=1)
        dropped = jnp.where(exists(dropped), jnp.maximum(dropped, LOWEST), INVALID)
    scores = jnp.where(exists(scores), jnp.maximum(scores, LOWEST), INVALID)
    missing = ((0, 0), (0, max(0, width - count)))  # fewer candidates than beams
    return jnp.pad(scores, missing, constant_values=INVALID), jnp.pad(chosen, missing), dropped


def _score_forced(
    found: _Beams, ends: Ends, forced: Forced, strategy: Strategy, check_from: int
) -> tuple[Float[Array, "b k"], Int[Array, "b k"], Bool[Array, " b"]]:
    """Score the rest of all docids in one pass; return sorted scores, the beam of each, and the queries with NaN."""
    most = strategy.max_length - check_from
    lengths = [left for left in range(most + 1) if left <= _EXACT_ENDS or left % _EXACT_ENDS == 0]

    def score(left: int) -> tuple[Array, Array, Array]:
        start = strategy.max_length - left
        inputs = jnp.concatenate([found.last[..., None], ends.tokens[..., start:-1]], axis=-1)
        nodes = jnp.zeros_like(inputs) if ends.nodes is None else ends.nodes[..., -left:]
        logits = forced(inputs, nodes, found.cache)  # --> [b, k, l, v]
        is_nan = jnp.isnan(logits).any(axis=-1) & exists(found.scores)[..., None]
        logits = finite(logits)
        chosen = jnp.take_along_axis(logits, ends.tokens[..., start:, None], axis=-1)[..., 0]
        gained = log_probs(chosen, logsumexp(logits))
        if strategy.mixed:
            depths = range(start, strategy.max_length)
            ended = jnp.stack([strategy.ended(found.states, d) for d in depths], axis=-1)
            gained, is_nan = jnp.where(ended, 0.0, gained), is_nan & ~ended
        return *_in_order(found.scores, gained), is_nan.any(axis=(1, 2))

    def nothing_left() -> tuple[Array, Array, Array]:
        return found.scores, _places(found.scores), jnp.zeros_like(found.has_nan)

    branch = jnp.sum(jnp.array(lengths) < strategy.max_length - found.depth)
    return jax.lax.switch(branch, [nothing_left, *(functools.partial(score, left) for left in lengths[1:])])


def _in_order(scores: Float[Array, "b k"], gained: Float[Array, "b k l"]) -> tuple[Array, Array]:
    """Add the log-probabilities of the last tokens; return scores and their beams, sorted as in a search by steps."""
    sums = [scores]
    for position in range(gained.shape[-1]):
        total = jnp.maximum(sums[-1] + gained[..., position], LOWEST)
        sums.append(jnp.where(exists(scores), total, INVALID))
    # Stable at every depth: equal at the end, beams stay as they were ordered one token before.
    keys = [-total for total in sums[:0:-1]]
    ordered = jax.lax.sort([*keys, _places(scores)], dimension=1, num_keys=len(keys) + 1)
    return -ordered[0], ordered[-1]


def _places(scores: Float[Array, "b k"]) -> Int[Array, "b k"]:
    return jnp.broadcast_to(jnp.arange(scores.shape[1], dtype=jnp.int32)[None], scores.shape)


def _result(found: _Beams, ends: Ends, beams: int) -> BeamResult:
    valid: Bool[Array, "b k"] = exists(found.scores)
    tokens, scores, docids, rows = ends.tokens, found.scores, ends.docids, ends.rows
    if ends.complete is not None:  # some beams may be no results, so order once more
        valid &= ends.complete
        scores, order = jax.lax.top_k(jnp.where(valid, scores, INVALID), scores.shape[1])
        valid, tokens, docids, rows = take_beams((valid, tokens, docids, rows), order)
    result = BeamResult(
        tokens=jnp.where(valid[..., None], tokens, 0),
        scores=scores,
        docids=jnp.where(valid, docids, -1),
        rows=jnp.where(valid, rows, -1),
        valid=valid,
        bound=found.bound,
        has_nan=found.has_nan,
    )
    return widen(result, beams)
