"""Training of an RQ-VAE: whole epochs on the device, with the vectors there too."""

import functools
import math
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Float32, Int

from genret_jax import losses
from genret_jax.docids.strategies.autoencoder import Mlp, through
from genret_jax.docids.strategies.residual import residual_kmeans
from genret_jax.docids.strategies.rq_vae import RqVae, collapse_advice
from genret_jax.docids.streaming import quantise
from genret_jax.errors import InputError

# Encoded vectors, for each code, that k-means starts the codebooks from.
_STARTS = 64
# Seconds between two looks at the loss, about.
_AT_ONCE = 1.0

Parameters = dict[str, Any]
Count = int | Int[Array, ""]
_QUANTISATION_LOSSES = {
    "residual": losses.residual_quantisation_loss,
    "cumulative": losses.cumulative_quantisation_loss,
}


class _Progress(NamedTuple):
    parameters: Parameters  # encoder, decoder, and codebooks [m, c, width]
    optimizer: Any
    idle: Int[Array, "m c"]  # epochs since a code was last used
    loss: Float[Array, ""]  # mean over the last epoch


def train(config: RqVae, vectors: Float32[np.ndarray, "n d"], seed: int) -> Parameters:
    """Train encoder, decoder and codebooks.

    Args:
        config: How.
        vectors: What to reconstruct, already standardised.
        seed: Decides the start, the order of the vectors and where unused codes go.

    Returns:
        Parameters ``encoder``, ``decoder`` and ``codebooks``.

    Raises:
        InputError: If the loss is no longer finite.
    """
    from tqdm import tqdm

    progress, on_device, key = _start(config, vectors, seed), jnp.asarray(vectors), jax.random.key(seed)
    done, at_once = 0, 1
    with tqdm(total=config.epochs, desc="training the RQ-VAE", unit="epoch", delay=2, leave=False) as bar:
        while done < config.epochs:
            upto, began = min(done + at_once, config.epochs), time.monotonic()
            progress = _epochs(config, on_device, key, progress, done, upto)
            if not math.isfinite(loss := float(progress.loss)):
                raise InputError(
                    f"the loss of the RQ-VAE is {loss} after {upto} epochs",
                    expected="a finite loss",
                    fix=collapse_advice(config),
                )
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update(upto - done)
            if done:  # the first call compiles
                at_once = max(1, int(_AT_ONCE * (upto - done) / (time.monotonic() - began)))
            done = upto
    return progress.parameters


def _start(config: RqVae, vectors: Float32[np.ndarray, "n d"], seed: int) -> _Progress:
    """Return random networks, and codebooks by k-means of what the encoder makes of some vectors."""
    of_encoder, of_decoder = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**32 - 1))
    latent = jnp.zeros((1, config.width))
    encoder = Mlp((*config.hidden, config.width)).init(of_encoder, jnp.zeros((1, vectors.shape[1])))["params"]
    decoder = Mlp((*config.hidden[::-1], vectors.shape[1])).init(of_decoder, latent)["params"]
    count = min(len(vectors), _STARTS * config.codebook)
    first = np.random.default_rng(seed).choice(len(vectors), count, replace=False)
    encoded = np.asarray(through(encoder, jnp.asarray(vectors[first])))
    codebooks = jnp.asarray(residual_kmeans(encoded, config.levels, config.codebook, seed)[1])
    parameters = {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}
    idle = jnp.zeros(codebooks.shape[:2], jnp.int32)
    return _Progress(parameters, _optimizer(config).init(parameters), idle, jnp.zeros(()))


def _optimizer(config: RqVae) -> Any:
    make = {"adamw": optax.adamw, "adagrad": optax.adagrad}[config.optimizer]
    return make(config.learning_rate)


@functools.partial(jax.jit, static_argnames="config")
def _epochs(
    config: RqVae, vectors: Float[Array, "n d"], key: Array, progress: _Progress, first: Count, last: Count
) -> _Progress:
    """Train for the epochs from ``first`` to before ``last``."""

    def epoch(number: Array, progress: _Progress) -> _Progress:
        of_order, of_revival = jax.random.split(jax.random.fold_in(key, number))
        progress, used = _epoch(config, vectors, of_order, progress)
        idle = jnp.where(used, 0, progress.idle + 1)
        if not config.revive_after:
            return progress._replace(idle=idle)
        dead = idle >= config.revive_after
        codebooks = _revived(vectors, of_revival, progress.parameters, dead)
        parameters = {**progress.parameters, "codebooks": codebooks}
        return progress._replace(parameters=parameters, idle=jnp.where(dead, 0, idle))

    return jax.lax.fori_loop(first, last, epoch, progress)


def _epoch(
    config: RqVae, vectors: Float[Array, "n d"], key: Array, progress: _Progress
) -> tuple[_Progress, Bool[Array, "m c"]]:
    """Train on all vectors but the remainder of the last batch; return which codes were used too."""
    optimizer, batch = _optimizer(config), min(config.batch_size, len(vectors))
    steps = len(vectors) // batch
    order = jax.random.permutation(key, len(vectors))[: steps * batch].reshape(steps, batch)
    levels = jnp.arange(config.levels)

    def step(carry: tuple, rows: Int[Array, " b"]) -> tuple:
        parameters, state, used = carry
        inputs = jnp.take(vectors, rows, axis=0, mode="clip")
        (loss, codes), gradient = jax.value_and_grad(_loss, 1, has_aux=True)(config, parameters, inputs)
        updates, state = optimizer.update(gradient, state, parameters)
        return (optax.apply_updates(parameters, updates), state, used.at[levels[None], codes].set(True)), loss

    carry = progress.parameters, progress.optimizer, jnp.zeros(progress.idle.shape, bool)
    last: tuple[Any, Array] = jax.lax.scan(step, carry, order)
    (parameters, state, used), of_steps = last
    return progress._replace(parameters=parameters, optimizer=state, loss=of_steps.mean()), used


def _loss(
    config: RqVae, parameters: Parameters, inputs: Float[Array, "b d"]
) -> tuple[Float[Array, ""], Int[Array, "b m"]]:
    """Return the mean loss of a batch (TIGER, section 3.1: reconstruction and quantisation), and its codes."""
    latent = through(parameters["encoder"], inputs)
    codes, chosen = _quantised(latent, parameters["codebooks"])
    reconstructed = through(parameters["decoder"], losses.straight_through(latent, chosen.sum(1)))
    quantisation_loss = _QUANTISATION_LOSSES[config.commitment](latent, chosen, config.beta)
    return jnp.mean(losses.reconstruction_loss(inputs, reconstructed) + quantisation_loss), codes


def _quantised(
    latent: Float[Array, "b width"], codebooks: Float[Array, "m c width"]
) -> tuple[Int[Array, "b m"], Float[Array, "b m width"]]:
    """Return the codes, which have no gradient, and their vectors, which do."""
    codes = quantise(jax.lax.stop_gradient(latent), jax.lax.stop_gradient(codebooks))[0]
    return codes, codebooks[jnp.arange(len(codebooks))[None], codes]


def _revived(
    vectors: Float[Array, "n d"], key: Array, parameters: Parameters, dead: Bool[Array, "m c"]
) -> Float[Array, "m c width"]:
    """Move dead codes to what the levels before theirs leave of random vectors."""
    codebooks = parameters["codebooks"]
    some = jax.random.randint(key, (codebooks.shape[1],), 0, len(vectors))
    latent = through(parameters["encoder"], vectors[some])
    _, chosen = _quantised(latent, codebooks)
    residuals = latent[:, None] - (jnp.cumsum(chosen, 1) - chosen)  # --> [c, m, width]
    return jnp.where(dead[..., None], residuals.transpose(1, 0, 2), codebooks)
