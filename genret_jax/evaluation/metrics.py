"""Retrieval metrics by ir-measures, from a real run file.

Names, the same in ``metrics.jsonl``, reports and tables:

========== ==========================================================================================
hits@k     1 if any relevant document is among the first k
mrr@k      1 / rank of the first relevant document, 0 beyond rank k
recall@k   the fraction of the relevant documents that is among the first k
ndcg@k     graded: the sum of grade / log2(rank + 1) over the first k, divided by the best possible sum
========== ==========================================================================================

With one relevant document a query, recall@k = hits@k and ndcg@k = 1 / log2(rank + 1).
"""

import dataclasses
import os
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from genret_jax.errors import InputError
from genret_jax.evaluation.trec import Qrels, Run, trec_id, write_qrels, write_run

DEFAULT_KS = (1, 5, 10, 100)


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
        ks: Cutoffs. MRR and NDCG are left out at 1, where they say what Hits says.
        beam: Results asked for a query (beam size or depth); None for no limit. Metrics at k > beam are left out,
            because the missing results would count as misses.
    """
    if not ks or min(ks) < 1:
        raise InputError(f"cutoffs {tuple(ks)}", expected="one or more integers of at least 1")
    answerable = sorted({k for k in ks if beam is None or k <= beam})
    names = ("hits", "mrr", "recall", "ndcg")
    return tuple(f"{name}@{k}" for name in names for k in answerable if k > 1 or name in ("hits", "recall"))


def evaluate_queries(
    qrels: Qrels,
    run: Run | str | os.PathLike[str],
    ks: Sequence[int] = DEFAULT_KS,
    beam: int | None = None,
) -> QueryMetrics:
    """Evaluate a run, query by query.

    Args:
        qrels: Query id to document id to grade; a grade of 1 or more is relevant.
        run: A ranking for each query, or a TREC run file. Queries without a ranking count as 0, rankings of queries
            that are not in the qrels are ignored.
        ks: Cutoffs.
        beam: Results asked for a query; see :func:`metric_names`.

    Raises:
        InputError: If there are no qrels or no metric can be answered.
    """
    names = metric_names(ks, beam)
    if not qrels:
        raise InputError("no relevance judgements", expected="qrels of at least one query")
    if not names:
        raise InputError(f"a beam of {beam}", expected=f"at least {min(ks)}, the smallest cutoff asked for")
    with tempfile.TemporaryDirectory(prefix="genret-evaluate-") as folder:
        judged = Path(folder, "qrels.txt")
        write_qrels(judged, qrels)
        if isinstance(run, (str, os.PathLike)):
            results = Path(run)
        else:
            results = Path(folder, "run.txt")
            write_run(results, {query: run[query] for query in qrels if query in run})
        return _measure(tuple(qrels), names, judged, results)


def evaluate(
    qrels: Qrels,
    run: Run | str | os.PathLike[str],
    ks: Sequence[int] = DEFAULT_KS,
    beam: int | None = None,
) -> dict[str, float]:
    """Evaluate a run: the mean of every metric over the queries of the qrels; see :func:`evaluate_queries`."""
    return evaluate_queries(qrels, run, ks, beam).means()


def _measure(query_ids: tuple[str, ...], names: tuple[str, ...], qrels: Path, run: Path) -> QueryMetrics:
    import ir_measures
    from ir_measures import RR, R, Success, nDCG

    families = {"hits": Success, "mrr": RR, "recall": R, "ndcg": nDCG}
    measures = {}
    for name in names:
        family, k = name.split("@")
        measures[families[family] @ int(k)] = name
    row = {trec_id(query): index for index, query in enumerate(query_ids)}
    values = {name: np.zeros(len(query_ids)) for name in names}
    with open(qrels, encoding="utf-8") as judged, open(run, encoding="utf-8") as results:
        found = list(ir_measures.read_trec_run(results))
        if found:
            for metric in ir_measures.iter_calc(list(measures), list(ir_measures.read_trec_qrels(judged)), found):
                if metric.query_id in row:
                    values[measures[metric.measure]][row[metric.query_id]] = metric.value
    return QueryMetrics(query_ids=query_ids, values=values)
