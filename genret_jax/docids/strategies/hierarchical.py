"""Semantic docids: the path of a document through a tree of clusters of document vectors."""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.streaming import (
    assign,
    fits_in_memory,
    on_each_device,
    read,
    recorded_fields,
    require_vectors,
    sample,
)
from genret_jax.docids.table import DocidTable
from genret_jax.validation import check_fields, require

# Deeper groups are cut into equal parts; only vectors that defeat k-means, such as ever farther outliers, get there.
_DEEPEST_CLUSTERING = 12
# What is clustered at a time takes such a part of the memory, so that up to so many devices have something to do.
_SHARES = 8

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
        memory_gib: Vectors that take more, in float32, are read from where they are piece by piece, and clusters too
            large for memory are found on samples.
    """

    needs_vectors: ClassVar[bool] = True

    branching: int = 64
    leaf_size: int = 256
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "branching", self.branching >= 2, "at least 2")
        require(self, "leaf_size", self.leaf_size >= 1, "at least 1")
        require(self, "memory_gib", self.memory_gib > 0, "more than 0")

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
        checked = require_vectors(doc_ids, vectors, strategy="semantic docids", memory_gib=self.memory_gib)
        in_memory = fits_in_memory(checked, self.memory_gib)
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
        """Return what :meth:`_codes` does for vectors that do not fit in memory.

        A part of them that exceeds a share of the memory is divided by centroids of a sample. The others are finished
        as they would be in memory, as many together as a share holds, each share on a device of its own.
        """
        share = max(int(self.memory_gib * 2**30) // (_SHARES * 4 * vectors.shape[1]), self.leaf_size)
        batches = _packed(self._parts(vectors, share, seed), share)

        def finish(number: int) -> tuple[Int[np.ndarray, " a"], Codes]:
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
        """Divide vectors until no part has more than ``most``."""
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

    def _divide_streamed(
        self, vectors: np.ndarray, part: "_Part", seed: int
    ) -> tuple[Int[np.ndarray, " a"], Float32[np.ndarray, " a"]]:
        """Divide a part as :meth:`_divide` does a group."""
        rows = part.rows
        if len(part.path) < _DEEPEST_CLUSTERING:
            start = _seed([seed, *part.path, len(vectors)])
            found = KMeans(clusters=self.branching).fit(sample(vectors, rows, self.branching, start), start)
            code, distances = assign(vectors, rows, found.centroids, f"dividing {len(rows):,} vectors")
            if found.varied[0] and np.bincount(code[:, 0]).max() < len(rows):
                return code[:, 0], distances
        nowhere = np.zeros(len(rows), np.float32)
        return _equal_parts(np.zeros(len(rows), np.int64), self.branching, self.leaf_size), nowhere

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
            vectors: Of all their documents; there may be more rows.
            group: Of each document, numbered from 0 without gaps.
            distances: Of each vector to the centroid of its group, squared.
            depth: Of the groups.
            seed: Decides the starts.
        """
        total = len(group)
        documents, on_device = np.arange(total), jnp.asarray(vectors)
        columns: list[np.ndarray] = []
        level_sizes: list[int] = []
        while len(documents):
            column = np.full(total, -1, np.int32)
            in_leaf = np.bincount(group)[group] <= self.leaf_size
            column[documents[in_leaf]] = _ranks(group[in_leaf], distances[in_leaf])
            # What a level can hold, not what it holds now: later documents find room.
            level_sizes.append(max(self.leaf_size * bool(in_leaf.any()), self.branching * (not in_leaf.all())))
            documents, group = documents[~in_leaf], _renumbered(group[~in_leaf])
            if len(documents):
                code, distances = self._divide(on_device, documents, group, depth + len(columns), seed)
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
        seed: list[int],
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
            seed=_seed([*seed, depth]),
            most_groups=len(vectors) // (3 * self.leaf_size),  # clusters differ in size, and few depths see so many
        )
        sizes = np.bincount(group)
        parts = np.bincount(group * self.branching + found.labels, minlength=len(sizes) * self.branching)
        divided = (found.varied & (parts.reshape(-1, self.branching).max(1) < sizes))[group]
        return np.where(divided, found.labels, equal_parts), np.where(divided, found.distances, nowhere)


class _Part(NamedTuple):
    """Vectors behind one path of clusters."""

    path: tuple[int, ...]
    rows: Int[np.ndarray, " a"]  # ascending
    distances: Float32[np.ndarray, " a"]  # squared, to the centroid


def _packed(parts: list[_Part], most: int) -> list[list[_Part]]:
    """Put parts with paths of equal length together, as many as have at most so many vectors."""
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
