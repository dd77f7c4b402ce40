"""The strategy under which only the docids of an index can come out."""

import dataclasses
import typing
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from genret_jax.decoding.bitmap import rank, ranks, unpacked
from genret_jax.decoding.filters import DocidFilter
from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.layout import Level
from genret_jax.decoding.plan import Plan
from genret_jax.decoding.reading import at_each, entry, window
from genret_jax.decoding.scores import INVALID, log_probs, logsumexp
from genret_jax.decoding.step import take_beams
from genret_jax.decoding.strategies import Ends, check_vocabulary


class Place(NamedTuple):
    """State of the beams: their places in the trie."""

    states: Any  # int32[b, k]     states of the index
    early: Any  # int32[b, k, f]  tokens before the index's first column, which cannot be read from a docid's row


class Read(NamedTuple):
    """The children of states, as :meth:`TrieConstraint.candidates` read them."""

    words: Any  # uint32[b, k, w]  bitmaps of the children; None if the level has none
    codes: Any  # int32[b, k, e]   codes of listed children; None if the level has none


class _Children(NamedTuple):
    """Children of states, and the range of docids below each, which only filters and plans need."""

    there: Any  # bool[a, j, f]   whether there is a child in this slot
    first: Any = None  # int32[a, j, f]  its first docid
    stop: Any = None  # int32[a, j, f]  the docid after its last
    single: bool = False  # whether every child has one docid


class _Part(NamedTuple):
    """Candidates that are read in one way."""

    logits: Any  # float32[b, k, f]  with what the plan adds
    there: Any  # bool[a, j, f]      whether there is a candidate in this slot
    ahead: Any = None  # float32[b, k, f]  of a plan: the share of the best docid below each


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrieConstraint:
    """Only docids of the index can come out: the strategy that tells the search which tokens may follow a prefix.

    A candidate's score is its log-probability over the full vocabulary: the constraint removes continuations and
    leaves the scores of the others as the model gave them. With ``normalize="children"`` the probabilities of the
    continuations that exist sum to 1 at every prefix instead, so the probabilities of all docids do; forced
    continuations are free, other rankings come out, and scores are no longer the model's own.

    A plan adds the logarithm of the mass of the docids below a continuation to its logit. Probabilities are then shared
    among the continuations that exist, because only these have a mass.

    Attributes:
        index: The docids.
        filter: Docids that each query may find; by default all.
        plan: Scores of the docids; none by default. With a filter, give the plan the same docids (:meth:`planned`).
        normalize: ``"vocabulary"`` or ``"children"``.
    """

    index: DocidIndex
    filter: DocidFilter | None = None
    plan: Plan | None = None
    normalize: Literal["vocabulary", "children"] = dataclasses.field(default="vocabulary", metadata={"static": True})

    def planned(self, scores: Float[Array, "b n"]) -> "TrieConstraint":
        """Return the constraint with a plan.

        Args:
            scores: A score for each docid, numbered as in the index; as many as the index has room for.
        """
        exists = (jnp.arange(scores.shape[1]) < self.index.count)[None]
        if self.filter is not None:
            exists &= self.filter.mask(scores.shape[1])
        return dataclasses.replace(self, plan=Plan.of(scores, exists))

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""
        return self.index.vocab_size

    @property
    def max_length(self) -> int:
        """Tokens of a result at most."""
        return self.index.max_length

    @property
    def levels(self) -> tuple[Level, ...]:
        """All depths, in groups that share a compiled loop; the root alone comes first."""
        return self.index.layout.levels

    @property
    def mixed(self) -> bool:
        """Whether results may end before ``max_length``."""
        return self.index.layout.mixed

    @property
    def forced_from(self) -> int:
        """First depth at which to check whether all beams are forced; ``max_length`` for never."""
        return self.index.layout.forced_from

    @property
    def forced_is_free(self) -> bool:
        """Whether forced tokens have probability 1, so that the model need not score them."""
        return self.plan is not None or self.normalize == "children"

    @property
    def _ranges(self) -> bool:
        """Whether the docids below each child are asked for."""
        return self.filter is not None or self.plan is not None

    def width(self, beams: int) -> int:
        """Return the number of beams that can be of use: never more than there are docids."""
        return min(beams, self.index.layout.capacity.docids)

    def start(self, batch: int) -> Place:
        """Return the root for each query."""
        early = jnp.zeros((batch, 1, self.index.layout.first_column), jnp.int32)
        return Place(jnp.full((batch, 1), self.index.root, jnp.int32), early)

    def candidates(
        self,
        places: Place,
        scores: Float[Array, "b k"],
        logits: Float[Array, "b k v"],
        depth: Int[Array, ""] | int,
        level: Level,
    ) -> tuple[Float[Array, "b k f"], Float[Array, "b k f"] | None, Read]:
        """Score the children of each state: those found as bits, one slot for each token, and then those listed.

        Args:
            places: States of the beams.
            scores: Their scores.
            logits: Finite logits (:func:`genret_jax.decoding.scores.finite`).
            depth: Number of tokens emitted so far.
            level: Level of that depth.

        Returns:
            The beam's score plus the token's log-probability for each candidate, INVALID for slots without one; with
            a plan, the log-probability that it gives the best docid below each candidate; and the children, for
            :meth:`child`.
        """
        first = jnp.asarray(self.index.first_tokens)[depth]
        check_vocabulary(self.index.vocab_size, logits)
        if self.filter is not None:
            self.filter.check(self.index, len(places.states))
        # At the root all queries stand on one state, so its children are read once.
        states = places.states[:1] if level.start == 0 else places.states
        parts, words, codes = [], None, None
        if level.span:
            words = self._words(states, level)
            chosen = jax.lax.dynamic_slice_in_dim(logits, first, level.span, axis=-1)
            parts.append(self._guided(chosen, self._bits(words, states, level)))
        if self._is_vocabulary(level):
            codes, children = self._root_children(first)
            parts.append(self._guided(logits, children))
        elif level.rows or level.edges:
            codes, children = self._listed(states, depth, level)
            parts.append(self._guided(self._logits_of(logits, codes + first, level), children))
        ahead = None if self.plan is None else _joined([part.ahead for part in parts])
        return self._scores(scores, logits, parts), ahead, Read(words, codes)

    def _guided(self, logits: Float[Array, "b k f"], children: _Children) -> _Part:
        """Add to the logits of children what the plan says, and remove children that a query may not find."""
        there, first, stop, single = children
        if self.filter is not None:
            there &= self.filter.any_between(first, stop)
        if self.plan is None:
            return _Part(logits, there)
        if single:
            return _Part(logits + self.plan.of_docids(first), there, jnp.zeros_like(logits))
        mass = self.plan.of_ranges(first, stop)
        return _Part(logits + jnp.where(there, mass, 0.0), there, self.plan.best_of_ranges(first, stop) - mass)

    def child(
        self,
        places: Place,
        parents: Int[Array, "b k"],
        slots: Int[Array, "b k"],
        read: Any,
        depth: Int[Array, ""] | int,
        level: Level,
    ) -> tuple[Int[Array, "b k"], Place]:
        """Return the token of the candidate in a slot of each state, and the state that it leads to.

        Args:
            places: States of the parents, one for each new beam.
            parents: Beam of each parent in the call of :meth:`candidates`.
            slots: Slot of each candidate.
            read: The children that call returned.
            depth: As in that call.
            level: As in that call.
        """
        states, early = places
        codes, reached = slots, slots
        # At the root what was read is of one state for all queries.
        words, listed = (
            None if leaf is None else jnp.broadcast_to(leaf, (len(slots), *leaf.shape[1:])) for leaf in read
        )
        if listed is not None:
            place = parents * listed.shape[-1] + jnp.maximum(slots - level.span, 0)
            codes = jnp.take_along_axis(listed.reshape(len(slots), -1), place, axis=1, mode="promise_in_bounds")
            if level.span:
                codes = jnp.where(slots < level.span, slots, codes)
        if level.rows:
            reached = states + (codes if level.start == 0 and self.index.layout.consecutive else slots - level.span)
        if level.span or level.edges:
            nth = slots if words is None else rank(take_beams(words, parents), slots)
            led_to = at_each(_follow, (self.index.edge_offsets, self.index.edge_states), jnp.maximum(~states, 0), nth)
            reached = jnp.where(states < 0, led_to, reached) if level.rows else led_to
        tokens = codes + jnp.asarray(self.index.first_tokens)[depth]
        if level.start < self.index.layout.first_column:
            early = jnp.where(jnp.arange(early.shape[2])[None, None] == depth, tokens[..., None], early)
        return tokens, Place(reached, early)

    def ended(self, places: Place, depth: Int[Array, ""] | int) -> Bool[Array, "b k"]:
        """Return which beams have reached the end of their docid; asked only if lengths are mixed."""
        lengths = at_each(entry, self.index.lengths, jnp.maximum(places.states, 0)).astype(jnp.int32)
        return (places.states >= 0) & (lengths <= depth)

    def prefix_nodes(self, places: Place, depth: Int[Array, ""] | int) -> Int[Array, "b k"]:
        """Return the prefix node of each state, which the model's step is given."""
        return self.index.nodes(places.states, depth)

    def forced(self, places: Place, depth: Int[Array, ""] | int) -> Bool[Array, "b k"]:
        """Return which beams have one docid left: the next docid departs earlier."""
        following = at_each(entry, self.index.departs, jnp.maximum(places.states, 0) + 1)
        return (places.states >= 0) & (following.astype(jnp.int32) <= depth)

    def ends(self, places: Place) -> Ends:
        """Return the docids of forced or final states."""
        docids = jnp.maximum(places.states, 0)
        tokens, lengths, rows = self.index.read_docids(docids)
        tokens = jnp.concatenate([places.early, tokens], axis=-1)
        if self.mixed:
            tokens = jnp.where(jnp.arange(self.max_length)[None, None] < lengths[..., None], tokens, 0)
        return Ends(tokens, self.index.narrow_nodes(docids), docids, rows)

    def _is_vocabulary(self, level: Level) -> bool:
        """Return whether most logits are those of the root's children, as with atomic docids.

        All are candidates then, as they lie: to cut the children's out would move them, on a mesh between devices.
        """
        return level.start == 0 and self.index.layout.consecutive and 2 * level.rows >= self.index.vocab_size

    def _root_children(self, first: Int[Array, ""]) -> tuple[Int[Array, "1 1 v"], _Children]:
        """Return the code that each token is at a root whose children are its docids, and these children."""
        codes, count = jnp.arange(self.index.vocab_size)[None, None] - first, self.index.layout.rows[0]
        docids = jnp.clip(codes, 0, count - 1)
        return codes, _Children((codes >= 0) & (codes < count), docids, docids + 1, single=True)

    def _scores(
        self, scores: Float[Array, "b k"], logits: Float[Array, "b k v"], parts: list[_Part]
    ) -> Float[Array, "b k f"]:
        """Return the scores of candidates, INVALID where there is none."""
        before = scores[..., None]
        if self.forced_is_free:
            normaliser = logsumexp(_joined([jnp.where(part.there, part.logits, INVALID) for part in parts]))
        else:
            normaliser = logsumexp(logits)
        normaliser = normaliser[..., None]
        found = [jnp.where(part.there, before + log_probs(part.logits, normaliser), INVALID) for part in parts]
        return _joined(found)

    def _logits_of(
        self, logits: Float[Array, "b k v"], tokens: Int[Array, "a j f"], level: Level
    ) -> Float[Array, "b k f"]:
        """Return the logits of tokens; slots without a child may hold numbers that are no tokens."""
        if level.start > 0:
            tokens = jnp.clip(tokens, 0, logits.shape[-1] - 1)
            return jnp.take_along_axis(logits, tokens, axis=-1, mode="promise_in_bounds")
        if self.index.layout.consecutive:
            return jax.lax.dynamic_slice_in_dim(logits, tokens[0, 0, 0], level.rows, axis=-1)
        return jnp.take(logits, tokens[0, 0], axis=-1, mode="clip")

    def _words(self, states: Int[Array, "b k"], level: Level) -> UInt32[Array, "b k w"]:
        """Return the bitmaps of wide states; 0 for narrow states."""
        words = at_each(entry, self.index.bitmaps, jnp.maximum(~states, 0))
        return jnp.where((states < 0)[..., None], words, jnp.uint32(0)) if level.rows else words

    def _bits(self, words: UInt32[Array, "b k w"], states: Int[Array, "b k"], level: Level) -> _Children:
        """Return whether each token leads from each wide state to a child."""
        there = unpacked(words, level.span)
        if not self._ranges:
            return _Children(there)
        wide = jnp.maximum(~states, 0)
        before, offsets = ranks(words, level.span), at_each(entry, self.index.edge_offsets, wide)[..., None]
        first, stop = (self._begin_of_edge(wide[..., None], offsets + n) for n in (before, before + there))
        return _Children(there, first, stop)

    def _listed(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> tuple[Array, _Children]:
        """Return listed codes and children: narrow states read a window of rows, wide states one of edges."""
        if not level.rows:
            return self._edges(states, level)
        (codes, narrow), is_wide = self._rows(states, depth, level), (states < 0)[..., None]
        if not level.edges:
            return codes, narrow._replace(there=narrow.there & ~is_wide) if level.span else narrow
        width = max(level.edges, level.rows)

        def chosen(of_wide: Array | None, of_narrow: Array | None) -> Array | None:
            if of_wide is None or of_narrow is None:
                return None
            return jnp.where(is_wide, _padded(of_wide, width), _padded(of_narrow, width))

        edge_codes, wide = self._edges(states, level)
        there, first, stop = (chosen(*pair) for pair in zip(wide[:3], narrow[:3], strict=True))
        children = _Children(there, first, stop)
        return jnp.where(is_wide, _padded(edge_codes, width), _padded(codes, width)), children

    def _rows(self, states: Int[Array, "b k"], depth: Int[Array, ""] | int, level: Level) -> tuple[Array, _Children]:
        """Read a window of rows; a row that departs right after the prefix begins a child."""
        index, first, slots = self.index, jnp.maximum(states, 0), np.arange(level.rows, dtype=np.int32)[None, None]
        column, more = index.column(depth), int(self._ranges)  # a range needs to know where the last row ends

        def rows(arrays: tuple[Array, Array], row: Array) -> tuple[Array, Array]:
            columns, departs = arrays
            return window(columns, column + row, level.rows), window(departs, row, level.rows + more)

        codes, departs = (read.astype(jnp.int32) for read in at_each(rows, (index.columns, index.departs), first))
        departs, following = departs[..., : level.rows], departs[..., more:]
        outside = (departs <= depth) & (slots > 0)
        stop = jnp.min(jnp.where(outside, slots, level.rows), axis=-1, keepdims=True)
        there = ((departs == depth + 1) | (slots == 0)) & (slots < stop)
        if not self._ranges:
            return codes, _Children(there)
        new = jnp.where(following <= depth + 1, slots + 1, level.rows)
        next_child = jax.lax.cummin(new, axis=2, reverse=True)  # its slot, or that of what is outside
        first, most = first[..., None], index.layout.capacity.docids
        return codes, _Children(there, first + slots, jnp.minimum(first + next_child, most))

    def _edges(self, states: Int[Array, "b k"], level: Level) -> tuple[Array, _Children]:
        """Read a window of edges."""
        index, wide, slots = self.index, jnp.maximum(~states, 0), np.arange(level.edges, dtype=np.int32)[None, None]

        def edges(arrays: tuple[Array, Array], wide: Array) -> tuple[Array, Array]:
            offsets, tokens = arrays
            ends = window(offsets, wide, 2)
            return window(tokens, ends[0], level.edges), ends

        codes, ends = at_each(edges, (index.edge_offsets, index.edge_tokens), wide)
        start, stop = ends[..., :1], ends[..., 1:]
        codes, there = codes.astype(jnp.int32), slots < stop - start
        if not self._ranges:
            return codes, _Children(there)
        first, end = (self._begin_of_edge(wide[..., None], start + slots + after) for after in (0, 1))
        return codes, _Children(there, first, end)

    def _begin_of_edge(self, wide: Int[Array, "b k 1"], edges: Int[Array, "b k f"]) -> Int[Array, "b k f"]:
        """Return the first docid below each edge of a wide prefix; for later edges, the end of the prefix."""
        begins = self.index.first_docids(at_each(entry, self.index.edge_states, edges))
        end = at_each(entry, jnp.asarray(self.index.wide_rows)[:, 1], wide)
        return jnp.where(edges < at_each(entry, self.index.edge_offsets, wide + 1), begins, end)


def _follow(arrays: tuple[Array, Array], wide: Int[Array, ""], nth: Int[Array, ""]) -> Int[Array, ""]:
    """Return the state that the n-th edge of a wide prefix leads to."""
    offsets, states = arrays
    return entry(states, entry(offsets, wide) + nth)


def _joined(parts: list[Array]) -> Array:
    return jnp.concatenate(parts, axis=-1) if len(parts) > 1 else parts[0]


def _padded(array: Array, width: int) -> Array:
    return jnp.pad(array, ((0, 0), (0, 0), (0, width - array.shape[-1])))
