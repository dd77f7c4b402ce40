"""Bootstrap intervals of means over queries, and of paired differences (Sakai, SIGIR 2006).

``scipy.stats.bootstrap`` draws the same resamples, and gathers every value of every metric. Here each resample counts
how often it has each query, and one matrix product gives all means, in a half to a quarter of the time.
"""

import dataclasses

import numpy as np

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


def resampled_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
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


def bootstrap_intervals(
    values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> list[Interval]:
    """Return the means over queries with their percentile bootstrap intervals.

    Args:
        values: Metrics of every query, [q, metrics], at least one query.
        level: Level of confidence.
        samples: Number of resamples.
        seed: Seed of the resamples.
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
        level: Level of confidence.
        samples: Number of resamples.
        seed: Seed of the resamples.

    Returns:
        Means of ``first - second`` with intervals and p-values. A p-value is the share of resamples, shifted to mean
        zero, whose mean is at least as far from zero as the observed one; the observation counts as a resample.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    observed = differences.mean(0)
    means = resampled_means(differences, samples, seed)
    low, high = _tails(means, level)
    # The tolerance keeps resamples that equal the observed mean up to rounding.
    extreme = np.abs(means - observed[None]) >= np.abs(observed)[None] - 1e-12
    p_values = (1 + extreme.sum(0)) / (samples + 1)
    rows = zip(observed.tolist(), low.tolist(), high.tolist(), p_values.tolist(), strict=True)
    return [Difference(mean=mean, low=low, high=high, p_value=p) for mean, low, high, p in rows]


def _tails(means: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high
