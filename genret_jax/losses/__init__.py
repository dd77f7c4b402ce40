"""Loss functions: pure, and summed rather than averaged.

Losses of a batch return the sum and the sum of weights; losses of quantisation return one number per vector.
"""

from genret_jax.losses.consistency import check_consistency, shown_twice, symmetric_divergence, two_passes
from genret_jax.losses.contrastive import in_batch_contrastive
from genret_jax.losses.cross_entropy import (
    TokenLoss,
    cross_entropy,
    sampled_binary_cross_entropy,
    tied_softmax_cross_entropy,
)
from genret_jax.losses.quantisation import (
    cumulative_quantisation_loss,
    reconstruction_loss,
    residual_quantisation_loss,
    straight_through,
)

__all__ = [
    "TokenLoss",
    "check_consistency",
    "cross_entropy",
    "cumulative_quantisation_loss",
    "in_batch_contrastive",
    "reconstruction_loss",
    "residual_quantisation_loss",
    "sampled_binary_cross_entropy",
    "shown_twice",
    "straight_through",
    "symmetric_divergence",
    "tied_softmax_cross_entropy",
    "two_passes",
]
