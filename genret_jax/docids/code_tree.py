"""The tree over code sequences, as two append-only arrays: every node's parent and the code on the edge to it.

Node 0 is the root. A node's id never changes and is larger than its parent's, so output rows keyed by node ids
survive documents that come later.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

ROOT = 0
EOS_CODE = -1  # the edge "the docid ends here", which lets "12" and "123" both be docids


class CodeTree(NamedTuple):
    """A tree over code sequences.

    Attributes:
        parent: Parent of every node, -1 for the root.
        code: Code on the edge to every node; ``EOS_CODE`` for the root and for ends.
    """

    parent: Int32[np.ndarray, " s"]
    code: Int32[np.ndarray, " s"]

    @classmethod
    def root(cls) -> "CodeTree":
        """Return the tree that is only its root."""
        return cls(np.full(1, -1, np.int32), np.full(1, EOS_CODE, np.int32))

    def insert(
        self, sequences: Int[np.ndarray, "r m"], lengths: Int[np.ndarray, " r"]
    ) -> tuple["CodeTree", Int32[np.ndarray, " r"]]:
        """Add code sequences, all sequences one level at a time.

        New nodes are numbered level by level, within a level by (parent, code).

        Args:
            sequences: Codes from 0 on; the entries beyond a row's length are ignored.
            lengths: Number of codes in every row.

        Returns:
            The grown tree, and the node in which every row ends.
        """
        known_keys = _edge_keys(self.parent[1:], self.code[1:])
        known_nodes = np.argsort(known_keys, kind="stable")
        known_keys, known_nodes = known_keys[known_nodes], known_nodes + 1
        parents, codes, size = [self.parent], [self.code], len(self.parent)
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
        return CodeTree(np.concatenate(parents), np.concatenate(codes)), node.astype(np.int32)

    def with_ends(self, nodes: Int[np.ndarray, " r"], *, always: bool = False) -> "CodeTree":
        """Give an end-of-sequence child to the nodes that need one and have none.

        Args:
            nodes: The nodes in which sequences end.
            always: All of these nodes need one; else only those with other children.
        """
        is_end = self.code == EOS_CODE
        needs, inner = np.zeros(len(self.parent), bool), np.zeros(len(self.parent), bool)
        needs[nodes] = True
        inner[self.parent[1:][~is_end[1:]]] = True
        if not always:
            needs &= inner
        needs[self.parent[1:][is_end[1:]]] = False
        at = np.flatnonzero(needs).astype(np.int32)
        return CodeTree(
            np.concatenate([self.parent, at]), np.concatenate([self.code, np.full(len(at), EOS_CODE, np.int32)])
        )


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
