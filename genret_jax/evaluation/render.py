"""Tables of a report: Markdown for files, plain text for the terminal."""

import dataclasses
import json
import textwrap
from collections.abc import Sequence

from genret_jax.data.text.words import printable
from genret_jax.evaluation.metrics import Interval
from genret_jax.evaluation.report import BYTES_PER_DOCUMENT, PARAMETERS, Measurement, Report, Split

Table = Sequence[Sequence[str]]  # the first row is the header, the first column has the names

_ABSENT = "–"
_FAMILIES = {"hits": "Hits", "mrr": "MRR", "recall": "Recall", "ndcg": "NDCG"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Layout:
    """Columns and words that are usual in the tables of a field of research."""

    columns: tuple[str, ...]
    brief: tuple[str, ...]  # the columns that fit a terminal
    compared: tuple[str, ...]  # the columns of differences from the reference
    decimals: int  # of percentages
    asking: tuple[str, str]  # singular and plural of what asks
    answer: str  # what is found


_LAYOUTS = {
    "documents": _Layout(
        columns=(
            *("hits@1", "hits@5", "hits@10", "hits@100", "mrr@10", "mrr@100"),
            *("recall@10", "recall@100", "ndcg@10"),
        ),
        brief=("hits@1", "hits@10", "hits@100", "mrr@10", "recall@100", "ndcg@10"),
        compared=("hits@1", "hits@10", "mrr@10", "ndcg@10"),
        decimals=1,
        asking=("query", "queries"),
        answer="document",
    ),
    "items": _Layout(
        columns=("recall@1", "recall@5", "ndcg@5", "recall@10", "ndcg@10", "mrr@10"),
        brief=("recall@5", "ndcg@5", "recall@10", "ndcg@10"),
        compared=("recall@5", "ndcg@5", "recall@10", "ndcg@10"),
        decimals=2,
        asking=("user", "users"),
        answer="item",
    ),
}


def markdown(report: Report) -> str:
    """Return the report as a Markdown page."""
    parts = [f"# Evaluation on {report.dataset.name}", _dataset_line(report)]
    for split in report.splits:
        parts.append(f"## {_split_line(report, split)}")
        parts += [_markdown_table(table) for table in _tables(report, split, _layout(report).columns)]
    if costs := _cost_table(report):
        parts += ["## Cost of a search", _markdown_table(costs)]
    parts.append("## How to read this")
    parts.append("\n".join(f"- {line}" for line in _legend(report)))
    if report.systems:
        parts.append("## Systems")
        parts.append("\n".join(f"- {line}" for line in _system_lines(report)))
    facts = _facts(report)
    if facts:
        parts.append("## Budget, versions and hardware")
        parts.append("\n".join(f"- {line}" for line in facts))
    return "\n\n".join(parts) + "\n"


def terminal(report: Report, width: int = 120) -> str:
    """Return the report's tables as plain text, with fewer columns than :func:`markdown`.

    Args:
        report: The report.
        width: Columns to wrap running text at; tables are not wrapped.
    """
    parts = [f"{report.dataset.name}: {_dataset_line(report)}"]
    for split in report.splits:
        tables = [_plain_table(table) for table in _tables(report, split, _layout(report).brief)]
        parts.append("\n\n".join([_split_line(report, split), *tables]))
    if costs := _cost_table(report):
        parts += ["cost of a search", _plain_table(costs)]
    parts.append("\n".join(textwrap.fill(line, width) for line in _legend(report)))
    return printable("\n\n".join(parts) + "\n")


def metric_title(metric: str) -> str:
    """Return a metric's usual name: ``"Hits@10"`` for ``"hits@10"``."""
    family, _, k = metric.partition("@")
    return f"{_FAMILIES.get(family, family)}@{k}" if k else metric


def _layout(report: Report) -> _Layout:
    other = dataclasses.replace(_LAYOUTS["documents"], asking=("request", "requests"), answer="answer")
    return _LAYOUTS.get(report.dataset.kind, other)


def _dataset_line(report: Report) -> str:
    dataset = report.dataset
    facts = [f"{dataset.documents:,} {dataset.kind}"]
    facts += [f"from {dataset.source}"] if dataset.source else []
    facts += [f"fingerprint {dataset.fingerprint}"] if dataset.fingerprint else []
    return ", ".join(facts)


def _split_line(report: Report, split: Split) -> str:
    layout = _layout(report)
    about = f" ({split.description})" if split.description else ""
    asking = f"{split.queries:,} {layout.asking[split.queries != 1]}"
    if split.one_relevant:
        return f"{split.name}{about}: {asking}, one relevant {layout.answer} each"
    return f"{split.name}{about}: {asking}, {split.relevant:.2g} relevant {layout.answer}s each on average"


def _tables(report: Report, split: Split, columns: Sequence[str]) -> list[Table]:
    """Return the table of scores, and that of differences from the reference where there are any."""
    layout, rows = _layout(report), [m for system in report.systems if (m := report.find(system.name, split.name))]
    shown = _shown(columns, rows, split)
    scores = [["system", *map(metric_title, shown)]]
    scores += [[row.system, *(_value_of(row.metrics.get(name), layout) for name in shown)] for row in rows]
    compared = [row for row in rows if row.versus_reference]
    shown = _shown(layout.compared, rows, split)
    differences = [[f"against {report.reference}", *map(metric_title, shown)]]
    for row in compared:
        ratios = [report.ratio(row.system, row.split, name) for name in shown]
        cells = [_value_of(row.versus_reference.get(name), layout, "+") for name in shown]
        times_reference = ["" if ratio is None else f" ({ratio:.2f}×)" for ratio in ratios]
        differences.append([row.system, *(cell + text for cell, text in zip(cells, times_reference, strict=True))])
    return [scores, differences] if compared else [scores]


def _cost_table(report: Report) -> Table:
    """Return what a search of each system costs, as far as that is known; empty where nothing is.

    The time is that on the first split that the system answered.
    """
    layout = _layout(report)
    columns: dict[str, list[int | float | None]] = {
        f"bytes/{layout.answer}": [system.details.get(BYTES_PER_DOCUMENT) for system in report.systems],
        "parameters": [system.details.get(PARAMETERS) for system in report.systems],
        f"ms/{layout.asking[0]}": [_milliseconds(report, system.name) for system in report.systems],
    }
    known = {title: cells for title, cells in columns.items() if any(cell is not None for cell in cells)}
    if not known:
        return []
    rows = [["system", *known]]
    for number, system in enumerate(report.systems):
        if any(cells[number] is not None for cells in known.values()):
            rows.append([system.name, *(_amount(cells[number]) for cells in known.values())])
    return rows


def _milliseconds(report: Report, system: str) -> float | None:
    times = (row.milliseconds_per_query for row in report.measurements if row.system == system)
    return next((time for time in times if time is not None), None)


def _amount(value: int | float | None) -> str:
    if value is None:
        return _ABSENT
    return f"{value:,.0f}" if value >= 100 or value == int(value) else f"{value:.3g}"


def _shown(names: Sequence[str], rows: Sequence[Measurement], split: Split) -> list[str]:
    """Return the metrics that some row has, without Recall where Hits is the same and in the table too."""
    repeated = {name.replace("hits", "recall") for name in names if name.startswith("hits") and split.one_relevant}
    return [name for name in names if name not in repeated and any(name in row.metrics for row in rows)]


def _value_of(found: Interval | None, layout: _Layout, sign: str = "") -> str:
    """Return a value in per cent with half the width of its interval."""
    if found is None:
        return _ABSENT
    return f"{100 * found.mean:{sign}.{layout.decimals}f} ±{50 * (found.high - found.low):.{layout.decimals}f}"


def _legend(report: Report) -> list[str]:
    level = f"{100 * report.confidence:g}%"
    (one, several), answer = _layout(report).asking, _layout(report).answer
    lines = [f"Values are per cent; ± is half the width of the {level} bootstrap interval over {several}."]
    if any(split.one_relevant for split in report.splits):
        lines.append(f"With one relevant {answer} Hits@k = Recall@k and NDCG@k = 1 / log2(rank + 1).")
    if not all(split.one_relevant for split in report.splits):
        lines.append(f"Hits@k: any relevant {answer} found; Recall@k: the fraction of them found; NDCG: linear gains.")
    if report.reference:
        lines.append(
            f"Against {report.reference}: difference in points, paired by {one}, and (×) the ratio of the two values."
        )
    if any(BYTES_PER_DOCUMENT in system.details for system in report.systems):
        lines.append(
            f"Bytes/{answer}: memory that grows with the {answer}s "
            "(postings, vectors, docid index, plan, rows of a network)."
        )
    tables = [_tables(report, split, _layout(report).columns)[0] for split in report.splits]
    if any(_ABSENT in row for table in tables for row in table):
        lines.append(f"{_ABSENT}: not measured; a metric at k needs at least k results per {one}.")
    return [*lines, *report.notes]


def _system_lines(report: Report) -> list[str]:
    lines = []
    for system in report.systems:
        shown = {name: value for name, value in system.details.items() if name not in (PARAMETERS, BYTES_PER_DOCUMENT)}
        details = [f"{name} {_value(value)}" for name, value in shown.items()]
        facts = "; ".join([*([system.description] if system.description else []), *details])
        lines.append(f"**{system.name}**{': ' + facts if facts else ''}")
    return lines


def _facts(report: Report) -> list[str]:
    return [f"{name}: {_value(value)}" for part in (report.budget, report.environment) for name, value in part.items()]


def _value(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(inner)}" for name, inner in value.items())
    if isinstance(value, bool) or value is None:
        return json.dumps(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _aligned(table: Table) -> list[list[str]]:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return [
        [cell.rjust(widths[column]) if column else cell.ljust(widths[column]) for column, cell in enumerate(row)]
        for row in table
    ]


def _markdown_table(table: Table) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in table]
    head, *rows = _aligned(escaped)
    rule = ["-" * len(head[0]), *("-" * (len(cell) - 1) + ":" for cell in head[1:])]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))


def _plain_table(table: Table) -> str:
    head, *rows = _aligned(table)
    rule = ["─" * len(cell) for cell in head]
    return "\n".join("  ".join(row).rstrip() for row in (head, rule, *rows))
