"""Docids by residual quantisation: every level encodes what the levels before it left over."""

import dataclasses
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.quantiser import ReconstructingQuantiser
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.streaming import assign, quantise, sample
from genret_jax.validation import check_fields, require


class ResidualQuantiser(ReconstructingQuantiser):
    """Codebooks, each of what the ones before it left over.

    Its array ``codebooks`` is [m, c, d].
    """

    name = "residual"

    @classmethod
    def of(cls, codebooks: Float32[np.ndarray, "m c d"]) -> "ResidualQuantiser":
        """Return the quantiser with these codebooks."""
        levels, codes, _ = codebooks.shape
        return cls(level_sizes=(codes,) * levels, arrays={"codebooks": codebooks})

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.arrays["codebooks"].shape[-1])

    def look(self, piece: Any, arrays: Any) -> tuple[Any, ...]:
        """Return the codes of a piece of vectors."""
        return quantise(piece, arrays["codebooks"])

    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the sums of the codes' centroids."""
        found = np.zeros((len(codes), self.width), np.float32)
        for codebook, column in zip(self.arrays["codebooks"], codes.T, strict=False):
            found += codebook[column]
        return found


@dataclasses.dataclass(frozen=True, kw_only=True)
class ResidualKMeans(QuantisedDocids[ResidualQuantiser]):
    """Residual quantisation with k-means codebooks.

    Level t clusters what remains of all vectors after subtracting their centroids of the levels before, so a code
    means the same in every branch of the tree, unlike in hierarchical k-means.

    Attributes:
        levels: Number of codebooks.
        codebook: Codes of each.
        separate: Append the code that tells documents with equal codes apart.
        memory_gib: Vectors that take more, in float32, are read from where they are piece by piece, and codebooks are
            those of a sample.
    """

    name: ClassVar[str] = "residual"
    levels: int = 3
    codebook: int = 64

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "levels", self.levels >= 1, "at least 1")
        require(self, "codebook", self.codebook >= 2, "at least 2")
        require(self, "memory_gib", self.memory_gib > 0, "more than 0")

    def _fitted(
        self, vectors: np.ndarray, in_memory: bool, seed: int
    ) -> tuple[ResidualQuantiser, Int32[np.ndarray, "n m"]]:
        if in_memory:
            codes, codebooks = residual_kmeans(vectors, self.levels, self.codebook, seed)
        else:
            # Codebooks of a sample, and then one pass over all vectors.
            everything = np.arange(len(vectors))
            sampled = sample(vectors, everything, self.codebook, seed)
            codebooks = residual_kmeans(sampled, self.levels, self.codebook, seed)[1]
            codes = assign(vectors, everything, codebooks, f"quantising {len(vectors):,} vectors")[0]
        return ResidualQuantiser.of(codebooks), codes


def residual_kmeans(
    vectors: Float32[np.ndarray, "n d"], levels: int, codebook: int, seed: int
) -> tuple[Int32[np.ndarray, "n m"], Float32[np.ndarray, "m c d"]]:
    """Cluster vectors, then what their centroids leave over, and so on.

    Args:
        vectors: Finite vectors.
        levels: How often.
        codebook: Clusters each time.
        seed: Decides the starts of k-means.

    Returns:
        Codes and codebooks.
    """
    residual, columns, codebooks = np.array(vectors), [], []
    for of_level in np.random.SeedSequence(seed).generate_state(levels).tolist():
        found = KMeans(clusters=codebook).fit(residual, of_level)
        residual -= found.centroids[0][found.labels]
        columns.append(found.labels)
        codebooks.append(found.centroids[0])
    return np.stack(columns, 1), np.stack(codebooks)
