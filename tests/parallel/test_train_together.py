"""``genret train`` in two processes: one run folder, the losses of one process, and what all of them refuse."""

import os
import shutil
import socket
from pathlib import Path

import numpy as np
import pytest
from support.tiny_run import tiny_experiment

import genret_jax
from genret_jax.config.experiment import VocabularyConfig
from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.config.record import record_text
from genret_jax.docids import AtomicDocids
from genret_jax.run import open_run, train_run
from genret_jax.training import read_metrics

pytestmark = pytest.mark.slow
GENRET = ["-m", "genret_jax.train"]


@pytest.fixture
def experiment(tiny_corpus):
    """Make the experiment on a mesh; compiling it takes most of its time."""

    def make(**mesh):
        trainer = {"steps": 10, "log_every": 1, "checkpoint_every": 5, "evaluate_every": 5, **mesh}
        plain = {"docids": AtomicDocids(), "vocabulary": VocabularyConfig(kind="bytes")}
        return tiny_experiment(tiny_corpus, trainer=trainer, **plain)

    return make


@pytest.fixture
def options(experiment, tmp_path):
    """The options of the command that trains it on two by two devices."""
    file = tmp_path / "tiny.gin"
    file.write_text(record_text("", experiment(data_parallel=2, model_parallel=2)))
    return [f"--gin_file={file}", "--run", str(tmp_path / "two")]


def losses_and_scores(folder):
    return [
        [
            record["loss"] if record["kind"] == "train" else record["validation/mrr@10"]
            for record in read_metrics(folder)
        ],
        [(record["step"], record["kind"]) for record in read_metrics(folder)],
    ]


@pytest.mark.filterwarnings("ignore:.*neither title nor text")
def test_two_processes_train_and_go_on(options, experiment, launch, finish, tmp_path):
    finish(launch(2, [[*options, "--steps", "5"]] * 2, command=GENRET))
    members = launch(2, [options] * 2, command=GENRET)
    finish(members)
    assert "resuming after step 5" in members[0].told()
    assert "corpus      41 documents" in members[0].told()
    assert "documents" not in members[1].told()
    train_run(experiment(data_parallel=1, model_parallel=1), tmp_path / "one")
    (found, what), (wanted, what_alone) = losses_and_scores(tmp_path / "two"), losses_and_scores(tmp_path / "one")
    assert what == what_alone
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    assert open_run(tmp_path / "two").params()


def refused(members):
    assert [member.wait() for member in members] == [2, 2]
    errors = [member.error() for member in members]
    assert errors[0] == errors[1]
    return errors[0]


def test_another_configuration(options, launch, tmp_path):
    members = launch(2, [options, [*options, "--gin.T5Config.d_ff=40"]], command=GENRET)
    assert "process 1 has T5Config.d_ff = 40, process 0 has " in refused(members)
    assert not (tmp_path / "two").exists()


def test_another_code_version(options, launch, tmp_path):
    other = tmp_path / "other" / "genret_jax"
    shutil.copytree(
        Path(genret_jax.__file__).parent, other, ignore=shutil.ignore_patterns("__pycache__", "gin_configs")
    )
    shutil.copytree(gin_configs_folder(), other / "gin_configs")
    with (other / "losses" / "__init__.py").open("a") as handle:
        handle.write("# changed\n")
    begin = (
        "import runpy, sys; sys.path.insert(0, sys.argv.pop(1)); "
        "runpy.run_module('genret_jax.train', run_name='__main__')"
    )
    own = str(Path(genret_jax.__file__).parent.parent)
    theirs = [[own, *options], [str(other.parent), *options]]
    message = refused(launch(2, theirs, command=["-c", begin]))
    assert "process 1 has the fingerprint of genret_jax's code = " in message
    assert not (tmp_path / "two").exists()


def test_one_folder_each_is_not_a_shared_one(options, launch, tmp_path):
    members = launch(2, [options, [*options[:-1], str(tmp_path / "elsewhere")]], command=GENRET)
    assert {member.wait() for member in members} <= {2, 75}
    assert "elsewhere: this process does not see the run that process 0 has prepared" in members[1].error()
    assert "this process does not see the run" in members[0].error()


def slurm_port():
    """Return a free port out of those that jax derives from a job's number."""
    for port in range(61440, 65536):
        with socket.socket() as listener:
            if listener.connect_ex(("127.0.0.1", port)):
                return port
    raise AssertionError("no free port")


def test_slurm_tells_all(options, launch, finish, tmp_path):
    port = slurm_port()
    places = [
        {
            "SLURM_JOB_ID": str(port - 61440),
            "SLURM_STEP_NODELIST": "127.0.0.1",
            "SLURM_NTASKS": "2",
            "SLURM_PROCID": str(process),
            "SLURM_LOCALID": str(process),
            "JAX_COORDINATOR_BIND_ADDRESS": f"127.0.0.1:{port}",
        }
        for process in range(2)
    ]
    two = [[*options, "--steps", "2", "--cluster", "slurm"]] * 2
    finish(launch(2, two, command=GENRET, places=places))
    assert read_metrics(tmp_path / "two")[-1]["step"] == 2


@pytest.mark.parametrize("cluster", ["slurm", "auto", "mpi4py"])
def test_no_cluster_to_detect(cluster, options, launch):
    assert not any(name.startswith("SLURM_") for name in os.environ)
    (member,) = launch(2, [[*options, "--cluster", cluster]], command=GENRET, only=[0], places=[{}])
    assert member.wait() == 2
    assert f"no cluster was detected by --cluster {cluster}" in member.error()
