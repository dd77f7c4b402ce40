"""scripts/benchmark_decoding.py on a handful of docids: what it keeps, and what the README makes of it."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from genret_jax.decoding import DocidIndex, TrieConstraint
from genret_jax.errors import InputError

SMALL = ["--vocabularies", "12", "--lengths", "3", "--repeats", "2", "--searches", "2x3"]


@pytest.fixture
def script(repository: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    monkeypatch.setattr("gc.collect", lambda: 0)  # before each measurement, of all that other tests hold
    monkeypatch.syspath_prepend(str(repository / "scripts"))
    return SimpleNamespace(**runpy.run_path(str(repository / "scripts" / "benchmark_decoding.py")))


@pytest.mark.parametrize("docids", ["uniform", "zipf"])
@pytest.mark.parametrize("documents", [1, 300, 12**3])
def test_random_docids_are_distinct_and_as_many_as_asked_for(script, docids, documents):
    codes = script.random_codes(script.Setting(documents, 12, 3, docids))
    assert codes.shape == (documents, 3)
    assert codes.dtype == np.int32
    assert codes.min() >= 0
    assert codes.max() < 12
    assert len(np.unique(codes, axis=0)) == documents


def test_zipf_docids_prefer_low_codes_and_more_than_there_are_is_an_error(script):
    codes = script.random_codes(script.Setting(200, 200, 3, "zipf"))
    assert (codes == 0).mean() == pytest.approx(0.17, abs=0.06)
    with pytest.raises(InputError, match="vocabulary to the power of length"):
        script.random_codes(script.Setting(10, 3, 2, "uniform"))


def test_every_cell_has_a_row_which_a_second_run_replaces(script, repository, tmp_path):
    out = tmp_path / "decoding.json"
    parts = ["--parts", "memory", "build", "selection"]
    script.main([*SMALL, *parts, "--documents", "50", "100", "--out", str(out), "--plot", str(tmp_path / "a.png")])
    first = json.loads(out.read_text(encoding="utf-8"))["rows"]
    assert [row["part"] for row in first] == ["memory"] * 4 + ["build"] * 4 + ["selection"] * 4
    assert all(row["bytes_per_docid"]["ours"] > 0 for row in first[:4])
    assert all(row["peak"]["ours"]["bytes_beyond_input"] >= 0 for row in first[4:8])
    assert (tmp_path / "a.png").stat().st_size > 1000

    script.main([*SMALL, "--parts", "selection", "--documents", "50", "--docids", "zipf", "--out", str(out)])
    second = json.loads(out.read_text(encoding="utf-8"))["rows"]
    changed = [index for index, (before, after) in enumerate(zip(first, second, strict=True)) if before != after]
    assert changed == [9]

    readme = runpy.run_path(str(repository / "scripts" / "update_readme.py"))
    made = readme["updated"]("<!-- table: decoding -->\n<!-- end -->", tmp_path)
    assert f"| 3 codes of 12, uniform | {first[2]['bytes_per_docid']['ours']:.1f} | – |" in made
    assert "| selection ÷ top-k alone, worst of all |" in made


def test_results_of_another_machine_are_not_mixed(script, tmp_path):
    out = tmp_path / "decoding.json"
    environment = {"processor": "an abacus", "cores": 1, "devices": "beads"}
    out.write_text(json.dumps({"environment": environment, "static": None, "rows": []}), encoding="utf-8")
    with pytest.raises(InputError, match=r"another machine.*abacus"):
        script.main(["--parts", "memory", "--documents", "10", "--out", str(out)])


def test_results_are_compared_with_the_other_side(script):
    from benchmark_searches import check_same, logits_table, selecting

    docids = np.array([[0, 1], [1, 0], [2, 2], [1, 2]])
    index = DocidIndex.build(docids, np.full(4, 2), np.arange(4), vocab_size=3)
    table = logits_table(3)
    found = jax.tree.map(np.asarray, selecting(2, 3)(table, TrieConstraint(index)))
    assert check_same(found, found.tokens, np.asarray(table)) == 0
    other = found.tokens.copy()
    other[1, [0, 2]] = other[1, [2, 0]]
    with pytest.raises(RuntimeError, match=r"2 of 6 results .* query 1 place 0"):
        check_same(found, other, np.asarray(table))
    with pytest.raises(RuntimeError, match="6 of 6 results"):
        check_same(found._replace(scores=found.scores + 1e-3), found.tokens, np.asarray(table))
