"""How far a mean over queries could be off: bootstrap intervals (Sakai, SIGIR 2006)."""

import dataclasses

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


def bootstrap_interval(values: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0) -> Interval:
    """Return the mean over queries with its percentile bootstrap interval.

    Args:
        values: One metric of every query, [q], at least one.
        level: Confidence.
        samples: Number of resamples.
        seed: Makes the interval repeatable.
    """
    tails = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(resampled_means(np.asarray(values, np.float64), samples, seed), tails)
    return Interval(mean=float(np.mean(values)), low=float(low), high=float(high))


def paired_bootstrap(
    first: np.ndarray, second: np.ndarray, *, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> Difference:
    """Compare two systems on the same queries.

    Args:
        first: One metric of every query for one system, [q].
        second: The same queries for the other, [q].
        level: Confidence of the interval.
        samples: Number of resamples.
        seed: Makes the result repeatable.

    Returns:
        Mean of ``first - second`` with its interval and p-value. The p-value is the share of resamples, centred at
        zero, whose mean is at least as far from zero, counting the observed one.
    """
    differences = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    observed = differences.mean()
    means = resampled_means(differences, samples, seed)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    # Rounding must not make a resample that equals the observed mean look smaller than it.
    extreme = np.abs(means - observed) >= np.abs(observed) - 1e-12
    p_value = (1 + int(extreme.sum())) / (samples + 1)
    return Difference(mean=float(observed), low=float(low), high=float(high), p_value=p_value)
