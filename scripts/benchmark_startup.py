#!/usr/bin/env python
"""Time a training process from its start to its first step, compilation apart, from an example store.

A store of the Python documentation is built once. Then processes are started one after the other; each imports what
training needs, opens the store, makes the network of the from-scratch runs (width 256, one encoder and one decoder
layer, random parameters), and trains one step of 64 examples. Compiled programs lie in a cache that a first process,
not counted, has filled: what remains is tracing and reading them. The clock starts when the process is asked for and
stops when the loss of the step is known. Processor time, of all threads, is given beside it: other programs on the
machine do not change that much.

Example:
    python scripts/benchmark_startup.py --out benchmarks/results/startup.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BATCH, LIMIT_SECONDS = 64, 5.0


def first_step(folder: Path) -> dict[str, float]:
    """Train one step from the store in ``folder``.

    Returns:
        Processor seconds until the imports and until the step were done, and the time of day of the latter.
    """
    from genret_jax.data.examples.sampler import Sampler, SamplerConfig
    from genret_jax.data.examples.store import ExampleStore
    from genret_jax.models import T5Config
    from genret_jax.training import TrainerConfig, train
    from genret_jax.training.docid_task import RetrievalTask

    imports = time.process_time()
    store = ExampleStore.open(folder / "store")
    network = T5Config(
        vocab_size=store.vocabulary_size,
        decoder_vocab_size=store.decoder_vocabulary_size,
        d_model=256,
        num_heads=4,
        d_ff=512,
        num_encoder_layers=1,
        num_decoder_layers=1,
    )
    task = RetrievalTask(network, Sampler(store, SamplerConfig(), seed=0, batch_size=BATCH), None)
    moments = {"imports_processor_seconds": imports}

    def note(params: Any, step: int) -> dict[str, float]:  # an evaluator is called once the last step's loss is known
        moments.update(time_of_day=time.time(), processor_seconds=time.process_time())
        return {}

    trainer = TrainerConfig(steps=1, batch_size=BATCH, data_parallel=1, checkpoint_every=None, tensorboard=False)
    with tempfile.TemporaryDirectory() as run:
        train(task, trainer, run, evaluators={"first_step": note})
    return moments


def build_store_of_python_docs(folder: Path) -> None:
    """Build what the processes open: documents, a vocabulary, docids of two levels in the order of the corpus."""
    import numpy as np

    from genret_jax.data.examples.building import build_store
    from genret_jax.data.sources.python_docs import python_docs
    from genret_jax.data.text.vocabulary import train_sentencepiece
    from genret_jax.docids.codec import DocidCodec
    from genret_jax.docids.table import DocidTable

    corpus = python_docs()
    codes = np.stack(np.divmod(np.arange(len(corpus)), 100), axis=1)
    table = DocidTable.from_codes(corpus.doc_ids, codes, strategy={}, corpus_fingerprint=corpus.fingerprint)
    vocabulary = train_sentencepiece([corpus.document_text(index) for index in range(len(corpus))])
    codec = DocidCodec(first_token=vocabulary.size, level_sizes=table.level_sizes, eos="always")
    build_store(folder / "store", corpus, codec.encode(table), vocabulary, codec=codec)


def start_process(folder: Path) -> dict[str, float]:
    """Start a training process and return its seconds."""
    keep_all = {"MIN_COMPILE_TIME_SECS": "0", "MIN_ENTRY_SIZE_BYTES": "-1"}
    environment = {
        **os.environ,
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        **{f"JAX_PERSISTENT_CACHE_{name}": value for name, value in keep_all.items()},
    }
    asked = time.time()
    command = [sys.executable, __file__, "--first-step", str(folder)]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    moments: dict[str, float] = json.loads(finished.stdout)
    return {"seconds": moments.pop("time_of_day") - asked, **moments}


def measure(rounds: int) -> dict[str, Any]:
    """Return the medians and extremes of ``rounds`` starts."""
    from genret_jax.evaluation.environment import environment

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build_store_of_python_docs(folder)
        start_process(folder)
        starts = [start_process(folder) for _ in range(rounds)]
    figures = {
        key: {
            "low": round(min(values), 2),
            "median": round(statistics.median(values), 2),
            "high": round(max(values), 2),
        }
        for key in starts[0]
        if (values := [start[key] for start in starts])
    }
    return {"rounds": rounds, "limit_seconds": LIMIT_SECONDS, **figures, "environment": environment()}


def main() -> None:
    """Measure, print, and write the report if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="JSON file for the report")
    parser.add_argument("--first-step", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.first_step:
        print(json.dumps(first_step(arguments.first_step)))
        return
    report = measure(arguments.rounds)
    print(json.dumps(report, indent=2))
    if arguments.out:
        from genret_jax.storage import write_json

        write_json(arguments.out, report)


if __name__ == "__main__":
    main()
