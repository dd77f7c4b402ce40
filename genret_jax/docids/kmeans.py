"""K-means of one set of vectors, or of many groups of them at once.

Hierarchical k-means has one large problem at the top and thousands of small ones below. All groups of a depth are
clustered together: their vectors are laid out in blocks of equal size, each block belonging to one group, so that the
padding is less than a block a group, and distances are batched matrix products of blocks with the centroids of their
groups. One compilation serves all depths.

Initialisation is greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step, as scikit-learn
does) on a sample, and a cluster that runs empty takes the farthest vector of its group.
"""

import dataclasses
from typing import Annotated, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.docids.lloyd import chunk_blocks, cluster
from genret_jax.validation import at_least, check_fields

SAMPLE = 64  # vectors of a group, for each of its centroids, on which k-means++ chooses the start


class Clustering(NamedTuple):
    """Result of k-means.

    Attributes:
        labels: Cluster within the vector's group.
        distances: Squared distance to that cluster's centroid; their sum is the inertia.
        centroids: Centroids of every group.
        varied: Whether a group's vectors differ by more than rounding; if not, its labels mean nothing.
    """

    labels: Int32[np.ndarray, " a"]
    distances: Float32[np.ndarray, " a"]
    centroids: Float32[np.ndarray, "g c d"]
    varied: Bool[np.ndarray, " g"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class KMeans:
    """Lloyd's algorithm with a start by greedy k-means++.

    Attributes:
        clusters: Number of clusters of every group.
        splitting: Number of first iterations after which clusters of one vector move to halves of large clusters; for
            vectors such as residuals, which are far from each other and near their mean.
    """

    clusters: Annotated[int, at_least(2)]
    splitting: Annotated[int, at_least(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)

    def fit(self, vectors: Float32[np.ndarray, "n d"], seed: int) -> Clustering:
        """Cluster one set of vectors."""
        return self.fit_groups(jnp.asarray(vectors), np.arange(len(vectors)), np.zeros(len(vectors), np.int64), seed)

    def fit_groups(
        self,
        vectors: Float[Array, "n d"],
        members: Int[np.ndarray, " a"],
        group: Int[np.ndarray, " a"],
        seed: int,
        most_groups: int = 1,
    ) -> Clustering:
        """Cluster every group of vectors by itself.

        Args:
            vectors: Finite vectors, on the device.
            members: Indices of the vectors to cluster.
            group: Group of every member, numbered from 0 without gaps.
            seed: Seed of the starts.
            most_groups: Most groups that later calls with these vectors have; shapes leave room for them.

        Returns:
            Labels within each member's group. A group with fewer distinct vectors than clusters leaves some unused.
        """
        layout = _BlockLayout.of(group, self.clusters, seed, most_rows=len(vectors), most_groups=most_groups)
        rows = np.full((layout.blocks, layout.block_size), -1, np.int32)
        rows.reshape(-1)[layout.slots] = members[layout.order]
        trials = 2 + int(np.log(self.clusters))  # as scikit-learn
        groups = len(layout.sizes)
        # Drawn here, because jax.random would double the time of compilation.
        draws = np.zeros((self.clusters, layout.groups, trials), np.float32)
        draws[:, :groups] = np.random.default_rng(seed).random((self.clusters, groups, trials), np.float32)
        blocks = rows, layout.owner, layout.first_block, layout.sample, layout.sampled
        labels, distances, centroids, varied = map(np.asarray, cluster(vectors, *blocks, draws, self.splitting))
        slot = np.empty(len(members), np.int64)
        slot[layout.order] = layout.slots
        return Clustering(labels.reshape(-1)[slot], distances.reshape(-1)[slot], centroids[:groups], varied[:groups])


class _BlockLayout(NamedTuple):
    """Place of every member of every group in blocks of equal size.

    Attributes:
        order: int64[a], members sorted by group, in random order within a group.
        slots: int64[a], place among all block rows of each sorted member.
        sizes: int64, members of every group.
        owner: int32[n], group of every block, ascending; the surplus blocks belong to a last, empty group.
        first_block: int32[g + 1], blocks of group i are ``first_block[i]:first_block[i + 1]``.
        sample: int32[n], all blocks; those of the sample for the start (the first ones of every group) come first.
        sampled: Number of the blocks of ``sample`` that are in the sample.
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
    def of(cls, group: np.ndarray, clusters: int, seed: int, *, most_rows: int, most_groups: int) -> "_BlockLayout":
        """Lay out members by their group.

        Args:
            group: Group of every member, numbered from 0 without gaps.
            clusters: Number of clusters of every group.
            seed: Seed of the order within a group; its first blocks are a random sample.
            most_rows: Most members of a later call.
            most_groups: Most groups of a later call. All calls up to these limits share one shape.
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


def _rounded(count: int) -> int:
    """Round up to a number with four significant bits, so at most by an eighth."""
    step = 1 << max(count.bit_length() - 4, 0)
    return -(-count // step) * step
