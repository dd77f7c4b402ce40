"""Curves: the numbers that are drawn, and that a picture is written."""

import json
import subprocess
import sys

import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.evaluation import plot
from genret_jax.evaluation.plot import curve, plot_run


def a_run(steps=20):
    records = []
    for step in range(steps):
        records.append({"step": 50 * (step + 1), "kind": "train", "loss": 5 * 0.8**step})
        hits = {f"{split}/hits@{k}": 1 - 0.9 ** (step + k / 10) for split in ("validation", "seen") for k in (1, 10)}
        records.append({"step": 50 * (step + 1), "kind": "evaluation", **hits, "validation/mrr@10": 0.5})
    return records


def test_a_curve_leaves_out_what_is_missing_and_sorts_by_step():
    records = [{"step": 30, "loss": 1.0}, {"step": 10, "loss": 3.0}, {"step": 20, "loss": None}, {"step": 40}]
    steps, values = curve(records, "loss")
    np.testing.assert_array_equal(steps, [10, 30])
    np.testing.assert_array_equal(values, [3, 1])


def test_very_long_runs_are_drawn_as_means(monkeypatch):
    monkeypatch.setattr(plot, "_MOST_POINTS", 2)
    steps, values = curve([{"step": i, "loss": float(i % 3)} for i in range(6)], "loss")
    np.testing.assert_array_equal(steps, [1, 4])
    np.testing.assert_array_equal(values, [1, 1])


def test_lines_are_the_metrics(tmp_path, monkeypatch):
    figures = []
    draw = plot._draw
    monkeypatch.setattr(plot, "_draw", lambda *arguments: figures.append(draw(*arguments)) or figures[0])
    plot_run(a_run(), tmp_path / "curves.png", title="toy")
    above, below = figures[0].axes
    assert above.get_yscale() == "log"
    assert [line.get_label() for line in below.lines] == [
        "Hits@1, seen",
        "Hits@10, seen",
        "Hits@1, validation",
        "Hits@10, validation",
    ]
    np.testing.assert_allclose(above.lines[0].get_ydata()[:3], [5, 4, 3.2])
    np.testing.assert_allclose(below.lines[1].get_ydata()[1], 100 * (1 - 0.9**2))
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("records", [a_run()[:1], a_run()[1:2], a_run()[:2]])
def test_a_run_that_has_just_begun(tmp_path, records):
    plot_run(records, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 5000


def test_nothing_to_draw(tmp_path):
    with pytest.raises(InputError, match="no losses and no metrics"):
        plot_run([{"step": 1, "validation/hits@1": None}], tmp_path / "curves.png")
    assert not (tmp_path / "curves.png").exists()


def test_no_display_and_no_pyplot(tmp_path):
    program = (
        "import json, sys; from genret_jax.evaluation.plot import plot_run;"
        "plot_run(json.loads(sys.argv[1]), sys.argv[2] + '/c.png');"
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program, json.dumps(a_run(3)), str(tmp_path)], check=True, timeout=120)
    assert (tmp_path / "c.png").exists()
