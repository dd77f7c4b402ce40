"""The docid index: every identifier that exists, in flat arrays that a jitted search can walk."""

import dataclasses
import functools
import os
import typing
from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from genret_jax.decoding.bitmap import WORD, packed
from genret_jax.decoding.layout import Capacity, Layout, children_of, choose_layout, fits, prefix_starts
from genret_jax.decoding.sorting import SortedDocids, check_docids, sort_docids
from genret_jax.errors import InputError
from genret_jax.storage import load_arrays, save_arrays

_KIND, _VERSION = "docid_index", 3


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
        edge_tokens: ``[e]``; tokens, less the lowest of their depth; the smallest type that holds them.
        edge_states: int32 ``[e]``; the state that each edge leads to.
        bitmaps: uint32 ``[h, w]``; of the first wide prefixes, bit ``t % 32`` of word ``t // 32`` tells whether there
            is an edge with token t, less the lowest; None where no depth is searched in this way.
        wide_rows: int32 ``[g, 2]``; the first docid of each wide prefix, and the one after its last.
        columns: ``[m - f, u]``; tokens of each docid from depth f on, less the lowest of their depth.
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
        docids = _checked(tokens, lengths, document, prefix_nodes, vocab_size)
        return _build(docids, vocab_size, room, None)

    @classmethod
    def from_sequences(
        cls, sequences: Iterable[Sequence[int]], *, vocab_size: int, room: float = 0.0
    ) -> "DocidIndex":
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
        was built with ``room`` and they fit, its layout stays, so a compiled search takes it as it is. Costs as much
        as sorting anew (0.2 s a million docids).

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
        old = _unbuilt(self)
        gone = np.fromiter(remove, np.int64)
        unknown = np.setdiff1d(gone, old[2])
        if unknown.size:
            raise InputError(f"document {unknown[0]} is not in the index", expected="documents that it holds")
        kept = ~np.isin(old[2], gone)
        parts = [tuple(None if array is None else array[kept] for array in old)]
        if tokens is not None:
            added = _checked(tokens, lengths, document, prefix_nodes, self.vocab_size)
            if (added[3] is None) != (old[3] is None):
                raise InputError("prefix nodes for some docids only", expected="nodes for all docids, or none")
            parts.append(added)
        return relaid(_joined(parts), self)

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
        places = docids if self.row_offsets is None else jnp.asarray(self.row_offsets)[docids]
        return places if self.rows is None else jnp.asarray(self.rows)[places]

    def first_docids(self, states: Int[Array, "*q"]) -> Int[Array, "*q"]:
        """Return the first docid of each of some states."""
        return jnp.where(states >= 0, states, jnp.asarray(self.wide_rows)[jnp.maximum(~states, 0), 0])

    def read_columns(self, docids: Int[Array, "*q"]) -> tuple[Int[Array, "*q i"], Int[Array, "*q i"] | None]:
        """Return the tokens of some docids from the first column on, anything beyond the end; and the nodes before."""
        first = self.layout.first_column
        read = jnp.moveaxis(jnp.asarray(self.columns)[:, docids], 0, -1).astype(jnp.int32)
        tokens = read + jnp.asarray(self.first_tokens)[first:].reshape((1,) * docids.ndim + (-1,))
        return tokens, None if self.row_nodes is None else jnp.moveaxis(jnp.asarray(self.row_nodes)[:, docids], 0, -1)

    def spell(self, docids: Int[Array, " q"]) -> tuple[Int[Array, "q m"], Int[Array, "q m"]]:
        """Return the tokens of some docids, 0 beyond the end, and what the step is told before each.

        The tokens before the first column are found by bisection of the edges, which a search avoids: it has read
        them on its way.
        """
        states = jnp.full(docids.shape, self.root, jnp.int32)
        tokens, nodes = [], []
        for depth in range(self.layout.first_column):
            edges = self._edges_towards(states, docids)
            tokens.append(jnp.asarray(self.edge_tokens)[edges].astype(jnp.int32) + jnp.asarray(self.first_tokens)[depth])
            nodes.append(self.nodes(states, depth))
            states = jnp.asarray(self.edge_states)[edges]
        later, later_nodes = self.read_columns(docids)
        later_nodes = jnp.zeros_like(later) if later_nodes is None else later_nodes
        spelt, told = (
            jnp.concatenate([*(part[..., None] for part in early), rest], axis=-1)
            for early, rest in ((tokens, later), (nodes, later_nodes))
        )
        if self.lengths is None:
            return spelt, told
        there = jnp.arange(self.max_length)[None] < jnp.asarray(self.lengths)[docids].astype(jnp.int32)[:, None]
        return jnp.where(there, spelt, 0), jnp.where(there, told, 0)

    def _edges_towards(self, states: Int[Array, " q"], docids: Int[Array, " q"]) -> Int[Array, " q"]:
        """Return which edge of each of some wide prefixes leads towards a docid, by bisection."""
        offsets, wide = jnp.asarray(self.edge_offsets), ~states

        def halve(_: int, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
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
        of_wide = jnp.asarray(self.wide_nodes)[jnp.maximum(~states, 0)]
        column = jnp.maximum(depth - self.layout.first_column, 0)
        if not len(self.row_nodes):
            return of_wide
        return jnp.where(states < 0, of_wide, jnp.asarray(self.row_nodes)[column, jnp.maximum(states, 0)])

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
        described = {k: tuple(v) if isinstance(v, list) else v for k, v in manifest["layout"].items()}
        layout = Layout(**{**described, "capacity": Capacity(*described["capacity"])})
        missing = dict.fromkeys(field.name for field in dataclasses.fields(cls))
        members: dict[str, Any] = {**missing, **arrays, "layout": layout, "vocab_size": manifest["vocab_size"]}
        return cls(**members)


_Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]


def _checked(tokens: Any, lengths: Any, document: Any, prefix_nodes: Any, vocab_size: int) -> _Rows:
    tokens, lengths, document = np.asarray(tokens), np.asarray(lengths), np.asarray(document)
    nodes = None if prefix_nodes is None else np.asarray(prefix_nodes)
    check_docids(tokens, lengths, document, nodes, vocab_size)
    return tokens, lengths, document, nodes


def _joined(parts: list[Any]) -> _Rows:
    """Put rows of different widths behind each other."""
    width = max(part[0].shape[1] for part in parts)

    def wide(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, width - array.shape[1])))

    tokens = np.concatenate([wide(part[0]) for part in parts])
    lengths, document = (np.concatenate([part[i] for part in parts]) for i in (1, 2))
    if not len(tokens):
        raise InputError("no docids would be left", expected="at least one document")
    return tokens, lengths, document, None if parts[0][3] is None else np.concatenate([wide(part[3]) for part in parts])


def _unbuilt(index: DocidIndex) -> _Rows:
    """Return the rows that an index was built from."""
    count = index.num_docids
    capacity = index.layout.capacity.docids  # a size that stays, so that this compiles once
    tokens, nodes = (np.asarray(array)[:count] for array in _spell(index, jnp.arange(capacity, dtype=jnp.int32)))
    lengths = np.full(count, index.max_length) if index.lengths is None else np.asarray(index.lengths)[:count]
    docids = np.arange(count)
    if index.row_offsets is not None:
        docids = np.repeat(docids, np.diff(np.asarray(index.row_offsets)[: count + 1]))
    rows = docids if index.rows is None else np.asarray(index.rows)[: len(docids)]
    document = rows if index.documents is None else np.asarray(index.documents)[: len(docids)]
    back = np.argsort(rows)
    docids, document = docids[back], document[back]
    return tokens[docids], lengths[docids].astype(np.int64), document, None if index.row_nodes is None else nodes[docids]


@jax.jit
def _spell(index: DocidIndex, docids: Array) -> tuple[Array, Array]:
    return index.spell(docids)


def relaid(rows: _Rows, like: DocidIndex) -> DocidIndex:
    """Build an index in the shapes of another, or if that has no room for it in shapes of its own."""
    return _build(rows, like.vocab_size, like.layout.room, like)


def _build(rows: _Rows, vocab_size: int, room: float, like: DocidIndex | None) -> DocidIndex:
    tokens, lengths, document, nodes = rows
    docids = sort_docids(tokens, lengths, vocab_size)
    layout = None
    if like is not None and like.layout.capacity.rows >= len(tokens):
        docids, layout = _fitted(docids, like)
    layout = layout or choose_layout(docids, vocab_size=vocab_size, room=room)
    count, capacity = len(docids.departs), layout.capacity
    pad = layout.rows_margin
    first_rows = np.arange(len(tokens)) if docids.order is None else docids.order
    named = document if docids.order is None else document[docids.order]
    members = {
        **_wide_prefixes(docids, layout),
        "columns": _grown(docids.columns[layout.first_column :], capacity.docids + pad),
        "first_tokens": docids.first_tokens,
        "departs": _grown(docids.departs, capacity.docids + pad + 1),
        "lengths": _grown(docids.lengths, capacity.docids) if layout.mixed else None,
        "count": np.int32(count),
        "rows": None if docids.order is None and not room else _grown(first_rows.astype(np.int32), capacity.rows),
        "row_offsets": None,
        "documents": None,
        "wide_nodes": None,
        "row_nodes": None,
    }
    if docids.offsets is not None or room:
        offsets = np.arange(count + 1) if docids.offsets is None else docids.offsets
        members["row_offsets"] = _grown(offsets.astype(np.int32), capacity.docids + 1, int(offsets[-1]))
    if room or (named != first_rows).any():
        members["documents"] = _grown(named.astype(np.int32), capacity.rows)
    if nodes is not None:
        members.update(_nodes(docids, nodes, first_rows, members["wide_rows"], layout))
    return DocidIndex(**members, layout=layout, vocab_size=int(vocab_size))


def _fitted(docids: SortedDocids, like: DocidIndex) -> tuple[SortedDocids, Layout | None]:
    """Express docids in the codes of another index, if its layout holds them."""
    length = len(docids.columns)
    if not fits(docids, like.layout):
        return docids, None
    first_tokens = np.asarray(like.first_tokens)
    shift = docids.first_tokens - first_tokens[:length]
    spelt = np.arange(length)[:, None] < docids.lengths[None]
    codes = np.where(spelt, docids.columns.astype(np.int64) + shift[:, None], 0)
    if codes.min() < 0 or (codes.max(axis=1) >= np.array(like.layout.spans[:length])).any():
        return docids, None
    columns = np.zeros((like.max_length, codes.shape[1]), like.columns.dtype)
    columns[:length] = codes
    departs = docids.departs.astype(like.departs.dtype)
    lengths = docids.lengths if like.lengths is None else docids.lengths.astype(like.lengths.dtype)
    return docids._replace(columns=columns, first_tokens=first_tokens, departs=departs, lengths=lengths), like.layout


def _grown(array: np.ndarray, size: int, value: int = 0) -> np.ndarray:
    """Pad the last axis up to a size."""
    missing = size - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=value) if missing else array


def _wide_prefixes(docids: SortedDocids, layout: Layout) -> dict[str, np.ndarray]:
    """List the children of wide prefixes, depth by depth."""
    count = len(docids.departs)
    fanouts, tokens, states, rows = [], [], [], []
    numbered = 0
    starts = prefix_starts(docids.departs, 0)
    for depth in range(layout.max_length):
        sizes = np.diff(starts, append=count)
        wide = sizes > layout.window
        if not wide.any():
            break
        starts, sizes = starts[wide], sizes[wide]
        rows.append(np.stack([starts, starts + sizes], axis=1))
        numbered += len(starts)
        next_starts = prefix_starts(docids.departs, depth + 1)
        first, stop = children_of(starts, sizes, next_starts)
        fanout = stop - first
        children = np.arange(fanout.sum()) + np.repeat(first - (np.cumsum(fanout) - fanout), fanout)
        child_rows = next_starts[children]
        child_wide = np.diff(next_starts, append=count)[children] > layout.window
        fanouts.append(fanout)
        tokens.append(docids.columns[depth, child_rows])
        states.append(np.where(child_wide, ~(numbered + np.cumsum(child_wide) - 1), child_rows))
        starts = next_starts
    none = np.zeros(0, np.int64)
    all_fanouts, all_tokens = np.concatenate([none, *fanouts]), np.concatenate([none, *tokens])
    offsets = np.append(0, np.cumsum(all_fanouts))
    edges, prefixes = layout.capacity.edges + layout.edges_margin, max(1, layout.capacity.wide)
    all_rows = np.concatenate([np.zeros((0, 2), np.int64), *rows]).astype(np.int32)
    return {
        "edge_offsets": _grown(offsets.astype(np.int32), prefixes + 1, int(offsets[-1])),
        "edge_tokens": _grown(all_tokens.astype(docids.columns.dtype), edges),
        "edge_states": _grown(np.concatenate([none, *states]).astype(np.int32), edges),
        "bitmaps": _bitmaps(all_fanouts, all_tokens, layout),
        "wide_rows": np.pad(all_rows, ((0, prefixes - len(all_rows)), (0, 0))),
    }


def _bitmaps(fanouts: np.ndarray, tokens: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Set a bit for each edge of the wide prefixes down to the last depth where bits are read."""
    if not layout.capacity.bitmaps:
        return None
    members = np.zeros((layout.capacity.bitmaps, layout.bitmap_words * WORD), bool)
    wide = np.repeat(np.arange(len(fanouts)), fanouts)
    set_here = (wide < len(members)) & (tokens < members.shape[1])  # others are of depths that are listed
    members[wide[set_here], tokens[set_here]] = True
    return packed(members)


def _nodes(
    docids: SortedDocids, nodes: np.ndarray, rows: np.ndarray, wide_rows: np.ndarray, layout: Layout
) -> dict[str, np.ndarray]:
    """Find the node of each prefix, and reject rows that disagree about it."""
    count = len(docids.departs)
    of_row = np.asarray(nodes)[rows]  # --> [r, m], sorted
    same = np.zeros(len(rows), np.int64)  # leading tokens shared with the row before; all of them where docids repeat
    begins = np.zeros(len(rows), bool)
    begins[np.arange(count) if docids.offsets is None else docids.offsets[:-1]] = True
    same[begins] = np.maximum(docids.departs.astype(np.int64) - 1, 0)
    docid = np.cumsum(begins) - 1
    same[~begins] = docids.lengths[docid[~begins]].astype(np.int64) - 1
    for depth in range(of_row.shape[1]):
        differ = np.flatnonzero((of_row[1:, depth] != of_row[:-1, depth]) & (same[1:] >= depth))
        if differ.size:
            raise InputError(
                f"docids with the same first {depth} tokens have different prefix nodes",
                expected="one node for each prefix",
                fix="take tokens and prefix nodes from the same encoded docid table",
            )
    by_docid = np.zeros((layout.max_length, count), np.int32)
    by_docid[: of_row.shape[1]] = of_row[begins].T[: layout.max_length]
    by_docid[np.arange(layout.max_length)[:, None] >= docids.lengths[None]] = 0
    depths = _depths_of_wide(docids, layout)
    wide_nodes = np.zeros(len(wide_rows), np.int32)
    wide_nodes[: len(depths)] = by_docid[depths, wide_rows[: len(depths), 0]]
    return {"wide_nodes": wide_nodes, "row_nodes": _grown(by_docid[layout.first_column :], layout.capacity.docids)}


def _depths_of_wide(docids: SortedDocids, layout: Layout) -> np.ndarray:
    counts = []
    for depth in range(layout.max_length):
        sizes = np.diff(prefix_starts(docids.departs, depth), append=len(docids.departs))
        counts.append(int(np.count_nonzero(sizes > layout.window)))
    return np.repeat(np.arange(layout.max_length), counts)
