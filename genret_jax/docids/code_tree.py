"""The tree over code sequences, as two append-only arrays: every node's parent and the code on the edge to it.

Node 0 is the root. A node's id never changes and is larger than its parent's, so output rows keyed by node ids
survive documents that come later.
"""

import numpy as np
from jaxtyping import Int, Int32

ROOT = 0
EOS_CODE = -1  # the edge "the docid ends here", which lets "12" and "123" both be docids


def lone_root() -> tuple[Int32[np.ndarray, "1"], Int32[np.ndarray, "1"]]:
    """Return parent and code of a tree that is only its root."""
    return np.full(1, -1, np.int32), np.full(1, EOS_CODE, np.int32)


def insert(
    parent: Int32[np.ndarray, " s"],
    code: Int32[np.ndarray, " s"],
    sequences: Int[np.ndarray, "r m"],
    lengths: Int[np.ndarray, " r"],
) -> tuple[Int32[np.ndarray, " s2"], Int32[np.ndarray, " s2"], Int32[np.ndarray, " r"]]:
    """Add code sequences to a tree, all sequences one level at a time.

    New nodes are numbered level by level, within a level by (parent, code).

    Args:
        parent: Parent of every node, -1 for the root.
        code: Code on the edge to every node.
        sequences: Non-negative codes; what lies beyond a row's length is ignored.
        lengths: Number of codes in every row.

    Returns:
        Parent and code of the grown tree, and the node that every row ends in.
    """
    known_keys = _edge_keys(parent[1:], code[1:])
    known_nodes = np.argsort(known_keys, kind="stable")
    known_keys, known_nodes = known_keys[known_nodes], known_nodes + 1
    parents, codes, size = [parent], [code], len(parent)
    node = np.zeros(len(sequences), np.int64)
    for level in range(int(lengths.max(initial=0))):
        rows = np.flatnonzero(lengths > level)
        keys, inverse = np.unique(_edge_keys(node[rows], sequences[rows, level]), return_inverse=True)
        nodes = _look_up(known_keys, known_nodes, keys)
        new = nodes < 0
        nodes[new] = size + np.arange(new.sum())
        size += int(new.sum())
        parents.append((keys[new] >> 32).astype(np.int32))
        codes.append(((keys[new] & 0xFFFFFFFF) - 1).astype(np.int32))
        node[rows] = nodes[inverse]
    return np.concatenate(parents), np.concatenate(codes), node.astype(np.int32)


def ends_in_need(
    parent: Int32[np.ndarray, " s"], code: Int32[np.ndarray, " s"], ends: Int[np.ndarray, " r"], *, always: bool = False
) -> Int32[np.ndarray, " e"]:
    """Return the nodes that lack an end-of-sequence child and need one, ascending.

    Args:
        parent: Parent of every node.
        code: Code on the edge to every node.
        ends: The nodes in which sequences end.
        always: Every end needs one; else only an end with other children.
    """
    is_eos = code == EOS_CODE
    needs, inner = np.zeros(len(parent), bool), np.zeros(len(parent), bool)
    needs[ends] = True
    inner[parent[1:][~is_eos[1:]]] = True
    if not always:
        needs &= inner
    needs[parent[1:][is_eos[1:]]] = False
    return np.flatnonzero(needs).astype(np.int32)


def add_ends(
    parent: Int32[np.ndarray, " s"], code: Int32[np.ndarray, " s"], at: Int32[np.ndarray, " e"]
) -> tuple[Int32[np.ndarray, " s2"], Int32[np.ndarray, " s2"]]:
    """Give each of the nodes ``at`` an end-of-sequence child."""
    return np.concatenate([parent, at]), np.concatenate([code, np.full(len(at), EOS_CODE, np.int32)])


def paths(
    parent: Int32[np.ndarray, " s"], ends: Int32[np.ndarray, " r"], lengths: Int[np.ndarray, " r"]
) -> Int32[np.ndarray, "r m_plus_1"]:
    """Return the nodes on the way from the root to every end, both included, padded with 0."""
    longest = int(lengths.max(initial=0))
    path = np.zeros((len(ends), longest + 1), np.int32)
    node = np.array(ends)
    for level in range(longest, 0, -1):
        rows = np.flatnonzero(lengths >= level)
        path[rows, level] = node[rows]
        node[rows] = parent[node[rows]]
    return path


def depths(parent: Int32[np.ndarray, " s"]) -> Int32[np.ndarray, " s"]:
    """Return the number of edges between the root and every node."""
    depth = np.zeros(len(parent), np.int32)
    nodes, ancestors = np.arange(len(parent)), np.array(parent)
    while len(nodes := nodes[above := ancestors >= 0]):
        depth[nodes] += 1
        ancestors = parent[ancestors[above]]
    return depth


def _edge_keys(parent: Int[np.ndarray, " e"], code: Int[np.ndarray, " e"]) -> np.ndarray:
    # One integer per edge, in the order of (parent, code); EOS_CODE becomes 0 and comes first.
    return (parent.astype(np.int64) << 32) | (code.astype(np.int64) + 1)


def _look_up(sorted_keys: np.ndarray, values: np.ndarray, keys: np.ndarray) -> np.ndarray:
    if not len(sorted_keys):
        return np.full(len(keys), -1, np.int64)
    position = np.minimum(np.searchsorted(sorted_keys, keys), len(sorted_keys) - 1)
    return np.where(sorted_keys[position] == keys, values[position], -1)
