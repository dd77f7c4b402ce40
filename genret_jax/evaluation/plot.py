"""Curves of a training run: loss and Hits@k over steps."""

import itertools
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genret_jax.errors import InputError
from genret_jax.storage import atomic_file

Curve = tuple[np.ndarray, np.ndarray]

_MOST_POINTS = 1000  # a picture has fewer columns
_HITS = re.compile(r"(.*)/hits@(\d+)")
_STYLES = ("-", "--", ":", "-.")


def plot_run(records: Sequence[Mapping[str, Any]], path: str | os.PathLike[str], *, title: str = "") -> None:
    """Draw the curves of a training run into a PNG.

    Args:
        records: Records of the run's ``metrics.jsonl``.
        path: Destination, written atomically.
        title: Title of the figure.

    Raises:
        InputError: If matplotlib is not installed, or the records have neither a loss nor Hits.
    """
    loss = curve(records, "loss")
    matches = [match for name in {name for record in records for name in record} if (match := _HITS.fullmatch(name))]
    curves = {(match[1], int(match[2])): curve(records, match[0]) for match in matches}
    hits = {key: curves[key] for key in sorted(curves) if len(curves[key][0])}
    if not len(loss[0]) and not hits:
        raise InputError("no losses and no metrics to draw", fix="train first: records come every log_every steps")
    figure = _draw(loss, hits, title)
    with atomic_file(path, "wb") as handle:
        figure.savefig(handle, format="png", dpi=120)


def curve(records: Sequence[Mapping[str, Any]], name: str) -> Curve:
    """Return the steps and values of one metric; more than 1000 points become 1000 means over equal spans.

    Args:
        records: Records of ``metrics.jsonl``. Those without the metric, or with null (not finite), are left out.
        name: Name of the metric.

    Returns:
        Steps and values, ascending by step, at most 1000 of each.
    """
    points = sorted((record["step"], record[name]) for record in records if record.get(name) is not None)
    steps, values = np.array([p[0] for p in points], float), np.array([p[1] for p in points], float)
    if len(points) <= _MOST_POINTS:
        return steps, values
    bounds = np.linspace(0, len(points), _MOST_POINTS + 1).astype(int)
    counts = np.diff(bounds)
    return np.add.reduceat(steps, bounds[:-1]) / counts, np.add.reduceat(values, bounds[:-1]) / counts


def _draw(loss: Curve, hits: Mapping[tuple[str, int], Curve], title: str) -> Any:
    """Return a matplotlib figure of the loss above Hits; ``hits`` maps evaluator and k to the curve."""
    try:
        from matplotlib.figure import Figure  # needs no display, and keeps no figures alive as pyplot does
    except ImportError:
        raise InputError(
            "curves need matplotlib, which is not installed", fix="pip install 'genret_jax[viz]'"
        ) from None
    figure = Figure(figsize=(8, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True)
    figure.suptitle(title)
    _draw_loss(above, loss)
    _draw_hits(below, hits)
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _draw_loss(axes: Any, loss: Curve) -> None:
    steps, values = loss
    axes.plot(steps, values, color="tab:gray", linewidth=1.2, marker="." if len(steps) == 1 else None)
    axes.set_ylabel("training loss")
    if len(values) and values.min() > 0 and values.max() > 20 * values.min():
        axes.set_yscale("log")


def _draw_hits(axes: Any, hits: Mapping[tuple[str, int], Curve]) -> None:
    cutoffs = sorted({k for _, k in hits})
    style = dict(zip(dict.fromkeys(evaluator for evaluator, _ in hits), itertools.cycle(_STYLES), strict=False))
    for (evaluator, k), (steps, values) in hits.items():
        axes.plot(
            steps,
            100 * values,
            style[evaluator],
            color=f"C{cutoffs.index(k) % 10}",
            marker="o" if len(steps) < 40 else None,
            markersize=3,
            label=f"Hits@{k}, {evaluator}",
        )
    axes.set_ylabel("queries (%)")
    axes.set_xlabel("step")
    axes.set_ylim(0, 102)  # a marker at 100 is whole
    if hits:
        axes.legend(fontsize="small", loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    else:
        axes.text(0.5, 0.5, "not evaluated yet", transform=axes.transAxes, ha="center", va="center", color="gray")
