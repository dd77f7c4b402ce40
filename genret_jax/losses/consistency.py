"""Consistency between two predictions of the same target, from two dropout masks."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genret_jax.losses.cross_entropy import weighted_sum
from genret_jax.validation import require


def check_consistency(config: Any, dropout_rate: float) -> None:
    """Check the field ``consistency`` of a configuration, the weight of :func:`symmetric_divergence` in its loss.

    Args:
        config: A configuration with this field.
        dropout_rate: Dropout rate of the network.

    Raises:
        InputError: If the weight is negative, or positive without dropout.
    """
    require(config, "consistency", config.consistency >= 0, "0 or more")
    differ = config.consistency == 0 or dropout_rate > 0
    require(config, "consistency", differ, "0 without T5Config.dropout_rate, as two passes are then the same")


def symmetric_divergence(
    one: Float[Array, "*b v"], other: Float[Array, "*b v"], weights: Float[Array, "*b"] | None = None
) -> Float[Array, ""]:
    """Sum over all positions the mean of the two Kullback-Leibler divergences between two distributions.

    This is NCI's consistency loss (Wang et al. 2022, arXiv 2206.02743, section 3.4), the same as R-Drop's (Liang et al.
    2021, arXiv 2106.14448, equation 3). The two distributions come from one input with two dropout masks.

    Args:
        one: Logits, any float type; the divergence is computed in float32.
        other: Logits for the same targets.
        weights: Weight of each position, 0 for padding; 1 by default.
    """
    first, second = (jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1) for logits in (one, other))
    # The sum of both divergences in one product; it is 0 for tokens that are impossible in both.
    divergence = jnp.sum((jnp.exp(first) - jnp.exp(second)) * (first - second), axis=-1) / 2
    return weighted_sum(divergence, weights)[0]


def shown_twice(array: Array, sources: int) -> Array:
    """Repeat the rows of every source directly behind themselves, so that both passes lie on the same device.

    Args:
        array: Rows grouped by source, with the same number of rows per source.
        sources: Number of sources, which are rows of the encoder's input.
    """
    by_source = array.reshape(sources, -1, *array.shape[1:])
    return jnp.repeat(by_source, 2, axis=0).reshape(-1, *array.shape[1:])


def two_passes(array: Array, sources: int) -> tuple[Array, Array]:
    """Split an array of :func:`shown_twice` into its two passes, both ``[sources, rows per source, ...]``."""
    both = array.reshape(sources, 2, -1, *array.shape[1:])
    return both[:, 0], both[:, 1]
