"""Several processes on this machine, over loopback, with four devices among them."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from genret_jax.training.log import METRICS_FILE, read_metrics

PROGRAM = Path(__file__).with_name("tiny_program.py")
DEVICES = 4
# Only an upper bound: a machine busy with other work takes its time to start processes.
PATIENCE = 240.0


class Member:
    """One started process: the supervising parent, with the child that works."""

    def __init__(self, command: list[str], environment: dict[str, str], log: Path):
        self.log = log
        with log.open("w") as handle:
            self.process = subprocess.Popen(command, env=environment, stdout=handle, stderr=handle)

    def child(self) -> int:
        """Return the process id of the one that works."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        while not (found := children.read_text().split()):
            time.sleep(0.01)
        return int(found[0])

    def kill_child(self) -> None:
        """Kill the one that works at once, as a machine that breaks down would."""
        os.kill(self.child(), signal.SIGKILL)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Return the exit code."""
        return self.process.wait(timeout=seconds)

    def error(self) -> str:
        """Return the one error line, without what the runtime says."""
        lines = [line for line in self.log.read_text().splitlines() if line.startswith("genret: error: ")]
        assert len(lines) == 1, self.log.read_text()[-5000:]
        return lines[0].removeprefix("genret: error: ")

    def told(self) -> str:
        """Return everything it wrote."""
        return self.log.read_text()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def launch(tmp_path: Path) -> Iterator[Callable[..., list[Member]]]:
    """Start some or all of a number of processes; whatever still runs at the end of the test is killed."""
    started: list[Member] = []

    def launch(
        processes: int,
        options: Any,
        *,
        only: list[int] | None = None,
        command: list[str] | None = None,
        places: list[dict[str, str]] | None = None,
    ) -> list[Member]:
        """``options`` and environment variables ``places`` may be given for each process."""
        coordinator, flags = f"127.0.0.1:{free_port()}", os.environ["XLA_FLAGS"]
        environment = {
            **os.environ,
            "XLA_FLAGS": re.sub(r"device_count=\d+", f"device_count={DEVICES // processes}", flags),
            "JAX_COMPILATION_CACHE_DIR": str(tmp_path / f"compiled-{processes}"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "PYTHONUNBUFFERED": "1",
        }
        members = []
        for process in range(processes) if only is None else only:
            theirs = options[process] if isinstance(options, list) else options
            if command is None:
                full = [sys.executable, str(PROGRAM), coordinator, str(processes), str(process), json.dumps(theirs)]
            else:
                place = ["--coordinator", coordinator, "--processes", str(processes), "--process", str(process)]
                full = [sys.executable, *command, *theirs, *(place if places is None else [])]
            variables = {**environment, **(places[process] if places else {})}
            members.append(Member(full, variables, tmp_path / f"log-{len(started)}-{process}.txt"))
            started.append(members[-1])
        return members

    yield launch
    for member in started:
        if member.process.poll() is None:
            member.process.kill()
            member.process.wait()


@pytest.fixture
def finish() -> Callable[[list[Member]], None]:
    """Wait until all have ended well."""

    def finish(members: list[Member]) -> None:
        codes = [member.wait() for member in members]
        assert codes == [0] * len(members), "\n".join(member.told()[-3000:] for member in members)

    return finish


@pytest.fixture
def losses() -> Callable[[Path], dict[int, float]]:
    """Read the loss of each step, which must be recorded once."""

    def read(folder: Path) -> dict[int, float]:
        records = [record for record in read_metrics(folder) if record["kind"] == "train"]
        found = {record["step"]: record["loss"] for record in records}
        assert len(found) == len(records)
        return found

    return read


@pytest.fixture
def wait_for_records() -> Callable[[Path, int, list[Member]], None]:
    """Wait until a run has so many records."""

    def wait(folder: Path, number: int, members: list[Member]) -> None:
        path, deadline = folder / METRICS_FILE, time.monotonic() + PATIENCE
        while not path.exists() or path.read_text().count("\n") < number:
            assert all(member.process.poll() is None for member in members), members[0].told()
            assert time.monotonic() < deadline, members[0].told()
            time.sleep(0.005)

    return wait
