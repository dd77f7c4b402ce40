"""K-means of one set of vectors, or of many groups of them at once.

Hierarchical k-means has one large problem at the top and thousands of small ones below. All groups of a depth are
clustered together: their vectors are laid out in blocks of equal size, each block belonging to one group, so that the
padding is less than a block a group, and distances are batched matrix products of blocks with the centroids of their
groups. One compilation serves all depths.

Initialisation is greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step, as scikit-learn
does) on a sample, and a cluster that runs empty takes the farthest vector of its group.
"""

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.docids.blocks import BlockLayout
from genret_jax.docids.lloyd import cluster
from genret_jax.validation import check_fields, require


class Clustering(NamedTuple):
    """Where every vector went.

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
    """How to cluster.

    Attributes:
        clusters: Number of clusters of every group, at least 2.
        restarts: Independent starts; every group keeps the one of least inertia.
        iterations: Most iterations of Lloyd's algorithm.
        tolerance: A group has converged when the squared movement of its centroids, summed, is at most this times
            the mean squared distance of its vectors to their mean. Going on beyond 2e-4 lowered the inertia by less
            than 0.03% on sentence embeddings and on Gaussian clusters.
    """

    clusters: int
    restarts: int = 1
    iterations: int = 100
    tolerance: float = 2e-4

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "clusters", self.clusters >= 2, "at least 2")
        for name in ("restarts", "iterations"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "tolerance", self.tolerance >= 0, "at least 0")

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
            seed: Decides the starts.
            most_groups: How many groups later calls with these vectors may have; shapes leave room for them.

        Returns:
            Labels within each member's group. A group with fewer distinct vectors than clusters leaves some unused.
        """
        layout = BlockLayout.of(group, self.clusters, seed, most_rows=len(vectors), most_groups=most_groups)
        rows = np.full((layout.blocks, layout.block_size), -1, np.int32)
        rows.reshape(-1)[layout.slots] = members[layout.order]
        trials = 2 + int(np.log(self.clusters))  # as scikit-learn
        groups = len(layout.sizes)
        # Drawn here, because jax.random would double the time of compilation.
        draws = np.zeros((self.restarts, self.clusters, layout.groups, trials), np.float32)
        draws[:, :, :groups] = np.random.default_rng(seed).random((*draws.shape[:2], groups, trials), np.float32)
        blocks = rows, layout.owner, layout.first_block, layout.sample, layout.sampled
        found = cluster(vectors, *blocks, draws, self.tolerance, iterations=self.iterations)
        labels, distances, centroids, varied = map(np.asarray, found)
        slot = np.empty(len(members), np.int64)
        slot[layout.order] = layout.slots
        return Clustering(labels.reshape(-1)[slot], distances.reshape(-1)[slot], centroids[:groups], varied[:groups])
