"""Score every docid: the exact answer that a beam search is measured against."""

import dataclasses
import typing
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.building import spelled
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import BeamResult, widen
from genret_jax.decoding.scores import INVALID, LOWEST, exists, finite, log_probs, logsumexp
from genret_jax.decoding.step import Cache, Step, reorder
from genret_jax.decoding.strategies import check_vocabulary


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Exhaustive:
    """Every docid is scored by teacher forcing, so the result is the model's true top k; :meth:`of` makes one.

    Costs a decoder pass over all docids for each query: an oracle for small sets. Of equal scores the docid with the
    lower number comes first.

    Attributes:
        tokens: int32 ``[u, m]``; the docids, 0 beyond the end; padded to a multiple of ``chunk``.
        lengths: int32 ``[u]``.
        nodes: int32 ``[u, m]``; prefix node before each token.
        rows: int32 ``[u]``; first row of each docid, as given to ``DocidIndex.build``.
        count: int32 scalar; number of docids, u without the padding.
        vocab_size: Width of the logits.
        chunk: Docids scored at a time, as that many beams.
    """

    tokens: Any
    lengths: Any
    nodes: Any
    rows: Any
    count: Any
    vocab_size: int = dataclasses.field(metadata={"static": True})
    chunk: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, index: DocidIndex, *, chunk: int = 256) -> "Exhaustive":
        """Spell all docids of an index, on the host."""
        tokens, lengths, nodes = spelled(index)
        count = len(tokens)
        first = np.arange(count) if index.row_offsets is None else np.asarray(index.row_offsets)[:count]
        rows = first if index.rows is None else np.asarray(index.rows)[first]
        nodes = np.zeros_like(tokens) if nodes is None else nodes
        tokens, lengths, nodes, rows = (
            np.pad(array, ((0, -count % chunk), (0, 0))[: array.ndim]).astype(np.int32)
            for array in (tokens, lengths, nodes, rows)
        )
        return cls(
            tokens=tokens,
            lengths=lengths,
            nodes=nodes,
            rows=rows,
            count=np.int32(count),
            vocab_size=index.vocab_size,
            chunk=chunk,
        )

    @property
    def max_length(self) -> int:
        """Tokens of the longest docid."""
        return self.tokens.shape[1]


class _Best(NamedTuple):
    """The best docids so far, and which queries were given NaN."""

    scores: Float[Array, "b k"]
    docids: Int[Array, "b k"]
    has_nan: Bool[Array, " b"]


def exhaustive_search(step: Step, cache: Cache, strategy: Exhaustive, *, batch: int, beams: int) -> BeamResult:
    """Score all docids for each query; arguments and result as of ``beam_search``."""
    docids = jax.tree.map(jnp.asarray, strategy)
    width = min(beams, len(docids.tokens))
    root = jnp.zeros((batch, 1), jnp.int32)
    logits, cache = step(root, root + docids.nodes[0, 0], cache, first=True)
    check_vocabulary(docids.vocab_size, logits)
    first, first_nan = _log_softmax(logits[:, 0])  # --> [b, v], [b]

    def score_chunk(best: _Best, start: Array) -> tuple[_Best, None]:
        numbers = start + jnp.arange(docids.chunk, dtype=jnp.int32)
        scores, is_nan = _score(step, cache, first, docids, numbers)  # --> [b, c], [b]
        scores = jnp.where((numbers < docids.count)[None], scores, INVALID)
        scores, chosen = jax.lax.top_k(jnp.concatenate([best.scores, scores], axis=1), width)
        found = jnp.concatenate([best.docids, jnp.broadcast_to(numbers, (batch, docids.chunk))], axis=1)
        return _Best(scores, jnp.take_along_axis(found, chosen, axis=1), best.has_nan | is_nan), None

    none = _Best(jnp.full((batch, width), INVALID), jnp.zeros((batch, width), jnp.int32), first_nan)
    best, _ = jax.lax.scan(score_chunk, none, jnp.arange(0, len(docids.tokens), docids.chunk, dtype=jnp.int32))
    valid = exists(best.scores)
    result = BeamResult(
        tokens=jnp.where(valid[..., None], docids.tokens[best.docids], 0),
        scores=best.scores,
        docids=jnp.where(valid, best.docids, -1),
        rows=jnp.where(valid, docids.rows[best.docids], -1),
        valid=valid,
        bound=jnp.full(batch, INVALID),
        has_nan=best.has_nan,
    )
    return widen(result, beams)


def _score(
    step: Step, cache: Cache, first: Float[Array, "b v"], docids: Exhaustive, numbers: Int[Array, " c"]
) -> tuple[Float[Array, "b c"], Bool[Array, " b"]]:
    batch, chunk = first.shape[0], numbers.shape[0]
    tokens, nodes, lengths = docids.tokens[numbers], docids.nodes[numbers], docids.lengths[numbers]

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
    scores, has_nan, _ = jax.lax.fori_loop(1, docids.max_length, next_token, start)
    return scores, has_nan


def _log_softmax(logits: Float[Array, "*q v"]) -> tuple[Float[Array, "*q v"], Bool[Array, "*q"]]:
    """Return the log-probabilities of rows of logits, and which rows hold NaN."""
    numbers = finite(logits)
    return log_probs(numbers, logsumexp(numbers)[..., None]), jnp.isnan(logits).any(axis=-1)
