"""Optimizers as frozen strategies with ``build(steps)``; the arithmetic is optax's."""

import dataclasses
from typing import Annotated, Any, Protocol, runtime_checkable

import jax
import optax

from genret_jax.training.schedules import LinearWarmupLinearDecay, Schedule
from genret_jax.validation import at_least, check_fields, less_than, more_than


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
