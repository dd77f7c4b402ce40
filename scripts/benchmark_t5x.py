#!/usr/bin/env python
"""Time training by our engine and by t5x: the same network, examples, batch, optimizer and mesh, as people run both.

Example:
    python=$(bash scripts/test_t5x.sh --install-only | tail -1)
    $python scripts/benchmark_t5x.py --out benchmarks/results/t5x_speed.json

One run folder is prepared of this Python's documentation; `python -m t5x.train` and our train() then take turns in
training it from random parameters, each in a process of its own, reading its examples as it always does. The rate is
that of the records of each log, the first, with its compilation, left out: of each turn the median, and of all turns
the median with the range. T5 1.1's shape at two sizes: tiny, where what surrounds the arithmetic counts,
and small.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from genret_jax.config.experiment import EvaluationConfig, Experiment, VocabularyConfig
from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.data.corpus import write_beir
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.docids import HierarchicalKMeans
from genret_jax.evaluation.environment import environment
from genret_jax.models.config import T5Config
from genret_jax.run import prepare
from genret_jax.storage import write_json
from genret_jax.training import AdamW, Constant, TrainerConfig

SIZES: dict[str, tuple[dict[str, Any], int, int]] = {  # fields of T5Config, steps of a turn, steps of a record
    "tiny": ({"d_model": 64, "d_kv": 32, "num_heads": 2, "d_ff": 128, "num_encoder_layers": 2,
              "num_decoder_layers": 2}, 400, 50),
    "small": ({}, 24, 3),
}  # fmt: skip
BATCH = 32
RATE = 1e-3
_PER_SECOND = "timing/steps_per_second"


def experiment(corpus: Path, size: str) -> Experiment:
    """Return what both engines train."""
    fields, steps, record = SIZES[size]
    return Experiment(
        corpus=str(corpus),
        model=T5Config(**fields),
        docids=HierarchicalKMeans(branching=10, leaf_size=100),
        vocabulary=VocabularyConfig(size=8000),
        trainer=TrainerConfig(
            steps=steps,
            batch_size=BATCH,
            log_every=record,
            evaluate_every=None,
            checkpoint_every=steps,
            best_metric=None,
            clip_norm=None,
            tensorboard=False,
            optimizer=AdamW(learning_rate=Constant(rate=RATE)),
        ),
        evaluation=EvaluationConfig(),
        z_loss=1e-4,
        start=None,
    )


def of_ours(corpus: Path, run: Path, size: str) -> list[float]:
    """Train by our engine in a new process; return steps a second of each record but the first."""
    command = [sys.executable, __file__, "--train", size, str(corpus), str(run)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line["steps_per_second"] for line in lines if line["kind"] == "train"][1:]


def of_t5x(run: Path, folder: Path, size: str) -> list[float]:
    """Train by t5x in a new process; return steps a second of each record but the first, as its own timer has them."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorflow import make_ndarray

    _, steps, record = SIZES[size]
    macros = {"RUN": str(run), "MODEL_DIR": str(folder), "TRAIN_STEPS": steps, "RECORD_EVERY": record}
    macros |= {"BATCH_SIZE": BATCH, "LEARNING_RATE": RATE, "CHECKPOINT_PERIOD": 1_000_000}
    command = [sys.executable, "-m", "t5x.train", f"--gin_search_paths={gin_configs_folder()}"]
    command += ["--gin_file=t5x/like_genret.gin", *(f"--gin.{name}={value!r}" for name, value in macros.items())]
    finished = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"t5x failed:\n{finished.stdout[-3000:]}")
    rates = {}
    for file in (folder / "train").glob("events*"):
        events = EventAccumulator(str(file), size_guidance={"tensors": 0})
        events.Reload()
        rates |= {event.step: float(make_ndarray(event.tensor_proto)) for event in events.Tensors(_PER_SECOND)}
    return [rate for _, rate in sorted(rates.items())][1:]


def measure(corpus: Path, folder: Path, size: str, turns: int) -> dict[str, Any]:
    """Let both take turns."""
    rates: dict[str, list[float]] = {"genret_jax": [], "t5x": []}
    for turn in range(turns):
        run = folder / f"{size}-{turn}"
        prepare(experiment(corpus, size), run, log=lambda line: None)
        rates["t5x"].append(statistics.median(of_t5x(run, folder / f"{size}-{turn}-t5x", size)))
        rates["genret_jax"].append(statistics.median(of_ours(corpus, run, size)))
        print(f"{size}, turn {turn + 1}: {rates['genret_jax'][-1]:.2f} to {rates['t5x'][-1]:.2f} steps/s", flush=True)
    ratios = [ours / theirs for ours, theirs in zip(*rates.values(), strict=True)]
    return {
        "steps_per_second": {name: [round(rate, 3) for rate in of_turn] for name, of_turn in rates.items()},
        "ratio": {"median": round(statistics.median(ratios), 3), "low": round(min(ratios), 3)}
        | {"high": round(max(ratios), 3)},
        "model": {name: getattr(T5Config(**SIZES[size][0]), name) for name in ("d_model", "num_heads", "d_ff")}
        | {"layers": T5Config(**SIZES[size][0]).num_encoder_layers},
        "steps_of_a_turn": SIZES[size][1],
    }


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/t5x_speed.json"))
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--train", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train:
        from genret_jax.run import train_run

        size, corpus, run = options.train
        train_run(experiment(Path(corpus), size), run)
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    result: dict[str, Any] = {"what": " ".join(__doc__.split("\n\n")[2].split()), "batch": BATCH, "sizes": {}}
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus"
        write_beir(python_docs(), corpus)
        for size in options.sizes:
            result["sizes"][size] = measure(corpus, Path(folder), size, options.turns)
            write_json(options.out, result | {"environment": environment()})


if __name__ == "__main__":
    main()
