"""Tables of what was found: evaluations, recipes, and the seconds until a first result."""

from collections.abc import Mapping
from typing import Any

from readme_markdown import machine, table

from genret_jax.evaluation.render import metric_title
from genret_jax.evaluation.report import Measurement, Report, Split

_MEMORISATION = "memorisation"


def evaluation(value: Mapping[str, Any]) -> str:
    """Return the tables of a report of `genret evaluate`, one per split, then memorisation and the budget.

    Parts of a split ("test, seen") are left to the page beside the result.
    """
    report = Report.from_json(value)
    wholes = [split for split in report.splits if split.name != _MEMORISATION and ", " not in split.name]
    parts = []
    for split in wholes:
        parts += [f"{split.name}, {split.queries:,} queries:"] if len(wholes) > 1 else []
        parts.append(_split_table(report, split))
    parts.append(" ".join([*_memorisation(report), *_budget(report)]))
    return "\n\n".join(part for part in parts if part)


def _split_table(report: Report, split: Split) -> str:
    measured = [found for system in report.systems if (found := report.find(system.name, split.name))]
    if report.dataset.kind == "items":
        metrics, compared, digits = ["recall@5", "ndcg@5", "recall@10", "ndcg@10"], "ndcg@10", 2
    else:
        metrics, compared, digits = ["hits@1", "hits@10", "mrr@10"], "mrr@10", 1
        metrics += [] if split.one_relevant else ["ndcg@10"]
    rows = [
        [found.system, *(_score(found, metric, digits) for metric in metrics), _of(report, found, compared)]
        for found in measured
    ]
    return table(["", *map(metric_title, metrics), f"{metric_title(compared)} ÷ {report.reference}'s"], rows)


def cold_start(value: Mapping[str, Any]) -> str:
    """A report of items of which some came after training: a column for users of each kind of next item."""
    report = Report.from_json(value)
    titles = [f"{name.removeprefix('test, ') if ', ' in name else 'all'}, Recall@10" for name in _names(report)]
    rows = [
        [
            system.name,
            *(_score(found, "recall@10", 2) for name in _names(report) if (found := report.find(system.name, name))),
        ]
        for system in report.systems
    ]
    counted = ", ".join(f"{split.queries:,}" for split in report.splits)
    return table(["", *titles], rows) + f"\n\n{counted} users. {' '.join(_budget(report))}"


def _names(report: Report) -> list[str]:
    return [split.name for split in report.splits]


def _score(measured: Measurement, metric: str, digits: int) -> str:
    found = measured.metrics.get(metric)
    return "–" if found is None else f"{100 * found.mean:.{digits}f} ±{50 * (found.high - found.low):.{digits}f}"


def _of(report: Report, measured: Measurement, metric: str) -> str:
    ratio = report.ratio(measured.system, measured.split, metric)
    return "–" if ratio is None else f"{ratio:.2f}×"


def _memorisation(report: Report) -> list[str]:
    rows = [m for m in report.measurements if m.split == _MEMORISATION]
    told = ", ".join(f"{row.system} {100 * row.metrics['hits@1'].mean:.1f}%" for row in rows)
    return [f"Documents that find themselves at rank 1: {told}."] if told else []


def _budget(report: Report) -> list[str]:
    took = ", ".join(
        f"{name} {budget['steps']:,} steps"
        + (f" in {budget['training seconds'] / 60:.0f} min" if "training seconds" in budget else "")
        for name, budget in report.budget.items()
    )
    return [f"Trained: {took}, on {machine(report.environment)}."] if took else []


def pretrained(value: Mapping[str, Any]) -> str:
    """Return a row for each split of each collection: MRR@10 of what the default starts from, and of the default."""
    columns = {
        "BM25": "BM25",
        "BM25, tuned": ", words alone",
        "encoder": ", encoder alone",
        "sum of both": ", sum of both",
    }
    rows = []
    for name, found in value["collections"].items():
        for split, measured in found["splits"].items():
            systems = measured["systems"]
            means = [row for row in systems if row.startswith("pretrained, mean of")]
            ours = means[0] if means else "pretrained"
            starts = [next(row for row in systems if row.endswith(end)) for end in columns.values()]
            cells = [f"{100 * systems[row]['mrr@10']['mean']:.1f}" for row in starts]
            mrr = systems[ours]["mrr@10"]
            trained = f"{100 * mrr['mean']:.1f} ±{50 * (mrr['high'] - mrr['low']):.1f}"
            rows.append([f"{name.replace('_', '-')}, {split}", f"{found['documents']:,}", *cells, trained])
    took = ", ".join(
        f"{name.replace('_', '-')} {found['steps']:,} ({found['seeds']})"
        for name, found in value["collections"].items()
    )
    note = (
        f"MRR@10. Steps, with the number of seeds: {took}; 0 where there are no training queries. Measured on "
        f"{machine(value['environment'])}, beside other work."
    )
    return table(["", "documents", *columns, "genret train"], rows) + f"\n\n{note}"


def codes(value: Mapping[str, Any]) -> str:
    """Return a row for each kind of docids: MRR@10 before and after training, on each split of each collection."""
    columns: dict[str, Mapping[str, Any]] = {}
    for name, found in value["collections"].items():
        for split, systems in found["splits"].items():
            for form, title in {"before": "", "later": ", unseen hidden", "": ""}.items():
                ending = f", {form}" if form else ""
                shown = {
                    kind: systems[system]
                    for kind in ("codes", "random ids", "a row per document")
                    for kind, system in ((kind, kind + ending), (f"{kind}, untrained", f"{kind}{ending}, untrained"))
                    if systems.get(system)
                }
                if shown:
                    beside = {row: systems[row] for row in ("the encoder's vectors, exact", "BM25") if systems.get(row)}
                    columns[f"{name.replace('_', '-')}, {split}{title}"] = shown | beside
    kinds = list(dict.fromkeys(row for shown in columns.values() for row in shown))
    rows = [
        [row, *(f"{100 * shown[row]['mrr@10']['mean']:.1f}" if row in shown else "–" for shown in columns.values())]
        for row in kinds
    ]
    note = f"MRR@10, one seed, on {machine(value['environment'])}, beside other work."
    return table(["", *columns], rows) + f"\n\n{note}"


def recipe(value: Mapping[str, Any]) -> str:
    """Return a table of the scores of the recipe from scratch without each of its parts."""
    rows = []
    for name, row in value["rows"].items():
        trained, untrained = row["trained"], row.get("untrained", {})
        scores = [f"{100 * trained[metric]:.1f}" for metric in ("hits@1", "hits@10", "mrr@10")]
        rows.append([name, *scores, f"{100 * untrained['mrr@10']:.1f}" if untrained else "–"])
    note = (
        f"{value['queries']:,} held-out training summaries, {value['documents']:,} documents, {value['steps']:,} "
        f"steps, one seed; two points are no difference."
    )
    return table(["", "Hits@1", "Hits@10", "MRR@10", "MRR@10 untrained"], rows) + f"\n\n{note}"


def startup(value: Mapping[str, Any]) -> str:
    """From the start of a training process to its first step."""
    rows = [
        [title, f"{value[name]['median']:.1f}", f"{value[name]['low']:.1f}–{value[name]['high']:.1f}"]
        for name, title in {
            "seconds": "by the clock",
            "processor_seconds": "processor time",
            "imports_processor_seconds": "processor time of imports alone",
        }.items()
    ]
    note = f"{value['rounds']} rounds, without compilation, {machine(value['environment'])}."
    return table(["", "median s", "range"], rows) + f"\n\n{note}"
