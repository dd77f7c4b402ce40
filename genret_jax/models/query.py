"""The query: its tokens with those that the encoder expects around them, its terms, and its vector."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int

from genret_jax.models.config import T5Config
from genret_jax.models.layers import Dense

_INPUT_SCALE = 4.0  # of vectors of length 1 for the residual layer, which then begins nearly linear and learns slowly


def source_tokens(config: T5Config, inputs: Int[Array, "b i"]) -> Int[Array, "b l"]:
    """Return the tokens that the encoder reads: those of the input's text, between the encoder's special tokens.

    Args:
        config: The network's shape.
        inputs: Tokens of the text, padded with 0, and the terms that a plan reads.
    """
    tokens, form = inputs[:, : inputs.shape[1] - config.plan_terms], config.sentence
    if form is None:
        return tokens
    if form.last_token:
        places = jnp.arange(tokens.shape[1] + 1)[None]
        end = jnp.sum(tokens > 0, axis=1, keepdims=True)
        tokens = jnp.where(places == end, form.last_token, jnp.pad(tokens, ((0, 0), (0, 1))))
    first = jnp.asarray(form.first_tokens, tokens.dtype).reshape(1, -1)
    return jnp.concatenate([jnp.broadcast_to(first, (len(tokens), first.shape[1])), tokens], axis=1)


def query_terms(config: T5Config, inputs: Int[Array, "b i"]) -> Int[Array, "b t"]:
    """Return the terms of inputs, padded with 0."""
    return inputs[:, inputs.shape[1] - config.plan_terms :]


def pooled_states(
    states: Float[Array, "b l d"], tokens: Int[Array, "b l"], pooling: str, *, normalize: bool
) -> Float[Array, "b d"]:
    """Return one vector for the states of each text, in float32; zero for a text without tokens.

    Args:
        states: States of an encoder; those at padding may hold anything.
        tokens: Its tokens, padded with 0.
        pooling: ``"mean"``, ``"cls"`` or ``"max"``.
        normalize: Scale vectors to length 1.
    """
    states, kept = states.astype(jnp.float32), (tokens > 0)[..., None]
    if pooling == "cls":
        vectors = states[:, 0]
    elif pooling == "max":
        vectors = jnp.where(kept, states, -jnp.inf).max(axis=1)
    else:
        vectors = jnp.where(kept, states, 0.0).sum(axis=1) / jnp.maximum(kept.sum(axis=1), 1)
    vectors = jnp.where(kept.any(axis=1), vectors, 0.0)
    return (
        vectors * jax.lax.rsqrt(jnp.maximum(jnp.sum(vectors**2, axis=1, keepdims=True), 1e-24))
        if normalize
        else vectors
    )


class QueryVector(nn.Module):
    """The vector of a query: the pooled states of the encoder, plus what a residual layer changes about it.

    The layer begins at zero, so the vector begins as that of the sentence encoder.

    Attributes:
        config: The network's shape, with ``sentence``.
    """

    config: T5Config

    @nn.compact
    def __call__(
        self, states: Float[Array, "b l d"], inputs: Int[Array, "b i"], deterministic: bool = True
    ) -> Float[Array, "b d"]:
        """Return the vectors of queries, in float32.

        Args:
            states: States of the encoder.
            inputs: The network's, from which these states come.
            deterministic: Turn dropout off.
        """
        form = self.config.sentence
        assert form is not None
        vectors = pooled_states(states, source_tokens(self.config, inputs), form.pooling, normalize=True)
        if self.config.query_width:
            hidden = Dense(self.config.query_width, ("embed", "mlp"), name="wi")(_INPUT_SCALE * vectors)
            out = Dense(self.config.d_model, ("mlp", "embed"), kernel_init=nn.initializers.zeros, name="wo")
            dropped = nn.Dropout(self.config.query_dropout)(nn.gelu(hidden), deterministic=deterministic)
            vectors = vectors + out(dropped)
        return vectors
