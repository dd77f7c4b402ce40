"""Score every docid: the exact answer that a beam search is measured against."""

import dataclasses
import typing
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import BeamResult, widen
from genret_jax.decoding.scores import INVALID, LOWEST, exists, finite, log_probs, logsumexp
from genret_jax.decoding.step import Cache, Step, reorder
from genret_jax.decoding.strategies import check_vocabulary


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Exhaustive:
    """Every docid of the index is scored by teacher forcing, so the result is the model's true top k.

    Costs a decoder pass over all docids for each query: an oracle for small sets. Of equal scores the docid with the
    lower number comes first.

    Attributes:
        index: The docids.
        chunk: Docids scored at a time, as that many beams.
    """

    index: DocidIndex
    chunk: int = dataclasses.field(default=256, metadata={"static": True})

    @property
    def max_length(self) -> int:
        """Tokens of the longest docid."""
        return self.index.max_length


class _Best(NamedTuple):
    """The best docids so far, and which queries were given NaN."""

    scores: Float[Array, "b k"]
    docids: Int[Array, "b k"]
    has_nan: Bool[Array, " b"]


def exhaustive_search(step: Step, cache: Cache, strategy: Exhaustive, *, batch: int, beams: int) -> BeamResult:
    """Score all docids for each query; arguments and result as of ``beam_search``."""
    index, capacity = strategy.index, strategy.index.layout.capacity.docids
    width, chunk = min(beams, capacity), min(strategy.chunk, capacity)
    count = jnp.asarray(index.count)
    root = jnp.full((batch, 1), index.root, jnp.int32)
    logits, cache = step(jnp.zeros_like(root), index.nodes(root, 0), cache, first=True)
    check_vocabulary(index.vocab_size, logits)
    first, first_nan = _log_softmax(logits[:, 0])  # --> [b, v], [b]

    def score_chunk(best: _Best, start: Array) -> tuple[_Best, None]:
        docids = start + jnp.arange(chunk, dtype=jnp.int32)
        scores, is_nan = _score(step, cache, first, index, jnp.minimum(docids, count - 1))  # --> [b, c], [b]
        scores = jnp.where((docids < count)[None], scores, INVALID)
        scores, chosen = jax.lax.top_k(jnp.concatenate([best.scores, scores], axis=1), width)
        docids = jnp.concatenate([best.docids, jnp.broadcast_to(docids, (batch, chunk))], axis=1)
        return _Best(scores, jnp.take_along_axis(docids, chosen, axis=1), best.has_nan | is_nan), None

    none = _Best(jnp.full((batch, width), INVALID), jnp.zeros((batch, width), jnp.int32), first_nan)
    best, _ = jax.lax.scan(score_chunk, none, jnp.arange(0, capacity, chunk, dtype=jnp.int32))
    valid = exists(best.scores)
    tokens = index.spell(best.docids.reshape(-1))[0].reshape(batch, width, -1)
    result = BeamResult(
        tokens=jnp.where(valid[..., None], tokens, 0),
        scores=best.scores,
        docids=jnp.where(valid, best.docids, -1),
        rows=jnp.where(valid, index.first_rows(best.docids), -1),
        valid=valid,
        bound=jnp.full(batch, INVALID),
        has_nan=best.has_nan,
    )
    return widen(result, beams)


def _score(
    step: Step, cache: Cache, first: Float[Array, "b v"], index: DocidIndex, docids: Int[Array, " c"]
) -> tuple[Float[Array, "b c"], Bool[Array, " b"]]:
    batch, chunk, length = first.shape[0], docids.shape[0], index.max_length
    tokens, nodes = index.spell(docids)  # --> [c, m]
    lengths = jnp.full(chunk, length) if index.lengths is None else jnp.asarray(index.lengths)[docids].astype(jnp.int32)

    def of_query(per_docid: Array) -> Array:
        return jnp.broadcast_to(per_docid[None], (batch, chunk))

    def next_token(depth: Array, carry: tuple[Array, Array, Cache]) -> tuple[Array, Array, Cache]:
        scores, has_nan, cache = carry
        logits, cache = step(of_query(tokens[:, depth - 1]), of_query(nodes[:, depth]), cache, first=False)
        found, is_nan = _log_softmax(logits)
        gained = jnp.take_along_axis(found, of_query(tokens[:, depth])[..., None], axis=-1)[..., 0]
        goes_on = of_query(depth < lengths)
        scores = jnp.maximum(scores + jnp.where(goes_on, gained, 0.0), LOWEST)
        return scores, has_nan | (is_nan & goes_on).any(axis=1), cache

    start = (first[:, tokens[:, 0]], jnp.zeros(batch, bool), reorder(cache, jnp.zeros((batch, chunk), jnp.int32)))
    scores, has_nan, _ = jax.lax.fori_loop(1, length, next_token, start)
    return scores, has_nan


def _log_softmax(logits: Float[Array, "*q v"]) -> tuple[Float[Array, "*q v"], Bool[Array, "*q"]]:
    """Return the log-probabilities of rows of logits, and which rows hold NaN."""
    numbers = finite(logits)
    return log_probs(numbers, logsumexp(numbers)[..., None]), jnp.isnan(logits).any(axis=-1)
