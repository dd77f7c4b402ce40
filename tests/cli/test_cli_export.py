"""``genret export``: a run's parameters for t5x."""

import jax
import numpy as np

from genret_jax import cli
from genret_jax.run import Run
from genret_jax.training.t5x_checkpoint import read_t5x_params


def test_parameters_of_any_checkpoint_are_written(tiny_run, tmp_path, capsys):
    assert (
        cli.main(["export", "--run", str(tiny_run), "--t5x", str(tmp_path), "--checkpoint", "20", "--step", "7"]) == 0
    )
    path = tmp_path / "checkpoint_7"
    assert f"--gin.INITIAL_CHECKPOINT_PATH=\"'{path.resolve()}'\"" in capsys.readouterr().out
    wanted = Run.open(tiny_run).params(20)
    jax.tree.map(np.testing.assert_array_equal, read_t5x_params(path, wanted), wanted)


def test_what_is_wrong_is_one_line(tiny_run, tmp_path, capsys):
    for options, message in (
        (["--step", "-1"], "--step -1; expected a number of at least 0"),
        (["--checkpoint", "3"], "no checkpoint 3"),
    ):
        assert cli.main(["export", "--run", str(tiny_run), "--t5x", str(tmp_path / "out"), *options]) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
