"""Losses of a residual-quantised autoencoder (RQ-VAE), each of one vector or of many."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def straight_through(latent: Float[Array, "*b d"], quantised: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
    """Return the quantised vectors, with the gradient of the latent ones.

    The straight-through estimator of VQ-VAE (van den Oord et al. 2017, arXiv 1711.00937, section 3.2): quantisation
    has no gradient, so the decoder's goes to the encoder unchanged, and none of it to the codebooks.

    Args:
        latent: What the encoder returned.
        quantised: What stands for it.
    """
    return latent + jax.lax.stop_gradient(quantised - latent)


def reconstruction_loss(vectors: Float[Array, "*b d"], reconstructed: Float[Array, "*b d"]) -> Float[Array, "*b"]:
    """Return squared distances, ``||x - x̂||²`` (TIGER, Rajput et al. 2023, arXiv 2305.05065, section 3.1)."""
    return jnp.sum(jnp.square(vectors - reconstructed), axis=-1)


def residual_quantisation_loss(
    latent: Float[Array, "*b d"], chosen: Float[Array, "*b m d"], beta: float
) -> Float[Array, "*b"]:
    """Sum over the levels what codebooks and encoder are to be pulled together by, as TIGER writes it.

    ``Σ_t ||sg[r_t] - e_t||² + β ||r_t - sg[e_t]||²``, where ``r_0`` is the latent vector and ``r_{t+1} = r_t - e_t``
    (Rajput et al. 2023, arXiv 2305.05065, section 3.1). The residual of a level holds the codes before it, so the
    commitment of later levels moves earlier codes too; :func:`cumulative_quantisation_loss` has equal values and stops
    that gradient.

    Args:
        latent: What the encoder returned.
        chosen: The nearest code of each level to what the levels before it left over.
        beta: Weight of the commitment; .25 in VQ-VAE and in TIGER.
    """
    residuals = latent[..., None, :] - (jnp.cumsum(chosen, axis=-2) - chosen)  # --> [*b, m, d]
    to_codes = jnp.square(jax.lax.stop_gradient(residuals) - chosen)
    to_encoder = jnp.square(residuals - jax.lax.stop_gradient(chosen))
    return jnp.sum(to_codes + beta * to_encoder, axis=(-2, -1))


def cumulative_quantisation_loss(
    latent: Float[Array, "*b d"], chosen: Float[Array, "*b m d"], beta: float
) -> Float[Array, "*b"]:
    """Commit the encoder to the sum of the codes so far, level by level, and move each code by its own level alone.

    The commitment of Lee et al. 2022 (arXiv 2203.01941, section 3.1): ``β Σ_t ||z - sg[e_0 + ... + e_t]||²``. They move
    codes by running means of the residuals given to them; the gradient of ``Σ_t ||sg[r_t] - e_t||²`` leads there too.

    Args:
        latent: What the encoder returned.
        chosen: The nearest code of each level to what the levels before it left over.
        beta: Weight of the commitment; .25 in Lee et al.
    """
    sums = jax.lax.stop_gradient(jnp.cumsum(chosen, axis=-2))
    left = latent[..., None, :] - sums  # --> [*b, m, d], what each level leaves over
    to_codes = jnp.square(jax.lax.stop_gradient(left + chosen) - chosen)
    return jnp.sum(to_codes + beta * jnp.square(left), axis=(-2, -1))
