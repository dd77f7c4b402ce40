"""Training steps of several sides, each in a process of its own, that take turns."""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

#: Makes a side ready in its process, and returns what makes one step, or several at once, and returns the loss.
Make = Callable[[], Callable[[], float]]


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
    """A process that makes steps when told to.

    Args:
        script: What to run; with ``--serve NAME`` it calls :func:`serve`.
        name: Of the side.
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
    """Let all sides make so many steps that count, one after the other, so that what else runs falls on all alike."""
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
