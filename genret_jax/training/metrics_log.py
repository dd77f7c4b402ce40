"""metrics.jsonl and TensorBoard: one record a line, and no record twice after a run was killed and resumed."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.storage import atomic_file, explain_os_errors

METRICS_FILE = "metrics.jsonl"


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
