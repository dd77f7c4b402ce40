"""One process among others: it joins them, reports its own failure, and ends when another one fails."""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from genret_jax.errors import InputError, LostProcessError
from genret_jax.parallel.cluster import EXIT_LOST_PROCESS, Cluster, join
from genret_jax.parallel.coordination import client, place

_FAILED, _LEFT = "genret/failed", "genret/left"
_WATCH_SECONDS = 1.0
# A failure in all processes is reported by each itself; the watch ends only those that are still busy after this long.
_GRACE_SECONDS = 5.0
_FAREWELL_SECONDS = 10.0
# Words by which the libraries under jax (Gloo, gRPC, NCCL) report that a peer is gone.
_SIGNS_OF_A_LOST_PEER = ("gloo", "connection", "unavailable", "deadline_exceeded", "heartbeat", "nccl", "socket")
_AGAIN = "read the errors of the other processes, then start all again: training goes on from the last checkpoint"


@contextlib.contextmanager
def joined(cluster: Cluster, note: Callable[[str], None]) -> Iterator[None]:
    """Join the processes of a run for the duration of the block.

    Args:
        cluster: The processes of the run.
        note: Called with ``"joined"`` once they have met.

    Raises:
        InputError: If no cluster is detected.
        LostProcessError: If the others cannot be reached, or one of them is lost later.
    """
    join(cluster)
    note("joined")
    watch = _Watch()
    try:
        yield
    except (InputError, LostProcessError, KeyboardInterrupt) as error:
        _announce(str(error) or "interrupted")
        raise
    except jax.errors.JaxRuntimeError as error:
        text = str(error).lower()
        if not any(sign in text for sign in _SIGNS_OF_A_LOST_PEER):
            _announce(f"{type(error).__name__}: {error}")
            raise
        raise LostProcessError(f"{_whoami()} lost another process ({_first_line(error)})", fix=_AGAIN) from error
    except BaseException as error:
        _announce(f"{type(error).__name__}: {error}")
        raise
    finally:
        watch.stop()
    jax.distributed.shutdown()


def leave(*, failed: bool) -> None:
    """Wait until the other processes have reported their errors too, since they cannot outlive process 0.

    Call it after :func:`joined`.

    Args:
        failed: Whether this process failed; otherwise there is nothing to wait for.
    """
    if not failed or client() is None:
        return
    with contextlib.suppress(Exception):  # the service may be gone already
        process, processes = place()
        client().key_value_set(f"{_LEFT}/{process}", "")
        deadline = time.monotonic() + _FAREWELL_SECONDS
        while process == 0 and time.monotonic() < deadline:
            if len(client().key_value_dir_get(_LEFT)) == processes:
                return
            time.sleep(0.1)


def _announce(message: str) -> None:
    with contextlib.suppress(Exception):  # the service may be gone already
        client().key_value_set(f"{_FAILED}/{place()[0]}", " ".join(message.split())[:1000])


def _whoami() -> str:
    process, processes = place()
    return f"process {process} of {processes}"


def _first_line(error: BaseException) -> str:
    return str(error).strip().split("\n")[0][:200]


class _Watch:
    """A thread that ends this process when another process has failed, or the supervising parent is gone.

    The main thread may be inside a computation that waits for the failed process and cannot be interrupted.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._watch, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self._thread.join(timeout=_GRACE_SECONDS)  # it may be waiting for a service that is gone

    def _watch(self) -> None:
        while not self._stopped.wait(_WATCH_SECONDS):
            if os.getppid() != self._parent:
                os._exit(EXIT_LOST_PROCESS)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the runtime ends who has lost the service
                if failed := client().key_value_dir_get(_FAILED):
                    self._end(*failed[0])

    def _end(self, key: str, message: str) -> None:
        if self._stopped.wait(_GRACE_SECONDS):
            return
        print(
            f"genret: error: {_whoami()} ends because process {key.rpartition('/')[2]} failed: {message}",
            file=sys.stderr,
            flush=True,
        )
        leave(failed=True)
        os._exit(EXIT_LOST_PROCESS)
