"""Training steps of several sides, each in a process of its own, that take turns."""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

#: Makes a side ready in its process, and returns what makes one step, or several at once, and returns the loss.
Make = Callable[[], Callable[[], float]]


def genret_jax_steps(task: Any, trainer: Any, init_params: Any = None) -> Callable[[], float]:
    """Return a function that makes the steps of one call to the device, as training makes them, and returns the loss.

    Args:
        task: A ``TrainingTask``.
        trainer: The ``TrainerConfig``; its ``steps_per_dispatch`` says how many steps.
        init_params: To begin with; random ones when left out.
    """
    import jax

    from genret_jax.parallel.mesh import placed_on
    from genret_jax.training.checkpoints import Checkpoints
    from genret_jax.training.start import SeedRun, prepare

    with tempfile.TemporaryDirectory() as folder, Checkpoints(folder, keep=1) as checkpoints:
        run = SeedRun(task=task, config=trainer, folder=folder, init_params=init_params)
        start = prepare([run], [checkpoints])
    state, step, count = start.state, 0, trainer.steps_per_dispatch

    def steps() -> float:
        nonlocal state, step
        batches = jax.tree.map(lambda *parts: np.stack(parts), *(task.batch(step + n) for n in range(count)))
        with placed_on(start.mesh):
            state, report = start.run_steps(state, batches, np.int32(count), start.arrays)
        step += count
        total, weight = report["totals"]["loss"]
        return float(total / weight)

    return steps


def torch_step(
    *, vocabulary: int, rate: float, fused: bool, clip: float | None, **shape: Any
) -> Callable[[np.ndarray, np.ndarray], float]:
    """Return a function that makes one step of transformers' T5 with AdamW on a batch, and returns the loss.

    Args:
        vocabulary: Tokens.
        rate: Learning rate.
        fused: Use the fused AdamW.
        clip: Highest norm of a gradient; None for any.
        **shape: Of ``transformers.T5Config``.
    """
    import torch
    import transformers

    torch.manual_seed(0)
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    config = transformers.T5Config(
        vocab_size=vocabulary, dropout_rate=0.1, tie_word_embeddings=False, decoder_start_token_id=0, **shape
    )
    model = transformers.T5ForConditionalGeneration(config)
    # transformers 5 ties the head whatever the configuration says; T5 1.1 and TIGER have a head of their own.
    model.lm_head.weight = torch.nn.Parameter(torch.randn(vocabulary, config.d_model) * config.d_model**-0.5)
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.01, fused=fused or None)

    def step(source: np.ndarray, target: np.ndarray) -> float:
        tokens, labels = torch.from_numpy(source).long(), torch.from_numpy(target).long()
        optimizer.zero_grad()
        loss = model(input_ids=tokens, attention_mask=(tokens > 0).long(), labels=labels).loss
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        return float(loss.detach())

    return step


def serve(make: Make) -> None:
    """Make a step for every line on standard input, and write its seconds and its loss to standard output."""
    step = make()
    loss = step()  # compiles, allocates
    print(json.dumps({"loss": loss}), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        loss = step()
        print(json.dumps({"seconds": time.perf_counter() - start, "loss": loss}), flush=True)


class Side:
    """A process that makes a step whenever a line is written to it.

    Args:
        script: Script to run; with ``--serve NAME`` it calls :func:`serve`.
        name: Name of the side.
    """

    def __init__(self, script: str, name: str):
        command = [sys.executable, script, "--serve", name]
        # One process at a time has work, so each may use all cores.
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.first_loss = self._read()["loss"]
        self.seconds: list[float] = []
        self.losses: list[float] = []

    def _read(self) -> dict[str, float]:
        line = self.process.stdout.readline() if self.process.stdout else ""
        if not line:
            raise SystemExit(f"a side stopped: exit status {self.process.wait()}")
        return json.loads(line)

    def step(self, *, count: bool) -> None:
        """Make one step; only counted ones enter the figures."""
        if self.process.stdin:
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        answer = self._read()
        if count:
            self.seconds.append(answer["seconds"])
            self.losses.append(answer["loss"])

    def close(self) -> None:
        """End the process."""
        if self.process.stdin:
            self.process.stdin.close()
        self.process.wait()

    def summary(self) -> dict[str, object]:
        """Return the figures."""
        ordered = sorted(self.seconds)
        return {
            "median_seconds": round(statistics.median(ordered), 4),
            "fastest_seconds": round(ordered[0], 4),
            "quartiles_seconds": [round(q, 4) for q in statistics.quantiles(ordered, n=4)[::2]],
            "steps": len(ordered),
            "first_loss": round(self.first_loss, 3),
            "last_loss": round(self.losses[-1], 3),
        }


def take_turns(script: str, names: Sequence[str], steps: int) -> Mapping[str, Side]:
    """Let the sides take turns in making this many measured steps, so that other work slows all alike."""
    sides = {name: Side(script, name) for name in names}
    for turn in range(steps + 2):
        for side in sides.values():
            side.step(count=turn >= 2)
    for side in sides.values():
        side.close()
    return sides


def machine() -> dict[str, object]:
    """Return what decides the speed."""
    names = ("jax", "jaxlib", "flax", "optax", "torch", "transformers")
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "load_average_at_the_end": os.getloadavg()[0],
        "python": platform.python_version(),
        "versions": {name: version(name) for name in names},
    }


def _processor() -> str:
    """Return the name of the processor, as Linux gives it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
