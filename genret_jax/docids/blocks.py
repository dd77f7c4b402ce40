"""Vectors of many groups, laid out in blocks of equal size that belong to one group each."""

from typing import NamedTuple

import numpy as np

CHUNK_ROWS = 4096  # vectors that one step of a pass looks at: enough for good matrix products, few enough for a cache

SAMPLE = 64  # vectors of a group, for each of its centroids, on which k-means++ chooses the start


class BlockLayout(NamedTuple):
    """Where every member of every group goes.

    Attributes:
        order: int64[a], members sorted by group, in an order of the seed's within a group.
        slots: int64[a], place among all block rows of each sorted member.
        sizes: int64, members of every group.
        owner: int32[n], group of every block, ascending; the surplus blocks belong to a last, empty group.
        first_block: int32[g + 1], blocks of group i are ``first_block[i]:first_block[i + 1]``.
        sample: int32[n], all blocks, the first ones of every group first.
        sampled: How many of them those are.
        groups: Number of groups with room for more, g.
        blocks: Number of blocks, n, whole chunks of them.
        block_size: Rows of a block.
    """

    order: np.ndarray
    slots: np.ndarray
    sizes: np.ndarray
    owner: np.ndarray
    first_block: np.ndarray
    sample: np.ndarray
    sampled: int
    groups: int
    blocks: int
    block_size: int

    @classmethod
    def of(cls, group: np.ndarray, clusters: int, seed: int, *, most_rows: int, most_groups: int) -> "BlockLayout":
        """Lay out members by their group.

        Args:
            group: Group of every member, numbered from 0 without gaps.
            clusters: Number of clusters of every group.
            seed: Decides the order within a group, so that its first blocks are a fair sample.
            most_rows: Members of the largest call to come; with ``most_groups``, lets all calls share one shape.
            most_groups: Groups of such calls.
        """
        sizes = np.bincount(group)
        # Blocks have more rows than centroids, of which each gets a copy, and are small enough for small groups.
        block_size = max(64, 2 ** int(np.ceil(np.log2(2 * clusters))))
        per_group = -(-sizes // block_size)
        used = int(per_group.sum())
        groups = 2 ** int(np.ceil(np.log2(max(len(sizes) + 1, most_groups, 16))))
        chunk = chunk_blocks(block_size)
        blocks = -(-_rounded(max(used + 1, most_rows // block_size * 11 // 10)) // chunk) * chunk
        order = np.lexsort((np.random.default_rng(seed).permutation(len(group)), group))
        first_row, first_block = np.cumsum(sizes) - sizes, np.cumsum(per_group) - per_group
        slots = np.arange(len(group)) + (first_block * block_size - first_row)[group[order]]
        owner = np.full(blocks, groups - 1, np.int32)
        owner[:used] = np.repeat(np.arange(len(sizes), dtype=np.int32), per_group)
        bounds = np.searchsorted(owner, np.arange(groups + 1)).astype(np.int32)
        rank = np.arange(blocks) - bounds[owner]
        sampled = (rank < max(SAMPLE * clusters // block_size, 1)) & (owner < len(sizes))
        sample = np.argsort(~sampled, kind="stable").astype(np.int32)
        return cls(order, slots, sizes, owner, bounds, sample, int(sampled.sum()), groups, blocks, block_size)


def chunk_blocks(block_size: int) -> int:
    """Return the number of blocks of a chunk."""
    return max(CHUNK_ROWS // block_size, 1)


def _rounded(count: int) -> int:
    """Round up to a number with four significant bits, so at most by an eighth."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step
