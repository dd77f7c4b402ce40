"""How far two predictions of the same target are apart."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from genret_jax.validation import require


def check_consistency(config: Any, dropout_rate: float) -> None:
    """Check the field ``consistency`` of a configuration, the weight of what is below in its loss.

    Args:
        config: With that field.
        dropout_rate: Of the network.

    Raises:
        InputError: If it is negative, or there is no dropout.
    """
    require(config, "consistency", config.consistency >= 0, "0 or more")
    differ = config.consistency == 0 or dropout_rate > 0
    require(config, "consistency", differ, "0 without T5Config.dropout_rate, as two passes are then the same")


def symmetric_divergence(
    one: Float[Array, "*b v"], other: Float[Array, "*b v"], weights: Float[Array, "*b"] | None = None
) -> Float[Array, ""]:
    """Sum over all positions the mean of the two Kullback-Leibler divergences between two distributions.

    It is NCI's regularisation by consistency (Wang et al. 2022, arXiv 2206.02743, section 3.4), which is that of R-Drop
    (Liang et al. 2021, arXiv 2106.14448, equation 3): the distributions are what two dropout masks make of one input.

    Args:
        one: Logits, any float type; the divergence is computed in float32.
        other: Logits of the same targets.
        weights: Of each position, 0 for padding; all 1 when left out.
    """
    first, second = (jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1) for logits in (one, other))
    # The two divergences add up to this; where a token is impossible in both, nothing times nothing.
    apart = jnp.sum((jnp.exp(first) - jnp.exp(second)) * (first - second), axis=-1) / 2
    return jnp.sum(apart if weights is None else apart * weights.astype(jnp.float32))


def shown_twice(array: Array, sources: int) -> Array:
    """Show the rows of every source two times, one after the other: both passes then lie on the same device.

    Args:
        array: First axis a multiple of the sources.
        sources: Rows of the encoder's inputs; each has so many rows of the array, one after the other.
    """
    of_sources = array.reshape(sources, -1, *array.shape[1:])
    return jnp.repeat(of_sources, 2, axis=0).reshape(-1, *array.shape[1:])


def two_passes(array: Array, sources: int) -> tuple[Array, Array]:
    """Take apart what :func:`shown_twice` made of so many sources, ``[sources, rows of each, ...]`` both."""
    both = array.reshape(sources, 2, -1, *array.shape[1:])
    return both[:, 0], both[:, 1]
