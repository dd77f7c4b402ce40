"""Binary cross-entropy of what was chosen against a sampled negative."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def sampled_binary_cross_entropy(
    positive: Float[Array, "*b"],
    negative: Float[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
    negative_weights: Float[Array, "*b"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum ``-log σ(positive) - log(1 - σ(negative))`` over all positions (Kang & McAuley 2018, section III-F).

    Args:
        positive: Score of the item that came next.
        negative: Score of one item drawn at random.
        weights: Of each position, 0 for padding; all 1 when left out.
        negative_weights: Of the second term alone, 0 where the draw is no negative; ``weights`` when left out.

    Returns:
        The weighted sum of losses, and the sum of ``weights``.
    """
    chosen = jax.nn.softplus(-positive.astype(jnp.float32))
    drawn = jax.nn.softplus(negative.astype(jnp.float32))
    weights = jnp.ones_like(chosen) if weights is None else weights.astype(jnp.float32)
    negative_weights = weights if negative_weights is None else negative_weights.astype(jnp.float32)
    return jnp.sum(chosen * weights) + jnp.sum(drawn * negative_weights), jnp.sum(weights)
