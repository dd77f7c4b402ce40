"""A problem that genret_jax does not know is prepared, trained, evaluated, searched and resumed."""

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.cli import main
from genret_jax.config.experiment import EvaluationConfig
from genret_jax.config.record import record_text
from genret_jax.errors import InputError
from genret_jax.problems import Problem
from genret_jax.retriever import Retriever
from genret_jax.run import evaluate_runs, open_run, train_run
from genret_jax.training import AdamW, Constant, TrainerConfig

HERE = Path(__file__).parent
MODULE = "number_problem"


@pytest.fixture(scope="module")
def problem():
    """The module of the problem, as a user has it on the path."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        spec = importlib.util.find_spec(MODULE)
        module = importlib.util.module_from_spec(spec)
        sys.modules[MODULE] = module
        spec.loader.exec_module(module)
        yield module
        del sys.modules[MODULE]


@pytest.fixture(scope="module")
def trained(problem, tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    (folder / "data").mkdir()
    (folder / "data" / "numbers.txt").write_text("\n".join(str(number) for number in range(100, 140)))
    experiment = problem.NumberExperiment(
        corpus=str(folder / "data"),
        model=tiny_t5(d_model=32, d_kv=16),
        trainer=TrainerConfig(
            steps=60,
            batch_size=32,
            data_parallel=1,
            evaluate_every=60,
            optimizer=AdamW(learning_rate=Constant(rate=1e-2)),
            tensorboard=False,
        ),
        evaluation=EvaluationConfig(beam=10, validation_beam=10),
    )
    return experiment, train_run(experiment, folder / "run")


def test_it_is_trained_and_searched(problem, trained):
    _, run = trained
    assert type(run) is problem.Numbers
    results = Retriever(run, run.params("last")).search("one two three", k=3)
    assert len({result.doc_id for result in results}) == 3
    assert len(results[0].docid) <= 2
    with pytest.raises(InputError, match="'eleven' is no digit"):
        Retriever(run, run.params("last")).search("eleven")


def test_it_is_evaluated(trained, tmp_path):
    _, run = trained
    report = evaluate_runs([run.folder], tmp_path / "report", checkpoint="last", allow_imports=[MODULE])
    assert report.dataset.kind == "numbers"
    assert [system.name for system in report.systems] == ["run"]
    assert report.find("run", "test").metrics["hits@10"].mean > 0.3  # chance is a quarter


def test_its_folder_is_opened_and_gone_on_with_by_those_who_trust_it(problem, trained, tmp_path, capsys):
    experiment, run = trained
    with pytest.raises(InputError, match=f"--allow-import {MODULE}"):
        open_run(run.folder)
    opened = open_run(run.folder, allow_imports=[MODULE])
    np.testing.assert_array_equal(opened.encoded.tokens, run.encoded.tokens)
    assert opened.experiment == experiment
    file = tmp_path / "numbers.gin"
    file.write_text(record_text(str(tmp_path / "other"), experiment))
    command = ["train", "--gin-file", str(file), "--steps", "2"]
    assert main(command) == 2
    assert "which runs that module's code" in capsys.readouterr().err
    assert main([*command, "--allow-import", MODULE]) == 0
    assert main([*command[:-1], "4", "--allow-import", MODULE]) == 0
    search = ["search", "--run", str(tmp_path / "other"), "-k", "2", "one one one"]
    assert main(search) == 2
    assert main([*search, "--allow-import", MODULE]) == 0


def test_an_experiment_without_a_problem_is_refused(problem):
    class Nothing(problem.NumberExperiment):
        """An experiment of no problem."""

    experiment = Nothing(corpus="c", model=tiny_t5(), trainer=TrainerConfig(steps=1, batch_size=8))
    with pytest.raises(InputError, match="no problem for an experiment of class Nothing"):
        Problem.of(experiment)
