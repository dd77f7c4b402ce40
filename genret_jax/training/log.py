"""The log of a run: metrics.jsonl and TensorBoard, and progress on the screen."""

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.storage import atomic_file, explain_os_errors

METRICS_FILE = "metrics.jsonl"
QUIET_SECONDS = 15.0
# A rate over a shorter time says nothing.
_MEASURED_SECONDS = 1.0


def read_metrics(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a run in order; a last line cut short by a kill is left out.

    Args:
        folder: The run's folder. Records have ``step``, ``kind`` (``'train'`` or ``'evaluation'``) and metrics.

    Raises:
        InputError: If the file cannot be read, or a line is not such a record.
    """
    path = Path(folder) / METRICS_FILE
    if not path.exists():
        return []
    with explain_os_errors(path):
        lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    records = []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                records.append(_checked(json.loads(line)))
        except (ValueError, RecursionError) as error:
            if number < len(lines):  # only the last line can have been cut, and then no line end follows it
                raise InputError(
                    f"not a record ({error})", file=path, line=number, fix="repair or remove the line"
                ) from None
    return records


def _checked(record: Any) -> dict[str, Any]:
    if not isinstance(record, dict) or type(record.get("step")) is not int or not isinstance(record.get("kind"), str):
        raise ValueError("an object with a number 'step' and a string 'kind' is expected")
    return record


class MetricsLog:
    """Appends records to ``folder/metrics.jsonl`` and, if wanted, to TensorBoard event files.

    Args:
        folder: The run's folder.
        step: Step the run goes on from, 0 for a new run. Later records are dropped, and in a new run all, since they
            will be written again.
        tensorboard: Whether to write event files, to ``folder/tensorboard``.
    """

    def __init__(self, folder: str | os.PathLike[str], *, step: int, tensorboard: bool = False):
        self._folder, self._step, self._tensorboard = Path(folder), step, tensorboard
        self._path = self._folder / METRICS_FILE
        self._events: Any = None
        if self._path.exists():
            kept = [record for record in read_metrics(folder) if step and record["step"] <= step]
            with atomic_file(self._path) as handle:
                handle.writelines(json.dumps(record) + "\n" for record in kept)
        with explain_os_errors(self._path):
            self._handle = open(self._path, "a", encoding="utf-8", newline="\n")  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.close()
        if self._events is not None:
            self._events.close()

    def write(self, step: int, kind: str, metrics: Mapping[str, float | None]) -> None:
        """Append a record; numbers that are not finite become null.

        Raises:
            InputError: If the disk is full.
        """
        finite = {name: _finite(value) for name, value in metrics.items()}
        with explain_os_errors(self._path):
            self._handle.write(json.dumps({"step": step, "kind": kind, **finite}) + "\n")
            self._handle.flush()
            self._write_events(step, kind, finite)

    def sync(self) -> None:
        """Bring the records to the disk, before a checkpoint of a later step."""
        os.fsync(self._handle.fileno())

    def _write_events(self, step: int, kind: str, metrics: Mapping[str, float | None]) -> None:
        if not self._tensorboard:
            return
        if self._events is None:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(self._folder / "tensorboard"), purge_step=self._step + 1)
        for name, value in metrics.items():
            if value is not None:
                self._events.add_scalar(name if kind == "evaluation" else f"{kind}/{name}", value, step)


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)


class Progress:
    """Shows step, loss, rate and time left on stderr.

    Args:
        start: First step.
        steps: Last step.
        shown: Whether to print anything; of several processes one is enough.
    """

    def __init__(self, *, start: int, steps: int, shown: bool = True):
        self._step, self._steps = start, steps
        self._shown = time.monotonic()
        self._timed_from: tuple[int, float] | None = None
        self._bar: Any = None
        self._is_shown = shown
        if shown and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=steps, initial=start, unit="step", desc="training", dynamic_ncols=True)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def update(self, step: int, loss: float) -> None:
        """Show the number of steps made and the mean loss since the last record."""
        if step <= self._step:
            return
        # The first steps include compiling and the evaluation before them.
        self._timed_from = self._timed_from or (step, time.monotonic())
        if self._bar is not None:
            self._bar.set_postfix(loss=f"{loss:.4f}", refresh=False)
            self._bar.update(step - self._step)
        elif step == self._steps or time.monotonic() - self._shown >= QUIET_SECONDS:
            self._shown = time.monotonic()
            self.say(f"step {step}/{self._steps}  loss {loss:.4f}{self._pace(step)}")
        self._step = step

    def _pace(self, step: int) -> str:
        assert self._timed_from is not None
        timed, began = self._timed_from
        seconds = self._shown - began
        if step == timed or seconds < _MEASURED_SECONDS:  # checks of two steps may follow at once
            return ""
        rate = (step - timed) / seconds
        return f"  {_digits(rate)} steps/s  {_clock((self._steps - step) / rate)} left"

    def say(self, message: str) -> None:
        """Print a line without breaking the bar."""
        if self._bar is not None:
            self._bar.write(message, file=sys.stderr)
        elif self._is_shown:
            print(message, file=sys.stderr, flush=True)


def _digits(rate: float) -> str:
    """Return a rate with about three digits: 0.012, 2.5, 317, 26,569."""
    return f"{rate:,.0f}" if rate >= 100 else f"{rate:.1f}" if rate >= 1 else f"{rate:.2g}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
