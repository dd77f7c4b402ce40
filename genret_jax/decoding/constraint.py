"""Search among the docids of an index alone."""

import dataclasses
import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.bitmap import rank, ranks, unpacked
from genret_jax.decoding.filters import DocidFilter
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.layout import Level
from genret_jax.decoding.result import INVALID, LOWEST
from genret_jax.decoding.strategies import Ends, check_vocabulary


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
        span = level.span or max(self.index.layout.spans[level.start : level.stop])
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
        """Score the children of each state: those found as bits, one slot for each token, and then those listed."""
        first = jnp.asarray(self.index.first_tokens)[depth]
        if columns is None:
            check_vocabulary(self.index.vocab_size, logits)
        else:
            first -= columns[0]
        if self.filter is not None:
            self.filter.check(self.index, len(places.states))
        # At the root all queries stand on one state, so its children are read once.
        states = places.states[:1] if level.start == 0 else places.states
        chosen, there = [], []
        if level.span:
            there.append(self._bits(states, level))
            chosen.append(jax.lax.dynamic_slice_in_dim(logits, first, level.span, axis=-1))
        if level.rows or level.edges:
            codes, listed = self._listed(states, depth, level)
            there.append(listed)
            chosen.append(self._look_up(logits, codes.astype(jnp.int32) + first, level))
        return self._scores(logits, _joined(chosen), _joined(there))

    def child(
        self, places: Place, slots: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level
    ) -> tuple[Int[Array, "b k"], Place]:
        """Follow the candidate in a slot of each state: its token and where it leads."""
        index, (states, early) = self.index, places
        codes: Any = None
        reached: Any = None
        if level.rows:
            reached = jnp.maximum(states, 0) + slots - level.span
            codes = _read(index.columns, index.column(depth) + reached).astype(jnp.int32)
        if level.span or level.edges:
            wide = jnp.maximum(~states, 0)
            nth = rank(_read(index.bitmaps, wide), slots) if level.span else slots
            edges = _read(index.edge_offsets, wide) + nth
            edge_codes = slots if level.span else _read(index.edge_tokens, edges).astype(jnp.int32)
            edge_states = _read(index.edge_states, edges)
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

    def _scores(
        self, logits: Float[Array, "b k v"], chosen: Float[Array, "b k f"], there: Bool[Array, "a j f"]
    ) -> Float[Array, "b k f"]:
        """Normalise the logits of candidates."""
        chosen = jnp.maximum(chosen, LOWEST)
        among = logits if self.normalize == "vocabulary" else jnp.where(there, chosen, INVALID)
        normaliser = jax.nn.logsumexp(among, axis=-1, keepdims=True)
        return jnp.where(there, jnp.clip(chosen - normaliser, LOWEST, 0.0), INVALID)

    def _look_up(
        self, logits: Float[Array, "b k v"], tokens: Int[Array, "a j f"], level: Level
    ) -> Float[Array, "b k f"]:
        """Read the logits of tokens; those of slots without a child may be no tokens."""
        if level.start > 0:
            tokens = jnp.clip(tokens, 0, logits.shape[-1] - 1)
            return jnp.take_along_axis(logits, tokens, axis=-1, mode="promise_in_bounds")
        if self.index.layout.consecutive:
            return jax.lax.dynamic_slice_in_dim(logits, tokens[0, 0, 0], level.rows, axis=-1)
        return jnp.take(logits, tokens[0, 0], axis=-1, mode="clip")

    def _bits(self, states: Int[Array, "b k"], level: Level) -> Bool[Array, "a k f"]:
        """Whether there is a child of each wide state for each token."""
        wide = jnp.maximum(~states, 0)
        words = _read(self.index.bitmaps, wide)
        if level.rows:
            words = jnp.where((states < 0)[..., None], words, jnp.uint32(0))
        there = unpacked(words, level.span)
        if self.filter is None:
            return there
        before, offsets = ranks(words, level.span), _read(self.index.edge_offsets, wide)[..., None]
        begins, ends = (self._begin_of_edge(wide[..., None], offsets + nth) for nth in (before, before + there))
        return there & self.filter.any_between(begins, ends)

    def _listed(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> tuple[Array, Array]:
        """Read codes and whether they are children's: of narrow states from a window of rows, of wide ones of edges."""
        if not level.rows:
            return self._edges(states, level)
        (codes, there), is_wide = self._rows(states, depth, level), (states < 0)[..., None]
        if not level.edges:
            return codes, there & ~is_wide if level.span else there
        edge_codes, edge_there = self._edges(states, level)
        width = max(level.edges, level.rows)
        codes = jnp.where(is_wide, _padded(edge_codes, width), _padded(codes, width))
        return codes, jnp.where(is_wide, _padded(edge_there, width), _padded(there, width))

    def _rows(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> tuple[Array, Array]:
        """Read a window of rows; a row where docids depart right after the prefix is a child."""
        index, first, slots = self.index, jnp.maximum(states, 0), jnp.arange(level.rows)[None, None]
        codes = _windows(index.columns, index.column(depth) + first, level.rows)
        departs = _windows(index.departs, first, level.rows).astype(jnp.int32)
        outside = (departs <= depth) & (slots > 0)
        stop = jnp.min(jnp.where(outside, slots, level.rows), axis=-1, keepdims=True)
        there = ((departs == depth + 1) | (slots == 0)) & (slots < stop)
        if self.filter is None:
            return codes, there
        departs = _windows(index.departs, first + 1, level.rows).astype(jnp.int32)
        new = jnp.where(departs <= depth + 1, slots + 1, level.rows)
        following = jax.lax.cummin(new, axis=2, reverse=True)  # slot of the next child, or of what is outside
        first, most = first[..., None], index.layout.capacity.docids
        return codes, there & self.filter.any_between(first + slots, jnp.minimum(first + following, most))

    def _edges(self, states: Int[Array, "b k"], level: Level) -> tuple[Array, Array]:
        """Read a window of edges."""
        index, wide, slots = self.index, jnp.maximum(~states, 0), jnp.arange(level.edges)[None, None]
        start, stop = (_read(index.edge_offsets, wide + after) for after in (0, 1))
        codes, there = _windows(index.edge_tokens, start, level.edges), slots < (stop - start)[..., None]
        if self.filter is None:
            return codes, there
        edges = start[..., None] + slots
        begins, ends = (self._begin_of_edge(wide[..., None], edges + after) for after in (0, 1))
        return codes, there & self.filter.any_between(begins, ends)

    def _begin_of_edge(self, wide: Int[Array, "b k 1"], edges: Int[Array, "b k f"]) -> Int[Array, "b k f"]:
        """Return the first docid behind each edge of a wide prefix; for what is no edge of it, where it ends."""
        begins = self.index.first_docids(_read(self.index.edge_states, edges))
        end = _read(jnp.asarray(self.index.wide_rows)[:, 1], wide)
        return jnp.where(edges < _read(self.index.edge_offsets, wide + 1), begins, end)


def _joined(parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _padded(array: Array, width: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, 0), (0, width - array.shape[-1])))


def _read(array: Any, places: Int[Array, "*q"]) -> Array:
    """Read single entries; what is beyond the array belongs to no beam."""
    return jnp.asarray(array).at[places].get(mode="clip")


def _windows(array: Any, starts: Int[Array, "b k"], size: int) -> Array:
    """Read ``size`` neighbours from each of some places: ``[b, k, size]``."""
    array = jnp.asarray(array)
    return jax.vmap(jax.vmap(lambda start: jax.lax.dynamic_slice(array, (start,), (size,))))(starts)
