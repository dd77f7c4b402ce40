"""Search among the docids of an index alone."""

import dataclasses
import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.filters import DocidFilter
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.layout import Level
from genret_jax.decoding.result import INVALID, LOWEST
from genret_jax.decoding.strategies import Candidates, Ends, check_vocabulary


class Place(NamedTuple):
    """Where beams stand."""

    states: Any  # int32[b, k]     of the index
    early: Any  # int32[b, k, f]  tokens before the index's first column, which cannot be read from a docid's row


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrieConstraint:
    """Only docids of the index can come out.

    A candidate's score is its log-probability over the full vocabulary: the constraint removes continuations and
    leaves the scores of the others as the model gave them. With ``normalize="children"`` the probabilities of the
    continuations that exist sum to 1 at every prefix instead, so the probabilities of all docids do; forced
    continuations are free, other rankings come out, and scores are no longer the model's own. It is what lets a model
    compute only the logits of a level's tokens (``partial_head`` of :func:`genret_jax.decoding.beam_search`).

    Attributes:
        index: The docids.
        filter: Which of them each query may have; all when left out.
        normalize: ``"vocabulary"`` or ``"children"``.
    """

    index: DocidIndex
    filter: DocidFilter | None = None
    normalize: Literal["vocabulary", "children"] = dataclasses.field(default="vocabulary", metadata={"static": True})

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.index.vocab_size

    @property
    def max_length(self) -> int:
        """Tokens of the longest docid."""
        return self.index.max_length

    @property
    def levels(self) -> tuple[Level, ...]:
        """As the index is laid out."""
        return self.index.layout.levels

    @property
    def mixed(self) -> bool:
        """Whether results may end before ``max_length``."""
        return self.index.layout.mixed

    @property
    def forced_from(self) -> int:
        """First depth at which to look for forced ends."""
        return self.index.layout.forced_from

    @property
    def forced_is_free(self) -> bool:
        """An only child has probability 1 among the children."""
        return self.normalize == "children"

    def width(self, beams: int) -> int:
        """Not more than there are docids."""
        return min(beams, self.index.layout.capacity.docids)

    def start(self, batch: int) -> Place:
        """Stand at the root."""
        early = jnp.zeros((batch, 1, self.index.layout.first_column), jnp.int32)
        return Place(jnp.full((batch, 1), self.index.root, jnp.int32), early)

    def columns(self, level: Level, depth: Int[Array, ""] | int) -> tuple[Int[Array, ""], int] | None:
        """Where the tokens of a depth lie in the vocabulary, if a step need not compute the other logits."""
        if self.normalize == "vocabulary":
            return None
        span = max(self.index.layout.spans[level.start : level.stop])
        # A loop over several depths takes the widest span, which may not reach beyond the vocabulary.
        first = jnp.asarray(self.index.first_tokens)[depth]
        return jnp.minimum(first, self.index.vocab_size - span), span

    def candidates(
        self,
        places: Place,
        logits: Float[Array, "b k v"],
        depth: Int[Array, ""] | int,
        level: Level,
        columns: tuple[Array, int] | None,
    ) -> Float[Array, "b k f"]:
        """Score the children of each state."""
        at_root, states = level.start == 0, places.states
        # At the root all queries stand on one state, so its children are read once.
        codes, there = self._children(states[:1] if at_root else states, depth, level)
        tokens = codes.astype(jnp.int32) + jnp.asarray(self.index.first_tokens)[depth]
        if columns is None:
            check_vocabulary(self.index.vocab_size, logits)
        else:
            tokens = jnp.clip(tokens - columns[0], 0, columns[1] - 1)
        if self.filter is not None:
            self.filter.check(self.index, len(states))
            there &= self._allowed(states, depth, level)
        if at_root and self.index.layout.consecutive:
            chosen = jax.lax.dynamic_slice_in_dim(logits, tokens[0, 0, 0], level.width, axis=-1)
        elif at_root:
            chosen = jnp.take(logits, tokens[0, 0], axis=-1, mode="clip")
        else:
            chosen = jnp.take_along_axis(logits, tokens, axis=-1, mode="promise_in_bounds")
        chosen = jnp.maximum(chosen, LOWEST)
        among = logits if self.normalize == "vocabulary" else jnp.where(there, chosen, INVALID)
        normaliser = jax.nn.logsumexp(among, axis=-1, keepdims=True)
        return jnp.where(there, jnp.clip(chosen - normaliser, LOWEST, 0.0), INVALID)

    def child(
        self, places: Place, slots: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level
    ) -> tuple[Int[Array, "b k"], Place]:
        """Follow the candidate in a slot of each state: its token and where it leads."""
        index, (states, early) = self.index, places
        codes = reached = None
        if level.rows:
            reached = jnp.maximum(states, 0) + slots
            codes = _read(jnp.asarray(index.columns)[depth - index.layout.first_column], reached).astype(jnp.int32)
        if level.edges:
            edges = _read(index.edge_offsets, jnp.maximum(~states, 0)) + slots
            edge_codes, edge_states = _read(index.edge_tokens, edges).astype(jnp.int32), _read(index.edge_states, edges)
            codes = edge_codes if codes is None else jnp.where(states < 0, edge_codes, codes)
            reached = edge_states if reached is None else jnp.where(states < 0, edge_states, reached)
        tokens = codes + jnp.asarray(index.first_tokens)[depth]
        if level.start < index.layout.first_column:
            early = jnp.where(jnp.arange(early.shape[2])[None, None] == depth, tokens[..., None], early)
        return tokens, Place(reached, early)

    def ended(self, places: Place, depth: Int[Array, ""] | int) -> Bool[Array, "b k"]:
        """A docid ends where its length is reached; no docid begins another, so it stands alone there."""
        lengths = _read(self.index.lengths, jnp.maximum(places.states, 0)).astype(jnp.int32)
        return (places.states >= 0) & (lengths <= depth)

    def prefix_nodes(self, places: Place, depth: Int[Array, ""] | int) -> Int[Array, "b k"]:
        """Look up the nodes that the index's builder gave."""
        return self.index.nodes(places.states, depth)

    def forced(self, places: Place, depth: Int[Array, ""] | int) -> Bool[Array, "b k"]:
        """Whether no other docid begins like this: the next one departs earlier."""
        following = _read(self.index.departs, jnp.maximum(places.states, 0) + 1)
        return (places.states >= 0) & (following.astype(jnp.int32) <= depth)

    def ends(self, places: Place) -> Ends:
        """Spell the docids that narrow states have come down to."""
        docids = jnp.maximum(places.states, 0)
        tokens, nodes = self.index.read_columns(docids)
        tokens = jnp.concatenate([places.early, tokens], axis=-1)
        if self.index.lengths is not None:
            lengths = _read(self.index.lengths, docids).astype(jnp.int32)
            tokens = jnp.where(jnp.arange(self.max_length)[None, None] < lengths[..., None], tokens, 0)
        return Ends(tokens, nodes, docids, self.index.first_rows(docids))

    def _children(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> Candidates:
        """Read a window of rows for narrow states and one of edges for wide states."""
        index, rows, edges = self.index, None, None
        if level.rows:
            first, slots = jnp.maximum(states, 0), jnp.arange(level.rows)[None, None]
            codes = _windows(index.columns, first, level.rows, depth - index.layout.first_column)
            departs = _windows(index.departs, first, level.rows).astype(jnp.int32)
            outside = (departs <= depth) & (slots > 0)
            stop = jnp.min(jnp.where(outside, slots, level.rows), axis=-1, keepdims=True)
            rows = Candidates(codes, ((departs == depth + 1) | (slots == 0)) & (slots < stop))
        if level.edges:
            wide = jnp.maximum(~states, 0)
            start, stop = (_read(index.edge_offsets, wide + after) for after in (0, 1))
            there = jnp.arange(level.edges)[None, None] < (stop - start)[..., None]
            edges = Candidates(_windows(index.edge_tokens, start, level.edges), there)
        if rows is None or edges is None:
            return rows or edges
        is_wide = (states < 0)[..., None]
        return Candidates(*(jnp.where(is_wide, *_padded(pair, level.width)) for pair in zip(edges, rows, strict=True)))

    def _allowed(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> Bool[Array, "b k f"]:
        """Whether the filter leaves any docid behind each child."""
        index, rows, edges = self.index, None, None
        if level.rows:
            first, slots = jnp.maximum(states, 0), jnp.arange(level.rows)[None, None]
            departs = _windows(index.departs, first + 1, level.rows).astype(jnp.int32)
            new = jnp.where(departs <= depth + 1, slots + 1, level.rows)
            following = jax.lax.cummin(new, axis=2, reverse=True)  # slot of the next child, or of what is outside
            rows = first[..., None] + slots, first[..., None] + following
        if level.edges:
            wide, slots = jnp.maximum(~states, 0), jnp.arange(level.edges)[None, None]
            start, stop = (_read(index.edge_offsets, wide + after) for after in (0, 1))
            begins = index.first_docids(_windows(index.edge_states, start, level.edges))
            end = _read(jnp.asarray(index.wide_rows)[:, 1], wide)[..., None]
            after = jnp.concatenate([begins[..., 1:], end], axis=-1)
            edges = begins, jnp.where(slots + 1 < (stop - start)[..., None], after, end)
        if rows is None or edges is None:
            first, last = rows or edges
        else:
            is_wide = (states < 0)[..., None]
            first, last = (jnp.where(is_wide, *_padded(pair, level.width)) for pair in zip(edges, rows, strict=True))
        return self.filter.any_between(first, jnp.minimum(last, index.layout.capacity.docids))


def _padded(arrays: tuple[Array, Array], width: int) -> list[Array]:
    return [jnp.pad(array, ((0, 0), (0, 0), (0, width - array.shape[-1]))) for array in arrays]


def _read(array: Any, places: Int[Array, "*q"]) -> Array:
    """Read single entries; what is beyond the array belongs to no beam."""
    return jnp.asarray(array).at[places].get(mode="clip")


def _windows(array: Any, starts: Int[Array, "b k"], size: int, row: Int[Array, ""] | int | None = None) -> Array:
    """Read ``size`` neighbours from each of some places, of one row of a matrix if it is one: ``[b, k, size]``."""
    array = jnp.asarray(array)

    def read(start: Array) -> Array:
        if row is None:
            return jax.lax.dynamic_slice(array, (start,), (size,))
        return jax.lax.dynamic_slice(array, (row, start), (1, size))[0]

    return jax.vmap(jax.vmap(read))(starts)
