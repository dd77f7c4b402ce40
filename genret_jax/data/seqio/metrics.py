"""Metric functions for seqio tasks whose targets are docids."""

import math
from collections.abc import Collection, Sequence
from typing import Any

_HITS_AT, _MRR_AT = (1, 5, 10, 100), (10, 100)


def docid_metrics(targets: Sequence[Collection[str]], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Hits@k and MRR@k in percent.

    Args:
        targets: For each query the right docids, as text.
        predictions: For each query the predicted docid, or the docids of all beams from worst to best, as t5x returns
            them with ``return_all_decodes``. A repeated docid counts at its best rank.

    Returns:
        ``hits@k`` and ``mrr@k`` for each k up to the number of beams.
    """
    ranked = [[prediction] if isinstance(prediction, str) else list(prediction)[::-1] for prediction in predictions]
    beams = min(map(len, ranked), default=0)
    ranks = [_rank(right, docids) for right, docids in zip(targets, ranked, strict=True)]
    count = max(len(ranks), 1)
    metrics = {f"hits@{k}": 100 * sum(rank <= k for rank in ranks) / count for k in _HITS_AT if k <= beams}
    for k in (k for k in _MRR_AT if k <= beams):
        metrics[f"mrr@{k}"] = 100 * sum(1 / rank for rank in ranks if rank <= k) / count
    return metrics


def _rank(right: Collection[str], docids: Sequence[str]) -> float:
    """Return the rank of the first right docid, counting each docid once; infinity without one."""
    distinct = dict.fromkeys(docids)
    return next((float(rank) for rank, docid in enumerate(distinct, 1) if docid in right), math.inf)
