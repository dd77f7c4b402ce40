"""README.md: its tables come from the results, and what it tells to type exists."""

import json
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from genret_jax.cli import build_parser
from genret_jax.config.gin_text import gin_configs_folder
from genret_jax.errors import InputError


@pytest.fixture(scope="module")
def script(repository: Path) -> Iterator[SimpleNamespace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(repository / "scripts"))
        yield SimpleNamespace(**runpy.run_path(str(repository / "scripts" / "update_readme.py")))


@pytest.fixture(scope="module")
def readme(repository: Path) -> str:
    return (repository / "README.md").read_text(encoding="utf-8")


def interval(mean: float, half: float = 0.02) -> dict[str, float]:
    return {"mean": mean, "low": mean - half, "high": mean + half}


def measurement(system: str, mrr: float, split: str = "test") -> dict:
    metrics = {"hits@1": interval(mrr - 0.1), "hits@10": interval(mrr + 0.2), "mrr@10": interval(mrr)}
    return {"system": system, "split": split, "metrics": metrics, "depth": 10, "versus_reference": {}}


def report() -> dict:
    split = {"queries": 40, "relevant": 1.0, "one_relevant": True}
    return {
        "kind": "evaluation_report",
        "version": 1,
        "dataset": {"name": "tiny", "documents": 5},
        "splits": [{"name": "test", **split}, {"name": "memorisation", **split}],
        "systems": [{"name": "BM25"}, {"name": "atomic"}],
        "measurements": [
            measurement("BM25", 0.5),
            measurement("atomic", 0.4),
            measurement("atomic", 0.7, "memorisation"),
        ],
        "reference": "BM25",
        "budget": {"atomic": {"steps": 1500, "training seconds": 150}},
        "environment": {"cores": 2, "processor": "a processor"},
        "notes": [],
    }


def write(folder: Path, name: str, value: object) -> None:
    (folder / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")


# --- the README as it is --------------------------------------------------------------------------------------------


def test_the_readme_says_what_the_results_say(script):
    assert script.main(["--check"]) == 0, "run python scripts/update_readme.py"


def test_the_pages_have_every_table(script):
    pages = "".join(page.read_text(encoding="utf-8") for page in script.PAGES)
    assert sorted(re.findall(r"<!-- table: (\S+) -->", pages)) == sorted(script.TABLES)
    assert pages.count("<!-- table:") == pages.count("<!-- end -->")


def commands(text: str) -> list[list[str]]:
    lines = [line for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def test_commands_in_the_readme_can_be_parsed(readme):
    parsed = 0
    for words in commands(readme):
        if words[:3] == ["python", "-m", "genret_jax.train"]:
            words = ["genret", "train", *words[3:]]
        if words[0] == "genret":
            _, name, *options = words
            # A binding --gin.NAME=VALUE is taken apart before the options are parsed.
            arguments = [option.replace("--gin_", "--gin-") for option in options if not option.startswith("--gin.")]
            build_parser(name).parse_args(arguments)
            parsed += 1
    assert parsed >= 5


def test_files_that_the_readme_names_exist(repository, readme):
    gin = set(re.findall(r"\b(?:gin_configs/)?((?:runs|models|experiments)/\w+\.gin)\b", readme))
    assert gin
    assert [name for name in gin if not (gin_configs_folder() / name).is_file()] == []
    named = {words[1] for words in commands(readme) if words[0] == "bash"}
    named |= {link for link in re.findall(r"\]\(([^)#]+)\)", readme) if "://" not in link}
    assert {"scripts/quickstart.sh", "scripts/test.sh"} <= named
    assert [name for name in named if not (repository / name).exists()] == []


# --- the script -----------------------------------------------------------------------------------------------------


def test_a_report_becomes_a_table_with_intervals_and_ratios(script, tmp_path):
    write(tmp_path, "xquad", report())
    assert script.updated("before\n<!-- table: xquad -->\nold\n<!-- end -->\nafter", tmp_path) == (
        "before\n<!-- table: xquad -->\n"
        "|  | Hits@1 | Hits@10 | MRR@10 | MRR@10 ÷ BM25's |\n"
        "| --- | ---: | ---: | ---: | ---: |\n"
        "| BM25 | 40.0 ±2.0 | 70.0 ±2.0 | 50.0 ±2.0 | 1.00× |\n"
        "| atomic | 30.0 ±2.0 | 60.0 ±2.0 | 40.0 ±2.0 | 0.80× |\n"
        "\n"
        "Documents that find themselves at rank 1: atomic 60.0%. "
        "Trained: atomic 1,500 steps in 2 min, on 2 cores (a processor).\n"
        "<!-- end -->\nafter"
    )


def test_a_plan_becomes_a_row_and_one_that_was_refused_says_so(script, tmp_path):
    sizes = {"parameters": 1e9, "optimizer": 2e9, "temporaries": 4e9, "total": 7.5e9}
    fields = {"parameters": {"total": 3 * 10**9}, "batch_size": 1024, "input_length": 32, "bytes_a_device": sizes}
    times = {"overlapped": 0.01, "one_after_another": 0.02, "bound_by": "memory"}
    compiled = {
        "layers": "two layers compiled",
        "collective_bytes": {"all-reduce": 1e9, "all-gather": 5e8},
        "flops": 3e12,
        "analytic_flops": 2e12,
        "roofline_seconds": times,
        "examples_a_day": {"overlapped": 2e9, "one_after_another": 1e9},
    }
    mesh = {"device": "tpu-v5p", "devices": 256, "mesh": {"data": 64, "model": 4}, "compiled_by": "a compiler"}
    mesh |= {"docids": {"index_bytes": 5e6}}
    refused = {**fields, "refused": "too large"}
    rows = {
        "base": {"plan": {**mesh, "training": {**fields, **compiled}, "does_not_fit": []}},
        "xxl": {"plan": {**mesh, "training": refused, "does_not_fit": ["training: too large"]}},
    }
    many = {"documents": 100, "built": 10, "tokens_of_the_longest": 8, "index_bytes": 1000}
    write(tmp_path, "scaling", {"rows": rows, "many": many})
    made = script.updated("<!-- table: scaling -->\n<!-- end -->", tmp_path)
    assert "| base | 3.00 | 3.00 | 4.00 | 7.50 | 1.50 | 3.00 (1.50×) | 10.0–20.0 | 1.00–2.00 | memory | 5.0 |" in made
    assert "| xxl | 3.00 | 3.00 | too many | – | – | – | – | – | – | 5.0 |" in made
    assert "What does not fit: xxl: training: too large." in made
    assert "(10.0 bytes a document), scaled from a real one of 10 documents" in made


def test_a_result_that_is_missing_is_said_to_be(script, tmp_path):
    text = "<!-- table: xquad -->\n<!-- end -->\n<!-- table: scifact -->\n| old |\n<!-- end -->"
    made = script.updated(text, tmp_path)
    assert made.count("*Not yet measured.*") == 2
    assert "old" not in made
    assert script.updated(made, tmp_path) == made


def test_an_unknown_table_is_an_error_with_the_nearest(script, tmp_path):
    with pytest.raises(InputError, match=r"unknown table 'xquadd'.*did you mean 'xquad'"):
        script.updated("<!-- table: xquadd -->\n<!-- end -->", tmp_path)


def test_check_notices_and_changes_nothing(script, tmp_path, capsys):
    readme = tmp_path / "README.md"
    stale = "<!-- table: xquad -->\n| 99.9 |\n<!-- end -->\n"
    readme.write_text(stale, encoding="utf-8")
    options = ["--readme", str(readme), "--results", str(tmp_path)]
    assert script.main([*options, "--check"]) == 1
    assert "update_readme.py" in capsys.readouterr().err
    assert readme.read_text(encoding="utf-8") == stale
    assert script.main(options) == 0
    assert script.main([*options, "--check"]) == 0


def test_codes_have_a_row_a_kind_of_docids_and_a_column_a_split(script, tmp_path):
    def of(mean: float) -> dict:
        return {"mrr@10": interval(mean)}

    unseen = {"codes, before": of(0.5), "codes, later": of(0.4), "random ids, later": of(0.01), "BM25": of(0.6)}
    test = {"codes": of(0.3), "codes, untrained": of(0.2), "the encoder's vectors, exact": of(0.7)}
    collections = {"two_forms": {"splits": {"test_unseen": unseen}}, "one": {"splits": {"test": test}}}
    environment = {"cores": 2, "processor": "a processor"}
    write(tmp_path, "codes", {"collections": collections, "environment": environment})
    made = script.updated("<!-- table: codes -->\n<!-- end -->", tmp_path)
    assert "|  | two-forms, test_unseen | two-forms, test_unseen, unseen hidden | one, test |\n" in made
    assert "| codes | 50.0 | 40.0 | 30.0 |\n" in made
    assert "| random ids | – | 1.0 | – |\n" in made
    assert "| codes, untrained | – | – | 20.0 |\n" in made
    assert "| BM25 | 60.0 | 60.0 | – |\n" in made


def test_the_default_has_a_row_a_split_beside_what_it_starts_from(script, tmp_path):
    def of(*means: float) -> dict:
        names = ("BM25", "BM25, k1 0.9, b 0.4", *(f"pretrained, {one}" for one in ("words alone", "encoder alone")))
        names += ("pretrained, encoder alone, HNSW", "pretrained, sum of both", "pretrained")
        return {name: {"mrr@10": interval(mean)} for name, mean in zip(names, means, strict=True)}

    one, seeds = of(0.5, 0.1, 0.6, 0.4, 0.1, 0.7, 0.8), of(0.3, 0.1, 0.35, 0.25, 0.1, 0.45, 0.1)
    seeds["pretrained, mean of 3 seeds"] = {"mrr@10": interval(0.55, 0.03)}
    collections = {
        "one": {"documents": 1400, "steps": 0, "seeds": 1, "splits": {"test": {"systems": one}}},
        "of_seeds": {"documents": 240, "steps": 1060, "seeds": 3, "splits": {"unseen": {"systems": seeds}}},
    }
    write(tmp_path, "pretrained", {"collections": collections, "environment": {"cores": 2, "processor": "a processor"}})
    made = script.updated("<!-- table: pretrained -->\n<!-- end -->", tmp_path)
    assert "|  | documents | BM25 | BM25, tuned | encoder | sum of both | genret train |\n" in made
    assert "| one, test | 1,400 | 50.0 | 60.0 | 40.0 | 70.0 | 80.0 ±2.0 |\n" in made
    assert "| of-seeds, unseen | 240 | 30.0 | 35.0 | 25.0 | 45.0 | 55.0 ±3.0 |\n" in made
    assert "one 0 (1), of-seeds 1,060 (3)" in made
    assert "on 2 cores (a processor)" in made


def test_the_recipe_and_the_start_of_a_process_have_tables(script, tmp_path):
    scores = {"hits@1": 0.3, "hits@10": 0.7, "mrr@10": 0.45}
    rows = {"BM25": {"trained": scores}, "atomic": {"trained": scores, "untrained": {**scores, "mrr@10": 0.4}}}
    write(tmp_path, "recipe", {"rows": rows, "queries": 500, "documents": 2000, "steps": 900})
    made = script.updated("<!-- table: recipe -->\n<!-- end -->", tmp_path)
    assert "| BM25 | 30.0 | 70.0 | 45.0 | – |\n| atomic | 30.0 | 70.0 | 45.0 | 40.0 |\n" in made
    assert "500 held-out training summaries, 2,000 documents, 900 steps" in made
    seconds = {"low": 2.5, "median": 2.55, "high": 2.8}
    names = ("seconds", "processor_seconds", "imports_processor_seconds")
    machine = {"cores": 2, "processor": "a processor"}
    write(tmp_path, "startup", {**dict.fromkeys(names, seconds), "rounds": 5, "environment": machine})
    made = script.updated("<!-- table: startup -->\n<!-- end -->", tmp_path)
    assert "| by the clock | 2.5 | 2.5–2.8 |" in made


# --- results that are kept ------------------------------------------------------------------------------------------


def test_kept_results_name_no_path_of_a_machine(repository):
    for path in (repository / "benchmarks" / "results").glob("*.*"):
        found = re.search(r"(?<![\w.])/(?:home|root|tmp|work|Users|mnt|data)/\S*", path.read_text(encoding="utf-8"))
        assert found is None, f"{path.name}: {found.group() if found else ''}"


def test_reports_of_two_splits_become_one(repository):
    from genret_jax.evaluation.report import Report

    merged = runpy.run_path(str(repository / "scripts" / "keep_report.py"))["merged"]
    first, second = report(), report()
    second["splits"][0]["name"] = "unseen"
    for row in second["measurements"][:2]:
        row["split"] = "unseen"
    second["measurements"][2]["metrics"]["hits@1"]["mean"] = 0.0  # the same documents again: the first search counts
    joined = merged([Report.from_json(first), Report.from_json(second)], ["on a slow machine"])
    assert [split.name for split in joined.splits] == ["test", "memorisation", "unseen"]
    assert joined.find("atomic", "unseen").metrics["mrr@10"].mean == 0.4
    assert joined.find("atomic", "memorisation").metrics["hits@1"].mean == pytest.approx(0.6)
    assert joined.notes == ("on a slow machine",)
    second["budget"] = {"semantic": {"steps": 3}}  # a run that the first report has not
    joined = merged([Report.from_json(first), Report.from_json(second)])
    assert set(joined.budget) == {"atomic", "semantic"}
    second["budget"] = {"atomic": {"steps": 3}}
    with pytest.raises(InputError, match="different corpora or runs"):
        merged([Report.from_json(first), Report.from_json(second)])
    second["reference"] = "atomic"
    with pytest.raises(InputError, match="compare with different systems: BM25, atomic; next: evaluate again with"):
        merged([Report.from_json(first), Report.from_json(second)])
