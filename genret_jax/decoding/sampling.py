"""Random sampling of text, for models that write text and not docids."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.scores import finite
from genret_jax.decoding.step import Cache, Step, reorder
from genret_jax.errors import InputError

_PAD, _EOS = 0, 1


def sample_tokens(
    step: Step,
    cache: Cache,
    key: jax.Array,
    *,
    batch: int,
    samples: int,
    length: int,
    top_k: int,
    temperature: float = 1.0,
) -> Int[Array, "b n length"]:
    """Draw sequences token by token, each from the model's most probable next tokens.

    That is top-k sampling (Fan et al. 2018, arXiv 1805.04833, section 5.4). It is a pure function to be called inside
    ``jax.jit``. The first step is made once for all samples of an input.

    Args:
        step: The model.
        cache: Its cache for depth 0 with one beam, as for :func:`genret_jax.decoding.beam_search`.
        key: Random key.
        batch: Number of inputs, b.
        samples: Sequences per input, n.
        length: Most tokens of a sequence.
        top_k: Number of tokens to draw from; 1 always takes the best.
        temperature: Logits are divided by it.

    Returns:
        Tokens up to EOS, then 0; padding (0) is never drawn.

    Raises:
        InputError: If there is nothing to draw, or nothing to draw from.
    """
    for name, value in (("samples", samples), ("length", length), ("top_k", top_k)):
        if value < 1:
            raise InputError(f"{name} is {value}", expected="at least 1")
    if temperature <= 0:
        raise InputError(f"temperature is {temperature}", expected="a positive number", fix="take top_k 1 for the best")

    def drawn(logits: Float[Array, "b n v"], key: jax.Array) -> Int[Array, "b n"]:
        best, tokens = jax.lax.top_k(finite(logits).at[..., _PAD].set(-jnp.inf), min(top_k, logits.shape[-1] - 1))
        chosen = jax.random.categorical(key, best / temperature, axis=-1)
        return jnp.take_along_axis(tokens, chosen[..., None], axis=-1)[..., 0]

    root = jnp.zeros((batch, 1), jnp.int32)
    logits, cache = step(root, root, cache, first=True)
    cache = reorder(cache, jnp.zeros((batch, samples), jnp.int32))
    first, *keys = jax.random.split(key, length)
    last = drawn(jnp.broadcast_to(logits, (batch, samples, logits.shape[-1])), first)

    def following(
        state: tuple[Int[Array, "b n"], Bool[Array, "b n"], Any], key: jax.Array
    ) -> tuple[tuple[Array, Array, Any], Array]:
        last, ended, cache = state
        logits, cache = step(last, jnp.zeros_like(last), cache, first=False)
        token = jnp.where(ended, _PAD, drawn(logits, key))
        return (token, ended | (token == _EOS), cache), token

    if not keys:
        return last[..., None]
    _, later = jax.lax.scan(following, (last, last == _EOS, cache), jnp.stack(keys))
    return jnp.concatenate([last[..., None], jnp.moveaxis(later, 0, -1)], axis=-1)
