"""Lloyd's k-means over many groups of vectors in one jitted call.

Hierarchical k-means has one large problem at the top and thousands of small ones below. All groups of a depth are
clustered together: their vectors are laid out in blocks of equal size, each block belonging to one group, so that the
padding is less than a block a group and one depth costs one compilation. Distances are batched matrix products of
blocks with the centroids of their groups.

Initialisation is greedy k-means++ (Arthur and Vassilvitskii 2007, with several candidates a step, as scikit-learn
does), the stopping rule is scikit-learn's, and a cluster that runs empty takes the farthest vector of its group.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.validation import check_fields, require

# Small problems are padded to these, so that many of them share one compilation.
_FEWEST_GROUPS, _FEWEST_ROWS = 16, 4096


@dataclasses.dataclass(frozen=True, kw_only=True)
class KMeans:
    """How to cluster.

    Attributes:
        clusters: Number of clusters of every group, at least 2.
        restarts: Independent starts; every group keeps the one of least inertia.
        iterations: Most iterations of Lloyd's algorithm.
        tolerance: A group has converged when the squared movement of its centroids, summed, is at most this times
            the mean variance of a dimension in the group.
    """

    clusters: int
    restarts: int = 1
    iterations: int = 100
    tolerance: float = 1e-4

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "clusters", self.clusters >= 2, "at least 2")
        for name in ("restarts", "iterations"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        require(self, "tolerance", self.tolerance >= 0, "at least 0")

    def fit(self, vectors: Float32[np.ndarray, "n d"], seed: int) -> "Clustering":
        """Cluster one set of vectors."""
        return self.fit_groups(vectors, np.zeros(len(vectors), np.int32), seed)

    def fit_groups(self, vectors: Float32[np.ndarray, "n d"], group: Int[np.ndarray, " n"], seed: int) -> "Clustering":
        """Cluster every group of vectors by itself.

        Args:
            vectors: Finite vectors.
            group: Group of every vector, numbered from 0 without gaps.
            seed: Decides the starts.

        Returns:
            Labels within each vector's group. A group with fewer distinct vectors than clusters leaves some unused.
        """
        layout = _Layout.of(group, self.clusters)
        blocks = np.zeros((layout.blocks * layout.block_size, vectors.shape[1]), np.float32)
        blocks[layout.slots] = vectors[layout.order]
        present = np.zeros(len(blocks), bool)
        present[layout.slots] = True
        shape = layout.blocks, layout.block_size
        labels, distances, centroids = _cluster(
            blocks.reshape(*shape, -1),
            present.reshape(shape),
            layout.owner,
            layout.first_block,
            *self._starts(layout, seed),
            self.tolerance,
            iterations=self.iterations,
        )
        back = np.empty(len(vectors), np.int64)
        back[layout.order] = layout.slots
        return Clustering(
            labels=np.asarray(labels).reshape(-1)[back],
            distances=np.asarray(distances).reshape(-1)[back],
            centroids=np.asarray(centroids)[: int(group.max(initial=-1)) + 1],
        )

    def _starts(
        self, layout: "_Layout", seed: int
    ) -> tuple[Int32[np.ndarray, "restarts g"], Float32[np.ndarray, "restarts c_minus_1 g t"]]:
        """Draw what decides the starts: first centroids and uniform numbers (jax.random would double compilation)."""
        random = np.random.default_rng(seed)
        member = (random.random((self.restarts, len(layout.sizes))) * layout.sizes).astype(np.int64)
        first = np.zeros((self.restarts, layout.groups), np.int32)
        first[:, : len(layout.sizes)] = layout.first_block[: len(layout.sizes)] * layout.block_size + member
        trials = 2 + int(np.log(self.clusters))  # as scikit-learn
        return first, random.random((self.restarts, self.clusters - 1, layout.groups, trials), np.float32)


class Clustering(NamedTuple):
    """Where every vector went.

    Attributes:
        labels: Cluster within the vector's group.
        distances: Squared distance to that cluster's centroid; their sum is the inertia.
        centroids: Centroids of every group.
    """

    labels: Int32[np.ndarray, " n"]
    distances: Float32[np.ndarray, " n"]
    centroids: Float32[np.ndarray, "g c d"]


class _Layout(NamedTuple):
    """Vectors sorted by group, in blocks that belong to one group each; counts are rounded up to bound compilations."""

    order: np.ndarray  # int64[n]: vectors sorted by group
    slots: np.ndarray  # int64[n]: place among all block rows of each sorted vector
    sizes: np.ndarray  # int64[groups that exist]
    owner: np.ndarray  # int32[blocks]: group of every block, ascending; surplus blocks belong to the last, empty group
    first_block: np.ndarray  # int32[groups + 1]: blocks of group i are first_block[i]:first_block[i + 1]
    groups: int
    blocks: int
    block_size: int

    @classmethod
    def of(cls, group: np.ndarray, clusters: int) -> "_Layout":
        sizes = np.bincount(group)
        # Larger blocks make better matrix products but waste more padding; they never have fewer rows than centroids.
        largest = max(256, 4 ** int(np.ceil(np.log(4 * clusters) / np.log(4))))
        block_size = int(np.clip(4 ** int(np.log(sizes.mean() / 2 + 1) / np.log(4)), 16, largest))
        per_group = -(-sizes // block_size)
        groups = _rounded(max(len(sizes) + 1, _FEWEST_GROUPS))
        blocks = _rounded(max(int(per_group.sum()), _FEWEST_ROWS // block_size))
        order = np.argsort(group, kind="stable")
        first_row, first_block = np.cumsum(sizes) - sizes, np.cumsum(per_group) - per_group
        slots = np.arange(len(group)) + (first_block * block_size - first_row)[group[order]]
        owner = np.full(blocks, groups - 1, np.int32)
        owner[: per_group.sum()] = np.repeat(np.arange(len(sizes), dtype=np.int32), per_group)
        bounds = np.searchsorted(owner, np.arange(groups + 1)).astype(np.int32)
        return cls(order, slots, sizes, owner, bounds, groups, blocks, block_size)


def _rounded(count: int) -> int:
    """Round up to a number with three significant bits, so at most by a quarter."""
    step = 1 << max(count.bit_length() - 3, 0)
    return -(-count // step) * step


class _Data(NamedTuple):
    """Centred vectors in blocks, with what every step needs of them."""

    vectors: Float[Array, "n b d"]
    norms: Float[Array, "n b"]  # squared
    present: Bool[Array, "n b"]
    owner: Int[Array, " n"]
    first_block: Int[Array, " g_plus_1"]

    @property
    def groups(self) -> int:
        return len(self.first_block) - 1

    def total(self, values: Float[Array, "n *rest"]) -> Float[Array, "g *rest"]:
        """Sum over the blocks of every group."""
        return jax.ops.segment_sum(values, self.owner, self.groups, indices_are_sorted=True)

    def distances(self, centroids: Float[Array, "g c d"]) -> Float[Array, "n b c"]:
        """Squared distances of every vector to the centroids of its group."""
        products = jnp.einsum("nbd,ncd->nbc", self.vectors, centroids[self.owner])
        squares = jnp.sum(centroids**2, -1)[self.owner]
        return jnp.maximum(self.norms[..., None] - 2 * products + squares[:, None, :], 0)

    def rows(self, index: Int[Array, "g t"]) -> Float[Array, "g t d"]:
        """Gather vectors by block row."""
        return self.vectors.reshape(-1, self.vectors.shape[-1])[index]

    def draw(self, weights: Float[Array, "n b"], uniform: Float[Array, "g t"]) -> Int[Array, "g t"]:
        """Draw block rows of every group with probabilities in proportion to weights, by inverting their sums."""
        in_block = weights.sum(1)
        upto = jnp.cumsum(in_block)
        first = jnp.minimum(self.first_block[:-1], len(weights) - 1)[:, None]  # a group without blocks takes any
        last = jnp.maximum(self.first_block[1:] - 1, 0)[:, None]
        before = upto[first] - in_block[first]
        target = before + uniform * (upto[last] - before)  # --> [g, t]
        block = jnp.clip(jnp.sum(upto[None, None, :] <= target[..., None], -1), first, last)
        rest = target - (upto[block] - in_block[block])
        row = jnp.sum(jnp.cumsum(weights[block], -1) <= rest[..., None], -1)  # --> [g, t]
        return block * weights.shape[1] + jnp.clip(row, 0, jnp.maximum(self.present.sum(1)[block] - 1, 0))

    def farthest(self, distances: Float[Array, "n b"]) -> Int[Array, " g"]:
        """Return the block row with the largest distance in every group."""
        blocks, size = distances.shape
        largest = distances.max(1)
        of_group = jax.ops.segment_max(largest, self.owner, self.groups, indices_are_sorted=True)
        block = jnp.where(largest == of_group[self.owner], jnp.arange(blocks), blocks - 1)
        block = jax.ops.segment_min(block, self.owner, self.groups, indices_are_sorted=True)
        block = jnp.minimum(block, blocks - 1)  # a group without blocks takes any
        return block * size + distances.argmax(1)[block]


@functools.partial(jax.jit, static_argnames=("iterations",))
def _cluster(
    blocks: Float[Array, "n b d"],
    present: Bool[Array, "n b"],
    owner: Int[Array, " n"],
    first_block: Int[Array, " g_plus_1"],
    first: Int[Array, "restarts g"],
    draws: Float[Array, "restarts c_minus_1 g t"],
    tolerance: float | Float[Array, ""],
    *,
    iterations: int,
) -> tuple[Int[Array, "n b"], Float[Array, "n b"], Float[Array, "g c d"]]:
    data, mean, variance = _centred(blocks, present, owner, first_block)

    def run(start: Int[Array, ""]) -> tuple[Int[Array, "n b"], Float[Array, "n b"], Float[Array, "g c d"]]:
        centroids = _plus_plus(data, first[start], draws[start])
        centroids = _lloyd(data, centroids, tolerance * variance, iterations)
        distances = data.distances(centroids)
        return distances.argmin(-1).astype(jnp.int32), jnp.where(present, distances.min(-1), 0), centroids

    def better(start: Int[Array, ""], best: tuple) -> tuple:
        found = run(start)
        wins = data.total(found[1].sum(1)) < data.total(best[1].sum(1))
        by_block = wins[owner][:, None]
        kept = (jnp.where(by_block, found[i], best[i]) for i in (0, 1))
        return *kept, jnp.where(wins[:, None, None], found[2], best[2])

    best = run(jnp.zeros((), jnp.int32))
    labels, distances, centroids = jax.lax.fori_loop(1, len(first), better, best) if len(first) > 1 else best
    return labels, distances, centroids + mean[:, None, :]


def _centred(
    blocks: Float[Array, "n b d"],
    present: Bool[Array, "n b"],
    owner: Int[Array, " n"],
    first_block: Int[Array, " g_plus_1"],
) -> tuple[_Data, Float[Array, "g d"], Float[Array, " g"]]:
    """Subtract every group's mean, so that squared distances keep their digits; also return the mean variance."""
    raw = _Data(blocks, present.astype(blocks.dtype), present, owner, first_block)
    counts = jnp.maximum(raw.total(raw.norms.sum(1)), 1)
    mean = raw.total(blocks.sum(1)) / counts[:, None]
    vectors = jnp.where(present[..., None], blocks - mean[owner][:, None, :], 0)
    data = raw._replace(vectors=vectors, norms=jnp.sum(vectors**2, -1))
    return data, mean, data.total(data.norms.sum(1)) / counts / blocks.shape[-1]


def _plus_plus(data: _Data, first: Int[Array, " g"], draws: Float[Array, "c_minus_1 g t"]) -> Float[Array, "g c d"]:
    """Choose starting centroids by greedy k-means++: of a few candidates drawn by squared distance, the best one."""

    def add(step: Int[Array, ""], state: tuple) -> tuple:
        centroids, closest = state
        candidates = data.rows(data.draw(closest, draws[step]))  # --> [g, t, d]
        nearer = jnp.minimum(closest[..., None], data.distances(candidates))  # --> [n, b, t]
        best = data.total(nearer.sum(1)).argmin(-1)  # --> [g]
        closest = jnp.take_along_axis(nearer, best[data.owner][:, None, None], 2)[..., 0]
        chosen = jnp.take_along_axis(candidates, best[:, None, None], 1)
        return jax.lax.dynamic_update_slice_in_dim(centroids, chosen, step + 1, 1), closest

    start = data.rows(first[:, None])  # --> [g, 1, d]
    closest = data.distances(start)[..., 0] * data.present  # an absent row is never drawn
    centroids = jnp.concatenate([start, jnp.zeros((len(start), len(draws), start.shape[-1]))], 1)
    return jax.lax.fori_loop(0, len(draws), add, (centroids, closest))[0]


class _Progress(NamedTuple):
    centroids: Float[Array, "g c d"]
    active: Bool[Array, " g"]  # a group's result must not depend on how long other groups take
    step: Int[Array, ""]


def _lloyd(
    data: _Data, centroids: Float[Array, "g c d"], limit: Float[Array, " g"], iterations: int
) -> Float[Array, "g c d"]:
    """Move centroids to the means of their vectors until no group's centroids move by more than its limit."""

    def advance(progress: _Progress) -> _Progress:
        moved = jnp.where(progress.active[:, None, None], _means(data, progress.centroids), progress.centroids)
        shift = jnp.sum((moved - progress.centroids) ** 2, (1, 2))
        return _Progress(moved, progress.active & (shift > limit), progress.step + 1)

    def unfinished(progress: _Progress) -> Bool[Array, ""]:
        return progress.active.any() & (progress.step < iterations)

    start = _Progress(centroids, jnp.ones(data.groups, bool), jnp.zeros((), jnp.int32))
    return jax.lax.while_loop(unfinished, advance, start).centroids


def _means(data: _Data, centroids: Float[Array, "g c d"]) -> Float[Array, "g c d"]:
    """Return the mean of every cluster's vectors; an empty cluster moves to its group's farthest vector."""
    groups, clusters, width = centroids.shape
    distances = data.distances(centroids)
    labels, nearest = distances.argmin(-1), jnp.where(data.present, distances.min(-1), 0)
    # Absent rows go to one cluster too many, which is cut off.
    cluster = jnp.where(data.present, data.owner[:, None] * clusters + labels, groups * clusters).reshape(-1)
    sums = jax.ops.segment_sum(data.vectors.reshape(-1, width), cluster, groups * clusters + 1)[:-1]
    counts = jax.ops.segment_sum(jnp.ones(cluster.shape), cluster, groups * clusters + 1)[:-1]
    counts = counts.reshape(groups, clusters)
    means = sums.reshape(centroids.shape) / jnp.maximum(counts, 1)[..., None]
    means = jnp.where((counts > 0)[..., None], means, centroids)
    return jax.lax.cond((counts == 0).any(), lambda: _refill(data, means, counts, nearest), lambda: means)


def _refill(
    data: _Data, means: Float[Array, "g c d"], counts: Float[Array, "g c"], nearest: Float[Array, "n b"]
) -> Float[Array, "g c d"]:
    """Move the first empty cluster of every group to the group's farthest vector, if any is off its centroid."""
    row = data.farthest(nearest)[:, None]
    empty = counts == 0
    first = empty & (jnp.cumsum(empty, 1) == 1) & (nearest.reshape(-1)[row] > 0)
    return jnp.where(first[..., None], data.rows(row), means)
