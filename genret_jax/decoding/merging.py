"""Merge docids that come and go into those that are in order already."""

from typing import Any

import numpy as np

from genret_jax.decoding.bitmap import WORD
from genret_jax.decoding.building import Contents
from genret_jax.decoding.sorting import SortedDocids, check_prefix_free, from_lowest
from genret_jax.errors import InputError

_NO_DOCIDS = SortedDocids(
    np.zeros((0, 0), np.uint8), np.zeros(0, np.int32), np.zeros(0, np.uint8), np.zeros(0, np.uint8), None, None
)


def unlaid(index: Any) -> Contents:
    """Take an index apart into what it was built from, on the host."""
    count, layout = index.num_docids, index.layout
    columns, nodes = _early(index)
    if layout.first_column < layout.max_length:
        shape = (layout.max_length - layout.first_column, -1)
        columns += [*np.asarray(index.columns).reshape(shape)[:, :count]]
        nodes += [] if index.row_nodes is None else [*np.asarray(index.row_nodes)[:, :count]]
    offsets = None if index.row_offsets is None else np.asarray(index.row_offsets)[: count + 1]
    entries = count if offsets is None else int(offsets[-1])
    order = None if index.rows is None else np.asarray(index.rows)[:entries]
    lengths = np.full(count, layout.max_length) if index.lengths is None else np.asarray(index.lengths)[:count]
    departs, first_tokens = np.asarray(index.departs)[:count], np.asarray(index.first_tokens)
    docids = SortedDocids(np.stack(columns), first_tokens, departs, lengths, order, offsets)
    rows = _rows_in_order(docids)
    named = rows if index.documents is None else np.asarray(index.documents)[:entries]
    document = np.empty(entries, named.dtype)
    document[rows] = named
    if index.row_nodes is None:
        return Contents(docids, document, None)
    by_row = np.empty((entries, layout.max_length), np.int32)
    by_row[rows] = np.stack(nodes, axis=1)[_docid_of_entry(docids)]
    return Contents(docids, document, by_row)


def _early(index: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return codes and nodes of the depths before the first column, where every prefix is wide."""
    count, wide_rows, states = index.num_docids, np.asarray(index.wide_rows), np.asarray(index.edge_states)
    columns: list[np.ndarray] = []
    nodes: list[np.ndarray] = []
    if not index.layout.first_column:
        return columns, nodes
    offsets = np.asarray(index.edge_offsets)
    if index.edge_tokens is not None:
        tokens = np.asarray(index.edge_tokens)
    else:
        tokens = np.flatnonzero(np.unpackbits(np.asarray(index.bitmaps).view(np.uint8), bitorder="little"))
        tokens %= WORD * index.bitmaps.shape[1]
    wide = slice(0, 1)  # the root
    for _ in range(index.layout.first_column):
        edges = slice(offsets[wide.start], offsets[wide.stop])
        firsts = np.where(states[edges] >= 0, states[edges], wide_rows[np.maximum(~states[edges], 0), 0])
        columns.append(np.repeat(tokens[edges], np.diff(firsts, append=count)))
        if index.wide_nodes is not None:
            nodes.append(np.repeat(np.asarray(index.wide_nodes)[wide], np.diff(wide_rows[wide, 0], append=count)))
        wide = slice(wide.stop, wide.stop + len(firsts))
    return columns, nodes


def merged(old: Contents, kept: np.ndarray, new: Contents | None) -> Contents:
    """Merge what was taken out of an index with what is new, as if the rows of both had been sorted together.

    Args:
        old: From :func:`unlaid`.
        kept: bool ``[r]``; which of its rows stay. These are numbered anew.
        new: Rows that follow them; None for no more.

    Raises:
        InputError: If nothing is left, a docid is the beginning of another, or only one side has nodes.
    """
    if new is None:
        new = Contents(_NO_DOCIDS, old.document[:0], None if old.nodes is None else old.nodes[:0])
    if (new.nodes is None) != (old.nodes is None):
        raise InputError("prefix nodes for some docids only", expected="nodes for all docids, or none")
    document = np.concatenate([old.document[kept], new.document])
    if not len(document):
        raise InputError("no docids would be left", expected="at least one document")
    nodes = None
    if old.nodes is not None and new.nodes is not None:
        width = max(old.nodes.shape[1], new.nodes.shape[1])
        parts = (old.nodes[kept], new.nodes)
        nodes = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in parts])
    return Contents(_merged_docids(old.docids, kept, new.docids), document, nodes)


def _merged_docids(old: SortedDocids, kept: np.ndarray, new: SortedDocids) -> SortedDocids:
    old_docid, new_docid = _docid_of_entry(old), _docid_of_entry(new)
    old_rows, new_rows = _rows_in_order(old), _rows_in_order(new)
    stays = kept[old_rows]
    alive = np.zeros(len(old.departs), bool)
    alive[old_docid[stays]] = True
    place, same = _places(old, new)
    alive[place[same]] = True
    source = _source(alive, place, same)
    docids = _taken(old, new, source)
    where = np.empty(len(alive) + len(place), np.int64)  # each docid's number among the merged ones
    where[source] = np.arange(len(source))
    of_new = where[len(alive) :]
    of_new[same] = where[place[same]]
    docid = np.concatenate([where[old_docid[stays]], of_new[new_docid]])  # of each row that is left, and each new one
    rows = np.concatenate([(np.cumsum(kept) - 1)[old_rows[stays]], np.count_nonzero(kept) + new_rows])
    # Both parts are in order, which the stable sort of numpy makes use of.
    order = rows[np.argsort(docid, kind="stable")]
    offsets = None
    if len(order) > len(source):
        offsets = np.append(0, np.cumsum(np.bincount(docid, minlength=len(source))))
    docids = docids._replace(order=order, offsets=offsets)
    check_prefix_free(docids)
    return docids


def _docid_of_entry(docids: SortedDocids) -> np.ndarray:
    numbers = np.arange(len(docids.departs))
    return numbers if docids.offsets is None else np.repeat(numbers, np.diff(docids.offsets))


def _rows_in_order(docids: SortedDocids) -> np.ndarray:
    if docids.order is not None:
        return docids.order
    return np.arange(len(docids.departs) if docids.offsets is None else docids.offsets[-1])


def _places(old: SortedDocids, new: SortedDocids) -> tuple[np.ndarray, np.ndarray]:
    """Return before which old docid each new one belongs, and whether it is that one itself.

    All of them go down the trie of the old docids together: at each depth a range of those that begin alike is left.
    """
    count = len(new.departs)
    low, high = np.zeros(count, np.int64), np.full(count, len(old.departs))
    same, going = np.zeros(count, bool), np.arange(count)
    for depth in range(len(new.columns) + 1):
        first = low[going]
        length, old_length = new.lengths[going].astype(np.int64), old.lengths[first].astype(np.int64)
        same[going] = (length == depth) & (old_length == depth)
        low[going] += (length > depth) & (old_length == depth)  # after an old one that is its beginning
        going = going[(length > depth) & (old_length > depth)]
        if not going.size:
            break
        codes = new.columns[depth, going].astype(np.int64) + new.first_tokens[depth] - old.first_tokens[depth]
        low[going] = _bisected(old.columns[depth], codes, low[going], high[going])
        high[going] = _bisected(old.columns[depth], codes + 1, low[going], high[going])
        going = going[low[going] < high[going]]
    return low, same


def _bisected(column: np.ndarray, codes: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Return the first place in each of some ranges of a column, sorted there, that is not below a code."""
    while (unsure := low < high).any():
        middle = np.minimum((low + high) // 2, len(column) - 1)
        below = column[middle] < codes
        low, high = np.where(unsure & below, middle + 1, low), np.where(unsure & ~below, middle, high)
    return low


def _source(alive: np.ndarray, place: np.ndarray, same: np.ndarray) -> np.ndarray:
    """Return which docid each merged one is: of the old ones, or of the new ones behind them."""
    inserted = np.flatnonzero(~same)
    before = np.append(0, np.cumsum(alive))
    source = np.empty(before[-1] + len(inserted), np.int64)
    is_new = np.zeros(len(source), bool)
    is_new[before[place[inserted]] + np.arange(len(inserted))] = True
    source[is_new], source[~is_new] = len(alive) + inserted, np.flatnonzero(alive)
    return source


def _taken(old: SortedDocids, new: SortedDocids, source: np.ndarray) -> SortedDocids:
    """Take docids of both sides, and compare those whose predecessor is another than before."""
    lengths = np.concatenate([old.lengths, new.lengths])[source]
    longest = int(lengths.max())
    small = np.min_scalar_type(longest + 1)
    mixed = bool((lengths != longest).any())
    departs = np.concatenate([old.departs.astype(small), new.departs.astype(small)])[source]
    # The first new docid may follow the last old one, but only by chance of its number.
    changed = np.flatnonzero((np.diff(source) != 1) | (source[1:] == len(old.departs))) + 1
    shared, alike = np.zeros(len(changed), small), np.ones(len(changed), bool)
    columns, first_tokens = [], np.zeros(longest, np.int32)
    for depth in range(longest):
        digits = np.concatenate([_digits(old, depth, mixed), _digits(new, depth, mixed)])[source]
        alike &= digits[changed] == digits[changed - 1]
        shared += alike
        column, first_tokens[depth] = from_lowest(digits, mixed)
        columns.append(column)
    departs[changed] = shared + 1
    departs[0] = 0
    return SortedDocids(np.stack(columns), first_tokens, departs, lengths.astype(small), None, None)


def _digits(docids: SortedDocids, depth: int, mixed: bool) -> np.ndarray:
    """Return the tokens at a depth; of mixed lengths 0 is the end and tokens count from 1."""
    if depth >= len(docids.columns):
        return np.zeros(len(docids.departs), np.int32)
    digits = docids.columns[depth].astype(np.int32) + (docids.first_tokens[depth] + mixed)
    return np.where(docids.lengths > depth, digits, 0) if mixed else digits
