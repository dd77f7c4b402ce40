"""The settings of a training run: its trainer, its optimizer and its learning rate.

The arithmetic of the optimizers is optax's.
"""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from genret_jax.validation import at_least, check_fields, from_to, less_than, more_than, require

RateFunction = Callable[[Int[Array, ""]], Float[Array, ""]]


@runtime_checkable
class Schedule(Protocol):
    """A learning rate schedule that knows its shape but not yet the length of the run."""

    def build(self, steps: int) -> RateFunction:
        """Return the learning rate of a step, counted from 0, for a run of ``steps`` steps."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    """The same rate at every step.

    Attributes:
        rate: The learning rate.
    """

    rate: Annotated[float, more_than(0)] = 1e-3

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, steps: int) -> RateFunction:
        """Return the function from step to rate."""
        return lambda step: jnp.full((), self.rate, jnp.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LinearWarmupLinearDecay:
    """Climb linearly to the peak, then fall linearly towards 0 at the end of the run.

    Attributes:
        peak: The highest rate.
        warmup_fraction: Share of the run's steps spent climbing.
    """

    peak: float = 1e-3
    warmup_fraction: float = 0.05

    def __post_init__(self) -> None:
        _check_warmup(self, self.peak, self.warmup_fraction)

    def build(self, steps: int) -> RateFunction:
        """Return the function from step to rate; it is above 0 at the first and at the last step."""
        warmup = round(steps * self.warmup_fraction)

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            return self.peak * jnp.minimum(_climb(step, warmup), jnp.maximum(steps - step, 0) / max(1, steps - warmup))

        return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    """Climb linearly to the peak, then fall along half a cosine (Loshchilov & Hutter 2017, SGDR, equation 5).

    Attributes:
        peak: The highest rate.
        warmup_fraction: Share of the run's steps spent climbing.
        end_fraction: The rate at the end of the run, as a share of the peak.
    """

    peak: float = 1e-3
    warmup_fraction: float = 0.05
    end_fraction: Annotated[float, from_to(0, 1)] = 0.0

    def __post_init__(self) -> None:
        _check_warmup(self, self.peak, self.warmup_fraction)

    def build(self, steps: int) -> RateFunction:
        """Return the function from step to rate."""
        warmup = round(steps * self.warmup_fraction)

        def rate(step: Int[Array, ""]) -> Float[Array, ""]:
            progress = jnp.clip((step - warmup) / max(1, steps - warmup), 0.0, 1.0)
            fallen = self.end_fraction + (1 - self.end_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * progress))
            return self.peak * jnp.minimum(_climb(step, warmup), 1.0) * fallen

        return rate


@dataclasses.dataclass(frozen=True, kw_only=True)
class InverseSquareRoot:
    """T5's pre-training schedule, ``scale / sqrt(max(step, warmup_steps))`` (Raffel et al. 2020, section 3.1.2).

    Attributes:
        scale: Factor of the inverse square root; 1 in T5.
        warmup_steps: Steps for which the rate stays constant; 10,000 in T5.
    """

    scale: Annotated[float, more_than(0)] = 1.0
    warmup_steps: Annotated[int, more_than(0)] = 10_000

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, steps: int) -> RateFunction:
        """Return the function from step to rate; it does not depend on the length of the run."""
        return lambda step: self.scale / jnp.sqrt(jnp.maximum(step, self.warmup_steps).astype(jnp.float32))


def _climb(step: Int[Array, ""], warmup: int) -> Float[Array, ""]:
    return (step + 1) / max(1, warmup)


def _check_warmup(schedule: object, peak: float, warmup_fraction: float) -> None:
    check_fields(schedule)
    require(schedule, "peak", peak > 0, "a rate above 0")
    require(schedule, "warmup_fraction", 0 <= warmup_fraction < 1, "a share of the run from 0 to below 1")


@runtime_checkable
class Optimizer(Protocol):
    """The protocol of an optimizer for the training step."""

    @property
    def learning_rate(self) -> Schedule:
        """The schedule, also read for the metrics."""
        ...

    def build(self, steps: int) -> optax.GradientTransformation:
        """Return the optax transformation for a run of ``steps`` steps."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).

    Attributes:
        learning_rate: A schedule.
        b1: Decay of the first moment.
        b2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Decay of matrices and embeddings towards 0; scales and biases (arrays of one dimension) have none.
    """

    learning_rate: Schedule = dataclasses.field(default_factory=LinearWarmupLinearDecay)
    b1: Annotated[float, at_least(0), less_than(1)] = 0.9
    b2: Annotated[float, at_least(0), less_than(1)] = 0.98
    eps: Annotated[float, more_than(0)] = 1e-8
    weight_decay: Annotated[float, at_least(0)] = 0.0

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, steps: int) -> optax.GradientTransformation:
        """Return the optax transformation for a run of ``steps`` steps."""
        return optax.adamw(
            self.learning_rate.build(steps),
            b1=self.b1,
            b2=self.b2,
            eps=self.eps,
            weight_decay=self.weight_decay,
            mask=_is_matrix,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adafactor:
    """Adafactor as T5 was trained with it (Shazeer & Stern 2018, algorithm 4; T5X's defaults).

    The step size is relative to each parameter's own RMS, so rates are larger than Adam's: T5 fine-tunes at 1e-3 and
    pre-trains with ``InverseSquareRoot()``.

    Attributes:
        learning_rate: A schedule.
        decay_rate: Exponent of the second moment's decay, ``1 - step ** -decay_rate``.
        clipping_threshold: Largest RMS of a parameter's update.
        min_dim_size_to_factor: Arrays with two dimensions of at least this size keep factored second moments.
    """

    learning_rate: Schedule = dataclasses.field(default_factory=LinearWarmupLinearDecay)
    decay_rate: Annotated[float, more_than(0), less_than(1)] = 0.8
    clipping_threshold: Annotated[float, at_least(1)] = 1.0
    min_dim_size_to_factor: Annotated[int, at_least(1)] = 128

    def __post_init__(self) -> None:
        check_fields(self)

    def build(self, steps: int) -> optax.GradientTransformation:
        """Return the optax transformation for a run of ``steps`` steps."""
        return optax.adafactor(
            self.learning_rate.build(steps),
            min_dim_size_to_factor=self.min_dim_size_to_factor,
            decay_rate=self.decay_rate,
            clipping_threshold=self.clipping_threshold,
            multiply_by_parameter_scale=True,
        )


def _is_matrix(params: Any) -> Any:
    return jax.tree.map(lambda array: array.ndim > 1, params)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainerConfig:
    """Length of a run, size of its batches, mesh of devices, and when to log, evaluate and save.

    Attributes:
        steps: Updates in the whole run; a resumed run goes on to this number. With 0 the run is its start.
        batch_size: Rows in the task's batches, over all devices.
        gradient_accumulation: Parts in which a batch is computed, one after the other, to save memory; the update is
            that of the whole batch.
        optimizer: ``AdamW(...)`` or ``Adafactor(...)``, with its schedule.
        learning_rates: Pairs of a path of parameters and a factor of the learning rate for all below it, such as
            ``(("encoder", 0.1),)``; the longest path that fits counts. Parameters with factor 0 stay as they are, and
            their gradients are not computed.
        clip_norm: Largest global norm of the gradient; None does not clip.
        average_decay: Decay of an exponential moving average of the parameters, which evaluators then get and
            ``restore_params`` returns; None keeps no average.
        seed: Seed of the initial parameters and the dropout masks.
        model_parallel: Devices that share one copy of the parameters.
        data_parallel: Copies of the parameters, which share the batch; None uses all devices.
        steps_per_dispatch: Steps handed to the device in one call. More than one pays if a step takes about a
            millisecond; results are the same.
        log_every: Steps between records in metrics.jsonl; each holds means over the steps since the last.
        evaluate_every: Steps between evaluations; None evaluates at the end only.
        evaluate_at_start: Evaluate the initial parameters as step 0.
        checkpoint_every: Steps between checkpoints; None saves at the end (and when interrupted) only.
        keep: Number of latest checkpoints kept, beside the best.
        best_metric: ``"evaluator/metric"`` whose best evaluation is checkpointed and kept; None keeps no best.
        best_mode: ``'max'`` if high values are good, ``'min'`` if low ones are.
        tensorboard: Write TensorBoard event files beside metrics.jsonl.
    """

    steps: Annotated[int, at_least(0)]
    batch_size: Annotated[int, at_least(1)]
    gradient_accumulation: Annotated[int, at_least(1)] = 1
    optimizer: Optimizer = dataclasses.field(default_factory=AdamW)
    learning_rates: tuple[tuple[str, float], ...] = ()
    clip_norm: Annotated[float, more_than(0)] | None = 1.0
    average_decay: Annotated[float, more_than(0), less_than(1)] | None = None
    seed: Annotated[int, from_to(0, 2**32 - 1)] = 0
    model_parallel: Annotated[int, at_least(1)] = 1
    data_parallel: Annotated[int, at_least(1)] | None = None
    steps_per_dispatch: Annotated[int, at_least(1)] = 1
    log_every: Annotated[int, at_least(1)] = 50
    evaluate_every: Annotated[int, at_least(1)] | None = None
    evaluate_at_start: bool = False
    checkpoint_every: Annotated[int, at_least(1)] | None = 500
    keep: Annotated[int, at_least(1)] = 2
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"
    tensorboard: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        object.__setattr__(self, "learning_rates", tuple(tuple(pair) for pair in self.learning_rates))
        positive = all(factor >= 0 for _, factor in self.learning_rates)
        require(self, "learning_rates", positive, "factors of 0 or more")
        divides = self.batch_size % self.gradient_accumulation == 0
        require(self, "gradient_accumulation", divides, f"a divisor of batch_size {self.batch_size}")
