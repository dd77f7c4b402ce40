#!/usr/bin/env python
"""Measure what `genret train` does by default with a pretrained encoder, on several collections and seeds.

Each collection is trained as `genret train --corpus DIR --run DIR` chooses, and evaluated on every split of its test.
Nothing is set by hand. The rows of a collection are what a user would pick instead: BM25 tuned on training queries, the
encoder alone, and their sum; then the network before and after training.

Example:
    genret encoder get all-MiniLM-L6-v2
    python scripts/benchmark_pretrained.py --corpus xquad=data/xquad --corpus scifact=data/scifact --work /tmp/out
    python scripts/benchmark_pretrained.py --corpus xquad=data/xquad --seeds 1 --out /tmp/try.json     # does it run?
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from genret_jax.config.gin_text import read_record
from genret_jax.data.corpus import read_beir
from genret_jax.evaluation.report import Report
from genret_jax.run.folder import RECORD, run_folders
from genret_jax.storage import write_json

RUN = "pretrained"
METRICS = ("hits@1", "hits@10", "mrr@10", "ndcg@10")


def genret(*arguments: object) -> None:
    """Call the command line, with its output on the screen."""
    subprocess.run([sys.executable, "-m", "genret_jax", *map(str, arguments)], check=True)


def measure(corpus: Path, work: Path, seeds: int) -> list[Report]:
    """Train and evaluate on one collection, or return the reports of an earlier call."""
    qrels = read_beir(corpus).qrels
    run, several = work / RUN, ["--seeds", *range(seeds)] if qrels.get("train") and seeds > 1 else []
    reports = []
    for split in sorted(name for name in qrels if name.startswith("test")):
        folder = work / f"report-{split}"
        if not (folder / "report.json").is_file():
            genret("train", "--corpus", corpus, "--run", run, *several)
            genret("evaluate", "--run", run, "--split", split, "--out", folder)
        reports.append(Report.load(folder / "report.json"))
    return reports


def summary(reports: list[Report], work: Path) -> dict[str, Any]:
    """Return the scores of all systems on all splits, and what was chosen for the collection."""
    experiment = read_record(run_folders(work / RUN)[0] / RECORD)
    splits: dict[str, Any] = {}
    for report in reports:
        split = report.splits[0]
        rows = {}
        for system in report.systems:
            if (found := report.find(system.name, split.name)) is not None:
                scores = {
                    name: {"mean": round(value.mean, 5), "low": round(value.low, 5), "high": round(value.high, 5)}
                    for name, value in found.metrics.items()
                    if name in METRICS
                }
                size = {"bytes per document": system.details.get("bytes per document")}
                rows[system.name] = {**scores, **size, "milliseconds": found.milliseconds_per_query}
        splits[split.name] = {"queries": split.queries, "reference": report.reference, "systems": rows}
    return {
        "documents": reports[0].dataset.documents,
        "fingerprint": reports[0].dataset.fingerprint,
        "steps": experiment.trainer.steps,
        "seeds": len(run_folders(work / RUN)),
        "training seconds": [budget.get("training seconds") for budget in reports[0].budget.values()],
        "splits": splits,
    }


def measured(
    arguments: argparse.Namespace, measure: Callable[[Path, Path], tuple[dict[str, Any], Mapping[str, Any]]]
) -> dict[str, Any]:
    """Measure every collection that was given, and return the results with the environment.

    Args:
        arguments: With ``corpus``, a list of NAME=DIR, and ``work``, from :func:`add_collections`.
        measure: Takes the folder of a collection and one for its runs; returns its result and the environment.
    """
    with tempfile.TemporaryDirectory() as temporary:
        collections: dict[str, Any] = {}
        for given in arguments.corpus:
            name, _, folder = given.partition("=")
            collections[name], environment = measure(Path(folder), (arguments.work or Path(temporary)) / name)
    return {"collections": collections, "environment": dict(environment)}


def add_collections(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`measured` reads."""
    parser.add_argument(
        "--corpus", action="append", required=True, metavar="NAME=DIR", help="a collection; may be repeated"
    )
    parser.add_argument("--work", type=Path, help="folder that keeps runs and reports; what is done is not done again")


def main() -> None:
    """Measure all collections and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_collections(parser)
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, … where there are training queries (default: 3)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/pretrained.json"))
    arguments = parser.parse_args()

    def one(corpus: Path, work: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
        reports = measure(corpus, work, arguments.seeds)
        return summary(reports, work), reports[0].environment

    what = "genret train by default, with all-MiniLM-L6-v2, beside what it starts from"
    write_json(arguments.out, {"what": what, **measured(arguments, one)})


if __name__ == "__main__":
    main()
