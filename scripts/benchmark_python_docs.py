#!/usr/bin/env python
"""Measure the quickstart: semantic and atomic docids on the documentation of this Python, over several seeds.

Every seed does what scripts/quickstart.sh does, by the same commands in processes of their own: corpus, semantic
docids, training on both kinds of docids, evaluation on the test split beside BM25 and the untrained start. Seconds
and memory are those of the processes.

Example:
    python scripts/benchmark_python_docs.py
    python scripts/benchmark_python_docs.py --seeds 1 --steps 20 --out /tmp/try.json     # does it run?
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genret_jax.evaluation.report import Report
from genret_jax.storage import read_json, write_json

KINDS = ("semantic", "atomic")
ENVIRONMENT = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1", **os.environ}  # as in scripts/quickstart.sh
SPLIT, REFERENCE = "test", "BM25"
METRICS = ("hits@1", "hits@10", "mrr@10")


def genret(*arguments: object, log: Path) -> dict[str, float]:
    """Run a genret command; return its wall seconds, processor seconds and peak memory."""
    command = [sys.executable, "-m", "genret_jax", *map(str, arguments)]
    print(f"genret {' '.join(command[3:])}", file=sys.stderr, flush=True)
    started = time.perf_counter()
    with log.open("a", encoding="utf-8") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=ENVIRONMENT)
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # as the process is already waited for
    if process.returncode:
        raise SystemExit(f"genret {arguments[0]} failed:\n" + log.read_text(encoding="utf-8")[-2000:])
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_memory_gib": round(usage.ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20), 2),
    }


def quickstart(folder: Path, seed: int, steps: int | None) -> tuple[Report, dict[str, dict[str, float]]]:
    """Do what scripts/quickstart.sh does, with a seed; return the report and what each stage took."""
    corpus, docids, log = folder / "corpus", folder / "docids", folder / "log.txt"
    took = folder / "stages.json"  # written last: a seed that has it is done
    if took.is_file():
        return Report.load(folder / "report" / "report.json"), read_json(took)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    stages = {"corpus": genret("corpus", "python-docs", "--out", corpus, log=log)}
    stages["docids"] = genret("docids", "build", "--corpus", corpus, "--out", docids, "--seed", seed, log=log)
    for kind in KINDS:
        train = ["train", "--gin_file", f"runs/dsi_{kind}_from_scratch.gin", "--corpus", corpus, "--run", folder / kind]
        train += [f"--gin.SEED={seed}"] + ([f"--gin.STEPS={steps}"] if steps else [])
        train += [f"--gin.Experiment.docids='{docids}'"] if kind == "semantic" else []
        stages[f"train {kind}"] = genret(*train, log=log)
    runs = [part for kind in KINDS for part in ("--run", folder / kind)]
    stages["evaluate"] = genret("evaluate", *runs, "--out", folder / "report", log=log)
    write_json(took, stages)
    return Report.load(folder / "report" / "report.json"), stages


def scores(report: Report, system: str, split: str = SPLIT) -> dict[str, float]:
    """Return a system's means, as fractions of 1."""
    measured = report.find(system, split)
    return {metric: round(measured.metrics[metric].mean, 5) for metric in METRICS} if measured else {}


def over_seeds(seeds: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Return mean, least and greatest of every metric."""
    columns = {metric: [seed[metric] for seed in seeds] for metric in seeds[0]}
    return {
        metric: {"mean": round(statistics.mean(values), 5), "low": min(values), "high": max(values)}
        for metric, values in columns.items()
    }


def summary(reports: Sequence[Report]) -> dict[str, Any]:
    """Return every system's scores over the seeds, and the ratio of its mean to BM25's."""
    systems = [system.name for system in reports[0].systems]
    found: dict[str, Any] = {}
    for system in systems:
        by_seed = [scores(report, system) for report in reports]
        found[system] = {"over_seeds": over_seeds(by_seed), "by_seed": by_seed}
    for system in systems:
        over, reference = found[system]["over_seeds"], found[REFERENCE]["over_seeds"]
        found[system]["of_bm25"] = {m: round(over[m]["mean"] / reference[m]["mean"], 3) for m in METRICS}
    for kind in KINDS:
        remembered = [scores(report, kind, "memorisation")["hits@1"] for report in reports]
        found[kind]["memorisation_hits@1"] = round(statistics.mean(remembered), 5)
    return found


def main() -> None:
    """Train and measure every seed, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="0, 1, … (default: 3 of them)")
    parser.add_argument("--steps", type=int, help="training steps (default: those of the shipped gin files)")
    parser.add_argument("--work", type=Path, help="folder that keeps the runs; a seed done there is not done again")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/python_docs.json"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = arguments.work or Path(temporary)
        work.mkdir(parents=True, exist_ok=True)
        done = [quickstart(work / f"seed-{seed}", seed, arguments.steps) for seed in range(arguments.seeds)]
    reports = [report for report, _ in done]
    test = next(split for split in reports[0].splits if split.name == SPLIT)
    result = {
        "what": "the quickstart: held-out summary lines of the Python documentation to the bodies they summarise",
        "documents": reports[0].dataset.documents,
        "corpus_fingerprint": reports[0].dataset.fingerprint,
        "test_queries": test.queries,
        "seeds": list(range(arguments.seeds)),
        "steps": reports[0].budget[KINDS[0]]["steps"],
        "systems": summary(reports),
        "stages_by_seed": [stages for _, stages in done],
        "total_seconds_by_seed": [round(sum(s["seconds"] for s in stages.values()), 1) for _, stages in done],
        "total_processor_seconds_by_seed": [
            round(sum(s["processor_seconds"] for s in stages.values()), 1) for _, stages in done
        ],
        "peak_memory_gib": max(s["peak_memory_gib"] for _, stages in done for s in stages.values()),
        "load_average_at_the_end": round(os.getloadavg()[0], 1),
        "environment": reports[0].environment,
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    write_json(arguments.out, result)


if __name__ == "__main__":
    main()
