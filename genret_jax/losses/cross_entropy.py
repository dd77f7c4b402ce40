"""Cross-entropies, summed over positions: of token sequences, of a whole table of vectors, and of sampled negatives."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Output heads give impossible tokens this logit or less (far below any real logit, and finite in bfloat16).
NO_CANDIDATE = -1e6


@runtime_checkable
class TokenLoss(Protocol):
    """A loss of target tokens, for experiments that replace cross-entropy by their own."""

    def __call__(
        self, logits: Float[Array, "*b v"], targets: Int[Array, "*b"], weights: Float[Array, "*b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the weighted sum of the losses of all positions, and the sum of the weights."""
        ...


def weighted_sum(
    losses: Float[Array, "*b"], weights: Float[Array, "*b"] | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the weighted sum of losses and the sum of weights.

    Args:
        losses: Loss of each position.
        weights: Weight of each position; 1 by default.
    """
    weights = jnp.ones_like(losses) if weights is None else weights.astype(jnp.float32)
    return jnp.sum(losses * weights), jnp.sum(weights)


def cross_entropy(
    logits: Float[Array, "*b v"],
    targets: Int[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum the cross-entropy of all positions, and their weights.

    This is T5X's loss (Roberts et al. 2022, `losses.compute_weighted_cross_entropy`): the target has probability
    ``1 - label_smoothing``, the other tokens share the rest evenly, and the entropy of that distribution is subtracted,
    so that a perfect model reaches 0. The loss per position is the first result over the second; two results can be
    added exactly over devices and accumulated batches.

    Tokens with logits of at most -1e6, which a prefix-aware head gives to impossible tokens, take no part in the
    smoothing: the other candidates share the rest.

    Args:
        logits: Unnormalised scores over the vocabulary, any float type; the loss is computed in float32.
        targets: Token ids.
        weights: Weight of each position, 0 for padding; 1 by default.
        z_loss: Coefficient of ``log(Z)**2``, which keeps the softmax's normaliser near 1 (Mesh TensorFlow; 1e-4 in T5).
        label_smoothing: Probability taken from the target.

    Returns:
        The weighted sum of losses, z-loss included, and the sum of weights.
    """
    logits = logits.astype(jnp.float32)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    target_logit = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_normaliser - target_logit
    if label_smoothing:
        loss = _smoothed(logits, log_normaliser, target_logit, label_smoothing)
    return weighted_sum(loss + z_loss * jnp.square(log_normaliser), weights)


def _smoothed(
    logits: Float[Array, "*b v"], log_normaliser: Float[Array, "*b"], target_logit: Float[Array, "*b"], smoothing: float
) -> Float[Array, "*b"]:
    """Return the cross-entropy with the smoothed target, without materialising that distribution."""
    candidate = logits > NO_CANDIDATE
    others = candidate.sum(axis=-1).astype(jnp.float32) - 1.0
    confidence = jnp.where(others > 0, 1.0 - smoothing, 1.0)  # the only candidate keeps all probability
    each = (1.0 - confidence) / jnp.maximum(others, 1.0)
    candidate_sum = jnp.sum(jnp.where(candidate, logits, 0.0), axis=-1)
    entropy = -(confidence * jnp.log(confidence) + others * each * jnp.log(each + 1e-20))
    return log_normaliser - (confidence - each) * target_logit - each * candidate_sum - entropy


def tied_softmax_cross_entropy(
    hidden: Float[Array, "*b d"],
    table: Float[Array, "n d"],
    targets: Int[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum ``-log softmax(hidden · tableᵀ)[target]`` over all positions.

    The value is that of :func:`cross_entropy` on the inner products. The target's inner product is computed a second
    time by itself, so that its gradient is one row of the table and not a row of zeros as long as the table. This saves
    a third of the time on a CPU.

    Args:
        hidden: Hidden state of each position.
        table: Vectors of all candidates, such as all items.
        targets: Rows of the table.
        weights: Weight of each position, 0 for padding; 1 by default.

    Returns:
        The weighted sum of losses, and the sum of weights.
    """
    flat = hidden.reshape(-1, hidden.shape[-1])  # one product of two matrices
    log_normaliser = jax.nn.logsumexp(flat @ table.T, axis=-1).reshape(targets.shape)
    return weighted_sum(log_normaliser - jnp.einsum("...d,...d->...", hidden, table[targets]), weights)


def sampled_binary_cross_entropy(
    positive: Float[Array, "*b"],
    negative: Float[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
    negative_weights: Float[Array, "*b"] | None = None,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum ``-log σ(positive) - log(1 - σ(negative))`` over all positions (Kang & McAuley 2018, section III-F).

    Args:
        positive: Score of the next item.
        negative: Score of one item drawn at random.
        weights: Weight of each position, 0 for padding; 1 by default.
        negative_weights: Weight of the second term, 0 if the drawn item is no negative; ``weights`` by default.

    Returns:
        The weighted sum of losses, and the sum of ``weights``.
    """
    loss, weight = weighted_sum(jax.nn.softplus(-positive.astype(jnp.float32)), weights)
    negative_weights = weights if negative_weights is None else negative_weights
    return loss + weighted_sum(jax.nn.softplus(negative.astype(jnp.float32)), negative_weights)[0], weight
