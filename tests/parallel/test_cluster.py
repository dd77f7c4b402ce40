"""Where the processes of a run are told about each other, and what may be wrong with that."""

import socket

import pytest

from genret_jax import cli
from genret_jax.errors import InputError
from genret_jax.parallel.agreement import code_fingerprint, require_agreement
from genret_jax.parallel.cluster import Cluster, chosen_cluster, join


def chosen(coordinator=None, processes=None, process=None, *, detection=None, arrival_seconds=45, **environment):
    return chosen_cluster(
        coordinator, processes, process, detection=detection, arrival_seconds=arrival_seconds, environment=environment
    )


def test_flags_come_before_the_environment():
    variables = {"JAX_COORDINATOR_ADDRESS": "h:1", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "2"}
    assert chosen(**variables) == Cluster(coordinator="h:1", processes=4, process=2)
    assert chosen(process=3, **variables) == Cluster(coordinator="h:1", processes=4, process=3)
    assert chosen("g:2", 2, 0, **variables) == Cluster(coordinator="g:2", processes=2, process=0)


def test_a_process_by_itself_needs_no_others():
    assert chosen() is None
    assert chosen(processes=1) is None
    assert chosen("h:1", 1, 0) is None


def test_detection_is_left_to_jax():
    assert chosen(detection="slurm", JAX_PROCESS_ID="2") == Cluster(detection="slurm")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"processes": 2, "process": 0}, "--coordinator missing, while --processes, --process is given"),
        ({"coordinator": "h:1"}, "--processes and --process missing"),
        ({"JAX_PROCESS_ID": "one"}, "JAX_PROCESS_ID is 'one'; expected a number"),
        ({"coordinator": "h", "processes": 2, "process": 0}, "--coordinator h; expected HOST:PORT"),
        ({"coordinator": "h:0", "processes": 2, "process": 0}, "--coordinator h:0; expected HOST:PORT"),
        ({"coordinator": "h:1", "processes": 2, "process": 2}, "--process 2 of --processes 2; expected .* from 0"),
        ({"coordinator": "h:1", "processes": 0, "process": 0}, "--process 0 of --processes 0"),
        ({"processes": 2, "detection": "slurm"}, "--cluster slurm beside --coordinator, --processes or --process"),
        ({"arrival_seconds": 0}, "--arrival-seconds 0; expected at least 1"),
    ],
)
def test_what_cannot_be(given, message):
    with pytest.raises(InputError, match=message):
        chosen(**given)


@pytest.mark.parametrize(
    "failure",
    [ValueError("not set"), KeyError("SLURM_JOB_ID"), ImportError("mpi4py"), ConnectionError("metadata " * 99)],
)
def test_a_cluster_that_is_not_there(failure, monkeypatch):
    """Each is what jax raises for one of the clusters, for ``gcetpu`` a failed request to the metadata server."""

    def fail(**_):
        raise failure

    monkeypatch.setattr("jax.distributed.initialize", fail)
    monkeypatch.setattr("jax.config.update", lambda *_: None)
    with pytest.raises(InputError, match="no cluster was detected by --cluster gcetpu") as raised:
        join(Cluster(detection="gcetpu"))
    assert len(str(raised.value)) < 400


def test_a_port_that_is_taken():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        with pytest.raises(
            InputError, match=f"process 0 cannot listen on port {port} .*in use.*; expected a free port"
        ):
            join(Cluster(coordinator=f"127.0.0.1:{port}", processes=2, process=0))


def test_the_command_refuses_before_anything_is_written(tmp_path, capsys):
    assert cli.main(["train", "--run", str(tmp_path / "run"), "--corpus", "x", "--processes", "2"]) == 2
    assert "--coordinator and --process missing, while --processes is given" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"T5Config.d_model": "64", "jax": "1"}, "process 2 has T5Config.d_model = 64, process 0 has 32; expected"),
        ({"T5Config.d_model": "64", "jax": "2"}, "T5Config.d_model = 64, process 0 has 32 and 1 more differences"),
        ({"T5Config.d_model": "32"}, "process 2 has jax = None, process 0 has 1"),
    ],
)
def test_who_differs_is_named(other, message, monkeypatch):
    first = {"T5Config.d_model": "32", "jax": "1"}
    monkeypatch.setattr("genret_jax.parallel.agreement.gather", lambda mine: [first, mine, other])
    with pytest.raises(InputError, match=message):
        require_agreement(first)


def test_the_code_has_a_fingerprint_that_does_not_change_by_itself():
    assert code_fingerprint() == code_fingerprint()
