"""Semantic docids: the path of a document through a tree of clusters of document vectors."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Annotated, ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.separating import ranks_in_groups
from genret_jax.docids.streaming import (
    in_pieces,
    on_each_device,
    quantise,
    read,
    recorded_fields,
    require_vectors,
    sample,
)
from genret_jax.docids.table import DocidTable
from genret_jax.validation import at_least, check_fields, more_than

# Deeper groups are cut into equal parts; only vectors that defeat k-means, such as ever farther outliers, get there.
_DEEPEST_CLUSTERING = 12
# The memory limit is divided into this many shares, which as many devices can cluster at the same time.
_SHARES = 8

Members = Int[np.ndarray, " a"]  # documents, or the groups that they are in
Distances = Float32[np.ndarray, " a"]  # squared distance of each document to the centroid of its cluster
Codes = tuple[Int32[np.ndarray, "n m"], list[int]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class HierarchicalKMeans:
    """Semantically structured identifiers (Tay et al. 2022, arXiv 2202.06991, section 3.2, algorithm 1).

    All documents are clustered into ``branching`` clusters, and so is every cluster until it has at most
    ``leaf_size`` documents; the path of clusters is the docid, and the position in the last cluster is its last
    code. DSI has branching 10 and leaf size 100, NCI (arXiv 2206.02743) 30 and 30.

    Attributes:
        branching: Clusters of a cluster.
        leaf_size: Most documents of a cluster that is not divided further.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece, and clusters
            that are too large for memory are divided by centroids of a sample.
    """

    needs_vectors: ClassVar[bool] = True

    branching: Annotated[int, at_least(2)] = 64
    leaf_size: Annotated[int, at_least(1)] = 256
    memory_gib: Annotated[float, more_than(0)] = 4.0

    def __post_init__(self) -> None:
        check_fields(self)

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Positions in a leaf go by the distance to its centroid, then by document index. Documents with the same
        vector, which k-means cannot divide, are divided into equal parts in their order.

        Args:
            doc_ids: External ids.
            vectors: One vector a document, [n, d]; may be memory-mapped.
            seed: Decides the starts of k-means.
            corpus_fingerprint: Fingerprint of the corpus.

        Raises:
            InputError: If vectors are missing, too many or few, or not finite.
        """
        checked, in_memory = require_vectors(doc_ids, vectors, strategy="semantic docids", memory_gib=self.memory_gib)
        codes, level_sizes = self._codes(checked, seed) if in_memory else self._streamed(checked, seed)
        return DocidTable.from_codes(
            doc_ids,
            codes,
            level_sizes=level_sizes,
            strategy={"name": "semantic", **recorded_fields(self, in_memory), "seed": seed},
            corpus_fingerprint=corpus_fingerprint,
        )

    def _codes(self, vectors: Float32[np.ndarray, "n d"], seed: int) -> Codes:
        """Return codes padded with -1, and the size of every level."""
        distances = ((vectors - vectors.mean(0, keepdims=True)) ** 2).sum(1) if len(vectors) else np.zeros(0)
        return self._below(vectors, np.zeros(len(vectors), np.int64), distances, 0, [seed])

    def _streamed(self, vectors: np.ndarray, seed: int) -> Codes:
        """Return the same as :meth:`_codes`, for vectors that do not fit in memory.

        A part that is larger than a share of the memory is divided by centroids of a sample. Smaller parts are
        clustered as in memory, several together up to a share, and each share on one device.
        """
        share = max(int(self.memory_gib * 2**30) // (_SHARES * 4 * vectors.shape[1]), self.leaf_size)
        batches = _packed(self._parts(vectors, share, seed), share)

        def finish(number: int) -> tuple[Members, Codes]:
            batch = batches[number]
            rows = np.concatenate([part.rows for part in batch])
            order = np.argsort(rows)
            rows, group = rows[order], np.repeat(np.arange(len(batch)), [len(part.rows) for part in batch])[order]
            distances = np.concatenate([part.distances for part in batch])[order]
            # As many in every batch, so that one program serves all of them.
            mine = np.zeros((share, vectors.shape[1]), np.float32)
            mine[: len(rows)] = read(vectors, rows)
            paths = np.array([part.path for part in batch], np.int32)
            below, sizes = self._below(mine, group, distances, paths.shape[1], [seed, number])
            return rows, (np.concatenate([paths[group], below], 1), [self.branching] * paths.shape[1] + sizes)

        found = list(on_each_device(finish, range(len(batches))))
        level_sizes = [max(sizes) for sizes in itertools.zip_longest(*(sizes for _, (_, sizes) in found), fillvalue=0)]
        codes = np.full((len(vectors), len(level_sizes)), -1, np.int32)
        for rows, (of_batch, _) in found:
            codes[rows, : of_batch.shape[1]] = of_batch
        return codes, level_sizes

    def _parts(self, vectors: np.ndarray, most: int, seed: int) -> list["_Part"]:
        """Divide all vectors into parts of at most ``most`` vectors."""
        parts: list[_Part] = []
        larger = [_Part((), np.arange(len(vectors)), np.zeros(len(vectors), np.float32))]
        while larger:
            part = larger.pop()
            label, distances = self._divide_streamed(vectors, part, seed)
            for code in range(self.branching):
                if (inside := label == code).any():
                    divided = _Part((*part.path, code), part.rows[inside], distances[inside])
                    (parts if len(divided.rows) <= most else larger).append(divided)
        return sorted(parts)

    def _divide_streamed(self, vectors: np.ndarray, part: "_Part", seed: int) -> tuple[Members, Distances]:
        """Divide a part as :meth:`_divide` does a group."""
        rows = part.rows
        if len(part.path) < _DEEPEST_CLUSTERING:
            start = _seed([seed, *part.path, len(vectors)])
            found = KMeans(clusters=self.branching).fit(sample(vectors, rows, self.branching, start), start)
            progress = f"dividing {len(rows):,} vectors"
            code, distances = in_pieces(quantise, vectors, rows, found.centroids, progress)
            if found.varied[0] and np.bincount(code[:, 0]).max() < len(rows):
                return code[:, 0], distances
        no_distances = np.zeros(len(rows), np.float32)
        return _equal_parts(np.zeros(len(rows), np.int64), self.branching, self.leaf_size), no_distances

    def _below(
        self,
        vectors: Float32[np.ndarray, "a d"],
        group: Int[np.ndarray, " n"],
        distances: np.ndarray,
        depth: int,
        seed: list[int],
    ) -> Codes:
        """Return the codes below some groups, padded with -1, and the size of every level there.

        Args:
            vectors: One vector for each document of these groups, and possibly further rows.
            group: Group of each document, numbered from 0 without gaps.
            distances: Squared distance of each vector to the centroid of its group.
            depth: Depth of the groups in the tree.
            seed: Decides the starts.
        """
        total = len(group)
        documents, on_device = np.arange(total), jnp.asarray(vectors)
        columns: list[np.ndarray] = []
        level_sizes: list[int] = []
        while len(documents):
            column = np.full(total, -1, np.int32)
            in_leaf = np.bincount(group)[group] <= self.leaf_size
            column[documents[in_leaf]] = ranks_in_groups(group[in_leaf], distances[in_leaf])
            # The most codes that a level can have, not those in use: later documents find room.
            level_sizes.append(max(self.leaf_size * bool(in_leaf.any()), self.branching * (not in_leaf.all())))
            documents, group = documents[~in_leaf], _renumbered(group[~in_leaf])
            if len(documents):
                code, distances = self._divide(on_device, documents, group, depth + len(columns), seed)
                column[documents] = code
                group = _renumbered(group * self.branching + code)
            columns.append(column)
        return np.stack(columns, 1) if columns else np.zeros((0, 0), np.int32), level_sizes

    def _divide(
        self, vectors: Float[Array, "n d"], documents: Members, group: Members, depth: int, seed: list[int]
    ) -> tuple[Members, Distances]:
        """Divide every group into at most ``branching`` non-empty parts, of which none is the whole group.

        Returns:
            The part of every document, and its squared distance to the part's centroid.
        """
        equal_parts = _equal_parts(group, self.branching, self.leaf_size)
        no_distances = np.zeros(len(group), np.float32)
        if depth >= _DEEPEST_CLUSTERING:
            return equal_parts, no_distances
        found = KMeans(clusters=self.branching).fit_groups(
            vectors,
            documents,
            group,
            seed=_seed([*seed, depth]),
            most_groups=len(vectors) // (3 * self.leaf_size),  # clusters differ in size, and few depths see so many
        )
        sizes = np.bincount(group)
        parts = np.bincount(group * self.branching + found.labels, minlength=len(sizes) * self.branching)
        divided = (found.varied & (parts.reshape(-1, self.branching).max(1) < sizes))[group]
        return np.where(divided, found.labels, equal_parts), np.where(divided, found.distances, no_distances)


class _Part(NamedTuple):
    """The vectors in the cluster at the end of a path of clusters."""

    path: tuple[int, ...]
    rows: Members  # ascending
    distances: Distances  # squared, to the centroid


def _packed(parts: list[_Part], most: int) -> list[list[_Part]]:
    """Join parts with paths of equal length into batches of at most ``most`` vectors."""
    packed: list[list[_Part]] = []
    for _, alike in itertools.groupby(sorted(parts, key=lambda part: len(part.path)), lambda part: len(part.path)):
        count = most
        for part in alike:
            count += len(part.rows)
            if count > most:
                packed.append([])
                count = len(part.rows)
            packed[-1].append(part)
    return packed


def _seed(numbers: list[int]) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _renumbered(group: Members) -> Members:
    """Number groups from 0 without gaps, in the same order."""
    return np.unique(group, return_inverse=True)[1]


def _equal_parts(group: Members, branching: int, leaf_size: int) -> Members:
    """Cut every group by index into as few equal parts as its leaves need, at most ``branching``."""
    sizes = np.bincount(group)
    parts = np.minimum(-(-sizes // leaf_size), branching)
    return ranks_in_groups(group) * parts[group] // sizes[group]
