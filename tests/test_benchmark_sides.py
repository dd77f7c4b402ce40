"""scripts/benchmark_sides.py: the steps that benchmarks time are those of training."""

import runpy
from pathlib import Path

import jax
import pytest
from support.tiny_training_task import TinyTask

from genret_jax.training import AdamW, Constant, TrainerConfig, read_metrics, train


def test_the_steps_of_a_benchmark_are_those_of_training(repository: Path, tmp_path: Path):
    script = runpy.run_path(str(repository / "scripts" / "benchmark_sides.py"))
    task = TinyTask(batch_size=8)
    config = TrainerConfig(
        steps=4,
        batch_size=8,
        data_parallel=1,
        optimizer=AdamW(learning_rate=Constant(rate=0.1)),
        steps_per_dispatch=2,
        log_every=2,
        tensorboard=False,
    )
    params = jax.tree.map(lambda leaf: leaf * 0.5, task.init(jax.random.key(5))["params"])
    step = script["genret_jax_steps"](task, config, params)
    losses = [step(), step()]
    train(task, config, tmp_path / "run", init_params=params)
    logged = [line["loss"] for line in read_metrics(tmp_path / "run") if line["kind"] == "train"]
    assert losses == pytest.approx(logged, rel=1e-6)
