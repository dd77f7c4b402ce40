"""The same losses on one, two and four processes, data and model parallel; a run goes on from one number to another."""

import os
import signal

import jax
import numpy as np
import pytest
from support.tiny_training_task import TinyTask

from genret_jax.training import AdamW, Constant, TrainerConfig, read_metrics, restore_params, train

BY_TWO = {"data_parallel": 2, "model_parallel": 2}
BY_FOUR = {"data_parallel": 1, "model_parallel": 4}


def alone(folder, *, steps=12, **mesh):
    """Train in this process what the program trains in several."""
    config = TrainerConfig(
        steps=steps, batch_size=16, log_every=1, checkpoint_every=4, tensorboard=False,
        optimizer=AdamW(learning_rate=Constant(rate=0.02)), **mesh,
    )  # fmt: skip
    evaluators = {"x": lambda params, step: {"y": float(abs(params["wi"]).sum())}}
    return train(TinyTask(), config, folder, evaluators=evaluators)


def assert_near(found, wanted):
    assert list(found) == list(wanted)
    np.testing.assert_allclose(list(found.values()), list(wanted.values()), atol=1e-5)


def test_two_processes_train_as_one_does(launch, finish, losses, tmp_path):
    members = launch(2, {"folder": str(tmp_path / "two"), "config": BY_TWO})
    alone(tmp_path / "one", steps=20, data_parallel=1)
    finish(members)
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert_near(two, {step: one[step] for step in range(1, 13)})
    assert [record["step"] for record in read_metrics(tmp_path / "two") if record["kind"] == "evaluation"] == [12]
    assert "step 12/12" in members[0].told()
    assert "step 12/12" not in members[1].told()
    # The checkpoint of two processes is one process's as well, on another mesh.
    result = alone(tmp_path / "two", steps=20, data_parallel=2, model_parallel=4)
    assert result.step == 20
    assert_near(losses(tmp_path / "two"), one)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", [BY_TWO, BY_FOUR], ids=["2x2", "1x4"])
def test_one_two_and_four_processes(mesh, launch, finish, losses, tmp_path):
    alone(tmp_path / "one", data_parallel=1)
    for processes in (2, 4):
        folder = tmp_path / f"{processes}"
        finish(launch(processes, {"folder": str(folder), "config": mesh}))
        assert_near(losses(folder), losses(tmp_path / "one"))
        for found, wanted in zip(
            jax.tree.leaves(restore_params(folder)), jax.tree.leaves(restore_params(tmp_path / "one")), strict=True
        ):
            np.testing.assert_allclose(found, wanted, atol=1e-4)


@pytest.mark.slow
def test_a_run_goes_on_in_other_numbers_of_processes(launch, finish, losses, tmp_path):
    alone(tmp_path / "one", steps=16, data_parallel=1)
    folder = tmp_path / "run"
    for processes, steps, mesh in ((2, 4, BY_TWO), (4, 8, BY_FOUR), (2, 12, {"data_parallel": 4})):
        members = launch(processes, {"folder": str(folder), "config": {**mesh, "steps": steps}})
        finish(members)
        assert (f"resuming after step {steps - 4}" in members[0].told()) == (steps > 4)
    alone(folder, steps=16, data_parallel=8)
    assert_near(losses(folder), losses(tmp_path / "one"))


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_signal_to_one_stops_all_at_the_same_step(process, launch, finish, losses, wait_for_records, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    options = {"config": {**BY_TWO, "steps": 60, "checkpoint_every": None}, "seconds_a_batch": 0.1}
    members = launch(2, {"folder": str(stopped), **options})
    wait_for_records(stopped, 3, members)
    os.kill(members[process].process.pid, signal.SIGTERM)
    assert [member.wait() for member in members] == [130, 130]
    assert "stopped by SIGTERM after step" in members[0].told()
    finish(launch(2, {"folder": str(stopped), **options, "seconds_a_batch": 0}))
    alone(whole, steps=60, data_parallel=1)
    assert_near(losses(stopped), losses(whole))
