"""The docid index: every identifier that exists, in flat arrays that a jitted search can walk."""

import dataclasses
import os
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from genret_jax.decoding.bitmap import WORD, unpacked
from genret_jax.decoding.building import build_members, contents_of
from genret_jax.decoding.layout import Capacity, Layout
from genret_jax.decoding.merging import merged, unlaid
from genret_jax.decoding.reading import at_each, entry
from genret_jax.errors import InputError
from genret_jax.storage import load_arrays, save_arrays

_KIND, _VERSION = "docid_index", 4


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

    An index is a pytree: pass it to jitted functions as an argument, after one :func:`jax.device_put`. The arrays of a
    loaded index are memory-mapped. Searches of two indexes share a compiled program when layouts and dtypes agree.

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
        contents = contents_of(tokens, lengths, document, prefix_nodes, vocab_size)
        return cls(**build_members(contents, vocab_size=vocab_size, room=room))

    @classmethod
    def from_sequences(cls, sequences: Iterable[Sequence[int]], *, vocab_size: int, room: float = 0.0) -> "DocidIndex":
        """Build the index of docids given one by one, the documents being numbered as they come.

        Args:
            sequences: Tokens of each docid.
            vocab_size: Width of the decoder's logits.
            room: As of :meth:`build`.

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

        It equals one built from the rows that are left, in their order, followed by the added ones. Where the index
        was built with ``room`` and they fit, its layout stays, so a compiled search takes it as it is. What is added
        is sorted and merged into what is there.

        Args:
            tokens: ``[r, m]`` as of :meth:`build`; nothing is added when left out.
            lengths: ``[r]``.
            document: ``[r]``; a document may be one that the index has.
            prefix_nodes: ``[r, m]``; needed if the index has nodes.
            remove: Documents whose rows are removed.

        Raises:
            InputError: As :meth:`build`; or if a document to be removed is not in the index, none would be left, or
                prefix nodes are missing.
        """
        old, gone = unlaid(self), np.fromiter(remove, np.int64)
        unknown = gone[~np.isin(gone, old.document)]
        if unknown.size:
            raise InputError(f"document {unknown[0]} is not in the index", expected="documents that it holds")
        new = None if tokens is None else contents_of(tokens, lengths, document, prefix_nodes, self.vocab_size)
        contents = merged(old, ~np.isin(old.document, gone), new)
        return DocidIndex(**build_members(contents, vocab_size=self.vocab_size, room=self.layout.room, like=self))

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

    def first_rows(self, docids: Int[Array, "*q"]) -> Int[Array, "*q"]:
        """Return the first row of each of some docids."""
        return at_each(_first_row, (self.row_offsets, self.rows), docids)

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

    def spell(self, docids: Int[Array, " q"]) -> tuple[Int[Array, "q m"], Int[Array, "q m"]]:
        """Return the tokens of some docids, 0 beyond the end, and what the step is told before each.

        The tokens before the first column are found by bisection of the edges, which a search avoids: it has read
        them on its way.
        """
        states, tokens, nodes = jnp.full(docids.shape, self.root, jnp.int32), [], []
        edge_tokens = self.tokens_of_edges() if self.layout.first_column else jnp.zeros(0, jnp.int32)
        for depth in range(self.layout.first_column):
            edges = self._edges_towards(states, docids)
            tokens.append(edge_tokens[edges].astype(jnp.int32) + jnp.asarray(self.first_tokens)[depth])
            nodes.append(self.nodes(states, depth))
            states = jnp.asarray(self.edge_states)[edges]
        later, lengths, _ = self.read_docids(docids)
        later_nodes = self.narrow_nodes(docids)
        later_nodes = jnp.zeros_like(later) if later_nodes is None else later_nodes
        spelt, told = (
            jnp.concatenate([*(part[..., None] for part in early), rest], axis=-1)
            for early, rest in ((tokens, later), (nodes, later_nodes))
        )
        if self.lengths is None:
            return spelt, told
        there = jnp.arange(self.max_length)[None] < lengths[:, None]
        return jnp.where(there, spelt, 0), jnp.where(there, told, 0)

    def tokens_of_edges(self) -> Int[Array, " e"]:
        """Return the token of each edge, less the lowest of its depth."""
        if self.edge_tokens is not None:
            return jnp.asarray(self.edge_tokens)
        bits = unpacked(jnp.asarray(self.bitmaps), WORD * self.bitmaps.shape[1])
        return jnp.nonzero(bits, size=len(self.edge_states), fill_value=0)[1]

    def _edges_towards(self, states: Int[Array, " q"], docids: Int[Array, " q"]) -> Int[Array, " q"]:
        """Return which edge of each of some wide prefixes leads towards a docid, by bisection."""
        offsets, wide = jnp.asarray(self.edge_offsets), ~states

        def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bounds
            middle = (low + high) // 2
            right = self.first_docids(jnp.asarray(self.edge_states)[middle]) <= docids
            return jnp.where(right, middle, low), jnp.where(right, high, middle)

        steps = max(self.layout.edges).bit_length()
        return jax.lax.fori_loop(0, steps, halve, (offsets[wide], offsets[wide + 1]))[0]

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

    def save(self, folder: str | os.PathLike[str], *, details: dict[str, Any] | None = None) -> None:
        """Write the index to a new folder.

        Args:
            folder: Where; it must not exist.
            details: Further JSON values for its manifest, such as the docid table's fingerprint.
        """
        arrays = {
            field.name: np.asarray(getattr(self, field.name))
            for field in dataclasses.fields(self)
            if not field.metadata.get("static") and getattr(self, field.name) is not None
        }
        static = {"layout": dataclasses.asdict(self.layout), "vocab_size": self.vocab_size}
        save_arrays(folder, arrays, kind=_KIND, version=_VERSION, details={**static, "details": details or {}})

    @classmethod
    def load(
        cls,
        folder: str | os.PathLike[str],
        *,
        vocab_size: int | None = None,
        details: dict[str, Any] | None = None,
    ) -> "DocidIndex":
        """Open an index written by :meth:`save`, memory-mapped.

        Args:
            folder: Where it lies.
            vocab_size: The decoder's; checked when given.
            details: What :meth:`save` was given; those that are given here must agree.

        Raises:
            InputError: If the folder is missing, damaged, or made for another vocabulary or docid table.
        """
        arrays, manifest = load_arrays(folder, kind=_KIND, version=_VERSION)
        if vocab_size not in (None, manifest["vocab_size"]):
            raise InputError(
                f"a docid index for a vocabulary of {manifest['vocab_size']}",
                file=folder,
                expected=f"{vocab_size}, the decoder's",
                fix="rebuild the index from this model's docid table",
            )
        for name, value in (details or {}).items():
            if manifest["details"].get(name) != value:
                raise InputError(
                    f"a docid index with {name} {manifest['details'].get(name)!r}",
                    file=folder,
                    expected=repr(value),
                    fix="rebuild the index from this model's docid table",
                )
        described: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in manifest["layout"].items()
        }
        layout = Layout(**{**described, "capacity": Capacity(*described["capacity"])})
        missing = dict.fromkeys(field.name for field in dataclasses.fields(cls))
        members: dict[str, Any] = {**missing, **arrays, "layout": layout, "vocab_size": manifest["vocab_size"]}
        return cls(**members)


def _first_row(arrays: Any, docid: Int[Array, ""]) -> Int[Array, ""]:
    offsets, rows = arrays
    place = docid if offsets is None else entry(offsets, docid)
    return place if rows is None else entry(rows, place)
