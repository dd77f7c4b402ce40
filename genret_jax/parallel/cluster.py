"""The processes of a run and how they find each other: by options, the environment, or a cluster's metadata."""

import dataclasses
import socket
import time
from collections.abc import Mapping
from typing import Any

from genret_jax.errors import InputError, LostProcessError

# Environment variables that stand in for the options.
COORDINATOR, PROCESSES, PROCESS = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
# The clusters that jax detects; "auto" takes the one that is there.
CLUSTERS = ("auto", "slurm", "gcetpu", "gketpu", "ompi", "mpi4py")
EXIT_LOST_PROCESS = 75  # EX_TEMPFAIL of sysexits.h: trying again may be enough
ARRIVAL_SECONDS = 45
# A process that was silent for this long counts as dead, so that the others end within a minute. The runtime's own
# threads send the heartbeats, so compiling or writing for longer does no harm.
HEARTBEAT_SECONDS = 30
SHUTDOWN_SECONDS = 30
_LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """The processes of a run: either ``coordinator``, ``processes`` and ``process`` are given, or ``detection``.

    Attributes:
        coordinator: ``HOST:PORT`` of process 0, where all processes meet.
        processes: Number of processes.
        process: Number of this process, from 0.
        detection: The cluster from which jax finds the other three fields: one of :data:`CLUSTERS`.
        arrival_seconds: Seconds to wait for the others at the start.
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None
    detection: str | None = None
    arrival_seconds: int = ARRIVAL_SECONDS

    @property
    def name(self) -> str:
        """Name of this process in messages."""
        return "this process" if self.process is None else f"process {self.process} of {self.processes}"


def chosen_cluster(
    coordinator: str | None,
    processes: int | None,
    process: int | None,
    *,
    detection: str | None,
    arrival_seconds: int,
    environment: Mapping[str, str],
) -> Cluster | None:
    """Return the cluster that options or else environment variables describe, None for a single process.

    Raises:
        InputError: If they are incomplete or contradict each other.
    """
    if arrival_seconds < 1:
        raise InputError(f"--arrival-seconds {arrival_seconds}", expected="at least 1", fix="give more time")
    if detection is not None:
        if not (coordinator is None and processes is None and process is None):
            raise InputError(
                f"--cluster {detection} beside --coordinator, --processes or --process",
                expected="one or the other",
                fix="leave out --cluster, or all of the others",
            )
        return Cluster(detection=detection, arrival_seconds=arrival_seconds)
    coordinator = coordinator or environment.get(COORDINATOR)
    processes = _number(environment, PROCESSES) if processes is None else processes
    process = _number(environment, PROCESS) if process is None else process
    given = {"--coordinator": coordinator, "--processes": processes, "--process": process}
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given) or (processes == 1 and process in (None, 0)):
        return None
    if missing or coordinator is None or processes is None or process is None:
        raise InputError(
            f"{' and '.join(missing)} missing, while {', '.join(f for f in given if f not in missing)} is given",
            expected=f"all of {', '.join(given)}, as flags or as {COORDINATOR}, {PROCESSES}, {PROCESS}",
            fix="give what is missing, or --cluster auto on Slurm or a TPU pod",
        )
    _check(coordinator, processes, process)
    return Cluster(coordinator=coordinator, processes=processes, process=process, arrival_seconds=arrival_seconds)


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name)
    if text is not None and not text.isdecimal():
        raise InputError(f"the environment variable {name} is {text!r}", expected="a number", fix="correct or unset it")
    return None if text is None else int(text)


def _check(coordinator: str, processes: int, process: int) -> None:
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(
            f"--coordinator {coordinator}",
            expected="HOST:PORT, the address of process 0 and a free port there",
            fix="give for instance 10.0.0.1:8476",
        )
    if processes < 1 or not 0 <= process < processes:
        raise InputError(
            f"--process {process} of --processes {processes}",
            expected="processes numbered from 0 to one below their number",
            fix="give every process a number of its own",
        )


def join(cluster: Cluster) -> None:
    """Connect to the other processes, so that jax sees the devices of all; call it before any other use of jax.

    Raises:
        InputError: If no cluster is detected, or the coordinator's port is taken.
        LostProcessError: If the coordinator does not answer in time. If other processes do not arrive, the runtime ends
            this process, and the supervising parent explains it.
    """
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    # The service would take SIGTERM for itself; the training loop answers it.
    jax.config.update("jax_enable_preemption_service", False)
    waits: dict[str, Any] = {
        "initialization_timeout": cluster.arrival_seconds,
        "heartbeat_timeout_seconds": HEARTBEAT_SECONDS,
        "shutdown_timeout_seconds": SHUTDOWN_SECONDS,
    }
    if cluster.coordinator is None:
        _join_detected(cluster, waits)
        return
    _wait_for_coordinator(cluster)
    host = cluster.coordinator.rpartition(":")[0]
    jax.distributed.initialize(
        cluster.coordinator,
        cluster.processes,
        cluster.process,
        cluster_detection_method="deactivate",
        # By default it listens on every network of this machine.
        coordinator_bind_address=cluster.coordinator if host in _LOOPBACK else None,
        **waits,
    )


def _join_detected(cluster: Cluster, waits: Mapping[str, Any]) -> None:
    import jax

    method = None if cluster.detection == "auto" else cluster.detection
    try:
        jax.distributed.initialize(cluster_detection_method=method, **waits)
    except (ValueError, LookupError, ImportError, OSError) as error:  # a variable, package or server is missing
        raise InputError(
            f"no cluster was detected by --cluster {cluster.detection} ({type(error).__name__}: {str(error)[:100]})",
            expected="a step of srun, a TPU pod, or another environment that jax knows",
            fix="start it there, or give --coordinator, --processes and --process",
        ) from None


def _require_free(port: int) -> None:
    """Refuse a port that another program listens on; the runtime's own error does not name it."""
    with socket.socket() as listener:
        # As the runtime does: a port that only waits for a closed connection to time out is free.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("", port))
        except OSError as error:
            raise InputError(
                f"process 0 cannot listen on port {port} ({error.strerror or error})",
                expected="a free port of this machine in --coordinator",
                fix="choose another, or stop what uses it",
            ) from None


def _wait_for_coordinator(cluster: Cluster) -> None:
    """Wait until process 0 answers; the runtime's own wait would end this process without a reason."""
    assert cluster.coordinator is not None
    host, _, port = cluster.coordinator.rpartition(":")
    if cluster.process == 0:
        _require_free(int(port))
        return
    deadline = time.monotonic() + cluster.arrival_seconds
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > deadline:
                raise LostProcessError(
                    f"{cluster.name} found no coordinator at {cluster.coordinator} in {cluster.arrival_seconds} s "
                    f"({error.strerror or error})",
                    fix="start process 0 there, check the address and the firewall, or raise --arrival-seconds",
                ) from None
            time.sleep(0.2)
