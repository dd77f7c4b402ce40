"""Docids by an RQ-VAE: residual quantisation of what a learned encoder makes of the vectors."""

import dataclasses
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.strategies.autoencoder import RqVaeQuantiser
from genret_jax.docids.strategies.quantised import QuantisedDocids
from genret_jax.docids.streaming import read
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require

# A level of which a smaller share of the codes is used has collapsed.
_LEAST_USED = 0.1
# Times the variance of the vectors. An untrained network leaves a few; one that has diverged, thousands.
_MOST_LEFT = 100.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class RqVae(QuantisedDocids[RqVaeQuantiser]):
    """Residual-quantised variational autoencoder, as TIGER has it (Rajput et al. 2023, arXiv 2305.05065, section 3.1).

    An encoder maps a vector to a short latent one, codebooks quantise that level by level, and a decoder maps the sum
    of the codes back; all are trained together. The paper has the widths, beta, the batch and k-means for the start;
    its Adagrad with a learning rate of .4 for 20,000 epochs uses few codes unless vectors are standardised.

    Attributes:
        levels: Number of codebooks.
        codebook: Codes of each.
        hidden: Widths of the encoder's hidden layers; the decoder has them in reverse.
        width: Of the latent vectors and codes.
        beta: Weight of the encoder's commitment to the codes.
        commitment: ``"residual"`` as in TIGER, or ``"cumulative"`` as in Lee et al. 2022
            (:mod:`genret_jax.losses.quantisation`).
        optimizer: ``"adamw"`` or the paper's ``"adagrad"``.
        learning_rate: Constant.
        epochs: Passes over the vectors.
        batch_size: Vectors of a step; fewer vectors are one batch. What an epoch leaves over is another remainder in
            each.
        standardise: Subtract the mean of every dimension and divide by its deviation first.
        revive_after: Epochs after which a code that nothing used moves to where a random vector is; 0 for never.
        separate: Append the code that tells documents with equal codes apart.
        memory_gib: Vectors that take more, in float32, are read from where they are piece by piece, and the network is
            trained on as many as that holds.
    """

    name: ClassVar[str] = "rq-vae"
    levels: int = 3
    codebook: int = 256
    hidden: tuple[int, ...] = (512, 256, 128)
    width: int = 32
    beta: float = 0.25
    commitment: Literal["residual", "cumulative"] = "residual"
    optimizer: Literal["adamw", "adagrad"] = "adamw"
    learning_rate: float = 1e-3
    epochs: int = 500
    batch_size: int = 1024
    standardise: bool = True
    revive_after: int = 2

    def __post_init__(self) -> None:
        check_fields(self)
        # gin hands over lists; a tuple keeps the strategy hashable, so that jit can take it as static.
        object.__setattr__(self, "hidden", tuple(self.hidden))
        for field in ("levels", "width", "epochs", "batch_size"):
            require(self, field, getattr(self, field) >= 1, "at least 1")
        require(self, "codebook", self.codebook >= 2, "at least 2")
        require(self, "hidden", all(width >= 1 for width in self.hidden), "widths of at least 1")
        require(self, "beta", self.beta >= 0, "0 or more")
        require(self, "learning_rate", self.learning_rate > 0, "more than 0")
        require(self, "revive_after", self.revive_after >= 0, "0 or more")
        require(self, "memory_gib", self.memory_gib > 0, "more than 0")

    def _fitted(
        self, vectors: np.ndarray, in_memory: bool, seed: int
    ) -> tuple[RqVaeQuantiser, Int32[np.ndarray, "n m"]]:
        from genret_jax.docids.strategies.rq_vae_training import train  # Optax takes its time to import

        if len(vectors) < self.codebook:
            raise InputError(
                f"{len(vectors):,} documents for codebooks of {self.codebook:,}",
                expected="at least as many documents as codes",
                fix=f"choose a codebook of at most {max(2, len(vectors) // 4):,} codes",
            )
        sample = vectors if in_memory else read(vectors, self._rows_to_train_on(vectors, seed))
        standardised, mean, scale = self._standardised(sample)
        quantiser = RqVaeQuantiser.of(train(self, standardised, seed), mean, scale)
        codes = quantiser.codes(vectors)
        self._require_use(codes, sample)
        self._require_reconstruction(quantiser, sample)
        return quantiser, codes

    def _rows_to_train_on(self, vectors: np.ndarray, seed: int) -> Int[np.ndarray, " r"]:
        most = max(self.codebook, int(self.memory_gib * 2**30 / (4 * vectors.shape[1])))
        chosen = np.random.default_rng(seed).choice(len(vectors), min(most, len(vectors)), replace=False, shuffle=False)
        return np.sort(chosen)

    def _standardised(
        self, vectors: Float32[np.ndarray, "r d"]
    ) -> tuple[Float32[np.ndarray, "r d"], Float32[np.ndarray, " d"], Float32[np.ndarray, " d"]]:
        """Return the vectors to train on, what was subtracted from them, and what they were divided by."""
        width = vectors.shape[1]
        if not self.standardise:
            return vectors, np.zeros(width, np.float32), np.ones(width, np.float32)
        mean = vectors.mean(0, dtype=np.float64).astype(np.float32)
        centred = vectors - mean[None]
        # Not np.std, which makes a copy in double precision.
        deviation = np.sqrt(np.einsum("nd,nd->d", centred, centred, dtype=np.float64) / len(vectors))
        # A dimension that is the same for all vectors up to rounding says nothing, and stays near 0.
        largest = max(float(deviation.max()), 1e-30)
        scale = np.where(deviation > 1e-6 * largest, deviation, largest).astype(np.float32)
        centred /= scale[None]
        return centred, mean, scale

    def _require_use(self, codes: Int32[np.ndarray, "n m"], vectors: Float32[np.ndarray, "r d"]) -> None:
        """Refuse codes of which hardly any are used, unless there is no more to tell apart."""
        used = [len(np.unique(column)) for column in codes.T]
        least = min(used)
        if least >= _LEAST_USED * self.codebook or len(np.unique(vectors, axis=0)) < self.codebook:
            return
        raise InputError(
            f"the RQ-VAE has collapsed: level {used.index(least)} uses {least} of {self.codebook} codes",
            expected=f"at least {_LEAST_USED:.0%} of them",
            fix=f"{collapse_advice(self)}, or take ResidualKMeans",
        )

    def _require_reconstruction(self, quantiser: RqVaeQuantiser, vectors: Float32[np.ndarray, "r d"]) -> None:
        """Refuse a network that has diverged: it may use all of its codes, and they mean nothing."""
        left = quantiser.relative_errors(vectors)[-1]
        # Vectors that are all the same have no variance to compare with.
        if left > _MOST_LEFT and not np.allclose(vectors, vectors[:1]):
            raise InputError(
                f"the RQ-VAE has diverged: its decoder is off by {left:.3g} times the variance of the vectors",
                expected="less than the variance",
                fix=collapse_advice(self),
            )


def collapse_advice(strategy: RqVae) -> str:
    """Say which settings of a strategy are known to lead to collapsed codebooks or infinite losses."""
    advice = []
    if not strategy.standardise:
        advice.append("standardise = True")
    if not strategy.revive_after:
        advice.append("revive_after = 2")
    if strategy.optimizer == "adagrad":
        advice.append("optimizer = 'adamw' with learning_rate = 0.001")
    elif strategy.learning_rate > 1e-3:
        advice.append("a lower learning_rate, such as 0.001")
    return f"set RqVae.{' and '.join(advice)}" if advice else "change RqVae.learning_rate or RqVae.width"
