"""t5x's programs as people run them, and what they leave behind."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.evaluation.trec import read_run
from genret_jax.retriever import Retriever

#: One task, so that both engines see the same examples, and checkpoints whose data need not be resumed.
LIKE_OURS = """
from __gin__ import dynamic_registration
from genret_jax.tasks import dsi
from t5x import utils

include 't5x/like_genret.gin'

dsi.task_name.task = 'retrieval'
utils.CheckpointConfig.save = @utils.SaveCheckpointConfig()
LEARNING_RATE = 3e-3
RECORD_EVERY = 1
BATCH_SIZE = 16
CHECKPOINT_PERIOD = 10
"""


def t5x(
    program: str, place: Path, gin_files: list[Any], *options: str, devices: int = 8, **macros: Any
) -> subprocess.Popen:
    """Start a program of t5x in a folder, so that its paths may be relative, as in the documentation."""
    command = [sys.executable, "-m", f"t5x.{program}", f"--gin_search_paths={gin_configs_folder()}"]
    command += [f"--gin_file={file}" for file in gin_files]
    command += [f"--gin.{name}={value!r}" for name, value in macros.items()]
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    environment = {**os.environ, "XLA_FLAGS": " ".join([*flags, f"--xla_force_host_platform_device_count={devices}"])}
    return subprocess.Popen(
        [*command, *options], cwd=place, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def finished(process: subprocess.Popen, *, code: int = 0) -> str:
    """Wait for a program and return its output."""
    output, _ = process.communicate(timeout=600)
    assert process.returncode == code, output[-4000:]
    return output


def losses(model_dir: Path) -> dict[int, float]:
    """Return the loss of every step, from the event files."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorflow import make_ndarray

    found = {}
    for file in sorted((model_dir / "train").glob("events*")):
        events = EventAccumulator(str(file), size_guidance={"tensors": 0})
        events.Reload()
        found |= {e.step: float(make_ndarray(e.tensor_proto)) for e in events.Tensors("loss")}
    return found


def rankings(folder: Path) -> Any:
    """Return the rankings that t5x.infer has written."""
    return read_run(folder / "dsi_retrieval-predict_with_aux.trec-00000-of-00001")


def searched(run: Path, checkpoint: str, beams: int) -> dict[str, list[tuple[str, float]]]:
    """Return the rankings of the test queries by our own search."""
    retriever = Retriever.load(run, checkpoint=checkpoint)
    queries = retriever.run.corpus.queries
    return {
        query: [(result.doc_id, result.score) for result in retriever.search(queries[query], k=beams, beam=beams)]
        for query in retriever.run.corpus.qrels["test"]
    }
