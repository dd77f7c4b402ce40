"""``genret evaluate``: prints the table, writes the report, and refuses in one line."""

import json
import re
import shutil

import pytest

from genret_jax import cli


def genret(capsys, *arguments):
    code = cli.main(["evaluate", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_prints_a_table_and_keeps_the_report_in_the_run(tiny_run, tmp_path, capsys):
    mine = shutil.copytree(tiny_run, tmp_path / "mine")
    code, out, err = genret(capsys, "--run", mine, "--no-bm25", "--no-untrained")
    assert code == 0, err
    assert "mine" in out
    assert out.splitlines()[-1] == f"report: {mine / 'reports' / 'test' / 'report.md'}"
    report = json.loads((mine / "reports" / "test" / "report.json").read_text())
    assert [system["name"] for system in report["systems"]] == ["mine"]
    code, out, _ = genret(
        capsys, "--run", mine, "--no-bm25", "--no-untrained", "--split", "validation", "--checkpoint", "start"
    )
    assert code == 0
    assert (mine / "reports" / "validation" / "mine.run").is_file()
    assert (mine / "reports" / "test" / "report.json").is_file()


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: --run"),
        (["--run", "nowhere"], "nowhere: no run here"),
        (["--run", "RUN", "--split", "tset"], "did you mean 'test'?"),
        (["--run", "RUN", "--checkpoint", "lats"], "no checkpoint 'lats'"),
        (["--run", "RUN", "--beam", "0"], "a beam of 0"),
        (["--run", "RUN", "--run", "RUN"], "two runs have the same folder name"),
        (["--run", "RUN", "--out", "RUN"], "there is something else than a report"),
        (["--run", "RUN", "--beam", "many"], "argument --beam: invalid int value: 'many'"),
        (["--run", "RUN", "--compare", "SPLADE"], "--compare SPLADE; expected --compare NAME=FILE"),
        (["--run", "RUN", "--compare", "=FILE"], "--compare =FILE; expected --compare NAME=FILE"),
        (["--run", "RUN", "--compare", "a=x", "--compare", "a=y"], "--compare gives the name 'a' twice"),
        (["--run", "RUN", "--compare", "SPLADE=nowhere.run"], "nowhere.run: the file is missing"),
        (["--run", "RUN", "--baseline", "mime"], "no row of the report is called 'mime'; expected one of 'mine'"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line(tiny_run, tmp_path, capsys, arguments, message):
    mine = shutil.copytree(tiny_run, tmp_path / "mine")
    code, out, err = genret(capsys, "--no-bm25", "--no-untrained", *(mine if a == "RUN" else a for a in arguments))
    assert (code, out) == (2, "")
    lines = [line for line in err.splitlines() if line.startswith("genret: ")]
    assert len(lines) == 1
    assert lines[0].startswith("genret: error: ")
    assert message in lines[0]
    assert not (mine / "reports").exists()


def test_a_ranking_of_another_system_and_a_chosen_baseline(tiny_run, tmp_path, capsys):
    mine = shutil.copytree(tiny_run, tmp_path / "mine")
    options = ("--run", mine, "--no-bm25", "--no-untrained")
    assert genret(capsys, *options)[0] == 0
    ranking = shutil.copy(mine / "reports" / "test" / "mine.run", tmp_path / "a=b.run")
    code, out, err = genret(capsys, *options, "--compare", f"my SPLADE={ranking}", "--baseline", "mine")
    assert code == 0, err
    assert "against mine" in out
    assert re.search(r"^my SPLADE +\+0\.0 ±0\.0 \(1\.00×\)", out, re.MULTILINE)
    assert (mine / "reports" / "test" / "my-splade.run").is_file()


@pytest.mark.usefixtures("annotations_unchecked")
def test_several_devices_measure_what_one_does(tiny_run, tmp_path, capsys):
    found = []
    for name, options in (("one", ()), ("mesh", ("--model_parallel", 2))):
        code, _, err = genret(capsys, "--run", tiny_run, "--no-bm25", "--out", tmp_path / name, *options)
        assert code == 0, err
        report = json.loads((tmp_path / name / "report.json").read_text())
        found.append({(m["system"], m["split"]): m["metrics"] for m in report["measurements"]})
    assert found[0] == found[1]
