"""The loop around the steps: evaluation, best checkpoint, interruption, and what stops a run."""

import os
import shutil
import signal
import threading

import jax
import numpy as np
import pytest
from support.tiny_training_task import TinyModel, TinyTask

from genret_jax.errors import InputError
from genret_jax.storage import folder_lock
from genret_jax.training import AdamW, Constant, TrainerConfig, restore_params, train


def steps_on_disk(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


def test_learns_logs_evaluates_and_keeps_the_best(tiny_config, records, tmp_path, assert_same_params, capsys):
    scores = {3: 0.1, 6: 0.9, 9: 0.5, 12: 0.7}
    seen = {}

    def evaluate(params, step):
        seen[step] = jax.device_get(params)
        return {"hits": scores[step]}

    config = tiny_config(
        evaluate_every=3, checkpoint_every=2, keep=1, best_metric="test/hits", average_decay=0.9, log_every=4
    )
    result = train(TinyTask(), config, tmp_path, evaluators={"test": evaluate})
    assert (result.step, result.best_step, result.metrics, result.interrupted) == (12, 6, {"test/hits": 0.7}, None)
    assert steps_on_disk(tmp_path) == [6, 12]
    assert_same_params(restore_params(tmp_path), seen[6])
    assert_same_params(restore_params(tmp_path, "last"), seen[12])
    assert_same_params(result.params, seen[12])
    found = [(r["step"], r["kind"]) for r in records(tmp_path)]
    assert found == [(3, "evaluation"), (4, "train"), (6, "evaluation"), (8, "train"), (9, "evaluation"),
                     (12, "train"), (12, "evaluation")]  # fmt: skip
    train_records = [r for r in records(tmp_path) if r["kind"] == "train"]
    assert train_records[-1]["loss"] < train_records[0]["loss"]
    assert train_records[0]["learning_rate"] == pytest.approx(0.02)
    error = capsys.readouterr().err
    assert "step 12/12" in error
    assert "\r" not in error  # no bar where there is no terminal


def test_low_is_good_in_mode_min_and_unknown_values_are_never_best(tiny_config, tmp_path):
    scores = {0: 5.0, 2: None, 4: 3.0, 6: float("nan"), 8: 2.0, 10: 4.0, 12: 2.0}
    config = tiny_config(
        evaluate_every=2, evaluate_at_start=True, checkpoint_every=None, best_metric="dev/loss", best_mode="min"
    )
    result = train(TinyTask(), config, tmp_path, evaluators={"dev": lambda params, step: {"loss": scores[step]}})
    assert result.best_step == 8
    assert steps_on_disk(tmp_path) == [8, 12]


@pytest.mark.parametrize(("chosen", "shown"), [(None, "dev  hits 0.5000  gap none"), ("dev/hits", "dev  hits 0.5000")])
def test_what_was_measured_is_shown(chosen, shown, tiny_config, tmp_path, capsys):
    config = tiny_config(steps=2, evaluate_every=2, evaluate_at_start=True, best_metric=chosen)
    train(TinyTask(), config, tmp_path, evaluators={"dev": lambda params, step: {"hits": 0.5, "gap": None}})
    lines = [line for line in capsys.readouterr().err.splitlines() if "  dev" in line]
    assert lines == [f"step 0/2  {shown}", f"step 2/2  {shown}"]


@pytest.mark.parametrize(("recall", "shown"), [(0.5, "hits@1 0.5000"), (0.25, "hits@1 0.5000  recall@1 0.2500")])
def test_recall_is_not_shown_beside_equal_hits(recall, shown, tiny_config, tmp_path, capsys):
    config = tiny_config(steps=1, evaluate_every=1)
    train(TinyTask(), config, tmp_path, evaluators={"dev": lambda params, step: {"hits@1": 0.5, "recall@1": recall}})
    assert f"step 1/1  dev  {shown}\n" in capsys.readouterr().err


def test_best_metric_that_no_evaluator_gives(tiny_config, tmp_path):
    config = tiny_config(steps=1, best_metric="test/hit")
    with pytest.raises(InputError, match=r"'test/hit', which no evaluator gives; did you mean 'test/hits'\?"):
        train(TinyTask(), config, tmp_path, evaluators={"test": lambda params, step: {"hits": 1.0}})


def test_starts_from_given_parameters_and_leaves_them_alone(tiny_config, tmp_path):
    params = TinyTask().init(jax.random.key(9))["params"]
    before = jax.device_get(params)
    initial = {}
    config = tiny_config(steps=1, evaluate_at_start=True)
    evaluators = {"x": lambda p, step: initial.setdefault(step, jax.device_get(p)) and {}}
    train(TinyTask(), config, tmp_path, init_params=params, evaluators=evaluators)
    jax.tree.map(np.testing.assert_array_equal, initial[0], before)
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(params), before)


def test_given_parameters_of_another_size(tiny_config, tmp_path):
    params = TinyTask(model=TinyModel(hidden=8)).init(jax.random.key(0))["params"]
    with pytest.raises(InputError, match=r"wi float32\[8, 8\] instead of float32\[8, 16\]"):
        train(TinyTask(), tiny_config(), tmp_path, init_params=params)


def test_loss_that_is_not_finite_stops_and_keeps_the_good_checkpoint(tiny_config, tmp_path):
    with pytest.raises(InputError) as stopped:
        train(TinyTask(poison_at=6), tiny_config(), tmp_path)
    message = str(stopped.value)
    assert "not finite at step 7; the last good checkpoint is that of step 4" in message
    assert "lower the learning rate" in message
    assert steps_on_disk(tmp_path) == [4]


def test_loss_that_is_not_finite_at_once_leaves_nothing(tiny_config, tmp_path):
    config = tiny_config(steps=4, log_every=4, optimizer=AdamW(learning_rate=Constant(rate=1e38)))
    with pytest.raises(InputError, match=r"not finite .*; no checkpoint was written; next: lower the learning rate"):
        train(TinyTask(), config, tmp_path)
    assert not (tmp_path / "checkpoints").exists() or steps_on_disk(tmp_path) == []


def test_error_in_the_data_reaches_the_caller(tiny_config, tmp_path):
    with pytest.raises(RuntimeError, match="no batch for step 5"):
        train(TinyTask(fail_at=5), tiny_config(), tmp_path)
    assert steps_on_disk(tmp_path) == [4]


def test_folder_in_use(tiny_config, tmp_path):
    with (
        folder_lock(tmp_path, doing="training"),
        pytest.raises(InputError, match="another process is using this folder"),
    ):
        train(TinyTask(), tiny_config(), tmp_path)


@pytest.mark.parametrize("back", [False, True], ids=["deleted", "deleted and made again"])
@pytest.mark.parametrize("at", [4, 12])
def test_a_folder_that_is_deleted_stays_deleted(at, back, tiny_config, tmp_path):
    """Also at the last step, after which nothing but the last checkpoint is written."""
    folder = tmp_path / "run"

    def delete(params, step):
        if step == at:
            shutil.rmtree(folder)
            if back:
                folder.mkdir()
        return {"y": step}

    config = tiny_config(evaluate_every=4, checkpoint_every=None)
    with pytest.raises(InputError, match="run: the folder was removed or replaced"):
        train(TinyTask(), config, folder, evaluators={"x": delete})
    assert (list(folder.iterdir()) if folder.exists() else []) == []


def test_killed_before_the_first_checkpoint_it_is_evaluated_once(tiny_config, records, tmp_path):
    config = tiny_config(steps=4, evaluate_at_start=True)
    evaluators = {"x": lambda params, step: {"y": step}}
    with pytest.raises(RuntimeError, match="no batch"):
        train(TinyTask(fail_at=2), config, tmp_path, evaluators=evaluators)
    assert [record["step"] for record in records(tmp_path)][:1] == [0]
    train(TinyTask(), config, tmp_path, evaluators=evaluators)
    assert [record["step"] for record in records(tmp_path)] == [0, 1, 2, 3, 4, 4]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_run_saves_and_goes_on_to_the_same_end(
    number, tiny_config, records, tmp_path, assert_same_params, capsys
):
    config, handler = tiny_config(checkpoint_every=None, evaluate_every=7), signal.getsignal(number)
    whole = train(TinyTask(), config, tmp_path / "whole", evaluators={"x": lambda params, step: {"y": step}})

    def interrupt(params, step):
        if step == 7:
            os.kill(os.getpid(), number)
        return {"y": step}

    first = train(TinyTask(), config, tmp_path / "cut", evaluators={"x": interrupt})
    assert first.interrupted == signal.Signals(number).name
    assert 7 <= first.step < 12
    assert f"stopped by {first.interrupted} after step {first.step}" in capsys.readouterr().err
    assert signal.getsignal(number) is handler
    second = train(TinyTask(), config, tmp_path / "cut", evaluators={"x": lambda params, step: {"y": step}})
    assert (second.step, second.interrupted) == (12, None)
    assert_same_params(second.params, whole.params)
    assert records(tmp_path / "cut") == records(tmp_path / "whole")


def test_finished_run_is_returned_without_training(tiny_config, tmp_path, assert_same_params):
    evaluators = {"x": lambda params, step: {"y": 2.5}}
    first = train(TinyTask(), tiny_config(), tmp_path, evaluators=evaluators)
    again = train(TinyTask(fail_at=1), tiny_config(), tmp_path, evaluators={"x": lambda params, step: 1 / 0})
    assert_same_params(again.params, first.params)
    assert again.metrics == {"x/y": 2.5}


def test_trains_outside_the_main_thread(tiny_config, tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(train(TinyTask(), tiny_config(steps=2), tmp_path)))
    thread.start()
    thread.join()
    assert results[0].step == 2


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"steps": -1}, "steps"),
        ({"keep": 0}, "keep"),
        ({"batch_size": 10, "gradient_accumulation": 4}, "gradient_accumulation"),
        ({"average_decay": 1.0}, "average_decay"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_settings_name_the_field(changes, field):
    with pytest.raises(InputError, match=f"next: change TrainerConfig.{field}"):
        TrainerConfig(**{"steps": 1, "batch_size": 8, **changes})
