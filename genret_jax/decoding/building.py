"""Build the arrays of a docid index from rows of tokens, and read the rows back; no loop over documents."""

from typing import Any, NamedTuple

import jax
import numpy as np

from genret_jax.decoding.bitmap import WORD, packed
from genret_jax.decoding.layout import Layout, children_of, choose_layout, fits, prefix_starts
from genret_jax.decoding.sorting import SortedDocids, check_docids, sort_docids
from genret_jax.errors import InputError

_BLOCK = 1024  # wide prefixes whose bits are set at a time


class Rows(NamedTuple):
    """The rows of tokens that an index is built from, in any order."""

    number: np.ndarray  # [r]  place of each row among those given to ``DocidIndex.build``
    tokens: np.ndarray  # [r, m]
    lengths: np.ndarray  # [r]
    document: np.ndarray  # [r]  number of the document that each row names
    nodes: np.ndarray | None  # [r, m]  prefix node before each token; None if the model needs none


def checked_rows(tokens: Any, lengths: Any, document: Any, prefix_nodes: Any, vocab_size: int) -> Rows:
    """Return rows as arrays; the arguments and errors are those of ``DocidIndex.build``."""
    nodes = None if prefix_nodes is None else np.asarray(prefix_nodes)
    given = (np.asarray(tokens), np.asarray(lengths), np.asarray(document), nodes)
    check_docids(*given, vocab_size)
    return Rows(np.arange(len(given[0])), *given)


def build_members(rows: Rows, *, vocab_size: int, room: float, like: Any = None) -> dict[str, Any]:
    """Return the arrays and the layout of an index, by field.

    Args:
        rows: The docids and their documents, checked.
        vocab_size: Size of the vocabulary.
        room: Share of free space for later documents.
        like: An index whose shapes are reused if they can hold these docids.

    Raises:
        InputError: If a docid is the beginning of another, there are too many, or prefix nodes disagree.
    """
    number, document, nodes, layout = rows.number, rows.document, rows.nodes, None
    docids = sort_docids(rows.tokens, rows.lengths, vocab_size, number)
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
    if docids.order is not None:
        number, document = number[docids.order], document[docids.order]
        nodes = None if nodes is None else nodes[docids.order]
    as_given = not room and (number == np.arange(len(number))).all()
    wide_prefixes, wide_depths = _wide_prefixes(docids, layout)
    members: dict[str, Any] = {
        **wide_prefixes,
        "columns": _grown(docids.columns[layout.first_column :], capacity.docids + pad).reshape(-1),
        "first_tokens": docids.first_tokens,
        "departs": _grown(docids.departs, capacity.docids + pad + 1),
        "lengths": _grown(docids.lengths, capacity.docids) if layout.mixed else None,
        "count": np.int32(count),
        "rows": None if as_given else _grown(number.astype(np.int32), capacity.rows),
        "row_offsets": None,
        "documents": None,
        "wide_nodes": None,
        "row_nodes": None,
    }
    if docids.offsets is not None or room:
        offsets = np.arange(count + 1) if docids.offsets is None else docids.offsets
        members["row_offsets"] = _grown(offsets.astype(np.int32), capacity.docids + 1, int(offsets[-1]))
    if room or (document != number).any():
        members["documents"] = _grown(document.astype(np.int32), capacity.rows)
    if nodes is not None:
        by_docid = _nodes(docids, nodes, layout.max_length)
        wide_nodes = by_docid[wide_depths, members["wide_rows"][: len(wide_depths), 0]]
        members["wide_nodes"] = _grown(wide_nodes, len(members["wide_rows"]))
        members["row_nodes"] = _grown(by_docid[layout.first_column :], capacity.docids)
    return {**members, "layout": layout, "vocab_size": int(vocab_size)}


def _fitted(docids: SortedDocids, like: Any) -> tuple[SortedDocids, Layout | None]:
    """Return docids in the codes of another index and its layout; None for the layout if it cannot hold them."""
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


def _wide_prefixes(docids: SortedDocids, layout: Layout) -> tuple[dict[str, np.ndarray | None], np.ndarray]:
    """List the children of wide prefixes, depth by depth; return the arrays by field, and the depth of each prefix."""
    count, capacity = len(docids.departs), layout.capacity
    prefixes, edges = max(1, capacity.wide), capacity.edges + layout.edges_margin
    rows, offsets = np.zeros((prefixes, 2), np.int32), np.zeros(prefixes + 1, np.int32)
    tokens, states = np.zeros(edges, docids.columns.dtype), np.zeros(edges, np.int32)
    numbered, listed, depths = 0, 0, np.zeros(prefixes, np.int64)
    starts = prefix_starts(docids.departs, 0)
    for depth in range(layout.max_length):
        wide = _sizes(starts, count) > layout.window
        if not wide.any():
            break
        here = slice(numbered, numbered + int(wide.sum()))
        rows[here, 0], depths[here] = starts[wide], depth
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
    arrays = {
        "edge_offsets": offsets,
        "edge_tokens": tokens if layout.lists else None,
        "edge_states": states,
        "bitmaps": _bitmaps(offsets, tokens, layout),
        "wide_rows": rows,
    }
    return arrays, depths[:numbered]


def _sizes(starts: np.ndarray, count: int) -> np.ndarray:
    return np.diff(starts, append=np.int32(count))


def _within(first: np.ndarray, stop: np.ndarray, count: int) -> np.ndarray:
    """Return which places lie in one of the ranges, which are in order and do not overlap."""
    steps = np.zeros(count + 1, np.int8)
    steps[first] += 1
    steps[stop] -= 1
    return np.cumsum(steps, dtype=np.int8)[:-1].view(bool)


def _bitmaps(offsets: np.ndarray, tokens: np.ndarray, layout: Layout) -> np.ndarray | None:
    """Return the bitmaps of the wide prefixes up to the last depth whose children are bits."""
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


def _nodes(docids: SortedDocids, of_row: np.ndarray, max_length: int) -> np.ndarray:
    """Return the prefix node before each token of each docid ``[m, u]``, 0 beyond the end.

    Args:
        docids: The docids.
        of_row: The nodes of the rows, in the order of the docids.
        max_length: Tokens of a docid at most, m.

    Raises:
        InputError: If rows with the same prefix have different nodes.
    """
    count = len(docids.departs)
    same = np.zeros(len(of_row), np.int64)  # leading tokens shared with the row before; all of them where docids repeat
    begins = np.zeros(len(of_row), bool)
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
    by_docid = np.zeros((max_length, count), np.int32)
    by_docid[: of_row.shape[1]] = of_row[begins].T[:max_length]
    by_docid[np.arange(max_length)[:, None] >= docids.lengths[None]] = 0
    return by_docid


def rows_of(index: Any) -> Rows:
    """Return the rows that an index was built from, in the order of the docids."""
    tokens, lengths, nodes = spelled(index)
    count = len(tokens)
    if index.row_offsets is not None:
        offsets = np.asarray(index.row_offsets)[: count + 1]
        if (count := int(offsets[-1])) > len(tokens):  # some docids have several
            docid = np.repeat(np.arange(len(tokens)), np.diff(offsets))
            tokens, lengths, nodes = tokens[docid], lengths[docid], None if nodes is None else nodes[docid]
    number = np.arange(count) if index.rows is None else np.asarray(index.rows)[:count]
    document = number if index.documents is None else np.asarray(index.documents)[:count]
    return Rows(number, tokens, lengths, document, nodes)


def without(rows: Rows, gone: np.ndarray) -> Rows:
    """Return rows without those of some documents, numbered anew without gaps."""
    kept = ~np.isin(rows.document, gone)
    is_left = np.zeros(len(kept), bool)
    is_left[rows.number] = kept
    left: Rows = jax.tree.map(lambda array: array[kept], rows)
    return left._replace(number=(np.cumsum(is_left) - 1)[left.number])


def joined(rows: Rows, more: Rows) -> Rows:
    """Return two sets of rows, the second numbered behind the first; the narrower tokens are padded with 0."""

    def below(one: np.ndarray, other: np.ndarray) -> np.ndarray:
        width = max(one.shape[-1], other.shape[-1])
        return np.concatenate([one, other] if one.ndim == 1 else [_grown(one, width), _grown(other, width)])

    all_rows: Rows = jax.tree.map(below, rows, more._replace(number=len(rows.number) + more.number))
    return all_rows


def spelled(index: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return the tokens of all docids ``[u, m]``, their lengths, and the prefix node before each token, on the host.

    Beyond the end of a docid, tokens and nodes are 0.
    """
    count, layout, has_nodes = index.num_docids, index.layout, index.row_nodes is not None
    columns, nodes = _tokens_of_wide(index)
    if layout.first_column < layout.max_length:
        shape = (layout.max_length - layout.first_column, -1)
        columns += [*np.asarray(index.columns).reshape(shape)[:, :count]]
        nodes += [*np.asarray(index.row_nodes)[:, :count]] if has_nodes else []
    lengths = np.full(count, layout.max_length) if index.lengths is None else np.asarray(index.lengths)[:count]
    lowest = np.asarray(index.first_tokens)
    tokens = np.stack([column + first for column, first in zip(columns, lowest, strict=True)], axis=1)
    if (lengths < layout.max_length).any():
        tokens[np.arange(layout.max_length) >= lengths[:, None]] = 0
    return tokens, lengths.astype(np.int64), np.stack(nodes, axis=1) if has_nodes else None


def _tokens_of_wide(index: Any) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the codes and prefix nodes of all docids at depths before the first column, where prefixes are wide."""
    count, wide_rows, states = index.num_docids, np.asarray(index.wide_rows), np.asarray(index.edge_states)
    columns: list[np.ndarray] = []
    nodes: list[np.ndarray] = []
    if not index.layout.first_column:
        return columns, nodes
    tokens, offsets = edge_codes(index), np.asarray(index.edge_offsets)
    wide = slice(0, 1)  # the root
    for _ in range(index.layout.first_column):
        edges = slice(offsets[wide.start], offsets[wide.stop])
        firsts = np.where(states[edges] >= 0, states[edges], wide_rows[np.maximum(~states[edges], 0), 0])
        columns.append(np.repeat(tokens[edges], np.diff(firsts, append=count)))
        if index.wide_nodes is not None:
            nodes.append(np.repeat(np.asarray(index.wide_nodes)[wide], np.diff(wide_rows[wide, 0], append=count)))
        wide = slice(wide.stop, wide.stop + len(firsts))
    return columns, nodes


def edge_codes(index: Any) -> np.ndarray:
    """Return the token of each edge, less the lowest of its depth."""
    if index.edge_tokens is not None:
        return np.asarray(index.edge_tokens)
    bits = np.unpackbits(np.asarray(index.bitmaps).view(np.uint8), bitorder="little")
    return np.flatnonzero(bits) % (WORD * index.bitmaps.shape[1])
