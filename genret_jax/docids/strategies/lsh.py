"""Docids by locality-sensitive hashing: on which sides of random hyperplanes a vector lies."""

import dataclasses
from typing import Annotated, Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from genret_jax.docids.quantiser import Quantiser
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.streaming import read
from genret_jax.validation import at_least, from_to

# Largest number of rows that are read to find the mean of vectors that do not fit in memory.
_MEAN_SAMPLE = 1 << 16


class LshQuantiser(Quantiser):
    """Random hyperplanes.

    Its arrays are ``hyperplanes`` [m, h, d], normal vectors, and ``middle`` [d], a point on all hyperplanes.
    """

    name = "lsh"
    width_array = "middle"

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a piece of vectors."""
        return _sides(piece, arrays["hyperplanes"], arrays["middle"])


@jax.jit
def _sides(
    piece: Float[Array, "p d"], hyperplanes: Float[Array, "m h d"], middle: Float[Array, " d"]
) -> Int[Array, "p m"]:
    above = jnp.einsum("pd,mhd->pmh", piece - middle[None], hyperplanes) > 0
    values = 1 << jnp.arange(hyperplanes.shape[1], dtype=jnp.int32)
    return jnp.sum(above * values[None, None], axis=-1, dtype=jnp.int32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LshDocids(QuantisedDocids[LshQuantiser]):
    """Locality-sensitive hashing, TIGER's ablation (Rajput et al. 2023, arXiv 2305.05065).

    The binary digits of a code say on which side of each of the level's random hyperplanes the vector lies.

    Attributes:
        levels: Number of codes.
        hyperplanes: Binary digits of a code; a level has ``2**hyperplanes`` codes.
        centred: Put the hyperplanes through the mean of the vectors. The paper's go through the origin; if the vectors
            of a model lie in a cone, most of them are then on the same side.
        separate: Append the code that separates documents with equal codes.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece.
    """

    name: ClassVar[str] = "lsh"
    levels: Annotated[int, at_least(1)] = 4
    hyperplanes: Annotated[int, from_to(1, 24)] = 8
    centred: bool = True

    @property
    def codebook(self) -> int:
        """Number of codes of a level."""
        return 1 << self.hyperplanes

    def _fit(self, vectors: np.ndarray, in_memory: bool, seed: int) -> tuple[LshQuantiser, Int32[np.ndarray, "n m"]]:
        random = np.random.default_rng(seed)
        shape = self.levels, self.hyperplanes, vectors.shape[1]
        hyperplanes = random.standard_normal(shape, np.float32)
        middle = np.zeros(vectors.shape[1], np.float32)
        if self.centred:
            count = len(vectors) if in_memory else min(len(vectors), _MEAN_SAMPLE)
            rows = np.sort(random.choice(len(vectors), count, replace=False, shuffle=False))
            middle = read(vectors, rows).mean(0, dtype=np.float64).astype(np.float32)
        arrays = {"hyperplanes": hyperplanes, "middle": middle}
        quantiser = LshQuantiser(level_sizes=(self.codebook,) * self.levels, arrays=arrays)
        return quantiser, quantiser.codes(vectors)
