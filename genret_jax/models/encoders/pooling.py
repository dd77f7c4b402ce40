"""How the states of an encoder become one vector: pooling, a linear map, scaling to length 1."""

import functools
import typing
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.encoders.bert import BertEncoder
from genret_jax.models.encoders.config import BertConfig, Pooling
from genret_jax.models.layers import project
from genret_jax.models.network import T5
from genret_jax.models.query import pooled_states

Activation = Literal["identity", "tanh"]


@typing.no_type_check
@struct.dataclass
class Projection:
    """A linear map of the pooled vectors.

    Attributes:
        kernel: float32 [d_model, features].
        bias: float32 [features].
        activation: ``"identity"`` or ``"tanh"``; static.
    """

    kernel: Array | np.ndarray
    bias: Array | np.ndarray
    activation: Activation = struct.field(pytree_node=False)


def encoded(
    params: Mapping[str, Any], tokens: Int[Array, "b l"], config: BertConfig | T5Config
) -> Float[Array, "b l d"]:
    """Return the states of token sequences, padded with 0; those at padding are meaningless.

    Args:
        params: Parameters of :class:`~genret_jax.models.encoders.bert.BertEncoder`, or those of
            :class:`~genret_jax.models.network.T5` that its encoder has.
        tokens: The sequences.
        config: Shape of the network.
    """
    if isinstance(config, T5Config):
        return T5(config).apply({"params": params}, tokens, method="encode")
    return BertEncoder(config).apply({"params": params}, tokens)


@functools.partial(jax.jit, static_argnames=("config", "pooling", "normalize"))
def pooled(
    params: Mapping[str, Any],
    tokens: Int[Array | np.ndarray, "b l"],
    projection: Projection | None = None,
    *,
    config: BertConfig | T5Config,
    pooling: Pooling,
    normalize: bool,
) -> Float[Array, "b d"]:
    """Encode token sequences and return one vector for each, in float32.

    Args:
        params: As in :func:`encoded`.
        tokens: As in :func:`encoded`; the states of a sequence without tokens count as zero.
        projection: Applied after pooling.
        config: Shape of the network.
        pooling: ``"mean"`` or ``"max"`` of the states, or the state of the first token (``"cls"``).
        normalize: Scale vectors to length 1.
    """
    tokens = jnp.asarray(tokens)
    vectors = pooled_states(encoded(params, tokens, config), tokens, pooling, normalize=False)
    if projection is not None:
        vectors = project(vectors, projection.kernel)
        vectors = vectors + jnp.broadcast_to(projection.bias, vectors.shape)
        vectors = jnp.tanh(vectors) if projection.activation == "tanh" else vectors
    return vectors / jnp.maximum(jnp.linalg.norm(vectors, axis=1, keepdims=True), 1e-12) if normalize else vectors
