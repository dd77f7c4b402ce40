"""Cross-entropy of token sequences, as T5 is trained."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

# Output heads put this or less where a token is no candidate (far below any real logit, and finite in bfloat16).
NO_CANDIDATE = -1e6


@runtime_checkable
class TokenLoss(Protocol):
    """A loss of target tokens, for experiments that replace cross-entropy by their own."""

    def __call__(
        self, logits: Float[Array, "*b v"], targets: Int[Array, "*b"], weights: Float[Array, "*b"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Return the weighted sum of the losses of all positions, and the sum of the weights."""
        ...


def cross_entropy(
    logits: Float[Array, "*b v"],
    targets: Int[Array, "*b"],
    weights: Float[Array, "*b"] | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum the cross-entropy of all positions, and their weights.

    T5X's normalisation (Roberts et al. 2022, `losses.compute_weighted_cross_entropy`): the target has probability
    ``1 - label_smoothing``, the others share the rest evenly, and the entropy of that distribution is subtracted, so
    that a perfect model reaches 0. Dividing the first result by the second gives the loss of one position; keeping
    them apart lets devices and accumulated batches be added exactly.

    Tokens with logits below -1e6, which a prefix-aware head gives to what cannot follow, take no part in the smoothing:
    the rest is shared by the candidates. Without such logits this is T5X's loss to the letter.

    Args:
        logits: Unnormalised scores over the vocabulary, any float type; the loss is computed in float32.
        targets: Token ids.
        weights: Of each position, 0 for padding; all 1 when left out.
        z_loss: Coefficient of ``log(Z)**2``, which keeps the softmax's normaliser near 1 (Mesh TensorFlow; 1e-4 in T5).
        label_smoothing: Probability taken from the target.

    Returns:
        The weighted sum of losses, z-loss included, and the sum of weights.
    """
    logits = logits.astype(jnp.float32)
    log_normaliser = jax.nn.logsumexp(logits, axis=-1)
    of_target = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    loss = log_normaliser - of_target
    if label_smoothing:
        loss = _smoothed(logits, log_normaliser, of_target, label_smoothing)
    loss += z_loss * jnp.square(log_normaliser)
    weights = jnp.ones_like(loss) if weights is None else weights.astype(jnp.float32)
    return jnp.sum(loss * weights), jnp.sum(weights)


def _smoothed(
    logits: Float[Array, "*b v"], log_normaliser: Float[Array, "*b"], of_target: Float[Array, "*b"], smoothing: float
) -> Float[Array, "*b"]:
    """Cross-entropy with the smoothed target, without making that distribution."""
    candidate = logits > NO_CANDIDATE
    others = candidate.sum(axis=-1).astype(jnp.float32) - 1.0
    confidence = jnp.where(others > 0, 1.0 - smoothing, 1.0)  # nothing to share with: an unary prefix
    each = (1.0 - confidence) / jnp.maximum(others, 1.0)
    of_all = jnp.sum(jnp.where(candidate, logits, 0.0), axis=-1)
    entropy = -(confidence * jnp.log(confidence) + others * each * jnp.log(each + 1e-20))
    return log_normaliser - (confidence - each) * of_target - each * of_all - entropy
