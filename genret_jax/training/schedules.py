"""Learning rates over the steps of a run, as frozen strategies with ``build(steps)``."""

import dataclasses
from collections.abc import Callable
from typing import Annotated, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from genret_jax.validation import check_fields, from_to, more_than, require

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
