"""Build the arrays of a docid index from rows of tokens, with whole-array operations alone."""

from typing import Any, NamedTuple

import numpy as np

from genret_jax.decoding.bitmap import WORD, packed
from genret_jax.decoding.layout import Layout, children_of, choose_layout, fits, prefix_starts
from genret_jax.decoding.sorting import SortedDocids, check_docids, sort_docids
from genret_jax.errors import InputError

_BLOCK = 1024  # wide prefixes whose bits are set at a time


class Contents(NamedTuple):
    """What an index holds."""

    docids: SortedDocids
    document: np.ndarray  # [r]  of each row
    nodes: np.ndarray | None  # [r, m]  what the step is told before each token of a row; None for nothing


def contents_of(tokens: Any, lengths: Any, document: Any, prefix_nodes: Any, vocab_size: int) -> Contents:
    """Sort rows; arguments and errors are those of ``DocidIndex.build``."""
    tokens, lengths, document = np.asarray(tokens), np.asarray(lengths), np.asarray(document)
    nodes = None if prefix_nodes is None else np.asarray(prefix_nodes)
    check_docids(tokens, lengths, document, nodes, vocab_size)
    return Contents(sort_docids(tokens, lengths, vocab_size), document, nodes)


def build_members(contents: Contents, *, vocab_size: int, room: float, like: Any = None) -> dict[str, Any]:
    """Return the arrays and the layout of an index, by field.

    Args:
        contents: What it is to hold.
        vocab_size: Bound of the tokens.
        room: Share of room for documents to come.
        like: An index whose shapes are taken if they hold these docids.

    Raises:
        InputError: If there are too many, or prefix nodes disagree.
    """
    (docids, document, nodes), layout = contents, None
    if like is not None and like.layout.capacity.rows >= len(document):
        docids, layout = _fitted(docids, like)
    layout = layout or choose_layout(docids, vocab_size=vocab_size, room=room)
    count, capacity = len(docids.departs), layout.capacity
    pad = layout.rows_margin
    if (layout.max_length - layout.first_column) * (capacity.docids + pad) > np.iinfo(np.int32).max:
        raise InputError(
            f"{count:,} docids of {layout.max_length} tokens",
            expected="less than 2,147,483,648 tokens in all, as places in the index are 32-bit numbers",
            fix="divide the corpus and build an index of each part",
        )
    first_rows = np.arange(len(document)) if docids.order is None else docids.order
    named = document if docids.order is None else document[docids.order]
    members: dict[str, Any] = {
        **_wide_prefixes(docids, layout),
        "columns": _grown(docids.columns[layout.first_column :], capacity.docids + pad).reshape(-1),
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
    return {**members, "layout": layout, "vocab_size": int(vocab_size)}


def _fitted(docids: SortedDocids, like: Any) -> tuple[SortedDocids, Layout | None]:
    """Express docids in the codes of another index, if its layout holds them."""
    if not fits(docids, like.layout):
        return docids, None
    first_tokens = np.asarray(like.first_tokens)
    columns = np.zeros((like.max_length, len(docids.departs)), like.columns.dtype)
    for depth, column in enumerate(docids.columns):
        spelt = docids.lengths > depth
        if not spelt.any():
            continue
        shift = int(docids.first_tokens[depth] - first_tokens[depth])
        if shift < 0 or int(column.max()) + shift >= like.layout.spans[depth]:
            return docids, None
        columns[depth] = np.where(spelt, column + columns.dtype.type(shift), 0) if shift else column
    departs = docids.departs.astype(like.departs.dtype)
    lengths = docids.lengths if like.lengths is None else docids.lengths.astype(like.lengths.dtype)
    return docids._replace(columns=columns, first_tokens=first_tokens, departs=departs, lengths=lengths), like.layout


def _grown(array: np.ndarray, size: int, value: int = 0) -> np.ndarray:
    """Pad the last axis up to a size."""
    missing = size - array.shape[-1]
    return np.pad(array, [(0, 0)] * (array.ndim - 1) + [(0, missing)], constant_values=value) if missing else array


def _wide_prefixes(docids: SortedDocids, layout: Layout) -> dict[str, np.ndarray | None]:
    """List the children of wide prefixes, depth by depth."""
    count, capacity = len(docids.departs), layout.capacity
    prefixes, edges = max(1, capacity.wide), capacity.edges + layout.edges_margin
    rows, offsets = np.zeros((prefixes, 2), np.int32), np.zeros(prefixes + 1, np.int32)
    tokens, states = np.zeros(edges, docids.columns.dtype), np.zeros(edges, np.int32)
    numbered, listed = 0, 0
    starts = prefix_starts(docids.departs, 0)
    for depth in range(layout.max_length):
        wide = _sizes(starts, count) > layout.window
        if not wide.any():
            break
        here = slice(numbered, numbered + int(wide.sum()))
        rows[here, 0] = starts[wide]
        rows[here, 1] = np.append(starts[1:], np.int32(count))[wide]
        starts = prefix_starts(docids.departs, depth + 1)
        first, stop = children_of(rows[here, 0], rows[here, 1], starts)
        children = _within(first, stop, len(starts))
        child_rows, child_wide = starts[children], (_sizes(starts, count) > layout.window)[children]
        of_children = slice(listed, listed + len(child_rows))
        tokens[of_children], states[of_children] = docids.columns[depth, child_rows], child_rows
        states[of_children][child_wide] = ~np.arange(here.stop, here.stop + child_wide.sum(), dtype=np.int32)
        offsets[here.start + 1 : here.stop + 1] = listed + np.cumsum(stop - first)
        numbered, listed = here.stop, of_children.stop
    offsets[numbered + 1 :] = listed
    return {
        "edge_offsets": offsets,
        "edge_tokens": tokens if layout.lists else None,
        "edge_states": states,
        "bitmaps": _bitmaps(offsets, tokens, layout),
        "wide_rows": rows,
    }


def _sizes(starts: np.ndarray, count: int) -> np.ndarray:
    return np.diff(starts, append=np.int32(count))


def _within(first: np.ndarray, stop: np.ndarray, count: int) -> np.ndarray:
    """Tell which of so many places lie in one of some ranges, in order and apart."""
    steps = np.zeros(count + 1, np.int8)
    steps[first] += 1
    steps[stop] -= 1
    return np.cumsum(steps, dtype=np.int8)[:-1].view(bool)


def _bitmaps(offsets: np.ndarray, tokens: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Set a bit for each edge of the wide prefixes down to the last depth where bits are read."""
    if not layout.capacity.bitmaps:
        return None
    bitmaps = np.zeros((layout.capacity.bitmaps, layout.bitmap_words), np.uint32)
    for start in range(0, len(bitmaps), _BLOCK):
        stop = min(start + _BLOCK, len(bitmaps))
        members = np.zeros((stop - start, layout.bitmap_words * WORD), bool)
        wide = np.repeat(np.arange(stop - start), np.diff(offsets[start : stop + 1]))
        of_block = tokens[offsets[start] : offsets[stop]]
        fits_in = of_block < members.shape[1]  # others are of depths that are listed
        members[wide[fits_in], of_block[fits_in]] = True
        bitmaps[start:stop] = packed(members)
    return bitmaps


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
        sizes = _sizes(prefix_starts(docids.departs, depth), len(docids.departs))
        counts.append(int(np.count_nonzero(sizes > layout.window)))
    return np.repeat(np.arange(layout.max_length), counts)
