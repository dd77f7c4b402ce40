"""Test the claims of the papers on a corpus (``genret claims``)."""

from genret_jax.claims.catalogue import ARMS, CLAIMS, Arm, Claim
from genret_jax.claims.running import show_claims

__all__ = ["ARMS", "CLAIMS", "Arm", "Claim", "show_claims"]
