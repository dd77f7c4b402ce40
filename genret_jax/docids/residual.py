"""Docids by residual quantisation: every level encodes what the levels before it left over."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.checks import require_vectors
from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.streaming import assign, fits, said, sample
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualKMeans:
    """Residual quantisation with k-means codebooks.

    Level t clusters what remains of all vectors after subtracting their centroids of the levels before, so a code
    means the same in every branch of the tree, unlike in hierarchical k-means. With ``separate`` a last code counts
    the documents of equal codes, as in TIGER (Rajput et al. 2023, arXiv 2305.05065, section 3.1); without it they
    share a docid, and come back in the order of the corpus.

    Attributes:
        levels: Number of codebooks.
        codebook: Codes of each.
        separate: Append the code that tells documents with equal codes apart.
        memory_gib: Vectors that take more, in float32, are read from where they are piece by piece, and codebooks are
            those of a sample.
    """

    levels: int = 3
    codebook: int = 64
    separate: bool = True
    memory_gib: float = 4.0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "levels", self.levels >= 1, "at least 1")
        require(self, "codebook", self.codebook >= 2, "at least 2")
        require(self, "memory_gib", self.memory_gib > 0, "more than 0")

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Args:
            doc_ids: External ids.
            vectors: One vector a document, [n, d]; may be memory-mapped.
            seed: Decides the starts of k-means.
            corpus_fingerprint: Fingerprint of the corpus.

        Raises:
            InputError: If vectors are missing, too many or few, or not finite.
        """
        if not len(doc_ids):
            raise InputError("no documents", expected="at least one")
        checked = require_vectors(doc_ids, vectors, strategy="residual docids", memory_gib=self.memory_gib)
        in_memory = fits(checked, self.memory_gib)
        if in_memory:
            codes = self._quantised(np.array(checked), seed)[0]
        else:
            # Codebooks of a sample, and then one pass over all vectors.
            everything = np.arange(len(checked))
            codebooks = self._quantised(sample(checked, everything, self.codebook, seed), seed)[1]
            codes = assign(checked, everything, codebooks, f"quantising {len(checked):,} vectors")[0]
        level_sizes = [self.codebook] * self.levels
        if self.separate:
            position = _occurrence(codes)
            codes = np.concatenate([codes, position[:, None]], 1)
            level_sizes.append(int(position.max()) + 1)
        return DocidTable.from_codes(
            doc_ids,
            codes,
            level_sizes=level_sizes,
            strategy={"name": "residual", **said(self, in_memory), "seed": seed},
            corpus_fingerprint=corpus_fingerprint,
        )

    def _quantised(
        self, residual: Float32[np.ndarray, "n d"], seed: int
    ) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "m c d"]]:
        """Return codes and codebooks; the vectors are changed to what is left over."""
        columns, codebooks = [], []
        for of_level in np.random.SeedSequence(seed).generate_state(self.levels).tolist():
            found = KMeans(clusters=self.codebook).fit(residual, of_level)
            residual -= found.centroids[0][found.labels]
            columns.append(found.labels)
            codebooks.append(found.centroids[0])
        return np.stack(columns, 1), np.stack(codebooks)


def _occurrence(codes: Int32[np.ndarray, "n m"]) -> Int32[np.ndarray, " n"]:
    """Return how many earlier rows equal each row."""
    inverse = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    order = np.argsort(inverse, kind="stable")
    sizes = np.bincount(inverse)
    position: Int[np.ndarray, " n"] = np.empty(len(codes), np.int32)
    position[order] = np.arange(len(codes)) - (np.cumsum(sizes) - sizes)[inverse[order]]
    return position
