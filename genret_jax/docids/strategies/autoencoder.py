"""The network of an RQ-VAE, and the quantiser that it makes."""

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
        widths: Of each layer's output.
    """

    widths: tuple[int, ...]

    @nn.compact
    def __call__(self, inputs: Float[Array, "b d"]) -> Float[Array, "b width"]:
        """Return what the last layer returns, which has no ReLU."""
        hidden = inputs
        for index, width in enumerate(self.widths):
            hidden = nn.relu(hidden) if index else hidden
            hidden = nn.Dense(width, kernel_init=nn.initializers.he_normal(), name=f"layer{index}")(hidden)
        return hidden


def through(layers: Mapping[str, Any], inputs: Float[Array, "b d"]) -> Float[Array, "b width"]:
    """Apply an :class:`Mlp` whose widths are those of its parameters."""
    widths = tuple(layers[f"layer{index}"]["bias"].shape[0] for index in range(len(layers)))
    return Mlp(widths).apply({"params": layers}, inputs)


class RqVaeQuantiser(ReconstructingQuantiser):
    """The encoder of an RQ-VAE and its codebooks, with the decoder.

    Its arrays are ``mean`` and ``scale`` [d], by which vectors are standardised, ``codebooks`` [m, c, width], and the
    parameters of both networks (``encoder_layer0_kernel`` and so on).
    """

    name = "rq-vae"

    @classmethod
    def of(
        cls, parameters: Mapping[str, Any], mean: Float32[np.ndarray, " d"], scale: Float32[np.ndarray, " d"]
    ) -> "RqVaeQuantiser":
        """Return the quantiser of trained parameters: ``encoder``, ``decoder`` and ``codebooks``."""
        flat = {key: np.asarray(array) for key, array in flatten_dict(dict(parameters), sep="_").items()}
        levels, codes, _ = flat["codebooks"].shape
        return cls(level_sizes=(codes,) * levels, arrays={"mean": mean, "scale": scale, **flat})

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.arrays["mean"].shape[0])

    def look(self, piece: Any, arrays: Any) -> tuple[Any, ...]:
        """Return the codes of a piece of vectors."""
        return (_encoded(piece, arrays),)

    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return what the decoder makes of the sums of codes."""
        return np.asarray(_decoded(jnp.asarray(codes), dict(self.arrays)))


@jax.jit
def _encoded(piece: Float[Array, "p d"], arrays: dict[str, Any]) -> Int[Array, "p m"]:
    standardised = (piece - arrays["mean"][None]) / arrays["scale"][None]
    return quantise(through(unflatten_dict(arrays, sep="_")["encoder"], standardised), arrays["codebooks"])[0]


@jax.jit
def _decoded(codes: Int[Array, "n m"], arrays: dict[str, Any]) -> Float[Array, "n d"]:
    levels = jnp.arange(codes.shape[1])
    quantised = arrays["codebooks"][levels[None], codes].sum(1)  # --> [n, width]
    standardised = through(unflatten_dict(arrays, sep="_")["decoder"], quantised)
    return standardised * arrays["scale"][None] + arrays["mean"][None]
