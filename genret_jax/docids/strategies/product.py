"""Docids by product quantisation: every level encodes a part of the vector that the other levels do not see."""

import dataclasses
from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.docids.kmeans import KMeans
from genret_jax.docids.quantiser import ReconstructingQuantiser
from genret_jax.docids.rotation import balanced_axes, natural_axes, optimised, rotation_sample
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.streaming import nearest, sample
from genret_jax.errors import InputError
from genret_jax.validation import at_least


class ProductQuantiser(ReconstructingQuantiser):
    """Codebooks of sub-vectors.

    Its arrays are ``mean`` [d], ``axes`` [m, w, d], orthonormal axes that divide the space among the levels, and
    ``codebooks`` [m, c, w], centroids of the coordinates along the axes of a level.
    """

    name = "product"
    width_array = "mean"

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a piece of vectors."""
        return _codes(piece - arrays["mean"][None], arrays["axes"], arrays["codebooks"])

    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the centroids of the sub-vectors in the vectors' space; without a code, that of the mean."""
        vectors = np.repeat(self.arrays["mean"][None], len(codes), axis=0)
        for axes, codebook, column in zip(self.arrays["axes"], self.arrays["codebooks"], codes.T, strict=False):
            vectors += (codebook @ axes)[column]
        return vectors


@jax.jit
def _codes(
    centred: Float[Array, "p d"], axes: Float[Array, "m w d"], codebooks: Float[Array, "m c w"]
) -> Int[Array, "p m"]:
    return jax.lax.map(lambda level: nearest(centred @ level[0].T, level[1]), (axes, codebooks)).T


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProductQuantization(QuantisedDocids[ProductQuantiser]):
    """Product quantisation (Jégou, Douze and Schmid 2011, "Product Quantization for Nearest Neighbor Search").

    The space is divided into as many sub-spaces as there are levels, and k-means clusters the vectors in each of them
    by itself. A code therefore means the same whatever the other codes are. The quantiser is small and quick: its
    codebooks together have as many numbers as one codebook of :class:`ResidualKMeans`, which leaves less over.

    The sub-space whose code explains the most variance comes first. Sub-spaces are orthogonal, so no other order
    of these codes leaves less of the vectors after the first codes, however many: those are what a beam search has
    seen when it drops a docid.

    Attributes:
        levels: Number of sub-spaces, at most the width of the vectors. The paper recommends 8 with codebooks of 256.
        codebook: Codes per sub-space.
        rotation: Rotate the vectors so that their sub-vectors quantise best (Ge et al. 2013, "Optimized Product
            Quantization"). Without it, sub-vectors are consecutive coordinates.
        separate: Append the code that separates documents with equal codes.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece, and the
            sub-spaces and codebooks are fitted to a sample.
    """

    name: ClassVar[str] = "product"
    levels: Annotated[int, at_least(1)] = 8
    codebook: Annotated[int, at_least(2)] = 256
    rotation: bool = True

    def _fit(
        self, vectors: np.ndarray, in_memory: bool, seed: int
    ) -> tuple[ProductQuantiser, Int32[np.ndarray, "n m"]]:
        if vectors.shape[1] < self.levels:
            raise InputError(
                f"vectors of {vectors.shape[1]} numbers for {self.levels} levels of product quantisation",
                expected="at least one number a level",
                fix=f"set ProductQuantization.levels to at most {vectors.shape[1]}",
            )
        fitted = vectors if in_memory else sample(vectors, np.arange(len(vectors)), self.codebook, seed)
        arrays = product_codebooks(fitted, self.levels, self.codebook, seed, rotation=self.rotation)
        quantiser = ProductQuantiser(level_sizes=(self.codebook,) * self.levels, arrays=arrays)
        return quantiser, quantiser.codes(vectors)


def product_codebooks(
    vectors: Float32[np.ndarray, "n d"], levels: int, codebook: int, seed: int, *, rotation: bool
) -> Mapping[str, np.ndarray]:
    """Return the arrays of a :class:`ProductQuantiser`.

    Args:
        vectors: Finite vectors.
        levels: Number of sub-spaces.
        codebook: Clusters per sub-space.
        seed: Decides the starts of k-means.
        rotation: Optimise the division of the space.
    """
    mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
    centred = vectors - mean[None]
    if rotation:
        axes = balanced_axes(centred, levels)
        axes, codebooks = optimised(centred, axes, _kmeans(rotation_sample(centred), axes, codebook, seed))
    else:
        axes = natural_axes(vectors.shape[1], levels)
        codebooks = _kmeans(centred, axes, codebook, seed)
    order = np.argsort(-_explained(centred, axes, codebooks), kind="stable")
    return {"mean": mean, "axes": axes[order], "codebooks": codebooks[order]}


def _kmeans(
    centred: Float32[np.ndarray, "n d"], axes: Float32[np.ndarray, "m w d"], codebook: int, seed: int
) -> Float32[np.ndarray, "m c w"]:
    """Cluster the sub-vectors of every level."""
    seeds = np.random.SeedSequence(seed).generate_state(len(axes)).tolist()
    kmeans = KMeans(clusters=codebook)
    return np.stack([kmeans.fit(centred @ part.T, seed).centroids[0] for part, seed in zip(axes, seeds, strict=True)])


def _explained(
    centred: Float32[np.ndarray, "n d"], axes: Float32[np.ndarray, "m w d"], codebooks: Float32[np.ndarray, "m c w"]
) -> Float[np.ndarray, " m"]:
    """Return by how much the centroids of each level lower the squared error of the mean."""
    codes = np.asarray(_codes(centred, axes, codebooks)).T
    lowered = []
    for part, codebook, column in zip(axes, codebooks, codes, strict=True):
        length = np.square(codebook).sum(1, dtype=np.float64)[column]
        lowered.append(np.sum(2 * np.einsum("nw,nw->n", centred @ part.T, codebook[column]) - length))
    return np.array(lowered)
