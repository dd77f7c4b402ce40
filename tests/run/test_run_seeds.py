"""``genret train --seeds``: runs like any other, side by side."""

import dataclasses

import jax
import numpy as np
import pytest
from support.small_interactions import small_shop
from support.tiny_run import tiny_experiment, tiny_recommendation

from genret_jax.cli import main
from genret_jax.config.experiment import VocabularyConfig
from genret_jax.config.record import record_text
from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.interactions import write_interactions
from genret_jax.run import evaluate_runs, open_run, train_run, train_seeds
from genret_jax.training import read_metrics

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
SEEDS = (0, 5)


def losses(run):
    return [record["loss"] for record in read_metrics(run.folder) if record["kind"] == "train"]


@pytest.mark.parametrize("kind", ["documents", "items", "causal items"])
def test_each_is_the_run_that_it_would_be_alone(kind, tiny_corpus, tmp_path):
    trainer = {"steps": 20, "log_every": 5, "evaluate_every": 10}
    if kind == "documents":
        experiment = tiny_experiment(tiny_corpus, vocabulary=VocabularyConfig(kind="bytes"), trainer=trainer)
    else:
        write_interactions(small_shop(), tmp_path / "shop")
        causal = {"causal": True, "positions": "items", "user_tokens": 0} if kind == "causal items" else {}
        experiment = tiny_recommendation(
            tmp_path / "shop", histories=HistoryConfig(items=3, **causal), trainer=trainer, cold_items=0.1
        )
    together = train_seeds(experiment, tmp_path / "together", SEEDS, together=True)
    assert [run.folder.name for run in together] == ["seed_0", "seed_5"]
    # The second one, as the first one's parts were copied to it.
    changed = dataclasses.replace(experiment, trainer=dataclasses.replace(experiment.trainer, seed=5))
    alone = train_run(changed, tmp_path / "alone")
    assert alone.fingerprints == together[1].fingerprints == together[0].fingerprints
    assert alone.experiment == together[1].experiment
    np.testing.assert_allclose(losses(together[1]), losses(alone), rtol=1e-4)
    assert np.abs(np.subtract(losses(together[0]), losses(alone))).max() > 1e-3
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-3), together[1].params("last"), alone.params("last")
    )
    if kind == "items":
        report = evaluate_runs([tmp_path / "together"], tmp_path / "report")
        names = [system.name for system in report.systems if system.name.startswith("together")]
        assert names[::2] == ["together, seed 0", "together, seed 5", "together, mean of 2 seeds"]
        found = [report.find(name, "test").metrics["ndcg@10"].mean for name in names[::2]]
        assert found[2] == pytest.approx((found[0] + found[1]) / 2)
        assert found[0] != found[1]


def test_the_command_makes_and_goes_on_with_them(tiny_corpus, tmp_path, capsys):
    experiment = tiny_experiment(tiny_corpus, vocabulary=VocabularyConfig(kind="bytes"), trainer={"steps": 2})
    (tmp_path / "tiny.gin").write_text(record_text(str(tmp_path / "runs"), experiment))
    command = ["train", "--gin_file", str(tmp_path / "tiny.gin"), "--seeds", "1", "2"]
    assert main([*command, "--prepare-only"]) == 0
    folders = [tmp_path / "runs" / f"seed_{seed}" for seed in (1, 2)]
    assert [open_run(folder).seed for folder in folders] == [1, 2]
    assert main(command) == 0
    assert [read_metrics(folder)[-1]["step"] for folder in folders] == [2, 2]
    capsys.readouterr()
    # A third joins those that are done, and one of them goes on by itself.
    assert main([*command, "3"]) == 0
    assert "resuming after step 2" in capsys.readouterr().err
    of_one = ["train", "--gin_file", str(tmp_path / "tiny.gin"), "--gin.SEED=2", "--run", str(folders[1])]
    assert main([*of_one, "--steps", "4"]) == 0
    assert [read_metrics(tmp_path / "runs" / f"seed_{n}")[-1]["step"] for n in (1, 2, 3)] == [2, 4, 2]


def test_a_seed_given_twice(tiny_corpus, tmp_path, capsys):
    assert main(["train", "--corpus", str(tiny_corpus), "--run", str(tmp_path / "r"), "--seeds", "1", "1"]) == 2
    assert "seeds 1 1; expected each once" in capsys.readouterr().err
    assert main(["train", "--corpus", str(tiny_corpus), "--run", str(tmp_path / "r"), "--seeds", "-1"]) == 2
    assert "TrainerConfig.seed" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()


def test_what_cannot_be_prepared_leaves_nothing(tiny_corpus, tmp_path, capsys):
    bad = ["train", "--corpus", str(tmp_path / "none"), "--run", str(tmp_path / "r"), "--seeds", "1", "2"]
    assert main(bad) == 2
    assert "none" in capsys.readouterr().err
    assert not (tmp_path / "r").exists()
    several = ["--coordinator", "localhost:1", "--processes", "2", "--process", "0"]
    assert main([*bad, *several]) == 2
    assert "--seeds in several processes; next: train each seed by itself" in capsys.readouterr().err
