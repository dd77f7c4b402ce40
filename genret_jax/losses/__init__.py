"""Loss functions: pure, summed rather than averaged, with the sum of weights beside them."""

from genret_jax.losses.contrastive import in_batch_contrastive
from genret_jax.losses.cross_entropy import cross_entropy

__all__ = ["cross_entropy", "in_batch_contrastive"]
