"""How far a mean over queries could be off: bootstrap intervals (Sakai, SIGIR 2006)."""

import dataclasses
from typing import Any

import numpy as np

_DRAWS_AT_ONCE = 4_000_000  # resampled queries held at a time, to bound memory


@dataclasses.dataclass(frozen=True, kw_only=True)
class Interval:
    """A mean and the interval that holds it with the given level of confidence."""

    mean: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Difference(Interval):
    """The mean of paired differences, its interval, and how likely so large a one is by chance (two-sided)."""

    p_value: float


def resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Return the means of resamples of the queries, with replacement.

    Args:
        values: Values of a query, [q] or [q, metrics]; one resample takes the same queries for all metrics.
        samples: Number of resamples.
        seed: Makes them repeatable.

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


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> list[Interval]:
    """Return the means over queries with their percentile bootstrap intervals.

    Args:
        values: Metrics of every query, [q, metrics], at least one query.
        level: Confidence.
        samples: Number of resamples.
        seed: Makes the intervals repeatable.
    """
    values = np.asarray(values, np.float64)
    low, high = _tails(resampled_means(values, samples, seed), level)
    rows = zip(values.mean(0).tolist(), low.tolist(), high.tolist(), strict=True)
    return [Interval(mean=mean, low=low, high=high) for mean, low, high in rows]


def paired_bootstraps(
    first: np.ndarray, second: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> list[Difference]:
    """Compare two systems on the same queries.

    Args:
        first: Metrics of every query for one system, [q, metrics].
        second: The same queries and metrics for the other, [q, metrics].
        level: Confidence of the intervals.
        samples: Number of resamples.
        seed: Makes the result repeatable.

    Returns:
        Means of ``first - second`` with intervals and p-values. A p-value is the share of resamples, centred at zero,
        whose mean is at least as far from zero as the observed one, which is counted among them.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    observed = differences.mean(0)
    means = resampled_means(differences, samples, seed)
    low, high = _tails(means, level)
    # Rounding must not make a resample that equals the observed mean look smaller than it.
    extreme = np.abs(means - observed[None]) >= np.abs(observed)[None] - 1e-12
    p_values = (1 + extreme.sum(0)) / (samples + 1)
    rows = zip(observed.tolist(), low.tolist(), high.tolist(), p_values.tolist(), strict=True)
    return [Difference(mean=mean, low=low, high=high, p_value=p) for mean, low, high, p in rows]


def bootstrap_interval(values: np.ndarray, **options: Any) -> Interval:
    """Return the mean and interval of one metric, [q]; options as for :func:`bootstrap_intervals`."""
    return bootstrap_intervals(np.asarray(values)[:, None], **options)[0]


def paired_bootstrap(first: np.ndarray, second: np.ndarray, **options: Any) -> Difference:
    """Compare one metric, [q], of two systems; options as for :func:`paired_bootstraps`."""
    return paired_bootstraps(np.asarray(first)[:, None], np.asarray(second)[:, None], **options)[0]


def _tails(means: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
