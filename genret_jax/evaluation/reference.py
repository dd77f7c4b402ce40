"""The row of a report that the others are compared with: the best baseline, or the one that was asked for."""

from collections.abc import Collection, Iterable, Mapping

from genret_jax.errors import InputError, nearest
from genret_jax.evaluation.metrics import QueryMetrics
from genret_jax.evaluation.render import metric_title


def chosen_reference(
    asked: str | None,
    metrics: Mapping[str, QueryMetrics],
    baselines: Collection[str],
    primary: str,
    split: str,
) -> tuple[str | None, list[str]]:
    """Return the system to compare with, by default the best baseline, and a sentence that says so.

    Args:
        asked: Its name, if it is not to be the best baseline.
        metrics: Metrics of the systems on the split that chooses it.
        baselines: Names of the baselines.
        primary: Metric that chooses it.
        split: Name of the split.
    """
    if asked is not None:
        require_row(asked, metrics)
    candidates = {name: metrics[name].values for name in metrics if name in baselines}
    shared = [name for name in _at_smaller_cutoffs(primary) if all(name in found for found in candidates.values())]
    if not candidates or not shared:
        return asked, []
    best = max(candidates, key=lambda name: float(candidates[name][shared[0]].mean()))
    by = f"the best baseline on '{split}' by {metric_title(shared[0])}"
    if asked is None:
        return best, [f"Differences are against '{best}', {by}; it was chosen on '{split}' itself."]
    also = f"which is {by}" if asked == best else f"as was asked for; {by} is '{best}'"
    return asked, [f"Differences are against '{asked}', {also}."]


def _at_smaller_cutoffs(metric: str) -> list[str]:
    """Return a metric and the same at smaller cutoffs, down to Hits@1, which MRR and NDCG are at 1."""
    family, k = metric.split("@")
    return [*(f"{family}@{cutoff}" for cutoff in range(int(k), 1, -1)), "hits@1"]


def require_row(name: str, names: Iterable[str]) -> None:
    """Check the name of the row that others are to be compared with.

    Args:
        name: The name.
        names: Names of the rows.

    Raises:
        InputError: If no row has this name.
    """
    known = list(names)
    if name not in known:
        raise InputError(
            f"no row of the report is called '{name}'",
            expected="one of " + ", ".join(f"'{one}'" for one in known),  # they have commas of their own
            fix=nearest(name, known) or "choose one of them, or the best baseline by leaving the name out",
        )
