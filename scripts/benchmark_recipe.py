#!/usr/bin/env python
"""Measure what each part of the recipe from scratch is worth: train with all of them, then without one at a time.

Every row is a gin override of the shipped recipe, trained on the documentation of this Python and measured on training
summaries that were held out (split "validation"; the test split is not looked at). Part of a table, not a search: what
is left out leaves everything else as it was tuned with it.

Example:
    python scripts/benchmark_recipe.py --work /tmp/recipe             # run again, it goes on where it was stopped
    python scripts/benchmark_recipe.py --steps 5 --out /tmp/try.json  # does it run?
"""

import argparse
import tempfile
from pathlib import Path
from typing import Any

from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.data.corpus import write_beir
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.evaluation.report import Report
from genret_jax.problems import Measured
from genret_jax.run import evaluate_runs, train_run
from genret_jax.storage import write_json

SPLIT, METRICS = "validation", ("hits@1", "hits@10", "mrr@10")
_PLANNED, _T5 = "runs/dsi_semantic_from_scratch.gin", "runs/from_scratch.gin"
_PSEUDO = ("SamplerConfig.pseudo_query_rate=1.0", "SamplerConfig.draw='document'")
_RANDOM = ("Experiment.start=None", "T5Config.encoder_final_norm=True")
_AS_DSI = ("SamplerConfig.pseudo_query_rate=0.0", "SamplerConfig.draw='query'")  # documents and training queries only

# Name → recipe, changed settings.
ROWS: dict[str, tuple[str, tuple[str, ...]]] = {
    "words and vectors": (_PLANNED, ()),
    "words alone": (_PLANNED, ("PlanConfig.dense=False",)),
    "vectors alone": (_PLANNED, ("PlanConfig.terms=0",)),
    "words and vectors, pseudo-queries too": (_PLANNED, _PSEUDO),
    "words and vectors, one decoder layer": (_PLANNED, ("T5Config.num_decoder_layers=1", "T5Config.head='prefix'")),
    "codes alone": (_T5, ()),
    "codes alone, random start": (_T5, _RANDOM),
    "codes alone, random start, no pseudo-queries": (_T5, (*_RANDOM, *_AS_DSI)),
}


def measure(name: str, work: Path, corpus: Path, settings: list[str]) -> Report:
    """Train one row and evaluate it on the validation split, or return the report of an earlier call."""
    recipe, changes = ROWS[name]
    folder = work / name.replace(", ", "-").replace(" ", "_")
    report = folder / "report"
    if (report / "report.json").is_file():
        return Report.load(report / "report.json")
    run = str(folder / "run")
    bindings = [f"CORPUS='{corpus}'", f"RUN='{run}'", *settings, *changes]
    train_run(experiment_from_gin([recipe], bindings)[1], run)
    return evaluate_runs([run], report, split=SPLIT, measured=Measured())


def row(report: Report, system: str) -> dict[str, float]:
    """Return a system's means."""
    found = report.find(system, SPLIT)
    return {metric: round(found.metrics[metric].mean, 5) for metric in METRICS} if found else {}


def main() -> None:
    """Train every row, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, help="training steps of every row (default: those of the gin files)")
    parser.add_argument("--hold-out", type=float, default=0.3, help="share of the training summaries to measure on")
    parser.add_argument("--work", type=Path, help="folder that keeps the runs; a row done there is not done again")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/recipe.json"))
    arguments = parser.parse_args()
    settings = [f"Experiment.hold_out={arguments.hold_out}"]
    settings += [f"STEPS={arguments.steps}"] if arguments.steps else []
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        corpus = work / "corpus"
        if not corpus.is_dir():
            write_beir(python_docs(), corpus)
        for name, (_, changes) in ROWS.items():
            report = measure(name, work, corpus, settings)
            rows.setdefault("BM25", {"trained": row(report, "BM25")})
            rows[name] = {
                "changes": list(changes),
                "untrained": row(report, "run, untrained"),
                "trained": row(report, "run"),
            }
    result = {
        "what": "the recipe from scratch and what its parts are worth, on held-out training summaries",
        "documents": report.dataset.documents,
        "queries": next(split.queries for split in report.splits if split.name == SPLIT),
        "hold_out": arguments.hold_out,
        "steps": report.budget["run"]["steps"],
        "seed": 0,
        "rows": rows,
        "environment": report.environment,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
