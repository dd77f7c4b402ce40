"""Docids by residual quantisation: every level encodes what the levels before it left over."""

import dataclasses
from typing import Annotated, Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.kmeans import Clustering, KMeans
from genret_jax.docids.quantiser import ReconstructingQuantiser
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.streaming import in_pieces, quantise, sample
from genret_jax.validation import at_least

_SPLITTING = 25  # iterations of k-means that may split clusters


class ResidualQuantiser(ReconstructingQuantiser):
    """Codebooks, each fitted to the residuals of the ones before it.

    Its only array is ``codebooks`` [m, c, d].
    """

    name = "residual"
    width_array = "codebooks"

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a piece of vectors."""
        return quantise(piece, arrays["codebooks"])[0]

    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the sums of the codes' centroids."""
        vectors = np.zeros((len(codes), self.width), np.float32)
        for codebook, column in zip(self.arrays["codebooks"], codes.T, strict=False):
            vectors += codebook[column]
        return vectors


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualKMeans(QuantisedDocids[ResidualQuantiser]):
    """Residual quantisation with k-means codebooks.

    Level t clusters the residuals of all vectors: the vectors minus their centroids of the levels before. A code
    therefore means the same in every branch of the tree, unlike in hierarchical k-means.

    Attributes:
        levels: Number of codebooks.
        codebook: Codes per codebook.
        separate: Append the code that separates documents with equal codes.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece, and codebooks
            are fitted to a sample.
    """

    name: ClassVar[str] = "residual"
    levels: Annotated[int, at_least(1)] = 3
    codebook: Annotated[int, at_least(2)] = 256

    def _fit(
        self, vectors: np.ndarray, in_memory: bool, seed: int
    ) -> tuple[ResidualQuantiser, Int32[np.ndarray, "n m"]]:
        if in_memory:
            codes, codebooks = residual_kmeans(vectors, self.levels, self.codebook, seed)
        else:
            rows = np.arange(len(vectors))
            codebooks = residual_kmeans(sample(vectors, rows, self.codebook, seed), self.levels, self.codebook, seed)[1]
            codes = in_pieces(quantise, vectors, rows, codebooks, f"quantising {len(vectors):,} vectors")[0]
        level_sizes = (self.codebook,) * self.levels
        return ResidualQuantiser(level_sizes=level_sizes, arrays={"codebooks": codebooks}), codes


def residual_kmeans(
    vectors: Float32[np.ndarray, "n d"], levels: int, codebook: int, seed: int
) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "m c d"]]:
    """Cluster vectors, then their residuals, and so on.

    Args:
        vectors: Finite vectors.
        levels: Number of codebooks.
        codebook: Clusters per codebook.
        seed: Decides the starts of k-means.

    Returns:
        Codes and codebooks.
    """
    residual, columns, codebooks = np.array(vectors), [], []
    for level_seed in np.random.SeedSequence(seed).generate_state(levels).tolist():
        clustering = _clustered(residual, codebook, level_seed)
        residual -= clustering.centroids[0][clustering.labels]
        columns.append(clustering.labels)
        codebooks.append(clustering.centroids[0])
    return np.stack(columns, 1), np.stack(codebooks)


def _clustered(residual: Float32[np.ndarray, "n d"], codebook: int, seed: int) -> Clustering:
    """Cluster residuals by k-means; where it leaves clusters of one vector, also with splitting. Keep the better one.

    Splitting moves the centroids of such clusters into large ones. That leaves less over where all residuals are far
    from each other, and more where only a few of them are far from the others.
    """
    plain = KMeans(clusters=codebook).fit(residual, seed)
    if not np.any(np.bincount(plain.labels) == 1):
        return plain
    split = KMeans(clusters=codebook, splitting=_SPLITTING).fit(residual, seed)
    return min(plain, split, key=lambda found: found.distances.sum(dtype=np.float64))
