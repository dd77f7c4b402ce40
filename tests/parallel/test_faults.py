"""What may happen to several processes: every survivor ends with a clear error, and a restart loses nothing."""

import time

import pytest
from support.tiny_training_task import TinyTask

from genret_jax.training import AdamW, Constant, TrainerConfig, train

pytestmark = pytest.mark.slow

MESH = {"data_parallel": 2, "model_parallel": 2}
# The bound a user is promised; measured from the fault to the end of the last survivor.
SECONDS_TO_END = 60
STEPS = 40
PACED = {"config": {**MESH, "steps": STEPS}, "seconds_a_batch": 0.1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The same run, never disturbed, in one process."""
    folder = tmp_path_factory.mktemp("whole")
    config = TrainerConfig(
        steps=STEPS, batch_size=16, log_every=1, checkpoint_every=4, tensorboard=False, data_parallel=1,
        optimizer=AdamW(learning_rate=Constant(rate=0.02)),
    )  # fmt: skip
    train(TinyTask(), config, folder, evaluators={"x": lambda params, step: {"y": float(abs(params["wi"]).sum())}})
    return folder


@pytest.fixture
def goes_on(launch, finish, losses, whole):
    """Check that starting all processes again ends as the undisturbed run did."""

    def check(folder, **changes):
        before = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
        members = launch(2, {"folder": str(folder), **PACED, "seconds_a_batch": 0, **changes})
        finish(members)
        assert f"resuming after step {before[-1]}" in members[0].told()
        found, wanted = losses(folder), losses(whole)
        assert found == pytest.approx(wanted, abs=1e-5)
        return members

    return check


def is_writing(folder):
    root = folder / "checkpoints"
    return root.exists() and any(not path.name.isdecimal() for path in root.iterdir())


@pytest.mark.parametrize("killed", [1, 0], ids=["worker", "coordinator"])
def test_a_process_killed_in_the_middle_of_a_step(killed, launch, wait_for_records, goes_on, tmp_path):
    members = launch(2, {"folder": str(tmp_path / "run"), **PACED})
    wait_for_records(tmp_path / "run", 10, members)
    members[killed].kill_child()
    began = time.monotonic()
    assert members[1 - killed].wait() == 75
    print(f"the survivor of {killed} ended after {time.monotonic() - began:.1f} s")
    assert time.monotonic() - began < SECONDS_TO_END
    assert members[killed].wait() == 128 + 9
    assert f"process {killed} of 2 was ended by SIGKILL; next: " in members[killed].error()
    survivor = members[1 - killed].error()
    assert f"process {1 - killed} of 2" in survivor
    assert "training goes on from the last checkpoint" in survivor
    goes_on(tmp_path / "run")


def test_parent_and_child_killed_together_leave_no_orphan(launch, wait_for_records, tmp_path):
    members = launch(2, {"folder": str(tmp_path / "run"), **PACED})
    wait_for_records(tmp_path / "run", 4, members)
    members[1].process.kill()  # its child notices that the parent is gone
    began = time.monotonic()
    assert members[0].wait() == 75
    assert time.monotonic() - began < SECONDS_TO_END


def test_a_kill_while_a_checkpoint_is_written(launch, wait_for_records, goes_on, tmp_path):
    folder = tmp_path / "run"
    members = launch(2, {"folder": str(folder), **PACED})
    wait_for_records(folder, 9, members)
    while not is_writing(folder):
        assert all(member.process.poll() is None for member in members), members[0].told()
    for member in members:
        member.kill_child()
    assert [member.wait() for member in members] == [137, 137]
    goes_on(folder)


@pytest.mark.parametrize(
    ("present", "message"),
    [
        (0, "process 0 of 2 waited 6 s and not all processes arrived at 127.0.0.1:"),
        (1, "process 1 of 2 found no coordinator at 127.0.0.1:"),
    ],
    ids=["no worker", "no coordinator"],
)
def test_one_that_never_arrives(present, message, launch, tmp_path):
    began = time.monotonic()
    (member,) = launch(2, {"folder": str(tmp_path / "run"), "arrival_seconds": 6}, only=[present])
    assert member.wait() == 75
    assert time.monotonic() - began < SECONDS_TO_END
    assert message in member.error()
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("harm", ["changed", "unreadable for one", "metadata lost"])
def test_a_corrupt_latest_checkpoint(harm, launch, finish, losses, whole, tmp_path):
    folder, by_four = tmp_path / "run", {"data_parallel": 1, "model_parallel": 4}  # both write parts of the parameters
    finish(launch(2, {"folder": str(folder), "config": {**by_four, "steps": 8}}))
    latest = folder / "checkpoints" / "8"
    if harm == "changed":
        file = max((path for path in latest.rglob("d/*")), key=lambda path: path.stat().st_size)
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif harm == "metadata lost":
        (latest / "metadata" / "metadata").unlink()
    # A file system may fail on one machine alone; the others must not wait for it.
    unreadable = {"unreadable": {"process": 1, "step": "8"}} if harm == "unreadable for one" else {}
    members = launch(2, {"folder": str(folder), "config": {**by_four, "steps": STEPS}, **unreadable})
    finish(members)
    for member in members:
        assert "checkpoint 8 is damaged" in member.told()
    assert "resuming after step 4" in members[0].told()
    assert [path.name for path in (folder / "damaged_checkpoints").iterdir()] == ["8"]
    assert losses(folder) == pytest.approx(losses(whole), abs=1e-5)


def test_a_checkpoint_that_one_cannot_read_now_is_left_alone(launch, finish, tmp_path):
    folder = tmp_path / "run"
    finish(launch(2, {"folder": str(folder), "config": {**MESH, "steps": 4}}))
    options = {"folder": str(folder), "config": {**MESH, "steps": 8}}
    members = launch(2, {**options, "unreadable": {"process": 1, "step": "4", "whole": True}})
    assert [member.wait() for member in members] == [2, 2]
    assert all("too many files" in member.error() for member in members)
    assert not (folder / "damaged_checkpoints").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]


def test_a_slow_writer_is_waited_for(launch, finish, losses, tmp_path):
    """Longer than the heartbeat allows for a dead process."""
    folder = tmp_path / "run"
    options = {"folder": str(folder), "config": {**MESH, "steps": 4}, "seconds_a_save": [0, 40]}
    began = time.monotonic()
    finish(launch(2, options))
    assert time.monotonic() - began > 40
    assert list(losses(folder)) == [1, 2, 3, 4]
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["4"]


def test_a_checkpoint_of_another_shape(launch, finish, tmp_path):
    folder = tmp_path / "run"
    finish(launch(2, {"folder": str(folder), "config": {**MESH, "steps": 4}}))
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.name != ".lock"}
    members = launch(2, {"folder": str(folder), "config": {**MESH, "steps": 8}, "hidden": 8})
    assert [member.wait() for member in members] == [2, 2]
    for member in members:
        assert "a checkpoint of another model (2 different: wi float32[8, 16] instead of" in member.error()
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        ({"model_parallel": 3}, "model_parallel=3 does not divide the 4 devices"),
        ({"data_parallel": 1, "model_parallel": 2}, "a mesh of 1×2 devices leaves process 1 without any"),
    ],
)
def test_a_mesh_that_does_not_fit(mesh, message, launch, tmp_path):
    members = launch(2, {"folder": str(tmp_path / "run"), "config": mesh})
    assert [member.wait() for member in members] == [2, 2]
    assert all(message in member.error() for member in members)


def test_an_error_in_one_process_ends_the_others(launch, tmp_path):
    """The folder is in use: process 0 alone notices."""
    from genret_jax.storage import folder_lock

    folder = tmp_path / "run"
    with folder_lock(folder, doing="training"):
        members = launch(2, {"folder": str(folder), "config": MESH})
        assert [member.wait() for member in members] == [2, 75]
    assert "another process is using this folder" in members[0].error()
    assert "process 1 of 2 ends because process 0 failed: " in members[1].error()
    assert "another process is using this folder" in members[1].error()
