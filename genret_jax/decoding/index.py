"""The docid index: all existing docids in flat arrays, a trie that a jitted search can walk."""

import dataclasses
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from genret_jax.decoding.building import build_members, checked_rows, joined, rows_of, without
from genret_jax.decoding.layout import Layout
from genret_jax.decoding.reading import at_each, entry
from genret_jax.errors import InputError


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidIndex:
    """The set of docids, sorted, and which documents each of them names.

    A prefix is either *narrow*: then its state is the number of its first docid, and its children are found in the
    next few rows, where a docid departs from the one before it right after the prefix. Or it is *wide*, because too
    many docids begin with it: then its state is ``~x``, and its children are the edges
    ``edge_offsets[x] : edge_offsets[x + 1]``. Where these are many of the tokens that may stand there, a search does
    not read their tokens but a bitmap. ``docs/decoding.md`` draws all of it. Distinct docids are numbered in the order
    of their tokens.

    An index is a pytree: pass it to jitted functions as an argument, after one :func:`jax.device_put`. Searches of two
    indexes share a compiled program if layouts and dtypes agree.

    Attributes:
        edge_offsets: int32 ``[g + 1]``; edges of the wide prefixes, which are numbered by depth and order.
        edge_tokens: ``[e]``; tokens, less the lowest of their depth; the smallest type that holds them; None where all
            of them are bits.
        edge_states: int32 ``[e]``; the state that each edge leads to.
        bitmaps: uint32 ``[h, w]``; of the first wide prefixes, bit ``t % 32`` of word ``t // 32`` tells whether there
            is an edge with token t, less the lowest; None where no depth is searched in this way.
        wide_rows: int32 ``[g, 2]``; the first docid of each wide prefix, and the one after its last.
        columns: ``[(m - f) * u]``; tokens of each docid from depth f on, less the lowest of their depth, one depth
            behind the other.
        first_tokens: int32 ``[m]``; the lowest token of each depth.
        departs: ``[u]``; tokens of each docid's shortest beginning that no earlier docid has; 0 for the first.
        lengths: ``[u]``; None where all have ``max_length``.
        count: int32 scalar; distinct docids, u without the padding.
        rows: int32 ``[r]``; row numbers as given to :meth:`build`, in the order of their docids; None for 0, 1, 2, ...
        row_offsets: int32 ``[u + 1]``; the rows of docid ``q`` are ``rows[row_offsets[q] : row_offsets[q + 1]]``;
            None where each docid has one.
        documents: int32 ``[r]``; the document of each entry of ``rows``; None where these are the same numbers.
        wide_nodes: int32 ``[g]``; what the model's step is told about wide prefixes; None for nothing.
        row_nodes: int32 ``[m - f, u]``; likewise for each docid's prefixes from depth f on.
        layout: Sizes that are compiled into a search.
        vocab_size: Width of the logits that the index fits.
    """

    edge_offsets: Any
    edge_tokens: Any
    edge_states: Any
    bitmaps: Any
    wide_rows: Any
    columns: Any
    first_tokens: Any
    departs: Any
    lengths: Any
    count: Any
    rows: Any
    row_offsets: Any
    documents: Any
    wide_nodes: Any
    row_nodes: Any
    layout: Layout = dataclasses.field(metadata={"static": True})
    vocab_size: int = dataclasses.field(metadata={"static": True})

    @classmethod
    def build(
        cls,
        tokens: np.ndarray,
        lengths: np.ndarray,
        document: np.ndarray,
        prefix_nodes: np.ndarray | None = None,
        *,
        vocab_size: int,
        room: float = 0.0,
    ) -> "DocidIndex":
        """Build the index of a set of docids, in any order and with repetitions.

        Args:
            tokens: ``[r, m]`` integers; what lies beyond a row's length is ignored.
            lengths: ``[r]`` tokens of each row, EOS included where the docid has one.
            document: ``[r]`` number of the document that each row names. Several rows may name one document, and
                several rows may hold the same tokens: these documents share a docid, in the order of the rows.
            prefix_nodes: ``[r, m]`` the node to hand to the model's step before each token; rows that share a prefix
                must agree. The step is told 0 when left out.
            vocab_size: Width of the decoder's logits.
            room: Share of room for documents to come: with 0.1, :meth:`updated` can add some tenth of the documents
                before a search of the result has to be compiled anew.

        Raises:
            InputError: If there is no docid, one is empty, has a token outside the vocabulary, or is the beginning of
                another (both can exist only if the shorter one ends with EOS), or prefix nodes disagree.
        """
        rows = checked_rows(tokens, lengths, document, prefix_nodes, vocab_size)
        return cls(**build_members(rows, vocab_size=vocab_size, room=room))

    @classmethod
    def from_sequences(cls, sequences: Iterable[Sequence[int]], *, vocab_size: int, room: float = 0.0) -> "DocidIndex":
        """Build the index of docids given one by one, the documents being numbered as they come.

        Args:
            sequences: Tokens of each docid.
            vocab_size: Width of the decoder's logits.
            room: As in :meth:`build`.

        Raises:
            InputError: As :meth:`build`.
        """
        sequences = list(sequences)
        lengths = np.array([len(sequence) for sequence in sequences], np.int64)
        tokens = np.zeros((len(sequences), lengths.max(initial=0)), np.int64)
        tokens[np.arange(tokens.shape[1]) < lengths[:, None]] = [token for docid in sequences for token in docid]
        return cls.build(tokens, lengths, np.arange(len(sequences)), vocab_size=vocab_size, room=room)

    def updated(
        self,
        tokens: np.ndarray | None = None,
        lengths: np.ndarray | None = None,
        document: np.ndarray | None = None,
        prefix_nodes: np.ndarray | None = None,
        *,
        remove: Iterable[int] = (),
    ) -> "DocidIndex":
        """Return an index with some documents removed and others added.

        It is built from the rows that are left, in their order, followed by the added ones. If this index was built
        with ``room`` and the documents fit, the layout stays the same, so a compiled search can be reused.

        Args:
            tokens: ``[r, m]`` as in :meth:`build`; by default nothing is added.
            lengths: ``[r]``.
            document: ``[r]``; a document may be one that the index has.
            prefix_nodes: ``[r, m]``; needed if the index has nodes.
            remove: Documents whose rows are removed.

        Raises:
            InputError: As :meth:`build`; or if a document to be removed is not in the index, none would be left, or
                prefix nodes are missing.
        """
        old, gone = rows_of(self), np.fromiter(remove, np.int64)
        unknown = gone[~np.isin(gone, old.document)]
        if unknown.size:
            raise InputError(f"document {unknown[0]} is not in the index", expected="documents that it holds")
        rows = without(old, gone) if gone.size else old
        if tokens is not None:
            new = checked_rows(tokens, lengths, document, prefix_nodes, self.vocab_size)
            if (new.nodes is None) != (old.nodes is None):
                raise InputError("prefix nodes for some docids only", expected="nodes for all docids, or none")
            rows = joined(rows, new)
        if not len(rows.document):
            raise InputError("no docids would be left", expected="at least one document")
        return DocidIndex(**build_members(rows, vocab_size=self.vocab_size, room=self.layout.room, like=self))

    @property
    def max_length(self) -> int:
        """Tokens of the longest docid."""
        return self.layout.max_length

    @property
    def num_docids(self) -> int:
        """Distinct docids."""
        return int(self.count)

    @property
    def num_bytes(self) -> int:
        """Size of all arrays."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    def documents_of(self, docids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the documents of some docids, and for each of them which of the docids it belongs to."""
        docids = np.asarray(docids)
        if self.row_offsets is None:
            start, sharing = docids, np.ones(len(docids), np.int64)
        else:
            offsets = np.asarray(self.row_offsets)
            start, sharing = offsets[docids], offsets[docids + 1] - offsets[docids]
        nth = np.arange(sharing.sum()) - np.repeat(np.cumsum(sharing) - sharing, sharing)
        places = np.repeat(start, sharing) + nth
        numbers = self.rows if self.documents is None else self.documents
        return places if numbers is None else np.asarray(numbers)[places], np.repeat(np.arange(len(docids)), sharing)

    def first_docids(self, states: Int[Array, "*q"]) -> Int[Array, "*q"]:
        """Return the first docid of each of some states."""
        return jnp.where(states >= 0, states, jnp.asarray(self.wide_rows)[jnp.maximum(~states, 0), 0])

    def column(self, depth: Int[Array, ""] | int) -> Int[Array, ""] | int:
        """Return where the tokens of a depth begin in ``columns``."""
        first = self.layout.first_column
        return (depth - first) * (len(self.columns) // max(1, self.max_length - first))

    def read_docids(self, docids: Int[Array, "*q"]) -> tuple[Int[Array, "*q i"], Int[Array, "*q"], Int[Array, "*q"]]:
        """Return the tokens of some docids from the first column on, anything beyond the end; lengths; first rows."""

        def docid(arrays: Any, number: Array) -> tuple[Array, Array, Array]:
            columns, lengths, rows = arrays
            codes = [entry(columns, self.column(depth) + number) for depth in depths]
            tokens = jnp.stack(codes).astype(jnp.int32) if codes else jnp.zeros(0, jnp.int32)
            length = jnp.int32(self.max_length) if lengths is None else entry(lengths, number).astype(jnp.int32)
            return tokens, length, _first_row(rows, number)

        depths = range(self.layout.first_column, self.max_length)
        arrays = (self.columns, self.lengths, (self.row_offsets, self.rows))
        codes, lengths, rows = at_each(docid, arrays, docids)
        lowest = jnp.asarray(self.first_tokens)[depths.start :].reshape((1,) * docids.ndim + (-1,))
        return codes + lowest, lengths, rows

    def narrow_nodes(self, docids: Int[Array, "*q"]) -> Int[Array, "*q i"] | None:
        """Return what the step is told before each token of some docids from the first column on."""
        return None if self.row_nodes is None else jnp.moveaxis(jnp.asarray(self.row_nodes)[:, docids], 0, -1)

    def nodes(self, states: Int[Array, "*q"], depth: Int[Array, ""] | int) -> Int[Array, "*q"]:
        """Return what the step is told about some states of a depth."""
        if self.row_nodes is None:
            return jnp.zeros_like(states)
        of_wide = at_each(entry, self.wide_nodes, jnp.maximum(~states, 0))
        if not len(self.row_nodes):
            return of_wide
        column = jnp.maximum(depth - self.layout.first_column, 0)
        of_narrow = at_each(lambda nodes, docid: nodes[column, docid], self.row_nodes, jnp.maximum(states, 0))
        return jnp.where(states < 0, of_wide, of_narrow)

    @property
    def root(self) -> int:
        """State of the empty prefix."""
        return -1 if self.layout.edges[0] else 0


def _first_row(arrays: Any, docid: Int[Array, ""]) -> Int[Array, ""]:
    offsets, rows = arrays
    place = docid if offsets is None else entry(offsets, docid)
    return place if rows is None else entry(rows, place)
