"""Sort docids and note how much each shares with the one before it; these two arrays say all that a trie does."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from genret_jax.errors import InputError

_BLOCK = 1 << 17  # rows worked on at a time, so that they stay in the processor's cache


class SortedDocids(NamedTuple):
    """Distinct docids in the order of their tokens, a docid before those that it would begin."""

    columns: np.ndarray  # uint8, uint16 or int32 [m, u]  tokens less first_tokens; 0 beyond the end
    first_tokens: np.ndarray  # int32[m]  lowest token of each position
    departs: (
        np.ndarray
    )  # uint8 or uint16 [u]  tokens of the shortest beginning that no earlier docid has; 0 for the first
    lengths: np.ndarray  # uint8 or uint16 [u]
    order: np.ndarray | None  # int64[r]  rows as given, sorted, equal ones as given; None where they were in this order
    offsets: np.ndarray | None  # int64[u + 1]  rows of each docid in this order; None where each has one


def check_docids(
    tokens: np.ndarray, lengths: np.ndarray, document: np.ndarray, prefix_nodes: np.ndarray | None, vocab_size: int
) -> None:
    """Raise if arrays are not a set of docids; the arguments are those of ``DocidIndex.build``."""
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"no docids (tokens of shape {tokens.shape})", expected="one row of tokens for each docid")
    if not np.issubdtype(tokens.dtype, np.integer):
        raise InputError(f"docid tokens of type {tokens.dtype}", expected="integers")
    count, width = tokens.shape
    for name, array, shape in (
        ("lengths", lengths, (count,)),
        ("document", document, (count,)),
        ("prefix_nodes", prefix_nodes, (count, width)),
    ):
        if array is not None and array.shape != shape:
            raise InputError(f"{name} of shape {array.shape} for {count} docids", expected=f"shape {shape}")
    unfit = np.flatnonzero((lengths < 1) | (lengths > width))
    if unfit.size:
        raise InputError(
            f"docid {unfit[0]} has length {lengths[unfit[0]]}", expected=f"1 to {width}, the array's width"
        )
    for start in range(0, count, _BLOCK):
        block = tokens[start : start + _BLOCK]
        if block.min() >= 0 and block.max() < vocab_size:
            continue
        spelt = np.arange(width) < lengths[start : start + _BLOCK, None]
        outside = np.argwhere(spelt & ((block < 0) | (block >= vocab_size)))
        if outside.size:
            row, position = outside[0]
            raise InputError(
                f"docid {start + row} has token {block[row, position]} at position {position}",
                expected=f"tokens of the decoder's vocabulary, 0 to {vocab_size - 1}",
                fix="use the codec and the decoder vocabulary that belong together",
            )


def sort_docids(
    tokens: np.ndarray, lengths: np.ndarray, vocab_size: int, number: np.ndarray | None = None
) -> SortedDocids:
    """Sort checked docids.

    Args:
        tokens: ``[r, m]`` integers in ``[0, vocab_size)``, ignored beyond ``lengths``.
        lengths: ``[r]``, at least 1.
        vocab_size: Size of the vocabulary.
        number: ``[r]``, the number that an error calls each row by; by default its place.

    Raises:
        InputError: If a docid is the beginning of another.
    """
    packing = _Packing.of(lengths, vocab_size)
    keys = list(_packed(tokens, lengths, packing))
    order = None if _in_order(keys) else _order(keys)
    if order is not None:
        for place, key in enumerate(keys):
            keys[place] = key[order]
    small = np.min_scalar_type(packing.length + 1)
    departs = np.zeros(len(tokens), small)
    columns, first_tokens = [], np.zeros(packing.length, np.int32)
    undecided = np.ones(len(tokens) - 1, bool)
    for position in range(packing.length):
        digits = packing.digits(keys, position)
        departs[1:] += undecided
        undecided &= digits[1:] == digits[:-1]
        columns.append(digits)
        if position % packing.a_key == packing.a_key - 1:
            keys[position // packing.a_key] = np.empty(0, np.uint64)  # spent
    departs[1:] += undecided  # equal docids depart beyond their end
    sorted_lengths = (lengths if order is None else lengths[order]).astype(small)
    first = departs <= packing.length
    offsets = None if first.all() else np.append(np.flatnonzero(first), len(first))
    for position, digits in enumerate(columns):
        digits = digits if offsets is None else digits[first]
        columns[position], first_tokens[position] = _from_lowest(digits, packing.mixed)
    stacked = np.stack(columns)
    if offsets is not None:
        departs, sorted_lengths = departs[first], sorted_lengths[first]
    docids = SortedDocids(stacked, first_tokens, departs, sorted_lengths, order, offsets)
    if packing.mixed:
        _check_prefix_free(docids, number)
    return docids


class _Packing(NamedTuple):
    """Packing of tokens in 64-bit keys, the first one highest; with mixed lengths 0 is the end, tokens count from 1."""

    length: int
    mixed: bool
    bits: int

    @classmethod
    def of(cls, lengths: np.ndarray, vocab_size: int) -> "_Packing":
        """Return the packing of docids with these lengths."""
        length, mixed = int(lengths.max()), bool((lengths != lengths[0]).any())
        return cls(length, mixed, max(1, (vocab_size if mixed else vocab_size - 1).bit_length()))

    @property
    def a_key(self) -> int:
        """Tokens in a key."""
        return 64 // self.bits

    def shift(self, position: int) -> np.uint64:
        """Return how far to the left of its key a position's token lies, in bits."""
        return np.uint64((self.a_key - 1 - position % self.a_key) * self.bits)

    def digits(self, keys: list[np.ndarray], position: int) -> np.ndarray:
        """Take the digits of one position out of the keys."""
        key, mask = keys[position // self.a_key], np.uint64((1 << self.bits) - 1)
        digits = np.empty(len(key), np.min_scalar_type((1 << self.bits) - 1))
        for start in range(0, len(key), _BLOCK):
            digits[start : start + _BLOCK] = (key[start : start + _BLOCK] >> self.shift(position)) & mask
        return digits


def _packed(tokens: np.ndarray, lengths: np.ndarray, packing: _Packing) -> Iterator[np.ndarray]:
    for first in range(0, packing.length, packing.a_key):
        key = np.zeros(len(tokens), np.uint64)
        for start in range(0, len(tokens), _BLOCK):
            block, part = tokens[start : start + _BLOCK], key[start : start + _BLOCK]
            for position in range(first, min(first + packing.a_key, packing.length)):
                digits = block[:, position].astype(np.uint64)
                if packing.mixed:
                    digits = np.where(lengths[start : start + _BLOCK] > position, digits + np.uint64(1), np.uint64(0))
                part |= digits << packing.shift(position)
        yield key


def _in_order(keys: list[np.ndarray]) -> bool:
    undecided: np.ndarray | bool = True
    for key in keys:
        if (undecided & (key[:-1] > key[1:])).any():
            return False
        undecided &= key[:-1] == key[1:]
    return True


def _order(keys: list[np.ndarray]) -> np.ndarray:
    """Return the stable order of rows: by the first key, and where that is equal by the others and the place given."""
    order = np.argsort(keys[0])
    equal = keys[0][order[1:]] == keys[0][order[:-1]]
    if not equal.any():
        return order
    tied = np.flatnonzero(np.append(equal, False) | np.append(False, equal))
    rows = order[tied]
    group = np.cumsum(~np.append(False, equal)[tied])
    order[tied] = rows[np.lexsort((rows, *(key[rows] for key in keys[:0:-1]), group))]
    return order


def _from_lowest(digits: np.ndarray, mixed: bool) -> tuple[np.ndarray, int]:
    """Return tokens less the lowest of them in the smallest type, and that token; with mixed lengths 0 is the end."""
    if mixed:
        spelt = digits > 0
        lowest = int(digits[spelt].min()) if spelt.any() else 1
        digits = np.where(spelt, digits, lowest).astype(digits.dtype)
        first = lowest - 1
    else:
        lowest = first = int(digits.min())
    span = int(digits.max()) - lowest
    column = digits if lowest == 0 else digits - digits.dtype.type(lowest)
    return column.astype(smallest_type(span), copy=False), first


def smallest_type(largest: int) -> Any:
    """Return the smallest integer type of the index that holds codes from 0 to ``largest``."""
    return np.int32 if largest > 65_535 else np.min_scalar_type(largest)


def _check_prefix_free(docids: SortedDocids, number: np.ndarray | None) -> None:
    """Raise if a docid is the beginning of another. Nothing sorts between the two, so neighbours are compared.

    Raises:
        InputError: If there is one.
    """
    departs, lengths = docids.departs, docids.lengths
    clash = np.flatnonzero((departs[1:] == lengths[:-1] + 1) & (lengths[1:] > lengths[:-1]))
    if clash.size:
        (short, its_tokens), (long, other_tokens) = (_row_of(docids, int(clash[0]) + after, number) for after in (0, 1))
        raise InputError(
            f"docid {short} {its_tokens} is the beginning of docid {long} {other_tokens}",
            expected="an EOS token at the end of the shorter one",
            fix="encode the docids with a codec that writes EOS where it is needed",
        )


def _row_of(docids: SortedDocids, docid: int, number: np.ndarray | None) -> tuple[int, list[int]]:
    """Return the number of the first row of a docid, and its tokens."""
    entry = docid if docids.offsets is None else docids.offsets[docid]
    row = entry if docids.order is None else docids.order[entry]
    length = docids.lengths[docid]
    tokens = docids.columns[:length, docid].astype(np.int64) + docids.first_tokens[:length]
    return int(row if number is None else number[row]), tokens.tolist()
