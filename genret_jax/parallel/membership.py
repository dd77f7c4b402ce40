"""One process among others: it joins, says when it fails, notices when another did, and makes nobody hang."""

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
_LOOK_SECONDS = 1.0
# What fails everywhere is told by each process itself; only who is still busy after so long is ended by its watch.
_GRACE_SECONDS = 5.0
_FAREWELL_SECONDS = 10.0
# How jax words that a peer is gone, by the libraries underneath (Gloo, gRPC, NCCL).
_SIGNS_OF_A_LOST_PEER = ("gloo", "connection", "unavailable", "deadline_exceeded", "heartbeat", "nccl", "socket")
AGAIN = "look at what the other processes say, then start all of them again: training goes on from the last checkpoint"


@contextlib.contextmanager
def joined(cluster: Cluster, tell: Callable[[str], None]) -> Iterator[None]:
    """Be one of the processes while the block runs.

    Args:
        cluster: How they meet.
        tell: Receives ``"joined"`` once they have met.

    Raises:
        InputError: If no cluster is detected.
        LostProcessError: If the others cannot be reached, or one was lost on the way.
    """
    join(cluster)
    tell("joined")
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
        raise LostProcessError(f"{_whoami()} lost another process ({_first_line(error)})", fix=AGAIN) from error
    except BaseException as error:
        _announce(f"{type(error).__name__}: {error}")
        raise
    finally:
        watch.stop()
    jax.distributed.shutdown()


def leave(*, failed: bool) -> None:
    """Wait until the others have told their errors too, since they cannot outlive process 0; after :func:`joined`.

    Args:
        failed: Whether this process did not finish its work; without that there is nothing to wait for.
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
    """A thread that ends this process when another one has failed, or the parent that supervises it is gone.

    The main thread may then be inside a computation that waits for the failed process and cannot be interrupted.
    """

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._thread.join(timeout=_GRACE_SECONDS)  # it may be asking a service that is gone

    def _look(self) -> None:
        while not self._stopped.wait(_LOOK_SECONDS):
            if os.getppid() != self._parent:
                os._exit(EXIT_LOST_PROCESS)
            with contextlib.suppress(jax.errors.JaxRuntimeError):  # the runtime itself ends who has lost the service
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
