"""Semantic docids: the path of a document through a tree of clusters of document vectors."""

import dataclasses
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.checks import require_vectors
from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.table import DocidTable
from genret_jax.validation import check_fields, require

# Deeper groups are cut into equal parts; only vectors that defeat k-means, such as ever farther outliers, get there.
_DEEPEST_CLUSTERING = 12


@dataclasses.dataclass(frozen=True, kw_only=True)
class HierarchicalKMeans:
    """Semantically structured identifiers (Tay et al. 2022, arXiv 2202.06991, section 3.2, algorithm 1).

    All documents are clustered into ``branching`` clusters, and so is every cluster until it has at most
    ``leaf_size`` documents; the path of clusters is the docid, and the position in the last cluster is its last
    code. DSI has branching 10 and leaf size 100, NCI (arXiv 2206.02743) 30 and 30.

    Attributes:
        branching: Clusters of a cluster.
        leaf_size: Most documents of a cluster that is not divided further.
    """

    branching: int = 10
    leaf_size: int = 100

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "branching", self.branching >= 2, "at least 2")
        require(self, "leaf_size", self.leaf_size >= 1, "at least 1")

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Positions in a leaf go by the distance to its centroid, then by document index. Documents with the same
        vector, which k-means cannot divide, are divided into equal parts in their order.

        Args:
            doc_ids: External ids.
            vectors: One vector a document, [n, d].
            seed: Decides the starts of k-means.
            corpus_fingerprint: Fingerprint of the corpus.

        Raises:
            InputError: If vectors are missing, too many or few, or not finite.
        """
        checked = require_vectors(doc_ids, vectors, strategy="semantic docids")
        codes, level_sizes = self._codes(checked, seed)
        return DocidTable.from_codes(
            doc_ids,
            codes,
            level_sizes=level_sizes,
            strategy={"name": "semantic", **dataclasses.asdict(self), "seed": seed},
            corpus_fingerprint=corpus_fingerprint,
        )

    def _codes(self, vectors: Float32[np.ndarray, "n d"], seed: int) -> tuple[Int32[np.ndarray, "n m"], list[int]]:
        """Return codes padded with -1, and the size of every level."""
        documents = np.arange(len(vectors))
        group = np.zeros(len(vectors), np.int64)
        distances = ((vectors - vectors.mean(0, keepdims=True)) ** 2).sum(1) if len(vectors) else np.zeros(0)
        on_device = jnp.asarray(vectors)
        columns: list[np.ndarray] = []
        level_sizes: list[int] = []
        while len(documents):
            column = np.full(len(vectors), -1, np.int32)
            in_leaf = np.bincount(group)[group] <= self.leaf_size
            column[documents[in_leaf]] = _ranks(group[in_leaf], distances[in_leaf])
            # What a level can hold, not what it holds now: later documents find room.
            level_sizes.append(max(self.leaf_size * bool(in_leaf.any()), self.branching * (not in_leaf.all())))
            documents, group = documents[~in_leaf], _renumbered(group[~in_leaf])
            if len(documents):
                code, distances = self._divide(on_device, documents, group, len(columns), seed)
                column[documents] = code
                group = _renumbered(group * self.branching + code)
            columns.append(column)
        return np.stack(columns, 1) if columns else np.zeros((0, 0), np.int32), level_sizes

    def _divide(
        self,
        vectors: Float[Array, "n d"],
        documents: Int[np.ndarray, " a"],
        group: Int[np.ndarray, " a"],
        depth: int,
        seed: int,
    ) -> tuple[Int[np.ndarray, " a"], Float32[np.ndarray, " a"]]:
        """Divide every group into at most ``branching`` non-empty parts, of which none is the whole group.

        Returns:
            The part of every document, and its squared distance to the part's centroid.
        """
        equal_parts, nowhere = _equal_parts(group, self.branching, self.leaf_size), np.zeros(len(group), np.float32)
        if depth >= _DEEPEST_CLUSTERING:
            return equal_parts, nowhere
        found = KMeans(clusters=self.branching).fit_groups(
            vectors,
            documents,
            group,
            seed=int(np.random.SeedSequence([seed, depth]).generate_state(1)[0]),
            most_groups=len(vectors) // (3 * self.leaf_size),  # clusters differ in size, and few depths see so many
        )
        sizes = np.bincount(group)
        parts = np.bincount(group * self.branching + found.labels, minlength=len(sizes) * self.branching)
        divided = (found.varied & (parts.reshape(-1, self.branching).max(1) < sizes))[group]
        return np.where(divided, found.labels, equal_parts), np.where(divided, found.distances, nowhere)


def _renumbered(group: Int[np.ndarray, " a"]) -> Int[np.ndarray, " a"]:
    """Number groups from 0 without gaps, in the same order."""
    return np.unique(group, return_inverse=True)[1]


def _ranks(group: Int[np.ndarray, " a"], distances: np.ndarray) -> Int[np.ndarray, " a"]:
    """Return every member's position in its group by distance, then by index."""
    order = np.lexsort((distances, group))
    sizes = np.bincount(group)
    ranks = np.empty(len(group), np.int64)
    ranks[order] = np.arange(len(group)) - (np.cumsum(sizes) - sizes)[group[order]]
    return ranks


def _equal_parts(group: Int[np.ndarray, " a"], branching: int, leaf_size: int) -> Int[np.ndarray, " a"]:
    """Cut every group by index into as few equal parts as its leaves need, at most ``branching``."""
    sizes = np.bincount(group)
    parts = np.minimum(-(-sizes // leaf_size), branching)
    return _ranks(group, np.zeros(len(group))) * parts[group] // sizes[group]
