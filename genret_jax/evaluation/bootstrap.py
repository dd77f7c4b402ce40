"""Bootstrap intervals of means over queries, and of paired differences (Sakai, SIGIR 2006).

``scipy.stats.bootstrap`` draws the same resamples, and gathers every value of every metric. Here each resample counts
how often it has each query, and one matrix product gives all means, in a half to a quarter of the time.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

CONFIDENCE = 0.95
_SAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000  # most resampled queries held at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean with its confidence interval."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The mean of paired differences, with its interval and the two-sided p-value of no difference."""

    p_value: float


def resampled_means(values: np.ndarray, samples: int = _SAMPLES, seed: int = 0) -> np.ndarray:
    """Return the means of resamples of the queries, drawn with replacement.

    Args:
        values: Values of each query, [q] or [q, metrics]; a resample has the same queries for all metrics.
        samples: Number of resamples.
        seed: Seed of the draws.

    Returns:
        Means, [samples] or [samples, metrics].
    """
    queries = len(values)
    generator = np.random.default_rng(seed)
    means = []
    for start in range(0, samples, rows := max(1, _DRAWS_AT_ONCE // queries)):
        count = min(rows, samples - start)
        drawn = generator.integers(queries, size=(count, queries), dtype=np.int32)
        cells = drawn + queries * np.arange(count, dtype=np.int64)[:, None]
        times = np.bincount(cells.ravel(), minlength=count * queries).reshape(count, queries)
        means.append(times.astype(np.float64) @ values / queries)
    return np.concatenate(means)


def bootstrap_intervals(values: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Return the means over queries with their percentile bootstrap intervals at the level ``CONFIDENCE``.

    Args:
        values: Metric name to the values of at least one query, [q].
    """
    columns = np.stack(list(values.values()), axis=1)
    return _intervals(values, columns.mean(0), resampled_means(columns))


def paired_bootstraps(first: Mapping[str, np.ndarray], second: Mapping[str, np.ndarray]) -> dict[str, Difference]:
    """Compare two systems on the same queries, by the metrics that both have.

    Args:
        first: Metric name to the values of the queries for one system, [q].
        second: The same for the other system.

    Returns:
        Metric name to the mean of ``first - second`` with interval and p-value. A p-value is the share of resamples,
        shifted to mean zero, whose mean is at least as far from zero as the observed one; the observation counts as a
        resample.
    """
    names = [name for name in first if name in second]
    differences = np.stack([first[name] - second[name] for name in names], axis=1)
    observed, means = differences.mean(0), resampled_means(differences)
    # The tolerance keeps resamples that equal the observed mean up to rounding.
    extreme = np.abs(means - observed[None]) >= np.abs(observed)[None] - 1e-12
    p_values = dict(zip(names, ((1 + extreme.sum(0)) / (len(means) + 1)).tolist(), strict=True))
    intervals = _intervals(names, observed, means)
    return {name: Difference(**vars(intervals[name]), p_value=p_values[name]) for name in names}


def _intervals(names: Iterable[str], mean: np.ndarray, means: np.ndarray) -> dict[str, Interval]:
    """Return intervals between the quantiles of resampled means, [samples, metrics]."""
    low, high = np.quantile(means, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    rows = zip(names, mean.tolist(), low.tolist(), high.tolist(), strict=True)
    return {name: Interval(mean=middle, low=left, high=right) for name, middle, left, right in rows}
