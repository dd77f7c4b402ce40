"""The networks of an RQ-VAE, and the quantiser that a trained RQ-VAE becomes."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Array, Float, Float32, Int

from genret_jax.docids.quantiser import ReconstructingQuantiser
from genret_jax.docids.streaming import quantise


class Mlp(nn.Module):
    """Dense layers with ReLU between them.

    Attributes:
        widths: Output width of every layer.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Float[Array, "b d"]) -> Float[Array, "b width"]:
        """Return the output of the last layer, which has no ReLU."""
        hidden = inputs
        for index, width in enumerate(self.widths):
            hidden = nn.relu(hidden) if index else hidden
            hidden = nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"layer{index}")(hidden)
        return hidden


def apply_mlp(layers: Mapping[str, Any], inputs: Float[Array, "b d"]) -> Float[Array, "b width"]:
    """Apply the :class:`Mlp` with these parameters; their shapes give its widths."""
    widths = tuple(layers[f"layer{index}"]["bias"].shape[0] for index in range(len(layers)))
    return Mlp(widths).apply({"params": layers}, inputs)


class RqVaeQuantiser(ReconstructingQuantiser):
    """The encoder, codebooks and decoder of a trained RQ-VAE.

    Its arrays are ``mean`` and ``scale`` [d], which standardise vectors, ``codebooks`` [m, c, width], and the
    parameters of both networks (``encoder_layer0_kernel`` and so on).
    """

    name = "rq-vae"
    width_array = "mean"

    @classmethod
    def from_parameters(
        cls, parameters: Mapping[str, Any], mean: Float32[np.ndarray, " d"], scale: Float32[np.ndarray, " d"]
    ) -> "RqVaeQuantiser":
        """Make a quantiser from trained parameters: ``encoder``, ``decoder`` and ``codebooks``."""
        flat = {key: np.asarray(array) for key, array in flatten_dict(dict(parameters), sep="_").items()}
        levels, codes, _ = flat["codebooks"].shape
        return cls(level_sizes=(codes,) * levels, arrays={"mean": mean, "scale": scale, **flat})

    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes of a piece of vectors."""
        return _encoded(piece, arrays)

    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the decoder's output for the sums of codes."""
        return np.asarray(_decoded(jnp.asarray(codes), dict(self.arrays)))


@jax.jit
def _encoded(piece: Float[Array, "p d"], arrays: dict[str, Any]) -> Int[Array, "p m"]:
    standardised = (piece - arrays["mean"][None]) / arrays["scale"][None]
    return quantise(apply_mlp(unflatten_dict(arrays, sep="_")["encoder"], standardised), arrays["codebooks"])[0]


@jax.jit
def _decoded(codes: Int[Array, "n m"], arrays: dict[str, Any]) -> Float[Array, "n d"]:
    levels = jnp.arange(codes.shape[1])
    quantised = arrays["codebooks"][levels[None], codes].sum(1)  # --> [n, width]
    standardised = apply_mlp(unflatten_dict(arrays, sep="_")["decoder"], quantised)
    return standardised * arrays["scale"][None] + arrays["mean"][None]
