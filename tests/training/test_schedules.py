"""Learning rates at hand-computed points."""

import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.training.config import Constant, Cosine, InverseSquareRoot, LinearWarmupLinearDecay


def rates(schedule, steps, at):
    function = schedule.build(steps)
    return [float(function(jnp.asarray(step))) for step in at]


def test_constant():
    assert rates(Constant(rate=0.25), 10, [0, 9]) == [0.25, 0.25]


def test_linear_climbs_over_the_warmup_and_reaches_zero_at_the_end():
    schedule = LinearWarmupLinearDecay(peak=8.0, warmup_fraction=0.2)
    np.testing.assert_allclose(rates(schedule, 10, [0, 1, 2, 6, 9, 10, 11]), [4, 8, 8, 4, 1, 0, 0])


def test_linear_without_warmup_begins_at_the_peak():
    schedule = LinearWarmupLinearDecay(peak=1.0, warmup_fraction=0.0)
    np.testing.assert_allclose(rates(schedule, 4, [0, 1, 3]), [1, 0.75, 0.25])


def test_inverse_square_root_is_t5s():
    schedule = InverseSquareRoot(warmup_steps=10_000)
    np.testing.assert_allclose(rates(schedule, 1, [0, 10_000, 40_000]), [0.01, 0.01, 0.005], rtol=1e-6)


def test_cosine_passes_half_way_between_peak_and_end():
    schedule = Cosine(peak=2.0, warmup_fraction=0.2, end_fraction=0.5)
    np.testing.assert_allclose(rates(schedule, 10, [0, 1, 2, 6, 10, 99]), [1, 2, 2, 1.5, 1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Constant(rate=0.0),
        lambda: LinearWarmupLinearDecay(peak=-1.0),
        lambda: LinearWarmupLinearDecay(warmup_fraction=1.0),
        lambda: Cosine(end_fraction=2.0),
        lambda: InverseSquareRoot(warmup_steps=0),
    ],
)
def test_values_that_make_no_schedule_are_refused(make):
    with pytest.raises(InputError, match=r"expected .*; next: change "):
        make()
