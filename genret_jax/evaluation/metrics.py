"""Retrieval metrics of rankings, and bootstrap intervals of their means.

Names, the same in ``metrics.jsonl``, reports and tables:

========== ==========================================================================================
hits@k     1 if any relevant document is among the first k
mrr@k      1 / rank of the first relevant document, 0 beyond rank k
recall@k   the fraction of the relevant documents that is among the first k
ndcg@k     graded: the sum of grade / log2(rank + 1) over the first k, divided by the best possible sum
========== ==========================================================================================

With one relevant document per query, recall@k = hits@k and ndcg@k = 1 / log2(rank + 1). The tests compare all of them
with ir-measures, which calls trec_eval.

The intervals are those of Sakai (SIGIR 2006). ``scipy.stats.bootstrap`` draws the same resamples, and gathers every
value of every metric. Here each resample counts how often it has each query, and one matrix product gives all means, in
a half to a quarter of the time.
"""

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from genret_jax.errors import InputError
from genret_jax.evaluation.trec import Qrels, Run, best_first, checked_grade, read_run

DEFAULT_KS = (1, 5, 10, 100)
CONFIDENCE = 0.95
_SAMPLES = 2000
_DRAWS_AT_ONCE = 4_000_000  # most resampled queries held at a time


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryMetrics:
    """Metrics of every judged query.

    Attributes:
        query_ids: The queries of the qrels, in their order.
        values: Metric name to float64 [q], aligned with ``query_ids``.
    """

    query_ids: tuple[str, ...]
    values: dict[str, np.ndarray]

    def means(self) -> dict[str, float]:
        """Return the mean over queries of every metric."""
        return {name: float(values.mean()) for name, values in self.values.items()}

    def only(self, query_ids: Iterable[str]) -> "QueryMetrics":
        """Return the metrics of some queries, such as those whose documents were seen in training."""
        wanted = set(query_ids)
        rows = [row for row, query in enumerate(self.query_ids) if query in wanted]
        return QueryMetrics(
            query_ids=tuple(self.query_ids[row] for row in rows),
            values={name: values[rows] for name, values in self.values.items()},
        )


def metric_names(ks: Sequence[int] = DEFAULT_KS, beam: int | None = None) -> tuple[str, ...]:
    """Return the names of the metrics at each k that a ranking of ``beam`` results can answer.

    Args:
        ks: Cutoffs. MRR and NDCG are left out at 1, where they equal Hits for binary grades.
        beam: Results asked for per query (beam size or depth); None for no limit. Metrics at k > beam are left out,
            because the missing results would count as misses.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"cutoffs {tuple(ks)}", expected="one or more integers of at least 1")
    answerable = sorted({k for k in ks if beam is None or k <= beam})
    names = ("hits", "mrr", "recall", "ndcg")
    return tuple(f"{name}@{k}" for name in names for k in answerable if k > 1 or name in ("hits", "recall"))


def evaluate_queries(
    qrels: Qrels, run: Run | str | os.PathLike[str], ks: Sequence[int] = DEFAULT_KS, beam: int | None = None
) -> QueryMetrics:
    """Evaluate a run, query by query.

    Args:
        qrels: Query id to document id to grade; a grade of 1 or more is relevant.
        run: A ranking for each query, or a TREC run file (:func:`genret_jax.evaluation.trec.read_run`). Queries
            without a ranking count as 0; rankings of queries that are not in the qrels are ignored.
        ks: Cutoffs.
        beam: Results asked for per query; see :func:`metric_names`.

    Raises:
        InputError: If there are no qrels, no metric can be answered, a score is not finite, or a ranking has a
            document twice.
    """
    names = metric_names(ks, beam)
    if not qrels:
        raise InputError("no relevance judgements", expected="qrels of at least one query")
    if not names:
        raise InputError(f"a beam of {beam}", expected=f"at least {min(ks)}, the smallest cutoff asked for")
    if isinstance(run, (str, os.PathLike)):
        run = read_run(run)
    depth = max(int(name.split("@")[1]) for name in names)
    grades, ideal = np.zeros((len(qrels), depth)), np.zeros((len(qrels), depth))
    relevant = np.zeros(len(qrels), int)
    for row, (query, judged) in enumerate(qrels.items()):
        gains = {document: max(0, checked_grade(grade)) for document, grade in judged.items()}
        best = sorted(filter(None, gains.values()), reverse=True)
        relevant[row] = len(best)
        ideal[row, : len(best)] = best[:depth]
        found = [gains.get(document, 0) for document, _ in best_first(query, run.get(query, ()))[:depth]]
        grades[row, : len(found)] = found
    return QueryMetrics(query_ids=tuple(qrels), values=rank_metrics(grades, ideal, relevant, names))


def evaluate(
    qrels: Qrels, run: Run | str | os.PathLike[str], ks: Sequence[int] = DEFAULT_KS, beam: int | None = None
) -> dict[str, float]:
    """Return the mean of every metric over the queries of the qrels; see :func:`evaluate_queries`."""
    return evaluate_queries(qrels, run, ks, beam).means()


def rank_metrics(
    grades: Float[np.ndarray, "q k"] | Bool[np.ndarray, "q k"],
    ideal: Float[np.ndarray, "q k"] | Bool[np.ndarray, "q k"],
    relevant: Int[np.ndarray, " q"],
    names: Sequence[str],
) -> dict[str, Float[np.ndarray, " q"]]:
    """Compute metrics from the grades of ranked documents.

    Args:
        grades: Grade of the result at each rank; 0 for documents that are not relevant, and behind the last result.
        ideal: The query's highest grades, descending.
        relevant: Number of relevant documents of each query; metrics of a query without any are 0.
        names: Metrics, such as ``"hits@10"``. At a cutoff above k there must be nothing left to find.

    Returns:
        Metric name to values of the queries.
    """
    ranks = np.arange(1, grades.shape[1] + 1)
    hits = grades > 0
    found = np.cumsum(hits, axis=1)
    first = np.maximum.accumulate(hits / ranks, axis=1)
    gain, best = (np.cumsum(values / np.log2(ranks + 1), axis=1) for values in (grades, ideal))
    computed = {
        "hits": found > 0,
        "mrr": first,
        "recall": found / np.maximum(relevant, 1)[:, None],
        "ndcg": gain / np.where(best > 0, best, 1),
    }
    values = {}
    for name in names:
        family, k = name.split("@")
        values[name] = computed[family][:, min(int(k), len(ranks)) - 1].astype(np.float64)
    return values


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
