"""Choose how an index stores and searches each depth of a set of docids, from statistics of their prefixes."""

import dataclasses
from typing import NamedTuple

import numpy as np

from genret_jax.decoding.bitmap import words_for
from genret_jax.decoding.sorting import SortedDocids

# A prefix of at most this number of docids is always narrow.
_LEAST_WINDOW = 32
# A window that makes the search costlier by at most this factor may be chosen, if the index is smaller with it.
_SLOWING = 1.1
# Children are stored as bits if the prefix with the most children needs at most this number of bits per child.
_BITS = 8
# Reading the token and the logit of a listed candidate costs as much as reading this number of bits.
_LOOK_UP = 8
# The search checks for forced ends from the depth on at which this share of the prefixes have one docid.
_FORCED_SHARE = 0.5
# Docids per block: flatnonzero takes eight bytes for each place it finds.
_BLOCK = 1 << 16
# Depths with at most this number of candidates share a loop.
_NARROW = 16
# Larger widths are multiples of this number, so that candidates divide into blocks evenly.
_ALIGNED = 16


class Level(NamedTuple):
    """Depths that share a compiled loop."""

    start: int  # first depth, in tokens of the prefix
    stop: int  # the depth after the last
    span: int  # tokens that may follow a wide prefix here, if its children are bits; 0 where there is none
    edges: int  # most children of a wide prefix here, if they are listed; 0 where there is none
    rows: int  # most docids of a narrow prefix here; 0 where there is none

    @property
    def width(self) -> int:
        """Candidates of a beam."""
        return self.span + max(self.edges, self.rows)


class Capacity(NamedTuple):
    """Sizes of an index's arrays."""

    docids: int
    rows: int
    wide: int
    edges: int
    bitmaps: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layout:
    """The sizes that are compiled into a search.

    Attributes:
        max_length: Tokens of the longest docid.
        window: Most docids of a narrow prefix; the children of such a prefix are read from a window of rows.
        edges: For each depth, a bound on the children of a wide prefix; 0 if there are no wide prefixes.
        rows: For each depth, a bound on the docids of a narrow prefix; 0 if there are no narrow prefixes.
        spans: For each depth, the width of the range that its tokens lie in.
        dense: For each depth, whether the children of wide prefixes are bits, one for each token of the range.
        forced_from: First depth at which the search checks whether every beam has only one docid left.
        mixed: Whether docids may end before ``max_length``.
        consecutive: Whether the root is narrow and every token of the range leads to a child of it.
        capacity: Sizes of the arrays.
        room: Share of free space for later documents; 0 for none.
    """

    max_length: int
    window: int
    edges: tuple[int, ...]
    rows: tuple[int, ...]
    spans: tuple[int, ...]
    dense: tuple[bool, ...]
    forced_from: int
    mixed: bool
    consecutive: bool
    capacity: Capacity
    room: float = 0.0

    @property
    def first_column(self) -> int:
        """First depth with narrow prefixes; tokens of earlier depths are stored in the edges only."""
        return next((depth for depth, rows in enumerate(self.rows) if rows), self.max_length)

    @property
    def rows_margin(self) -> int:
        """Number of rows by which a window can reach beyond the last docid."""
        later = [level.rows for level in self.levels[1:]]
        return max([*later, self.rows[0] - self.capacity.docids, 0])

    @property
    def edges_margin(self) -> int:
        """Number of edges by which a window can reach beyond the last edge."""
        later = [level.edges for level in self.levels[1:]]
        return max([*later, self.levels[0].edges - self.capacity.edges, 0])

    @property
    def lists(self) -> bool:
        """Whether the children of any wide prefix are listed."""
        return any(edges and not dense for edges, dense in zip(self.edges, self.dense, strict=True))

    @property
    def bitmap_depths(self) -> int:
        """Number of depths up to the last one whose children are bits."""
        return max((depth + 1 for depth, dense in enumerate(self.dense) if dense), default=0)

    @property
    def bitmap_words(self) -> int:
        """Number of words of a bitmap, enough for the widest range."""
        return max((words_for(span) for span, dense in zip(self.spans, self.dense, strict=True) if dense), default=0)

    @property
    def levels(self) -> tuple[Level, ...]:
        """The root, and then the other depths, grouped by about the same number of candidates."""
        levels = [
            Level(depth, depth + 1, span if dense else 0, 0 if dense else edges, rows)
            for depth, (span, dense, edges, rows) in enumerate(
                zip(self.spans, self.dense, self.edges, self.rows, strict=True)
            )
        ]
        grouped = levels[:1]
        for level in levels[1:]:
            last = grouped[-1]
            narrow, wide = sorted((last.width, level.width))
            same = last.span == level.span and bool(last.edges) == bool(level.edges)
            alike = same and wide <= max(2 * narrow, _NARROW)
            if alike and last.start > 0:
                most = (max(pair) for pair in zip(last[2:], level[2:], strict=True))
                grouped[-1] = Level(last.start, level.stop, *most)
            else:
                grouped.append(level)
        return tuple(grouped)


class Prefixes(NamedTuple):
    """Statistics of the prefixes of one depth."""

    sizes: np.ndarray  # docids of each prefix that is too large for the least window
    fanouts: np.ndarray  # children of each of these
    largest_narrow: int  # docids of the largest other prefix; 0 if there is none
    decided: float  # share of prefixes that begin a single docid

    def wide(self, window: int) -> int:
        """Return how many prefixes are wider than a window."""
        return int(np.count_nonzero(self.sizes > window))

    def all_edges(self, window: int) -> int:
        """Return the children of all prefixes wider than a window."""
        return int(self.fanouts[self.sizes > window].sum())

    def edges(self, window: int) -> int:
        """Return the most children of a prefix wider than a window."""
        return int(self.fanouts[self.sizes > window].max(initial=0))

    def rows(self, window: int) -> int:
        """Return the most docids of a prefix that fits a window."""
        return int(self.sizes[self.sizes <= window].max(initial=self.largest_narrow))


def prefix_starts(departs: np.ndarray, depth: int) -> np.ndarray:
    """Return the first docid of each prefix of a depth; a docid that has ended is a prefix of its own."""
    blocks = [
        (np.flatnonzero(departs[start : start + _BLOCK] <= depth) + start).astype(np.int32)
        for start in range(0, len(departs), _BLOCK)
    ]
    return np.concatenate(blocks)


def children_of(starts: np.ndarray, stops: np.ndarray, next_starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, for each prefix, its first child among the next depth's prefixes, and the one after its last child."""
    return np.searchsorted(next_starts, starts), np.searchsorted(next_starts, stops)


def count_prefixes(departs: np.ndarray, max_length: int, window: int = _LEAST_WINDOW) -> list[Prefixes]:
    """Count the prefixes of each depth of sorted docids; see :class:`genret_jax.decoding.sorting.SortedDocids`."""
    counted: list[Prefixes] = []
    next_starts = prefix_starts(departs, 0)
    for depth in range(max_length):
        starts, sizes = next_starts, np.diff(next_starts, append=np.int32(len(departs)))
        if len(starts) == len(departs):  # every docid is decided, here and deeper
            return counted + [Prefixes(sizes[:0], sizes[:0], 1, 1.0)] * (max_length - depth)
        next_starts = prefix_starts(departs, depth + 1)
        wide = sizes > window
        first, stop = children_of(starts[wide], starts[wide] + sizes[wide], next_starts)
        narrow = sizes[~wide].max(initial=0)
        decided = np.count_nonzero(sizes == 1) / len(sizes)
        counted.append(Prefixes(sizes[wide], stop - first, int(narrow), decided))
    return counted


def _dense(prefixes: Prefixes, window: int, span: int) -> bool:
    """Return whether bits are quicker to search, and no larger, than lists of the children of wide prefixes."""
    words = prefixes.wide(window) * words_for(span)
    return 0 < span <= _BITS * prefixes.edges(window) and words <= prefixes.all_edges(window)


def _cost(prefixes: Prefixes, window: int, span: int, at_root: bool) -> int:
    """Return the cost of reading a beam's candidates at a depth, in bits; the root is read once for all queries."""
    edges, rows = prefixes.edges(window), prefixes.rows(window)
    look_up = 1 if at_root else _LOOK_UP
    return span + look_up * rows if _dense(prefixes, window, span) else look_up * max(edges, rows)


def _bytes(counted: list[Prefixes], window: int, spans: list[int], docids: SortedDocids) -> int:
    """Return the size of the columns, edges and bitmaps."""
    first_column = next((depth for depth, prefixes in enumerate(counted) if prefixes.rows(window)), len(counted))
    edges = sum(prefixes.all_edges(window) for prefixes in counted)
    words, code = 0, 0
    for prefixes, span in zip(counted, spans, strict=True):
        if _dense(prefixes, window, span):
            words += prefixes.wide(window) * words_for(span)
        elif prefixes.wide(window):
            code = docids.columns.itemsize
    return docids.columns[first_column:].nbytes + edges * (4 + code) + 4 * words


def _choose_window(counted: list[Prefixes], spans: list[int], docids: SortedDocids) -> int:
    """Choose the window with the smallest index among those whose search is about the quickest."""
    largest = max(int(prefixes.sizes.max(initial=1)) for prefixes in counted)
    windows = [_LEAST_WINDOW << doubling for doubling in range(largest.bit_length())]
    depths = [*enumerate(zip(counted, spans, strict=True))]
    costs = [sum(_cost(prefixes, w, span, depth == 0) for depth, (prefixes, span) in depths) for w in windows]
    quick = [w for w, cost in zip(windows, costs, strict=True) if cost <= _SLOWING * min(costs)]
    return min(quick, key=lambda w: _bytes(counted, w, spans, docids))


def choose_layout(docids: SortedDocids, *, vocab_size: int, room: float) -> Layout:
    """Choose a layout with a quick search, and among those the smallest.

    Args:
        docids: All docids.
        vocab_size: Size of the vocabulary.
        room: Share of free space for later documents.
    """
    counted = count_prefixes(docids.departs, len(docids.columns))
    spans = _spans(docids, vocab_size, room)
    window = _choose_window(counted, spans, docids)
    rows = [prefixes.rows(window) for prefixes in counted]
    window = max(_LEAST_WINDOW, 1 << (max(rows) - 1).bit_length())  # as large as it need be
    dense = [_dense(prefixes, window, span) for prefixes, span in zip(counted, spans, strict=True)]
    decided = [depth for depth, prefixes in enumerate(counted) if prefixes.decided >= _FORCED_SHARE]
    layout = Layout(
        max_length=len(counted),
        window=window,
        edges=tuple(_aligned(prefixes.edges(window)) for prefixes in counted),
        rows=(rows[0], *map(_aligned, rows[1:])),
        spans=tuple(spans),
        dense=tuple(dense),
        forced_from=max(1, decided[0]) if decided else len(counted),
        mixed=bool((docids.lengths != len(counted)).any()),
        consecutive=len(prefix_starts(docids.departs, 1)) == spans[0] == rows[0],
        capacity=_capacity(counted, window, dense, docids),
    )
    return _with_room(layout, room) if room else layout


def _spans(docids: SortedDocids, vocab_size: int, room: float) -> list[int]:
    """Return the widths of the ranges of tokens; with room, as wide as the type of the columns allows."""
    if not room:
        return [int(column.max()) + 1 for column in docids.columns]
    most = np.iinfo(docids.columns.dtype).max + 1
    return [min(most, vocab_size - int(first)) for first in docids.first_tokens]


def _capacity(counted: list[Prefixes], window: int, dense: list[bool], docids: SortedDocids) -> Capacity:
    """Return the sizes of arrays that hold these docids and no more."""
    wide = [prefixes.wide(window) for prefixes in counted]
    count = len(docids.departs)
    return Capacity(
        docids=count,
        rows=count if docids.offsets is None else int(docids.offsets[-1]),
        wide=sum(wide),
        edges=sum(prefixes.all_edges(window) for prefixes in counted),
        bitmaps=max((sum(wide[: depth + 1]) for depth, is_dense in enumerate(dense) if is_dense), default=0),
    )


def _with_room(layout: Layout, room: float) -> Layout:
    """Enlarge a layout, in steps so large that few updates exceed them."""
    edges = [
        span if dense else _rounded_up(size, room, span) if size else 0
        for size, span, dense in zip(layout.edges, layout.spans, layout.dense, strict=True)
    ]
    # A wide prefix may lose most of its docids, and so may come to any width of a window.
    rows = [
        layout.window if edges else _rounded_up(max(rows, 2), room, layout.window)
        for edges, rows in zip(layout.edges, layout.rows, strict=True)
    ]
    return dataclasses.replace(
        layout,
        edges=tuple(edges),
        rows=(rows[0] if layout.rows[0] else 0, *rows[1:]),
        mixed=True,
        consecutive=False,
        capacity=Capacity(*(int(np.ceil(size * (1 + room))) for size in layout.capacity)),
        room=room,
    )


def fits(docids: SortedDocids, layout: Layout) -> bool:
    """Return whether a layout can hold docids."""
    capacity = layout.capacity
    if len(docids.columns) > layout.max_length or len(docids.departs) > capacity.docids:
        return False
    if not layout.mixed and (docids.lengths != layout.max_length).any():
        return False
    # The search then takes the code of a token for the number of its child, so no token may be missing.
    if layout.consecutive and len(prefix_starts(docids.departs, 1)) != layout.spans[0]:
        return False
    counted = count_prefixes(docids.departs, len(docids.columns), layout.window)
    wide = [len(prefixes.sizes) for prefixes in counted]
    if sum(wide) > capacity.wide or sum(wide[: layout.bitmap_depths]) > capacity.bitmaps:
        return False
    if sum(int(prefixes.fanouts.sum()) for prefixes in counted) > capacity.edges:
        return False
    bounds = zip(counted, layout.edges, layout.rows, strict=False)
    return all(p.edges(layout.window) <= edges and p.largest_narrow <= rows for p, edges, rows in bounds)


def _aligned(width: int) -> int:
    return width if width <= _ALIGNED else -(-width // _ALIGNED) * _ALIGNED


def _rounded_up(size: int, room: float, most: int) -> int:
    """Return the enlarged size as a power of two, so that few updates exceed it."""
    return size if size >= most else min(most, 1 << (int(np.ceil(size * (1 + room))) - 1).bit_length())
