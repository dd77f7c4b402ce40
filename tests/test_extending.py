"""docs/extending.md: its code is what it says, and runs."""

import re
import sys

import pytest

from genret_jax.cli import main
from genret_jax.run import open_run

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")
MODULE = "my_extensions"


@pytest.fixture
def written(repository, tmp_path, monkeypatch):
    """The module and the gin file of the page, in a folder of their own."""
    page = (repository / "docs" / "extending.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", page.split("## In a gin file")[0], re.DOTALL)
    (tmp_path / f"{MODULE}.py").write_text("\n\n".join(blocks))
    (tmp_path / "mine.gin").write_text(re.search(r"```\n(# mine\.gin\n.*?)```", page, re.DOTALL)[1])
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    yield page
    sys.modules.pop(MODULE, None)


def test_every_extension_trains_evaluates_searches_and_resumes(written, tiny_corpus, capsys):
    # One width of beam, so that every search is the same program.
    sizes = {"d_model": 64, "num_heads": 1, "d_ff": 32}
    small = [f"--gin.T5Config.{name}={size}" for name, size in sizes.items()]
    small += ["--gin.TrainerConfig.batch_size=8", "--gin.EvaluationConfig.beam=20"]
    train = ["train", "--gin-file", "mine.gin", "--corpus", str(tiny_corpus), "--run", "runs/mine", *small]
    allowed = ["--allow-import", MODULE]
    assert main([*train, "--steps", "2"]) == 2
    assert f"--allow-import {MODULE}" in capsys.readouterr().err
    assert main([*train, "--steps", "2", *allowed]) == 0
    assert "start       small random numbers" in capsys.readouterr().err
    assert main([*train, "--steps", "4", *allowed]) == 0
    assert main(["evaluate", "--run", "runs/mine", "--no-bm25", "--no-untrained", *allowed]) == 0
    assert main(["search", "--run", "runs/mine", *allowed, "ban bap"]) == 0
    assert main(["search", "--run", "runs/mine", "ban bap"]) == 2
    run = open_run("runs/mine", allow_imports=[MODULE])
    assert run.table.strategy["name"] == "by length"
    assert run.table.level_sizes[0] == 3
    experiment = run.experiment
    names = {type(part).__name__ for part in (experiment.docids, experiment.vectors, experiment.start, experiment.loss)}
    names.add(type(experiment.trainer.optimizer.learning_rate).__name__)
    assert names == {"ByLength", "LetterVectors", "SmallStart", "FocalLoss", "Halving"}


def test_the_problem_of_the_page_is_the_one_that_is_tested(repository):
    page = (repository / "docs" / "extending.md").read_text()
    source = (repository / "tests" / "problems" / "number_problem.py").read_text()
    assert source in page
