"""Time what learning docids costs, at the shape of runs/genret_from_scratch.gin, on the CPU.

    python scripts/benchmark_genret.py [--turns 7] [--out benchmarks/results/genret.json]

What is timed, on random tokens:

* a training step of 64 rows, its update by AdamW included: of the run itself (a query of 24 tokens and its docid), and
  of a level of docids, which reads a document beside every query: one of 24 tokens, and of 64 as LearnedDocids has it;
* giving 100,000 documents of 64 tokens their docids.

Training steps are compiled in one process and take turns; ratios are those of medians to the run's.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark_sides import genret_jax_steps

from genret_jax.docid_learning.model import Codebooks, DocidModel, decoder_inputs
from genret_jax.docid_learning.task import DocidLearningTask
from genret_jax.docids import LearnedDocids
from genret_jax.evaluation.environment import environment
from genret_jax.models import T5Config
from genret_jax.models.network import random_variables
from genret_jax.training import AdamW, Constant, TrainerConfig
from genret_jax.training.docid_task import RetrievalTask

TEXT, CODEBOOK, LEVELS, ROWS, QUERY, DOCUMENTS = 8000, 32, 3, 64, 24, 100_000
NETWORK = T5Config(
    vocab_size=TEXT + 4 * CODEBOOK,
    d_model=256,
    d_kv=64,
    num_heads=4,
    d_ff=512,
    num_encoder_layers=1,
    num_decoder_layers=1,
    encoder_final_norm=False,
)
BOOKS = Codebooks(config=NETWORK, first_token=TEXT, level_sizes=(CODEBOOK,) * LEVELS)


def with_batch(task: Any, batch: dict[str, np.ndarray]) -> Any:
    """Return the task with one batch for all steps."""
    task.batch = lambda step, rows=None: batch
    return task


def retrieval() -> Any:
    """Return the task of the run itself."""
    random = np.random.default_rng(0)
    codes = random.integers(0, CODEBOOK, (ROWS, LEVELS + 1)).astype(np.int32)
    targets = TEXT + CODEBOOK * np.arange(LEVELS + 1, dtype=np.int32) + codes
    shifted = np.pad(targets, ((0, 0), (1, 0)))[:, :-1]
    batch = {
        "encoder_input_tokens": random.integers(2, TEXT, (ROWS, QUERY)).astype(np.int32),
        "decoder_target_tokens": targets,
        "decoder_input_tokens": shifted,
        "decoder_loss_weights": np.ones(targets.shape, np.float32),
        "decoder_prefix_nodes": np.zeros_like(targets),
    }
    return with_batch(RetrievalTask(NETWORK, None, None), batch)


def learning(length: int) -> Any:
    """Return the task of the last level of docids, with documents of this many tokens."""
    random = np.random.default_rng(0)
    codes = random.integers(0, CODEBOOK, (ROWS, LEVELS)).astype(np.int32)
    levels = np.arange(LEVELS)
    batch = {
        "document": np.arange(ROWS, dtype=np.int32),
        "document_tokens": random.integers(2, TEXT, (ROWS, length)).astype(np.int32),
        "query_tokens": random.integers(2, TEXT, (ROWS, QUERY)).astype(np.int32),
        "decoder_input_tokens": decoder_inputs(BOOKS, codes),
        "codes": codes,
        "prefix": np.repeat(np.arange(4, dtype=np.int32), 16)[:, None].repeat(LEVELS, 1),
        "learned": np.tile(levels == LEVELS - 1, (ROWS, 1)).astype(np.float32),
        "fixed": np.tile(levels < LEVELS - 1, (ROWS, 1)).astype(np.float32),
        "with_codes": np.ones(ROWS, np.float32),
    }
    task = DocidLearningTask(BOOKS, np.zeros((1, length), np.int32), LearnedDocids(levels=LEVELS, codebook=CODEBOOK))
    return with_batch(task, batch)


def main() -> None:
    """Time and print; write the result where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    trainer = TrainerConfig(
        steps=10**6,
        batch_size=ROWS,
        steps_per_dispatch=5,
        optimizer=AdamW(learning_rate=Constant(rate=1e-4)),
        data_parallel=1,
        log_every=10**6,
    )
    sides = {"run": retrieval(), "learning_24": learning(24), "learning_64": learning(64)}
    steps = {name: genret_jax_steps(task, trainer) for name, task in sides.items()}
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(arguments.turns):
        for name, step in steps.items():
            began = time.perf_counter()
            step()
            seconds[name].append((time.perf_counter() - began) / trainer.steps_per_dispatch)
    medians = {name: statistics.median(of_side) for name, of_side in seconds.items()}
    params = jax.device_get(random_variables(NETWORK, jax.random.key(0), None)["params"])
    documents = np.random.default_rng(1).integers(2, TEXT, (DOCUMENTS, 64)).astype(np.int32)
    began = time.perf_counter()
    codes = DocidModel.from_parameters(params, BOOKS, length=64).codes(documents)
    result = {
        "step_seconds": {name: {"median": medians[name], "all": seconds[name]} for name in steps},
        "ratio_to_run": {name: medians[name] / medians["run"] for name in steps},
        "assignment": {"documents": len(codes), "seconds": time.perf_counter() - began},
        "rows": ROWS,
        "turns": arguments.turns,
        "environment": environment(),
    }
    print(json.dumps({name: value for name, value in result.items() if name != "environment"}, indent=1))
    if arguments.out:
        arguments.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
