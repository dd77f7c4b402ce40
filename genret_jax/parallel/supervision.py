"""A parent process that runs the work in a child, and explains an end by the runtime.

When a process dies, the runtime of the others aborts them from a thread of its own, in which no Python code can run.
"""

import os
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from genret_jax.parallel.cluster import EXIT_LOST_PROCESS, HEARTBEAT_SECONDS, Cluster

_ABORTED = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS)
_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def supervised(cluster: Cluster, work: Callable[[Callable[[str], None]], int]) -> int:
    """Run ``work`` in a child process and return its exit code; explain an abrupt end on stderr.

    SIGINT, SIGTERM and SIGHUP are passed on. Call it before jax is imported, as threads do not survive a fork.

    Args:
        cluster: The processes of the run, named in the message.
        work: Takes a function that notes the child's progress, and returns the exit code.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.setpgid(0, 0)  # so that a terminal's Ctrl-C comes once, from the parent
        _work_and_end(work, write)
    os.close(write)
    before = {number: signal.signal(number, _forward_to(child)) for number in _FORWARDED}
    try:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with os.fdopen(read, encoding="utf-8") as notes:
        joined = "joined" in notes.read()
    if status >= 0:
        return status
    print(f"genret: error: {_explain(cluster, signal.Signals(-status), joined=joined)}", file=sys.stderr, flush=True)
    return EXIT_LOST_PROCESS if -status in _ABORTED else 128 - status


def _work_and_end(work: Callable[[Callable[[str], None]], int], notes: int) -> NoReturn:
    """Do the work and exit without exit handlers: jax's would wait for processes that are gone."""
    code = 1
    try:
        code = work(lambda note: _write(notes, note))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _write(descriptor: int, note: str) -> None:
    os.write(descriptor, f"{note}\n".encode())


def _forward_to(child: int) -> Callable[[int, FrameType | None], Any]:
    return lambda number, _frame: os.kill(child, number)


def _explain(cluster: Cluster, ended_by: signal.Signals, *, joined: bool) -> str:
    if ended_by not in _ABORTED:
        return (
            f"{cluster.name} was ended by {ended_by.name}; next: if nobody sent it, look for a lack of memory; start "
            "all processes again: training goes on from the last checkpoint"
        )
    if not joined:
        where = f" at {cluster.coordinator}" if cluster.coordinator else ""
        return (
            f"{cluster.name} waited {cluster.arrival_seconds} s and not all processes arrived{where}; next: start "
            "every process within that time, read the errors of the missing ones, or raise --arrival-seconds"
        )
    return (
        f"the runtime ended {cluster.name} ({ended_by.name}), because another process died, or gave no sign of life "
        f"for {HEARTBEAT_SECONDS} s; next: read the errors of the other processes, then start all of them again: "
        "training goes on from the last checkpoint"
    )
