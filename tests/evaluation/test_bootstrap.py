"""Bootstrap intervals against the normal theory and against a plain loop."""

import numpy as np
import pytest
import scipy.stats

from genret_jax.evaluation import metrics
from genret_jax.evaluation.metrics import bootstrap_intervals, paired_bootstraps, resampled_means


def interval_of(values):
    return bootstrap_intervals({"hits@1": values})["hits@1"]


def difference_of(first, second):
    return paired_bootstraps({"hits@1": first, "mrr@5": first}, {"hits@1": second})["hits@1"]


def test_an_interval_is_about_two_standard_errors_each_way():
    values = (np.arange(400) < 160).astype(float)  # mean 0.4, standard error 0.0245
    interval = interval_of(values)
    assert interval.mean == pytest.approx(0.4)
    assert interval.low == pytest.approx(0.4 - 1.96 * 0.0245, abs=0.004)
    assert interval.high == pytest.approx(0.4 + 1.96 * 0.0245, abs=0.004)


def test_equal_values_leave_no_doubt():
    interval = interval_of(np.ones(7))
    assert (interval.low, interval.high) == (1.0, 1.0)


def test_one_resample_takes_the_same_queries_for_every_metric():
    values = np.random.default_rng(0).random(50)
    means = resampled_means(np.stack([values, 2 * values], axis=1), samples=20, seed=3)
    np.testing.assert_allclose(means[:, 1], 2 * means[:, 0])
    np.testing.assert_allclose(means[:, 0], resampled_means(values, samples=20, seed=3))


def test_intervals_are_those_of_scipy():
    values = np.random.default_rng(0).random((70, 3))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, axis=0, n_resamples=2000, method="percentile", random_state=np.random.default_rng(0)
    ).confidence_interval
    ours = bootstrap_intervals({str(metric): values[:, metric] for metric in range(3)})
    np.testing.assert_allclose([interval.low for interval in ours.values()], theirs.low)
    np.testing.assert_allclose([interval.high for interval in ours.values()], theirs.high)


def test_resamples_are_those_of_a_plain_loop(monkeypatch):
    values = np.random.default_rng(0).random(10)
    generator = np.random.default_rng(5)
    expected = [values[generator.integers(10, size=10, dtype=np.int32)].mean() for _ in range(6)]
    monkeypatch.setattr(metrics, "_DRAWS_AT_ONCE", 1)  # one resample at a time, as the loop
    np.testing.assert_allclose(resampled_means(values, samples=6, seed=5), expected)


def test_a_paired_comparison_sees_what_two_intervals_hide():
    generator = np.random.default_rng(0)
    second = generator.random(300)
    first = second + 0.02 + 0.05 * generator.normal(size=300)  # always a little better on the same queries
    assert interval_of(first).low < interval_of(second).high
    difference = difference_of(first, second)
    assert difference.mean == pytest.approx((first - second).mean())
    assert difference.low > 0
    assert difference.p_value < 0.01


def test_no_difference_is_no_finding():
    values = np.random.default_rng(0).random(100)
    same = difference_of(values, values)
    assert (same.mean, same.low, same.high, same.p_value) == (0, 0, 0, 1)
    noise = np.where(np.arange(100) % 2, 0.1, -0.1)
    assert difference_of(values + noise, values).p_value > 0.5
