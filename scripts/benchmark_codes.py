#!/usr/bin/env python
"""Measure codes alone: how well docids that follow from a document's content are generated, and what others would do.

Every run is the recipe codes-pretrained, with no words, no vector and no parameter per document, unless its name says
otherwise. A collection with a split test_unseen is measured twice. First every document has its docid before training.
Then the documents of that split come later: codebooks, codewords and training know nothing of them.

Example:
    genret encoder get all-MiniLM-L6-v2
    python scripts/benchmark_codes.py --corpus squad_sentences=data/squad-sentences --work /tmp/codes
"""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark_pretrained import add_collections, genret, measured

from genret_jax.data.corpus import read_beir
from genret_jax.evaluation.report import Report
from genret_jax.storage import write_json

ROWS = {
    "codes": (),
    "random ids": ("--gin-file", "ablations/documents_random_ids.gin"),
    "a row per document": ("--gin-file", "ablations/documents_atomic_ids.gin"),
}
UNSEEN = "test_unseen"
METRICS = ("hits@1", "hits@10", "mrr@10")


def scores(report: Report, split: str, name: str) -> dict[str, Any] | None:
    """Return the scores of a system, if the report has it."""
    found = report.find(name, split)
    if found is None:
        return None
    rounded = {metric: value for metric, value in found.metrics.items() if metric in METRICS}
    return {
        metric: {"mean": round(value.mean, 5), "low": round(value.low, 5), "high": round(value.high, 5)}
        for metric, value in rounded.items()
    }


def measure(corpus: Path, work: Path) -> tuple[dict[str, Any], Mapping[str, Any]]:
    """Train and evaluate every row on one collection, or read the reports of an earlier call."""
    qrels = read_beir(corpus).qrels
    forms = {"before": (), "later": (f"--gin.SamplerConfig.unseen_split='{UNSEEN}'",)} if UNSEEN in qrels else {"": ()}
    splits: dict[str, Any] = {split: {"queries": len(qrels[split])} for split in sorted(qrels) if split[:4] == "test"}
    for form, hidden in forms.items():
        for row, options in ROWS.items():
            run = work / f"{row} {form}".strip().replace(" ", "_")
            for split in splits:
                folder = run / "reports" / split
                if not (folder / "report.json").is_file():
                    given = ("--corpus", corpus, "--run", run, *options, *hidden)
                    genret("train", "--recipe", "codes-pretrained", *given)
                    genret("evaluate", "--run", run, "--split", split)
                report, shown = Report.load(folder / "report.json"), f"{row}, {form}" if form else row
                splits[split][shown] = scores(report, split, run.name)
                splits[split][f"{shown}, untrained"] = scores(report, split, f"{run.name}, untrained")
                splits[split]["the encoder's vectors, exact"] = scores(report, split, f"{run.name}, encoder alone")
                splits[split]["BM25"] = scores(report, split, "BM25")
    return {"documents": report.dataset.documents, "splits": splits}, report.environment


def main() -> None:
    """Measure all collections and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_collections(parser)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/codes.json"))
    arguments = parser.parse_args()
    write_json(arguments.out, measured(arguments, measure))


if __name__ == "__main__":
    main()
