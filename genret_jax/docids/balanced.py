"""Balanced assignments: every code gets the same share of the rows, so that all codes of a codebook stay in use.

A plan divides each row among the codes, and gives every code the same total. The best plan has the highest total score
plus entropy (Cuturi 2013, arXiv 1306.0895); Sinkhorn's iterations find it. GenRet (Sun et al. 2023, arXiv 2304.04171,
section 3.4) assigns the documents of a batch in this way, and starts its codebooks by k-means with the same constraint.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32, Int, Int32

_FITTED = 1 << 16  # most vectors that balanced k-means is fitted to
_ROUNDS, _SINKHORN = 10, 100
# Weight of the entropy, in mean squared distances to the nearest centroid. A smaller weight is closer to a hard
# assignment, and slower to converge.
_SOFTNESS = 0.1


def balanced_plan(
    scores: Float[Array, "n c"], epsilon: float | Float[Array, ""] = 1.0, iterations: int = 30
) -> Float[Array, "n c"]:
    """Return the logarithm of the share of each row that each code gets.

    The computation is in logarithms, so scores do not overflow.

    Args:
        scores: Score of every code for every row.
        epsilon: Weight of the entropy; with a smaller one, a row is divided among fewer codes.
        iterations: Iterations of Sinkhorn's algorithm. The sums of rows are exact, those of codes nearly so.
    """
    rows, codes = scores.shape

    def body(_: Array, plan: Array) -> Array:
        plan = plan - jax.nn.logsumexp(plan, axis=0, keepdims=True) + jnp.log(rows / codes)
        return plan - jax.nn.logsumexp(plan, axis=1, keepdims=True)

    return lax.fori_loop(0, iterations, body, scores.astype(jnp.float32) / epsilon)


def balanced_codes(
    scores: Float[Array, "n c"], epsilon: float | Float[Array, ""] = 1.0, iterations: int = 30
) -> Int32[Array, " n"]:
    """Return the code with the largest share of each row in :func:`balanced_plan`."""
    return jnp.argmax(balanced_plan(scores, epsilon, iterations), axis=1).astype(jnp.int32)


def balanced_kmeans(vectors: Float32[np.ndarray, "n d"], clusters: int, seed: int) -> Float32[np.ndarray, "c d"]:
    """Return centroids of clusters of about equal size.

    Lloyd's algorithm with a balanced assignment in place of the nearest centroid.

    Args:
        vectors: At least as many as clusters; large sets are sampled.
        clusters: Number of clusters.
        seed: Seed of the start and of the sample.
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
        return means(vectors, codes, centroids)

    return lax.fori_loop(0, _ROUNDS, body, centroids)


def means(vectors: Float[Array, "n d"], codes: Int[Array, " n"], centroids: Float[Array, "c d"]) -> Array:
    """Return the mean of the vectors of each code; a code without any stays where it is."""
    sums = jax.ops.segment_sum(vectors, codes, len(centroids))
    counts = jax.ops.segment_sum(jnp.ones(len(vectors)), codes, len(centroids))[:, None]
    return jnp.where(counts > 0, sums / jnp.maximum(counts, 1), centroids)
