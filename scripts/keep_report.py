#!/usr/bin/env python
"""Keep reports of `genret evaluate` as one result: benchmarks/results/NAME.json, and the same as a page, NAME.md.

Reports of several splits of one corpus, or of some of its runs each, become one report with all their splits and runs.

Example:
    python scripts/keep_report.py report-test report-unseen --out benchmarks/results/squad.json \
        --note "Stopped after 10 minutes on 2 cores."
"""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from genret_jax.errors import InputError
from genret_jax.evaluation.render import markdown
from genret_jax.evaluation.report import Report
from genret_jax.storage import atomic_file


def merged(reports: Sequence[Report], notes: Sequence[str] = ()) -> Report:
    """Join reports of one corpus; what an earlier report has measured, a later one does not replace.

    Raises:
        InputError: If they are of different corpora, of different training, or compare with different systems.
    """
    first = reports[0]
    references = dict.fromkeys(str(report.reference) for report in reports)
    if len(references) > 1:
        raise InputError(
            f"reports that compare with different systems: {', '.join(references)}",
            fix=f"evaluate again with --baseline '{next(iter(references))}' on each split",
        )
    splits, systems, measured, budget = {}, {}, {}, dict(first.budget)
    for report in reports:
        if report.dataset != first.dataset or any(budget.get(run, took) != took for run, took in report.budget.items()):
            raise InputError("reports of different corpora or runs", fix="evaluate the same runs on each split")
        budget |= report.budget
        splits |= {split.name: split for split in report.splits if split.name not in splits}
        systems |= {system.name: system for system in report.systems if system.name not in systems}
        measured |= {(m.system, m.split): m for m in report.measurements if (m.system, m.split) not in measured}
    all_notes = dict.fromkeys([note for report in reports for note in report.notes] + list(notes))
    return dataclasses.replace(
        first,
        splits=tuple(splits.values()),
        systems=tuple(systems.values()),
        measurements=tuple(measured.values()),
        budget=budget,
        notes=tuple(all_notes),
    )


def main() -> None:
    """Keep the reports that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", nargs="+", type=Path, help="folder that genret evaluate wrote")
    parser.add_argument("--out", type=Path, required=True, help="the .json file; the .md goes beside it")
    parser.add_argument("--note", action="append", default=[], help="a sentence for the reader, may be repeated")
    arguments = parser.parse_args()
    report = merged([Report.load(folder / "report.json") for folder in arguments.report], arguments.note)
    report.save(arguments.out)
    with atomic_file(arguments.out.with_suffix(".md")) as page:
        page.write(markdown(report))


if __name__ == "__main__":
    main()
