"""Loss functions: pure, and summed rather than averaged.

Those of a batch have the sum of weights beside them; those of quantisation are one number a vector.
"""

from genret_jax.losses.consistency import check_consistency, shown_twice, symmetric_divergence, two_passes
from genret_jax.losses.contrastive import in_batch_contrastive
from genret_jax.losses.cross_entropy import TokenLoss, cross_entropy
from genret_jax.losses.quantisation import (
    cumulative_quantisation_loss,
    reconstruction_loss,
    residual_quantisation_loss,
    straight_through,
)
from genret_jax.losses.sampled_bce import sampled_binary_cross_entropy
from genret_jax.losses.tied_softmax import tied_softmax_cross_entropy

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
