"""Cross-entropy of the softmax over a whole table of vectors, such as those of all items."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def tied_softmax_cross_entropy(
    hidden: Float[Array, "*b d"],
    table: Float[Array, "n d"],
    targets: Int[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum ``-log softmax(hidden · tableᵀ)[target]`` over all positions.

    The same as :func:`genret_jax.losses.cross_entropy` of the inner products. The target's is computed once more by
    itself, so that its gradient is one row of the table and not a row of zeros as long as the table is: a third of the
    time on a CPU, where these rows are most of what is written.

    Args:
        hidden: Vectors that say what comes next.
        table: Vectors of all that may come.
        targets: Rows of the table.
        weights: Of each position, 0 for padding; all 1 when left out.

    Returns:
        The weighted sum of losses, and the sum of weights.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])  # one product of two matrices
    log_normaliser = jax.nn.logsumexp(flat @ table.T, axis=-1).reshape(targets.shape)
    loss = log_normaliser - jnp.einsum("...d,...d->...", hidden, table[targets])
    weights = jnp.ones_like(loss) if weights is None else weights.astype(jnp.float32)
    return jnp.sum(loss * weights), jnp.sum(weights)
