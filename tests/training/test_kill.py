"""SIGKILL at any moment, while a checkpoint is being written too: the run ends as if it had never happened."""

import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from genret_jax.training import restore_params
from genret_jax.training.log import METRICS_FILE

RUN = """
import sys, time
from support.tiny_training_task import TinyTask
from genret_jax.training import TrainerConfig, train

class SlowTask(TinyTask):
    def batch(self, step):
        time.sleep(0.02)
        return super().batch(step)

config = TrainerConfig(
    steps=80, batch_size=16, data_parallel=2, model_parallel=2, log_every=3, checkpoint_every=5, evaluate_every=10,
    best_metric="x/y", average_decay=0.9, steps_per_dispatch=2, tensorboard=False,
)
train(SlowTask(), config, sys.argv[1], evaluators={"x": lambda params, step: {"y": -abs(step - 30)}})
"""


@pytest.fixture
def start():
    """Start the run above in a process of its own."""

    def start(folder):
        command = [sys.executable, "-c", RUN, str(folder)]
        return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)

    return start


def wait_for(condition, process):
    while not condition():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.001)


def is_writing(folder):
    root = folder / "checkpoints"
    return root.exists() and any(not path.name.isdecimal() for path in root.iterdir())


def number_of_records(folder):
    path = folder / METRICS_FILE
    return path.read_text().count("\n") if path.exists() else 0


@pytest.mark.slow
def test_killed_run_ends_as_the_uninterrupted_one(start, records, tmp_path, assert_same_params):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    process = start(whole)
    assert process.wait() == 0, process.stderr.read()

    moments = random.Random(0)
    for kill in range(5):
        process = start(killed)
        before = number_of_records(killed)
        wait_for(lambda before=before: number_of_records(killed) > before + 1, process)
        if kill % 2:
            wait_for(lambda: is_writing(killed), process)
            time.sleep(moments.uniform(0, 0.01))
        else:
            time.sleep(moments.uniform(0, 0.2))
        process.send_signal(signal.SIGKILL)
        process.wait()

    process = start(killed)
    assert process.wait() == 0, process.stderr.read()
    assert records(killed) == records(whole)
    assert len(records(whole)) == 80 // 3 + 1 + 80 // 10
    for which in ("best", "last"):
        assert_same_params(restore_params(killed, which), restore_params(whole, which))
    np.testing.assert_array_equal(restore_params(whole, "best")["wi"], restore_params(whole, 30)["wi"])
