"""The searches that benchmark_decoding.py times: with logits from a table, and with the decoder of T5 small."""

import functools
import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_static import StaticIndex, search_static

from genret_jax.decoding import BeamResult, TrieConstraint, Unconstrained, beam_search
from genret_jax.models import T5, T5Config

FEWEST_ROUNDS = 5
SHORTEST_MEASUREMENT = 0.005  # seconds; faster searches are repeated for one measurement
INPUT_LENGTH = 32  # encoder tokens that the decoder of part "decode" attends to

Row = dict[str, Any]
Sides = Mapping[str, Callable[[], jax.Array]]


@dataclass(frozen=True)
class Limits:
    """How often and how long to measure a cell."""

    repeats: int
    seconds: float

    def rounds(self, round_seconds: float) -> int:
        """As many rounds as asked for, or fewer where they would take too long, but enough for a median."""
        return max(min(FEWEST_ROUNDS, self.repeats), min(self.repeats, int(self.seconds / round_seconds)))


# --- selection alone ------------------------------------------------------------------------------------------------


def scoring_forced(score: Callable[..., jax.Array] | None) -> dict[str, Any]:
    """The option with which a search scores several forced positions in one pass; none where it has no such option."""
    return {"forced": score} if score and "forced" in inspect.signature(beam_search).parameters else {}


@functools.cache
def logits_table(vocabulary: int) -> jax.Array:
    """The logits of the model that costs nothing, float32 ``[v, v]``."""
    return jax.random.normal(jax.random.key(1), (vocabulary, vocabulary)) * 3


def look_up(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Logits ``[b, k, ..., v]`` after tokens ``[b, k, ...]``, other ones for each query.

    As those of any model they are computed as a whole before a search reads some of them.
    """
    return jax.lax.optimization_barrier(table[table_rows(tokens, len(table))])


def table_rows(tokens: Any, vocabulary: int) -> Any:
    """Which row of the table follows each token ``[b, k, ...]``."""
    query = np.arange(tokens.shape[0]).reshape(-1, *[1] * (tokens.ndim - 1))
    return (tokens + 7 * query) % vocabulary


@functools.cache
def selecting(batch: int, beams: int) -> Callable[..., BeamResult]:
    """A compiled search with logits from a table; called with the table and a strategy."""

    @jax.jit
    def select(table: jax.Array, strategy: Any) -> BeamResult:
        def step(tokens, prefix_nodes, cache, *, first):
            return look_up(table, tokens), cache

        option = scoring_forced(lambda tokens, prefix_nodes, cache: look_up(table, tokens))
        return beam_search(step, {"beams": {}}, strategy, batch=batch, beams=beams, **option)

    return select


@functools.cache
def floors(length: int, batch: int, beams: int) -> tuple[Callable[[jax.Array], jax.Array], ...]:
    """Compiled loops of the least that a beam search does, and of looking logits up alone."""

    @jax.jit
    def top_k(table: jax.Array) -> jax.Array:
        tokens, scores = jnp.zeros((batch, 1), jnp.int32), jnp.zeros((batch, 1))
        for _ in range(length):
            gained = jax.nn.log_softmax(look_up(table, tokens))  # --> [b, k, v]
            candidates = (scores[..., None] + gained).reshape(batch, -1)
            scores, chosen = jax.lax.top_k(candidates, min(beams, candidates.shape[1]))
            tokens = chosen % table.shape[1]
        return scores

    @jax.jit
    def model(table: jax.Array) -> jax.Array:
        tokens = look_up(table, jnp.zeros((batch, 1), jnp.int32))[..., :1].astype(jnp.int32)
        for _ in range(length - 1):
            width = jnp.broadcast_to(tokens[:, :1, 0], (batch, beams)) + jnp.arange(beams)[None]
            tokens = look_up(table, width)[..., :1].astype(jnp.int32)
        return tokens

    return top_k, model


def measure_selection(
    constraint: TrieConstraint, static: StaticIndex | None, batch: int, beams: int, limits: Limits
) -> Row:
    """Milliseconds a step of every side, in turn; of STATIC if there is an index of it."""
    vocabulary, length = constraint.index.vocab_size, constraint.index.max_length
    table, select = logits_table(vocabulary), selecting(batch, beams)
    plain = Unconstrained(vocab_size=vocabulary, max_length=length, eos=None)
    top_k, model = floors(length, batch, beams)
    sides = {
        "ours": lambda: select(table, constraint).scores,
        "unconstrained": lambda: select(table, plain).scores,
        "top_k": lambda: top_k(table),
        "model": lambda: model(table),
    }
    said = {}
    if static:
        search, said = _static_side(static, select(table, constraint), table)
        sides |= {"static": search} if search else {}
    times = {side: seconds / length for side, seconds in interleaved(sides, limits).items()}
    medians = {side: float(np.median(seconds)) for side, seconds in times.items()}
    own = medians["ours"] - medians["model"]
    beyond = {side: own / (medians[side] - medians["model"]) for side in compared_sides(times)}
    return {
        "milliseconds_per_step": {side: spread(seconds * 1e3) for side, seconds in times.items()},
        **compared(times),
        "ratio_without_model": {side: round(value, 3) for side, value in beyond.items()},
        **said,
    }


def _static_side(static: StaticIndex, ours: BeamResult, table: jax.Array) -> tuple[Callable[[], jax.Array] | None, Row]:
    """Return STATIC's search, None if it cannot make this one, and notes on its results."""
    try:
        search = search_static(static, look_up, table, *ours.scores.shape)
        tokens = np.asarray(search())
    except Exception as error:  # its way to say that it has no such search
        return None, {"static_raised": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
    return search, {"places_swapped_by_rounding": check_same(ours, tokens, np.asarray(table))}


def check_same(ours: BeamResult, theirs: np.ndarray, table: np.ndarray, tolerance: float = 1e-4) -> int:
    """Compare results with those of an exact search that returns tokens alone.

    Returns:
        Number of places with another docid whose score differs by rounding only.

    Raises:
        RuntimeError: If anything else differs.
    """
    tokens, scores, valid = (np.asarray(leaf) for leaf in (ours.tokens, ours.scores, ours.valid))
    exact, of_theirs = rescored(tokens, table), rescored(theirs, table)
    other = (tokens != theirs).any(-1)
    # In places that we leave invalid STATIC returns docids that do not exist.
    wrong = valid & ((np.abs(exact - scores) > tolerance) | (other & (np.abs(exact - of_theirs) > tolerance)))
    if wrong.any():
        query, place = np.argwhere(wrong)[0]
        raise RuntimeError(
            f"{wrong.sum()} of {wrong.size} results are wrong or not STATIC's; the first, query {query} place {place}: "
            f"{tokens[query, place]} with score {scores[query, place]} (by the table {exact[query, place]:.5f}), "
            f"STATIC's {theirs[query, place]} ({of_theirs[query, place]:.5f})"
        )
    return int((other & valid).sum())


def rescored(tokens: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Sum of log-probabilities of tokens ``[b, k, l]`` by the table, in double precision."""
    exact, vocabulary = table.astype(np.float64), len(table)
    log_probs = exact - np.log(np.exp(exact).sum(-1, keepdims=True))
    before = np.concatenate([np.zeros_like(tokens[..., :1]), tokens[..., :-1]], axis=-1)
    return log_probs[table_rows(before, vocabulary), tokens % vocabulary].sum(-1)


# --- the whole decode -----------------------------------------------------------------------------------------------


@functools.cache
def decoder(vocabulary: int) -> tuple[T5, Any]:
    """The decoder of T5 (1.0) small with random parameters; of its encoder there is only one layer, never used."""
    config = T5Config.t5_1_0_small(vocab_size=8, decoder_vocab_size=vocabulary, num_encoder_layers=1)
    model, tokens = T5(config), jnp.ones((1, 2), jnp.int32)
    return model, jax.jit(model.init)(jax.random.key(0), tokens, tokens)["params"]


@functools.cache
def decoding(vocabulary: int, length: int, batch: int, beams: int) -> Callable[[Any], BeamResult]:
    """A compiled search with that decoder; called with a strategy."""
    model, params = decoder(vocabulary)
    inputs = jnp.ones((batch, INPUT_LENGTH), jnp.int32)
    encoded = jax.random.normal(jax.random.key(2), (batch, INPUT_LENGTH, model.config.d_model))

    @jax.jit
    def decode(params: Any, encoded: jax.Array, strategy: Any) -> BeamResult:
        apply = functools.partial(model.apply, {"params": params})
        cache = apply(encoded, inputs, length, method=T5.init_cache)

        def step(tokens, prefix_nodes, cache, *, first):
            return apply(tokens, prefix_nodes, cache, method=T5.step)

        forced = getattr(T5, "forced", None)
        option = scoring_forced(forced and functools.partial(apply, method=forced))
        return beam_search(step, cache, strategy, batch=batch, beams=beams, **option)

    return lambda strategy: decode(params, encoded, strategy)


def measure_decode(constraint: TrieConstraint, batch: int, beams: int, limits: Limits) -> Row:
    """Milliseconds of the whole search with a decoder, in pairs."""
    vocabulary, length = constraint.index.vocab_size, constraint.index.max_length
    decode = decoding(vocabulary, length, batch, beams)
    plain = Unconstrained(vocab_size=vocabulary, max_length=length, eos=None)
    sides = {"ours": lambda: decode(constraint).scores, "unconstrained": lambda: decode(plain).scores}
    times = interleaved(sides, limits)
    return {"milliseconds": {side: spread(seconds * 1e3) for side, seconds in times.items()}, **compared(times)}


# --- timing ---------------------------------------------------------------------------------------------------------


def interleaved(sides: Sides, limits: Limits) -> dict[str, np.ndarray]:
    """Seconds of each side, ``[rounds]``; every round runs all of them, each time beginning with another one."""
    # A program's outputs are ready together, so a side returns one of them to wait for.
    calls = {}
    for side, run in sides.items():
        run().block_until_ready()  # compiles
        run().block_until_ready()
        calls[side] = max(1, int(SHORTEST_MEASUREMENT / _per_call(run, 1)))
    one_round = sum(_per_call(run, calls[side]) * calls[side] for side, run in sides.items())
    rounds = limits.rounds(one_round)
    times: dict[str, list[float]] = {side: [] for side in sides}
    names = list(sides)
    for turn in range(rounds):
        for side in names[turn % len(names) :] + names[: turn % len(names)]:
            times[side].append(_per_call(sides[side], calls[side]))
    return {side: np.array(seconds) for side, seconds in times.items()}


def _per_call(run: Callable[[], jax.Array], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        run().block_until_ready()
    return (time.perf_counter() - start) / calls


def spread(values: np.ndarray) -> dict[str, float]:
    """Median and quartiles."""
    low, median, high = (float(f"{value:.4g}") for value in np.percentile(values, [25, 50, 75]))
    return {"median": median, "low": low, "high": high}


def compared_sides(times: Mapping[str, np.ndarray]) -> list[str]:
    """The sides that ours is compared with."""
    return [side for side in times if side not in ("ours", "model")]


def compared(times: Mapping[str, np.ndarray]) -> Row:
    """Our time relative to every other side's: the median over rounds with a 95% bootstrap interval."""
    rounds = len(times["ours"])
    draws = np.random.default_rng(0).integers(0, rounds, (2000, rounds))
    ratios = {}
    for side in compared_sides(times):
        pairs = times["ours"] / times[side]
        low, high = np.percentile(np.median(pairs[draws], axis=1), [2.5, 97.5])
        named = {"median": np.median(pairs), "low": low, "high": high}
        ratios[side] = {name: round(float(value), 4) for name, value in named.items()}
    return {"ratio": ratios, "rounds": rounds}
