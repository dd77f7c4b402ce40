"""Losses of a residual-quantised autoencoder (RQ-VAE), for one vector or many."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def straight_through(latent: Float[Array, "*b d"], quantised: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Return the quantised vectors, with the gradient of the latent vectors.

    The straight-through estimator of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, section 3.2): quantisation
    has no gradient, so the decoder's gradient goes to the encoder unchanged, and not to the codebooks.

    Args:
        latent: Output of the encoder.
        quantised: Sum of the codes of each latent vector.
    """
    return latent + jax.lax.stop_gradient(quantised - latent)


def reconstruction_loss(vectors: Float[Array, "*b d"], reconstructed: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Return squared distances, ``||x - x̂||²`` (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 3.1)."""
    return jnp.sum(jnp.square(vectors - reconstructed), axis=-1)


def residual_quantisation_loss(
    latent: Float[Array, "*b d"], chosen: Float[Array, "*b m d"], beta: float
) -> Float[Array, "*b"]:
    """Pull codebooks and encoder together at every level, with TIGER's loss.

    ``Σ_t ||sg[r_t] - e_t||² + β ||r_t - sg[e_t]||²``, where ``r_0`` is the latent vector and ``r_{t+1} = r_t - e_t``
    (Rajput et al. 2023, arXiv 2305.05065, section 3.1). A residual depends on the earlier codes, so the commitment of
    later levels moves earlier codes too; :func:`cumulative_quantisation_loss` has equal values and stops that gradient.

    Args:
        latent: Output of the encoder.
        chosen: At each level, the vector of the code nearest to the residual.
        beta: Weight of the commitment; 0.25 in VQ-VAE and in TIGER.
    """
    residuals = latent[..., None, :] - (jnp.cumsum(chosen, axis=-2) - chosen)  # --> [*b, m, d]
    to_codes = jnp.square(jax.lax.stop_gradient(residuals) - chosen)
    to_encoder = jnp.square(residuals - jax.lax.stop_gradient(chosen))
    return jnp.sum(to_codes + beta * to_encoder, axis=(-2, -1))


def cumulative_quantisation_loss(
    latent: Float[Array, "*b d"], chosen: Float[Array, "*b m d"], beta: float
) -> Float[Array, "*b"]:
    """Commit the encoder to the sum of the codes up to each level, and move each code by the loss of its level only.

    The commitment is that of Lee et al. 2022 (arXiv 2203.01941, section 3.1): ``β Σ_t ||z - sg[e_0 + ... + e_t]||²``.
    They move a code to the running mean of its residuals; the gradient of ``Σ_t ||sg[r_t] - e_t||²`` leads there too.

    Args:
        latent: Output of the encoder.
        chosen: At each level, the vector of the code nearest to the residual.
        beta: Weight of the commitment; 0.25 in Lee et al.
    """
    sums = jax.lax.stop_gradient(jnp.cumsum(chosen, axis=-2))
    residuals = latent[..., None, :] - sums  # --> [*b, m, d], after each level
    to_codes = jnp.square(jax.lax.stop_gradient(residuals + chosen) - chosen)
    return jnp.sum(to_codes + beta * jnp.square(residuals), axis=(-2, -1))
