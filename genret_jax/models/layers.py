"""T5's layers (Raffel et al. 2020, arXiv 1910.10683, section 2.1), with the parameter names and axes that t5x uses."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes, with_sharding_constraint
from jaxtyping import Array, Bool, Float, Int

from genret_jax.models.config import T5Config

Initializer = Callable[..., Any]

MASKED = -1e10
_ACTIVATIONS = {
    "gelu": lambda x: nn.gelu(x, approximate=True),  # T5 1.1 was trained with the tanh approximation
    "relu": nn.relu,
    "silu": nn.silu,
    "linear": lambda x: x,
}
_KERNEL_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "normal")
_MLP_INIT = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


def constrain(x: Array, *axes: str | None) -> Array:
    """Constrain how an activation is spread over devices, by logical axis names; without a mesh, do nothing."""
    return with_sharding_constraint(x, axes)


def dropout(config: T5Config) -> nn.Dropout:
    """Return dropout with the same mask at every position of a sequence, as in T5's own training code.

    With one mask per feature instead of one per position and feature, drawing random numbers also costs little.
    """
    return nn.Dropout(rate=config.dropout_rate, broadcast_dims=(-2,))


def project(x: Float[Array, "*b i"], kernel: Float[Array | np.ndarray, "i o"]) -> Float[Array, "*b o"]:
    """Multiply the last axis by a matrix, as one product of two matrices.

    With separate leading axes, XLA on the CPU transposes the operands of the kernel's gradient and recomputes the
    operations fused into them: the training step of a feed-forward layer takes a third longer.
    """
    flat = jnp.matmul(x.reshape(-1, x.shape[-1]), kernel)
    return flat.reshape(*x.shape[:-1], kernel.shape[-1])


class LayerNorm(nn.Module):
    """RMS norm: no mean, no bias, computed in float32 (Zhang and Sennrich 2019, arXiv 1910.07467)."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        """Scale every vector to unit mean square, then by the learned weights."""
        scale = param_with_axes("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32, axes=("embed",))
        wide = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
        normed = wide * jax.lax.rsqrt(mean_square + self.config.layer_norm_epsilon)
        return (normed * jnp.broadcast_to(scale, normed.shape)).astype(self.config.compute_dtype)


class Dense(nn.Module):
    """A linear map without bias, with its kernel in float32.

    Attributes:
        features: Width of the output.
        axes: Logical names of the kernel's two axes.
        dtype: Type of the computation.
        kernel_init: Initialiser of the kernel.
    """

    features: int
    axes: tuple[str, str]
    dtype: Any = jnp.float32
    kernel_init: Initializer = _KERNEL_INIT

    @nn.compact
    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        """Multiply the last axis by the kernel."""
        kernel = param_with_axes("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32, axes=self.axes)
        return project(x.astype(self.dtype), kernel.astype(self.dtype))


class Embed(nn.Module):
    """A table of token vectors.

    Attributes:
        rows: Number of tokens.
        features: Width of the vectors.
        dtype: Type of the returned vectors; the table is float32.
        deviation: Standard deviation of the initial numbers.
    """

    rows: int
    features: int
    dtype: Any = jnp.float32
    deviation: float = 1.0

    def setup(self) -> None:
        """Declare the table."""
        self.embedding = param_with_axes(
            "embedding",
            nn.initializers.normal(stddev=self.deviation),
            (self.rows, self.features),
            jnp.float32,
            axes=("vocab", "embed"),
            module=self,
        )

    def __call__(self, tokens: Int[Array, "*b"]) -> Float[Array, "*b d"]:
        """Return the vectors of tokens."""
        return jnp.take(self.embedding, tokens, axis=0, mode="clip").astype(self.dtype)

    def attend(self, hidden: Float[Array, "*b d"], rows: tuple[Any, int] | None = None) -> Float[Array, "*b v"]:
        """Return the inner product with every row, or with ``rows[1]`` rows starting at ``rows[0]``, in float32."""
        table = self.embedding if rows is None else jax.lax.dynamic_slice_in_dim(self.embedding, *rows)
        return project(hidden.astype(jnp.float32), table.T)


def relative_position_buckets(
    offset: Int[np.ndarray, "*b"], *, bidirectional: bool, num_buckets: int, max_distance: int
) -> Int[np.ndarray, "*b"]:
    """Map ``key position - query position`` to a row of the bias table (arXiv 1910.10683, section 2.1).

    Half of the buckets are exact distances; the other half grow logarithmically up to ``max_distance``.
    """
    buckets = np.zeros_like(offset)
    if bidirectional:
        num_buckets //= 2
        buckets += (offset > 0) * num_buckets
        distance = np.abs(offset)
    else:
        distance = -np.minimum(offset, 0)
    exact = num_buckets // 2
    ratio = np.log(np.maximum(distance, 1).astype(np.float32) / exact) / np.log(max_distance / exact).astype(np.float32)
    # The reference implementations round in float32; adding epsilon keeps exact powers from falling below themselves.
    large = exact + (ratio * (num_buckets - exact) + np.finfo(np.float32).eps).astype(np.int32)
    return (buckets + np.where(distance < exact, distance, np.minimum(large, num_buckets - 1))).astype(np.int32)


class RelativePositionBias(nn.Module):
    """One learned scalar per head and distance bucket, shared by all layers of a stack.

    Attributes:
        config: Gives the number of heads and buckets, and the largest distance.
        bidirectional: Whether positions attend to later ones, as in the encoder.
    """

    config: T5Config
    bidirectional: bool

    @nn.compact
    def __call__(self, length: int) -> Float[Array, "1 h l l"]:
        """Return the bias of the attention logits for sequences of this length, in float32."""
        buckets = self.config.relative_attention_num_buckets
        table = param_with_axes(
            "rel_embedding",
            nn.initializers.variance_scaling(1.0, "fan_avg", "uniform"),
            (self.config.num_heads, buckets),
            jnp.float32,
            axes=("heads", "relpos_buckets"),
        )
        positions = np.arange(length, dtype=np.int32)
        rows = relative_position_buckets(
            positions[None, :] - positions[:, None],
            bidirectional=self.bidirectional,
            num_buckets=buckets,
            max_distance=self.config.relative_attention_max_distance,
        )
        return jnp.take(table, rows, axis=1)[None]


def later_rows(bias: Float[Array, "1 h m m"], position: Int[Array, ""] | int, count: int) -> Float[Array, "h n m"]:
    """Return ``count`` rows of a causal bias, starting at ``position``, for :meth:`Attention.attend_own_past`."""
    causal = (bias + causal_bias(bias.shape[-1]))[0]
    return jax.lax.dynamic_slice_in_dim(causal, position, count, axis=1)


class Attention(nn.Module):
    """Multi-head attention without scaling by the head width: T5 folds that into the query's initialiser."""

    config: T5Config

    def setup(self) -> None:
        """Declare the four projections."""
        width = self.config.num_heads * self.config.d_kv
        dtype = self.config.compute_dtype

        def query_init(*arguments: Any) -> Array:
            return _KERNEL_INIT(*arguments) * self.config.d_kv**-0.5

        self.query = Dense(width, ("embed", "joined_kv"), dtype, query_init)
        self.key = Dense(width, ("embed", "joined_kv"), dtype)
        self.value = Dense(width, ("embed", "joined_kv"), dtype)
        self.out = Dense(self.config.d_model, ("joined_kv", "embed"), dtype)
        # One mask for all queries of a head, as in T5's own training code.
        self.dropout = dropout(self.config)

    def _heads(self, x: Float[Array, "b l hd"]) -> Float[Array, "b l h d"]:
        return constrain(
            x.reshape(*x.shape[:-1], self.config.num_heads, self.config.d_kv), "batch", "length", "heads", "kv"
        )

    def keys_values(
        self, inputs: Float[Array, "b l d_model"]
    ) -> tuple[Float[Array, "b l h d"], Float[Array, "b l h d"]]:
        """Return the keys and values of the vectors that are attended to."""
        return self._heads(self.key(inputs)), self._heads(self.value(inputs))

    def attend(
        self,
        inputs: Float[Array, "b q d_model"],
        keys: Float[Array, "b l h d"],
        values: Float[Array, "b l h d"],
        bias: Float[Array, "#b #h #q l"],
        deterministic: bool = True,
    ) -> Float[Array, "b q d_model"]:
        """Attend from ``inputs`` to projected keys and values; softmax in float32.

        Args:
            inputs: Vectors of the queries.
            keys: Keys from :meth:`keys_values`.
            values: Values from :meth:`keys_values`.
            bias: Added to the logits: position bias, and :data:`MASKED` where attention is not allowed.
            deterministic: Turn dropout off.
        """
        query = self._heads(self.query(inputs))
        logits = jnp.einsum("bqhd,blhd->bhql", query, keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits + bias, axis=-1).astype(self.config.compute_dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        mixed = jnp.einsum("bhql,blhd->bqhd", weights, values)
        return self.out(mixed.reshape(*mixed.shape[:-2], -1))

    def attend_own_past(
        self,
        inputs: Float[Array, "b q d_model"],
        past_keys: Float[Array, "b k m h d"],
        past_values: Float[Array, "b k m h d"],
        position: Int[Array, ""] | int,
        bias: Float[Array, "h n m"],
    ) -> tuple[Float[Array, "b q d_model"], Float[Array, "b k m h d"], Float[Array, "b k m h d"]]:
        """Attend from n new tokens of every beam to the past of that beam, including the new tokens.

        Args:
            inputs: Vectors of the new tokens; those of a beam follow each other, so q is k times n.
            past_keys: Keys of earlier positions; later positions may hold anything.
            past_values: Values of earlier positions.
            position: Position of a beam's first new token.
            bias: Position bias of the new tokens, :data:`MASKED` after each token's own position.

        Returns:
            The output of the attention, and the keys and values with those of the new tokens at ``position``.
        """

        def of_beams(x: Float[Array, "b q h d"]) -> Float[Array, "b k n h d"]:
            return x.reshape(x.shape[0], past_keys.shape[1], -1, *x.shape[2:])

        query = of_beams(self._heads(self.query(inputs)))
        keys, values = (of_beams(new) for new in self.keys_values(inputs))
        past_keys = jax.lax.dynamic_update_slice_in_dim(past_keys, keys, position, axis=2)
        past_values = jax.lax.dynamic_update_slice_in_dim(past_values, values, position, axis=2)
        logits = jnp.einsum("bknhd,bkmhd->bkhnm", query, past_keys, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(logits + bias[None, None], axis=-1).astype(self.config.compute_dtype)
        mixed = jnp.einsum("bkhnm,bkmhd->bknhd", weights, past_values)
        return self.out(mixed.reshape(*inputs.shape[:2], -1)), past_keys, past_values


class Mlp(nn.Module):
    """T5's feed-forward layer: one hidden projection (1.0) or a gated pair (1.1; Shazeer 2020, arXiv 2002.05202)."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "b l d"], deterministic: bool = True) -> Float[Array, "b l d"]:
        """Apply the layer to every position."""
        dtype = self.config.compute_dtype
        hidden = None
        for index, activation in enumerate(self.config.activations):
            name = "wi" if len(self.config.activations) == 1 else f"wi_{index}"
            part = Dense(self.config.d_ff, ("embed", "mlp"), dtype, _MLP_INIT, name=name)(x)
            part = _ACTIVATIONS[activation](part)
            hidden = part if hidden is None else hidden * part
        hidden = dropout(self.config)(hidden, deterministic=deterministic)
        hidden = constrain(hidden, "batch", "length", "mlp")
        return Dense(self.config.d_model, ("mlp", "embed"), dtype, _MLP_INIT, name="wo")(hidden)


def padding_bias(tokens_kept: Bool[Array, "b l"]) -> Float[Array, "b 1 1 l"]:
    """Return the attention bias that hides padding."""
    return jnp.where(tokens_kept, 0.0, MASKED)[:, None, None, :]


def causal_bias(length: int) -> Float[Array, "1 1 l l"]:
    """Return the attention bias that hides the future."""
    return jnp.where(np.tril(np.ones((length, length), bool)), 0.0, MASKED)[None, None]
