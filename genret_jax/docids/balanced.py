"""Assignments in which every code gets an equal share: what keeps the codebooks of a learned tokeniser in use.

Given scores of rows for codes, the plan sought is the one of highest total score plus entropy among those that give
every row one unit and every code the same amount (Cuturi 2013, arXiv 1306.0895); Sinkhorn's iterations find it. GenRet
(Sun et al. 2023, arXiv 2304.04171, section 3.4) assigns the documents of a batch so, and starts its codebooks by
k-means under the same constraint.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

_FITTED = 1 << 16  # vectors that balanced k-means is fitted to, of more
_ROUNDS, _SINKHORN = 10, 100
# Of the mean squared distance to the nearest centroid. Smaller is closer to a hard assignment, and slower to converge.
_SOFTNESS = 0.1


def balanced_plan(
    scores: Float[Array, "n c"], epsilon: float | Float[Array, ""] = 1.0, iterations: int = 30
) -> Float[Array, "n c"]:
    """Return the logarithm of the share of each row that each code gets.

    It is computed in logarithms throughout, so no scores overflow.

    Args:
        scores: Of every row for every code.
        epsilon: Weight of the entropy; the smaller, the closer the rows come to one code each.
        iterations: Of Sinkhorn's algorithm; the rows' sums are then exact, those of the codes nearly so.
    """
    rows, codes = scores.shape

    def body(_: Array, plan: Array) -> Array:
        plan = plan - jax.nn.logsumexp(plan, axis=0, keepdims=True) + jnp.log(rows / codes)
        return plan - jax.nn.logsumexp(plan, axis=1, keepdims=True)

    return lax.fori_loop(0, iterations, body, scores.astype(jnp.float32) / epsilon)


def balanced_codes(
    scores: Float[Array, "n c"], epsilon: float | Float[Array, ""] = 1.0, iterations: int = 30
) -> Int32[Array, " n"]:
    """Return the code that gets most of each row in :func:`balanced_plan`."""
    return jnp.argmax(balanced_plan(scores, epsilon, iterations), axis=1).astype(jnp.int32)


def balanced_kmeans(vectors: Float32[np.ndarray, "n d"], clusters: int, seed: int) -> Float32[np.ndarray, "c d"]:
    """Return centroids of clusters of about equal size.

    Lloyd's algorithm with a balanced assignment in place of the nearest centroid.

    Args:
        vectors: At least as many as clusters; of very many, some are looked at.
        clusters: Number of clusters.
        seed: Decides the start and, of very many vectors, which.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(vectors))[:_FITTED]
    start = vectors[chosen[:clusters]]
    return np.asarray(_balanced_lloyd(vectors[np.sort(chosen)], start))


@jax.jit
def _balanced_lloyd(vectors: Float[Array, "n d"], centroids: Float[Array, "c d"]) -> Float[Array, "c d"]:
    squares = jnp.sum(vectors**2, axis=1, keepdims=True)

    def body(_: Array, centroids: Array) -> Array:
        distances = squares - 2 * vectors @ centroids.T + jnp.sum(centroids**2, axis=1)[None]
        epsilon = _SOFTNESS * jnp.maximum(jnp.mean(jnp.min(distances, axis=1)), 1e-9)
        codes = balanced_codes(-distances, epsilon, _SINKHORN)
        return _means(vectors, codes, centroids)

    return lax.fori_loop(0, _ROUNDS, body, centroids)


def _means(vectors: Float[Array, "n d"], codes: Int[Array, " n"], centroids: Float[Array, "c d"]) -> Array:
    """Return the mean of the vectors of each code; a code without any stays where it is."""
    sums = jax.ops.segment_sum(vectors, codes, len(centroids))
    counts = jax.ops.segment_sum(jnp.ones(len(vectors)), codes, len(centroids))[:, None]
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centroids)
