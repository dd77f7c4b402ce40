"""Build the trie of a set of docids with whole-array operations: sort, compare neighbours, count, level by level."""

from typing import NamedTuple

import numpy as np

from genret_jax.errors import InputError


class Trie(NamedTuple):
    """A trie by levels; see :class:`genret_jax.decoding.DocidIndex` for the numbering of states."""

    child_offsets: np.ndarray  # int32[s + 1]
    child_tokens: np.ndarray  # int[e]
    prefix_nodes: np.ndarray  # int32[s]
    row_order: np.ndarray  # int64[r]  row numbers as given, sorted by tokens, equal ones in the order given
    row_ends: np.ndarray  # int32[r]  the state in which each of these rows ends


def check_docids(
    tokens: np.ndarray, lengths: np.ndarray, document: np.ndarray, prefix_nodes: np.ndarray | None, vocab_size: int
) -> None:
    """Reject arrays that are no set of docids; the arguments are those of ``DocidIndex.build``."""
    if tokens.ndim != 2 or not tokens.size:
        raise InputError(f"no docids (tokens of shape {tokens.shape})", expected="one row of tokens for each docid")
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
    for position in range(width):
        column = tokens[:, position]
        unfit = np.flatnonzero((lengths > position) & ((column < 0) | (column >= vocab_size)))
        if unfit.size:
            raise InputError(
                f"docid {unfit[0]} has token {column[unfit[0]]} at position {position}",
                expected=f"tokens of the decoder's vocabulary, 0 to {vocab_size - 1}",
                fix="use the codec and the decoder vocabulary that belong together",
            )


def build_trie(tokens: np.ndarray, lengths: np.ndarray, prefix_nodes: np.ndarray | None, vocab_size: int) -> Trie:
    """Build the trie of checked docids.

    Args:
        tokens: ``[r, m]`` integers in ``[0, vocab_size)``, ignored beyond ``lengths``.
        lengths: ``[r]``, at least 1.
        prefix_nodes: ``[r, m]`` or None for the states' own numbers.
        vocab_size: Bound of the tokens.

    Raises:
        InputError: If a docid is the beginning of another, or rows that share a prefix disagree about its node.
    """
    order = _sort(tokens, lengths, vocab_size)
    length = lengths[order]
    state = np.zeros(len(order), np.int32)  # of each sorted row, at the level reached
    first_in_prefix = np.zeros(len(order), bool)  # differs from the row before it in the tokens so far
    first_in_prefix[0] = True
    fanouts, edges, nodes = [], [], []
    level_start, level_size = 0, 1
    for position in range(int(length.max())):
        going_on = length > position
        _check_prefix_free(order, going_on, first_in_prefix, tokens, lengths)
        column = np.where(going_on, tokens[order, position], -1)
        if prefix_nodes is not None:
            given = prefix_nodes[order, position][going_on]
            nodes.append(_level_nodes(given, state[going_on] - level_start, level_size, position))
        first_in_prefix[1:] |= column[1:] != column[:-1]
        opens = first_in_prefix & going_on
        edges.append(column[opens])
        fanouts.append(np.bincount(state[opens] - level_start, minlength=level_size))
        level_start, level_size = level_start + level_size, int(opens.sum())
        state = np.where(going_on, level_start - 1 + np.cumsum(opens, dtype=np.int32), state).astype(np.int32)
    fanouts.append(np.zeros(level_size, np.int64))
    nodes.append(np.zeros(level_size, np.int32))
    size = level_start + level_size
    return Trie(
        child_offsets=np.append(0, np.cumsum(np.concatenate(fanouts))).astype(np.int32),
        child_tokens=np.concatenate(edges),
        prefix_nodes=np.arange(size, dtype=np.int32) if prefix_nodes is None else np.concatenate(nodes),
        row_order=order,
        row_ends=state,
    )


def _sort(tokens: np.ndarray, lengths: np.ndarray, vocab_size: int) -> np.ndarray:
    """Return the stable order of rows by tokens, shorter first, sorting as few integer keys as hold them."""
    bits = int(vocab_size).bit_length()
    a_key = max(1, 64 // bits)
    width = int(lengths.max())
    keys = []
    for start in range(0, width, a_key):
        key = np.zeros(len(tokens), np.uint64)
        for position in range(start, start + a_key):
            key <<= np.uint64(bits)
            if position < width:  # 0 is the end of a shorter row, so tokens count from 1
                key |= np.where(lengths > position, tokens[:, position] + 1, 0).astype(np.uint64)
        keys.append(key)
    return np.argsort(keys[0], kind="stable") if len(keys) == 1 else np.lexsort(keys[::-1])


def _check_prefix_free(
    order: np.ndarray, going_on: np.ndarray, first_in_prefix: np.ndarray, tokens: np.ndarray, lengths: np.ndarray
) -> None:
    clash = np.flatnonzero(going_on[1:] & ~going_on[:-1] & ~first_in_prefix[1:])
    if clash.size:
        short, long = order[clash[0]], order[clash[0] + 1]
        raise InputError(
            f"docid {short} {tokens[short, : lengths[short]].tolist()} is the beginning of docid {long} "
            f"{tokens[long, : lengths[long]].tolist()}",
            expected="an EOS token at the end of the shorter one",
            fix="encode the docids with a codec that writes EOS where it is needed",
        )


def _level_nodes(given: np.ndarray, state: np.ndarray, level_size: int, position: int) -> np.ndarray:
    nodes = np.zeros(level_size, np.int32)
    nodes[state] = given
    if (nodes[state] != given).any():
        raise InputError(
            f"docids with the same first {position} tokens have different prefix nodes",
            expected="one node for each prefix",
            fix="take tokens and prefix nodes from the same encoded docid table",
        )
    return nodes
