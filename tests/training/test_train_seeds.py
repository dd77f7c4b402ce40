"""Several seeds trained as one program: each is the run that it would have been by itself."""

import dataclasses

import jax
import numpy as np
import pytest
from support.tiny_training_task import TinyTask

from genret_jax.errors import InputError
from genret_jax.training import SeedRun, restore_params, train, train_seeds
from genret_jax.training.checkpoint_format import checkpoint_steps

SEEDS = (3, 4, 2**32 - 1)


@dataclasses.dataclass(frozen=True)
class SeededTask(TinyTask):
    """The tiny task with batches of its own for each seed."""

    seed: int = 0

    def batch(self, step, rows=None):
        return super().batch(step + 1000 * (self.seed % 7), rows)


def score(params, step):
    """Favour different steps for different seeds."""
    return {"score": float(np.sin(1e3 * np.abs(np.asarray(params["wi"])).sum()))}


def runs(config, folder, seeds=SEEDS, **changes):
    return [
        SeedRun(
            task=SeededTask(seed=seed, **changes),
            config=dataclasses.replace(config, seed=seed),
            folder=folder / f"seed_{seed}",
            evaluators={"test": score},
            fingerprint={"corpus": "c"},
        )
        for seed in seeds
    ]


def alone(config, folder, seeds=SEEDS):
    return [
        train(r.task, r.config, r.folder, evaluators=r.evaluators, fingerprint=r.fingerprint)
        for r in runs(config, folder, seeds)
    ]


@pytest.mark.parametrize(
    "changes",
    [{}, {"data_parallel": 2, "model_parallel": 2, "steps_per_dispatch": 3}, {"average_decay": 0.9, "clip_norm": 0.1}],
)
def test_each_is_as_it_would_be_alone(changes, tiny_config, records, tmp_path):
    config = tiny_config(evaluate_every=4, best_metric="test/score", **changes)
    wanted, found = alone(config, tmp_path / "alone"), train_seeds(runs(config, tmp_path / "together"), together=True)
    losses = []
    for seed, one, other in zip(SEEDS, wanted, found, strict=True):
        assert (other.step, other.interrupted) == (12, None)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), other.params, one.params)
        folders = [tmp_path / way / f"seed_{seed}" for way in ("alone", "together")]
        logs = [[r for r in records(folder) if r["kind"] == "train"] for folder in folders]
        assert len(logs[0]) == len(logs[1]) == 12
        for name in ("loss", "accuracy", "gradient_norm", "learning_rate"):
            np.testing.assert_allclose(*[[record[name] for record in log] for log in logs], rtol=1e-4)
        losses.append([record["loss"] for record in logs[1]])
        # What is on the disk is a run like any other.
        assert checkpoint_steps(folders[1] / "checkpoints")[0] == 12
        jax.tree.map(np.testing.assert_array_equal, restore_params(folders[1], "last"), jax.device_get(other.params))
        assert other.best_step in (4, 8, 12)
    assert len(np.unique(np.round(losses, 6), axis=0)) == len(SEEDS)


def test_each_can_be_gone_on_with_alone_and_together(tiny_config, tmp_path, capsys):
    short, whole = tiny_config(steps=8), tiny_config()
    train_seeds(runs(short, tmp_path), together=True)
    [first] = alone(whole, tmp_path, SEEDS[:1])
    capsys.readouterr()
    found = train_seeds(runs(whole, tmp_path), together=True)
    # The first is finished; the other two go on together from step 8.
    assert capsys.readouterr().err.count("resuming after step") == 2
    jax.tree.map(np.testing.assert_array_equal, jax.device_get(found[0].params), jax.device_get(first.params))
    for one, other in zip(alone(whole, tmp_path / "alone"), found, strict=True):
        assert other.step == 12
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), other.params, one.params)


def test_a_damaged_checkpoint_of_one_asks_to_be_run_again(tiny_config, tmp_path):
    config = tiny_config(steps=8)
    train_seeds(runs(config, tmp_path), together=True)
    for path in (tmp_path / "seed_4" / "checkpoints" / "8").rglob("d/*"):
        path.write_bytes(b"\0" * 100)
    with pytest.warns(UserWarning, match="checkpoint 8 is damaged"), pytest.raises(InputError, match="run again"):
        train_seeds(runs(config, tmp_path), together=True)
    assert [result.step for result in train_seeds(runs(config, tmp_path), together=True)] == [8, 8, 8]


def test_a_loss_that_is_not_finite_names_its_run(tiny_config, tmp_path):
    bad = runs(tiny_config(), tmp_path)
    bad[1] = dataclasses.replace(bad[1], task=SeededTask(seed=4, poison_at=4006))
    with pytest.raises(InputError, match=r"seed_4.*not finite at step 7"):
        train_seeds(bad, together=True)


def test_runs_that_differ_in_more_than_their_seed(tiny_config, tmp_path):
    same = runs(tiny_config(), tmp_path)
    cases = [
        ([same[0], dataclasses.replace(same[1], config=tiny_config(seed=4, log_every=2))], "different configurations"),
        ([same[0], dataclasses.replace(same[1], fingerprint={"corpus": "d"})], "made from something else"),
        ([same[0], same[0]], "another process is using this folder"),
    ]
    for several, message in cases:
        with pytest.raises(InputError, match=message):
            train_seeds(several, together=True)


def test_on_a_cpu_they_go_one_after_the_other(tiny_config, tmp_path, capsys, assert_same_params):
    config = tiny_config(steps=4)
    found = train_seeds(runs(config, tmp_path / "seeds"))
    for one, other in zip(alone(config, tmp_path / "alone"), found, strict=True):
        assert_same_params(other.params, one.params)
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training ")]
    assert told == [f"training {tmp_path / 'seeds' / f'seed_{seed}'}" for seed in SEEDS]
