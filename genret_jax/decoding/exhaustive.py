"""Score every docid: the exact answer that a beam search is measured against."""

import dataclasses
import typing
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import INVALID, LOWEST, BeamResult, widen
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


class _Paths(NamedTuple):
    """Docids as the trie spells them."""

    tokens: Int[Array, "c m"]  # 0 beyond the end
    prefix_nodes: Int[Array, "c m"]  # before each token
    lengths: Int[Array, "c"]
    exists: Bool[Array, "c"]


class _Best(NamedTuple):
    """The best docids so far."""

    scores: Float[Array, "b k"]
    docids: Int[Array, "b k"]


def exhaustive_search(step: Step, cache: Cache, strategy: Exhaustive, *, batch: int, beams: int) -> BeamResult:
    """Score all docids for each query; arguments and result as of ``beam_search``."""
    index = strategy.index
    width, chunk = min(beams, index.num_docids), min(strategy.chunk, index.num_docids)
    root = jnp.zeros((batch, 1), jnp.int32)
    logits, cache = step(root, jnp.asarray(index.prefix_nodes)[root], cache, first=True)
    check_vocabulary(index.vocab_size, logits)
    first = jax.nn.log_softmax(logits.astype(jnp.float32))[:, 0]  # --> [b, v]

    def score_chunk(best: _Best, start: Array) -> tuple[_Best, None]:
        docids = start + jnp.arange(chunk)
        paths = _paths(index, docids)
        scores = _score(step, cache, first, paths)  # --> [b, c]
        docids = jnp.broadcast_to(docids, scores.shape).astype(jnp.int32)
        scores, chosen = jax.lax.top_k(jnp.concatenate([best.scores, scores], axis=1), width)
        docids = jnp.take_along_axis(jnp.concatenate([best.docids, docids], axis=1), chosen, axis=1)
        return _Best(scores, docids), None

    none = _Best(jnp.full((batch, width), INVALID), jnp.zeros((batch, width), jnp.int32))
    best, _ = jax.lax.scan(score_chunk, none, jnp.arange(0, index.num_docids, chunk))
    valid = best.scores > INVALID
    tokens = _paths(index, best.docids.reshape(-1)).tokens.reshape(batch, width, -1)
    result = BeamResult(
        tokens=jnp.where(valid[..., None], tokens, 0),
        scores=best.scores,
        docids=jnp.where(valid, best.docids, -1),
        rows=jnp.where(valid, jnp.asarray(index.rows)[jnp.asarray(index.row_offsets)[best.docids]], -1),
        valid=valid,
    )
    return widen(result, beams)


def _score(step: Step, cache: Cache, first: Float[Array, "b v"], paths: _Paths) -> Float[Array, "b c"]:
    batch, (chunk, length) = first.shape[0], paths.tokens.shape

    def of_query(per_docid: Array) -> Array:
        return jnp.broadcast_to(per_docid[None], (batch, chunk))

    def next_token(position: Array, carry: tuple[Array, Cache]) -> tuple[Array, Cache]:
        scores, cache = carry
        logits, cache = step(
            of_query(paths.tokens[:, position - 1]), of_query(paths.prefix_nodes[:, position]), cache, first=False
        )
        log_probs = jax.nn.log_softmax(logits.astype(jnp.float32))
        gained = jnp.take_along_axis(log_probs, of_query(paths.tokens[:, position])[..., None], axis=-1)[..., 0]
        return scores + jnp.where(of_query(position < paths.lengths), gained, 0.0), cache

    start = (first[:, paths.tokens[:, 0]], reorder(cache, jnp.zeros((batch, chunk), jnp.int32)))
    scores, _ = jax.lax.fori_loop(1, length, next_token, start)
    return jnp.where(of_query(paths.exists), jnp.maximum(scores, LOWEST), INVALID)


def _paths(index: DocidIndex, docids: Int[Array, "c"]) -> _Paths:
    """Spell docids by walking from their ends up to the root."""
    offsets, last = jnp.asarray(index.child_offsets), index.num_docids - 1
    row_offsets, known = jnp.asarray(index.row_offsets), jnp.minimum(docids, last)
    exists = (docids <= last) & (row_offsets[known] < row_offsets[known + 1])

    def up(state: Array, _: None) -> tuple[Array, tuple[Array, Array, Array]]:
        edge = jnp.maximum(state - 1, 0)
        parent = jnp.where(state > 0, jnp.searchsorted(offsets, edge, side="right") - 1, 0).astype(state.dtype)
        token = jnp.asarray(index.child_tokens)[edge].astype(jnp.int32)
        return parent, (token, jnp.asarray(index.prefix_nodes)[parent], state > 0)

    ends = jnp.where(exists, jnp.asarray(index.docid_states)[known], 0)
    _, climbed = jax.lax.scan(up, ends, None, length=index.max_length)
    tokens, nodes, alive = (leaf.T for leaf in climbed)  # --> [c, m], last token first
    lengths = alive.sum(axis=1)
    backwards = lengths[:, None] - 1 - jnp.arange(index.max_length)[None]  # place of each token on the way up
    spelt = backwards >= 0
    tokens, nodes = (
        jnp.where(spelt, jnp.take_along_axis(leaf, jnp.maximum(backwards, 0), axis=1), 0) for leaf in (tokens, nodes)
    )
    return _Paths(tokens, nodes, lengths, exists)
