"""Docids by an RQ-VAE: residual quantisation of learned encodings of the vectors.

The strategy comes first, its training below it. Whole epochs run on the device, and the vectors lie there too.
"""

import dataclasses
import functools
import math
import time
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.docids.strategies.autoencoder import Mlp, RqVaeQuantiser, apply_mlp
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.strategies.residual import residual_kmeans
from genret_jax.docids.streaming import quantise, read
from genret_jax.errors import InputError
from genret_jax.losses import (
    cumulative_quantisation_loss,
    reconstruction_loss,
    residual_quantisation_loss,
    straight_through,
)
from genret_jax.validation import at_least, check_fields, more_than, require

# A level that uses a smaller share of its codes has collapsed.
_MIN_USED_SHARE = 0.1
# Largest reconstruction error, as a multiple of the variance of the vectors. An untrained network has an error of a few
# times the variance; a network that has diverged, of thousands.
_MAX_ERROR = 100.0
# Encoded vectors per code for the k-means that starts the codebooks.
_START_SAMPLES = 64
# Approximate seconds between two checks of the loss.
_CHECK_SECONDS = 1.0

Parameters = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RqVae(QuantisedDocids[RqVaeQuantiser]):
    """Residual-quantised variational autoencoder, as in TIGER (Rajput et al. 2023, arXiv 2305.05065, section 3.1).

    An encoder maps a vector to a short latent vector, codebooks quantise the latent vector level by level, and a
    decoder maps the sum of the codes back. All are trained together. Widths, beta, batch size and the k-means start
    are the paper's. The paper's Adagrad with a learning rate of 0.4 for 20,000 epochs uses few codes unless the
    vectors are standardised.

    Attributes:
        levels: Number of codebooks.
        codebook: Codes per codebook.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse.
        width: Width of the latent vectors and codes.
        beta: Weight of the encoder's commitment to the codes.
        commitment: ``"residual"`` as in TIGER, or ``"cumulative"`` as in Lee et al. 2022
            (:mod:`genret_jax.losses.quantisation`).
        optimizer: ``"adamw"`` or the paper's ``"adagrad"``.
        learning_rate: Constant learning rate.
        epochs: Passes over the vectors.
        batch_size: Vectors per step; fewer vectors are one batch. The incomplete last batch of an epoch is left out;
            it holds other vectors every time.
        standardise: First subtract the mean of every dimension and divide by its standard deviation.
        revive_after: Epochs after which an unused code moves to the place of a random vector; 0 for never.
        separate: Append the code that separates documents with equal codes.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece, and the network
            is trained on as many as fit.
    """

    name: ClassVar[str] = "rq-vae"
    levels: Annotated[int, at_least(1)] = 3
    codebook: Annotated[int, at_least(2)] = 256
    hidden: tuple[int, ...] = (512, 256, 128)
    width: Annotated[int, at_least(1)] = 32
    beta: Annotated[float, at_least(0)] = 0.25
    commitment: Literal["residual", "cumulative"] = "residual"
    optimizer: Literal["adamw", "adagrad"] = "adamw"
    learning_rate: Annotated[float, more_than(0)] = 1e-3
    epochs: Annotated[int, at_least(1)] = 500
    batch_size: Annotated[int, at_least(1)] = 1024
    standardise: bool = True
    revive_after: Annotated[int, at_least(0)] = 2

    def __post_init__(self) -> None:
        check_fields(self)
        # gin gives lists; a tuple keeps the strategy hashable, so that jit can take it as a static argument.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        require(self, "hidden", all(width >= 1 for width in self.hidden), "widths of at least 1")

    def _fit(self, vectors: np.ndarray, in_memory: bool, seed: int) -> tuple[RqVaeQuantiser, Int32[np.ndarray, "n m"]]:
        if len(vectors) < self.codebook:
            raise InputError(
                f"{len(vectors):,} documents for codebooks of {self.codebook:,}",
                expected="at least as many documents as codes",
                fix=f"choose a codebook of at most {max(2, len(vectors) // 4):,} codes",
            )
        sample = vectors
        if not in_memory:
            fitting = max(self.codebook, int(self.memory_gib * 2**30 / (4 * vectors.shape[1])))
            count = min(fitting, len(vectors))
            rows = np.random.default_rng(seed).choice(len(vectors), count, replace=False, shuffle=False)
            sample = read(vectors, np.sort(rows))
        standardised, mean, scale = self._standardised(sample)
        quantiser = RqVaeQuantiser.from_parameters(train(self, standardised, seed), mean, scale)
        codes = quantiser.codes(vectors)
        self._require_use(codes, sample)
        self._require_reconstruction(quantiser, sample)
        return quantiser, codes

    def _standardised(
        self, vectors: Float32[np.ndarray, "r d"]
    ) -> tuple[Float32[np.ndarray, "r d"], Float32[np.ndarray, " d"], Float32[np.ndarray, " d"]]:
        """Return the training vectors, the mean that was subtracted, and the scale that they were divided by."""
        width = vectors.shape[1]
        if not self.standardise:
            return vectors, np.zeros(width, np.float32), np.ones(width, np.float32)
        mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
        centred = vectors - mean[None]
        # np.std would make a copy in double precision.
        deviation = np.sqrt(np.einsum("nd,nd->d", centred, centred, dtype=np.float64) / len(vectors))
        # A dimension that is constant up to rounding carries no information, and stays near 0.
        largest = max(float(deviation.max()), 1e-30)
        scale = np.where(deviation > 1e-6 * largest, deviation, largest).astype(np.float32)
        centred /= scale[None]
        return centred, mean, scale

    def _require_use(self, codes: Int32[np.ndarray, "n m"], vectors: Float32[np.ndarray, "r d"]) -> None:
        """Raise if a level uses few of its codes, unless there are fewer distinct vectors than codes."""
        used = [len(np.unique(column)) for column in codes.T]
        fewest = min(used)
        if fewest >= _MIN_USED_SHARE * self.codebook or len(np.unique(vectors, axis=0)) < self.codebook:
            return
        raise InputError(
            f"the RQ-VAE has collapsed: level {used.index(fewest)} uses {fewest} of {self.codebook} codes",
            expected=f"at least {_MIN_USED_SHARE:.0%} of them",
            fix=f"{self._advice()}, or take ResidualKMeans",
        )

    def _require_reconstruction(self, quantiser: RqVaeQuantiser, vectors: Float32[np.ndarray, "r d"]) -> None:
        """Raise if the network has diverged; its codes may all be in use, but they are meaningless."""
        error = quantiser.relative_errors(vectors)[-1]
        # Equal vectors have no variance to compare with.
        if error > _MAX_ERROR and not np.allclose(vectors, vectors[:1]):
            raise InputError(
                f"the RQ-VAE has diverged: its decoder is off by {error:.3g} times the variance of the vectors",
                expected="less than the variance",
                fix=self._advice(),
            )

    def _advice(self) -> str:
        """Name the settings that are known to lead to collapsed codebooks or infinite losses."""
        advice = []
        if not self.standardise:
            advice.append("standardise = True")
        if not self.revive_after:
            advice.append("revive_after = 2")
        if self.optimizer == "adagrad":
            advice.append("optimizer = 'adamw' with learning_rate = 0.001")
        elif self.learning_rate > 1e-3:
            advice.append("a lower learning_rate, such as 0.001")
        return f"set RqVae.{' and '.join(advice)}" if advice else "change RqVae.learning_rate or RqVae.width"


class _Progress(NamedTuple):
    parameters: Parameters  # encoder, decoder, and codebooks [m, c, width]
    optimizer: Any
    idle: Int[Array, "m c"]  # epochs since a code was last used
    loss: Float[Array, ""]  # mean over the last epoch


def train(config: RqVae, vectors: Float32[np.ndarray, "n d"], seed: int) -> Parameters:
    """Train encoder, decoder and codebooks.

    Args:
        config: Sizes of the network and settings of the training.
        vectors: Vectors to reconstruct, already standardised.
        seed: Decides the start, the order of the vectors and the new places of unused codes.

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
            end, start_time = min(done + at_once, config.epochs), time.monotonic()
            progress = _epochs(config, on_device, key, progress, done, end)
            if not math.isfinite(loss := float(progress.loss)):
                raise InputError(
                    f"the loss of the RQ-VAE is {loss} after {end} epochs",
                    expected="a finite loss",
                    fix=config._advice(),
                )
            bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)
            bar.update(end - done)
            if done:  # the first call compiles
                at_once = max(1, int(_CHECK_SECONDS * (end - done) / (time.monotonic() - start_time)))
            done = end
    return progress.parameters


def _start(config: RqVae, vectors: Float32[np.ndarray, "n d"], seed: int) -> _Progress:
    """Return random networks, and codebooks from k-means of encoded vectors."""
    encoder_key, decoder_key = jax.random.split(jax.random.fold_in(jax.random.key(seed), 2**32 - 1))
    latent = jnp.zeros((1, config.width))
    encoder = Mlp((*config.hidden, config.width)).init(encoder_key, jnp.zeros((1, vectors.shape[1])))["params"]
    decoder = Mlp((*config.hidden[::-1], vectors.shape[1])).init(decoder_key, latent)["params"]
    count = min(len(vectors), _START_SAMPLES * config.codebook)
    sample = np.random.default_rng(seed).choice(len(vectors), count, replace=False)
    encoded = np.asarray(apply_mlp(encoder, jnp.asarray(vectors[sample])))
    codebooks = jnp.asarray(residual_kmeans(encoded, config.levels, config.codebook, seed)[1])
    parameters = {"encoder": encoder, "decoder": decoder, "codebooks": codebooks}
    idle = jnp.zeros(codebooks.shape[:2], jnp.int32)
    return _Progress(parameters, _optimizer(config).init(parameters), idle, jnp.zeros(()))


def _optimizer(config: RqVae) -> Any:
    import optax  # slow to import, and few strategies need it

    make = {"adamw": optax.adamw, "adagrad": optax.adagrad}[config.optimizer]
    return make(config.learning_rate)


@functools.partial(jax.jit, static_argnames="config")
def _epochs(
    config: RqVae,
    vectors: Float[Array, "n d"],
    key: Array,
    progress: _Progress,
    start: int | Int[Array, ""],
    end: int | Int[Array, ""],
) -> _Progress:
    """Train for the epochs from ``start`` to before ``end``."""

    def epoch(number: Array, progress: _Progress) -> _Progress:
        order_key, revival_key = jax.random.split(jax.random.fold_in(key, number))
        progress, used = _epoch(config, vectors, order_key, progress)
        idle = jnp.where(used, 0, progress.idle + 1)
        if not config.revive_after:
            return progress._replace(idle=idle)
        dead = idle >= config.revive_after
        codebooks = _revived(vectors, revival_key, progress.parameters, dead)
        parameters = {**progress.parameters, "codebooks": codebooks}
        return progress._replace(parameters=parameters, idle=jnp.where(dead, 0, idle))

    return jax.lax.fori_loop(start, end, epoch, progress)


def _epoch(
    config: RqVae, vectors: Float[Array, "n d"], key: Array, progress: _Progress
) -> tuple[_Progress, Bool[Array, "m c"]]:
    """Train on all complete batches of one epoch; return the progress and which codes were used."""
    optimizer, batch = _optimizer(config), min(config.batch_size, len(vectors))
    steps = len(vectors) // batch
    order = jax.random.permutation(key, len(vectors))[: steps * batch].reshape(steps, batch)
    levels = jnp.arange(config.levels)

    def step(carry: tuple, rows: Int[Array, " b"]) -> tuple:
        parameters, state, used = carry
        inputs = jnp.take(vectors, rows, axis=0, mode="clip")
        (loss, codes), gradient = jax.value_and_grad(_loss, 1, has_aux=True)(config, parameters, inputs)
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = jax.tree.map(jnp.add, parameters, updates)
        return (parameters, state, used.at[levels[None], codes].set(True)), loss

    start = progress.parameters, progress.optimizer, jnp.zeros(progress.idle.shape, bool)
    result: tuple[Any, Array] = jax.lax.scan(step, start, order)
    (parameters, state, used), step_losses = result
    return progress._replace(parameters=parameters, optimizer=state, loss=step_losses.mean()), used


def _loss(
    config: RqVae, parameters: Parameters, inputs: Float[Array, "b d"]
) -> tuple[Float[Array, ""], Int[Array, "b m"]]:
    """Return a batch's mean loss (TIGER, section 3.1: reconstruction and quantisation) and its codes."""
    quantisation_losses = {"residual": residual_quantisation_loss, "cumulative": cumulative_quantisation_loss}
    latent = apply_mlp(parameters["encoder"], inputs)
    codes, chosen = _quantised(latent, parameters["codebooks"])
    reconstructed = apply_mlp(parameters["decoder"], straight_through(latent, chosen.sum(1)))
    quantisation = quantisation_losses[config.commitment](latent, chosen, config.beta)
    return jnp.mean(reconstruction_loss(inputs, reconstructed) + quantisation), codes


def _quantised(
    latent: Float[Array, "b width"], codebooks: Float[Array, "m c width"]
) -> tuple[Int[Array, "b m"], Float[Array, "b m width"]]:
    """Return the codes, which have no gradient, and their vectors, which have one."""
    codes = quantise(jax.lax.stop_gradient(latent), jax.lax.stop_gradient(codebooks))[0]
    return codes, codebooks[jnp.arange(len(codebooks))[None], codes]


def _revived(
    vectors: Float[Array, "n d"], key: Array, parameters: Parameters, dead: Bool[Array, "m c"]
) -> Float[Array, "m c width"]:
    """Move dead codes to the residuals of random vectors after the levels before theirs."""
    codebooks = parameters["codebooks"]
    rows = jax.random.randint(key, (codebooks.shape[1],), 0, len(vectors))
    latent = apply_mlp(parameters["encoder"], vectors[rows])
    _, chosen = _quantised(latent, codebooks)
    residuals = latent[:, None] - (jnp.cumsum(chosen, 1) - chosen)  # --> [c, m, width]
    return jnp.where(dead[..., None], residuals.transpose(1, 0, 2), codebooks)
