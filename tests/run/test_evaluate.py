"""Evaluating runs: the report, the files beside it, and what cannot be measured."""

import dataclasses
import importlib.util
import json
import shutil

import pytest
from support.tiny_run import EMPTY, tiny_experiment, tiny_topics, write_tiny_corpus

from genret_jax.baselines.bm25 import with_queries
from genret_jax.config.experiment import VocabularyConfig
from genret_jax.data.corpus import Corpus
from genret_jax.docids import AtomicDocids
from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import evaluate
from genret_jax.evaluation.report import Report
from genret_jax.evaluation.trec import read_run
from genret_jax.problems import Measured, Problem
from genret_jax.retriever import Retriever
from genret_jax.run import evaluate_runs, open_run, prepare

HAS_BM25 = importlib.util.find_spec("bm25s") is not None
NO_BASELINES = Measured(bm25=False, untrained=False)


@pytest.fixture(scope="module")
def evaluated(tiny_run, tmp_path_factory):
    """The report of a run and of its copy under another name."""
    folder = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(tiny_run, folder / "second")
    report = evaluate_runs([tiny_run, folder / "second"], folder / "report", measured=Measured(bm25=HAS_BM25))
    return report, folder / "report"


def test_the_report_has_every_system_on_every_split(evaluated):
    report, folder = evaluated
    names = [system.name for system in report.systems]
    known = "BM25, k1 0.9, b 0.4"
    bm25 = ["BM25", "BM25, raw text", known, f"{known}, training queries"] if HAS_BM25 else []
    assert names == [*bm25, "run, untrained", "run", "second, untrained", "second"]
    assert {split.name: split.queries for split in report.splits} == {"test": 13, "memorisation": 40}
    assert report.dataset.name == "topics"
    assert report.dataset.documents == 41
    assert report.find("run", "test").metrics == report.find("second", "test").metrics
    assert report.find("run", "memorisation").metrics["hits@1"].mean > 0.5
    assert report.budget["run"]["steps"] == 30
    if HAS_BM25:
        of_baselines = {name: report.find(name, "test").metrics["mrr@10"].mean for name in bm25}
        assert of_baselines[report.reference] == max(of_baselines.values())
        assert report.find("run", "test").versus_reference
    else:
        assert report.reference is None
    assert Report.load(folder / "report.json") == report


def test_bm25_may_know_the_training_queries_as_runs_do():
    corpus = Corpus(
        name="c",
        doc_ids=("a", "b"),
        titles=("", ""),
        texts=("one", "two"),
        queries={"q": "three", "r": "four", "s": "five"},
        qrels={"train": {"q": {"a": 1}, "r": {"a": 2}}, "test": {"s": {"b": 1}}},
    )
    assert with_queries(corpus).texts == ("one three four", "two")


def test_the_report_says_how_far_the_beam_is_from_exhaustive_search(evaluated):
    report, folder = evaluated
    system = next(system for system in report.systems if system.name == "run")
    told = system.details["beside exhaustive search (13 queries)"]
    assert "of the true best 10 found" in told
    assert told in (folder / "report.md").read_text()


def test_metrics_beyond_the_beam_are_absent(evaluated):
    report, _ = evaluated
    found = set(report.find("run", "test").metrics)
    assert {"hits@1", "hits@5", "hits@10", "mrr@10", "recall@10", "ndcg@10"} <= found
    assert not [name for name in found if name.endswith("@100")]


def test_the_trec_files_give_the_same_figures(evaluated, tiny_run):
    report, folder = evaluated
    import ir_measures

    with open(folder / "qrels.txt") as judged, open(folder / "run.run") as answered:
        figures = ir_measures.calc_aggregate(
            [ir_measures.parse_measure(name) for name in ("Success@1", "Success@10", "RR@10", "R@10", "nDCG@10")],
            list(ir_measures.read_trec_qrels(judged)),
            list(ir_measures.read_trec_run(answered)),
        )
    names = {
        "Success@1": "hits@1",
        "Success@10": "hits@10",
        "RR@10": "mrr@10",
        "R@10": "recall@10",
        "nDCG@10": "ndcg@10",
    }
    metrics = report.find("run", "test").metrics
    for measure, value in figures.items():
        assert metrics[names[str(measure)]].mean == pytest.approx(value, abs=1e-9)
    run = open_run(tiny_run)
    ours = evaluate(run.corpus.qrels["test"], read_run(folder / "run.run"), beam=10)
    assert ours["ndcg@10"] == pytest.approx(metrics["ndcg@10"].mean, abs=1e-9)
    assert len((folder / "run.run").read_text().splitlines()) == 13 * 10


def test_the_answers_are_those_of_the_retriever(evaluated, tiny_run):
    _, folder = evaluated
    retriever = Retriever.load(tiny_run)
    queries = [(query, retriever.run.corpus.queries[query]) for query in retriever.run.corpus.qrels["test"]]
    found = retriever.search([text for _, text in queries], k=10, beam=10)
    answers = read_run(folder / "run.run")
    for (query, _), expected in zip(queries, found, strict=True):
        assert [doc_id for doc_id, _ in answers[query]] == [result.doc_id for result in expected]


def test_the_markdown_has_a_row_a_system(evaluated):
    report, folder = evaluated
    text = (folder / "report.md").read_text()
    for system in report.systems:
        assert f"| {system.name} |" in text or f"{system.name} " in text
    assert json.loads((folder / "report.json").read_text())["dataset"]["name"] == "topics"


def test_a_report_takes_the_place_of_a_report_and_of_nothing_else(tiny_run, tmp_path):
    out = tmp_path / "out"
    for checkpoint in ("best", "start"):
        report = evaluate_runs([tiny_run], out, checkpoint=checkpoint, measured=NO_BASELINES)
        assert Report.load(out / "report.json") == report
    assert report.systems[0].description == "semantic docids, a vector per prefix of codes, before its first step"
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("mine")
    for taken in (precious, precious / "thesis.txt"):
        with pytest.raises(InputError, match="there is something else than a report"):
            evaluate_runs([tiny_run], taken, measured=NO_BASELINES)
    assert (precious / "thesis.txt").read_text() == "mine"


def test_a_checkpoint_is_checked_before_a_baseline_is_made_and_read_once(tiny_run, tmp_path, monkeypatch):
    read, params = [], Problem.params
    monkeypatch.setattr(Problem, "params", lambda run, *given: read.append(given) or params(run, *given))
    with pytest.raises(InputError, match="no checkpoint 4"):
        evaluate_runs([tiny_run], tmp_path / "out", checkpoint=4)
    assert not read
    evaluate_runs([tiny_run], tmp_path / "out", measured=NO_BASELINES)
    assert read == [("best", None)]


def test_what_cannot_be_evaluated(tiny_run, tmp_path, tiny_corpus):
    def refused(runs, **options):
        with pytest.raises(InputError) as error:
            evaluate_runs(runs, tmp_path / "out", measured=NO_BASELINES, **options)
        assert not (tmp_path / "out").exists()
        return str(error.value)

    assert "no judgements for split 'tset' (did you mean 'test'?)" in refused([tiny_run], split="tset")
    assert "two runs have the same folder name" in refused([tiny_run, tiny_run])
    assert "a beam of 0; expected at least 1" in refused([tiny_run], beam=0)
    assert "no run here" in refused([tiny_corpus])
    assert "no checkpoint 4" in refused([tiny_run], checkpoint=4)
    other = dataclasses.replace(tiny_topics(), texts=("more words", *tiny_topics().texts[1:]))
    experiment = tiny_experiment(
        write_tiny_corpus(tmp_path / "other", other), docids=AtomicDocids(), vocabulary=VocabularyConfig(kind="bytes")
    )
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare(experiment, tmp_path / "another", log=lambda line: None)
    assert "a run of another corpus; expected the corpus of" in refused([tiny_run, tmp_path / "another"])


def test_a_ranking_of_another_system_is_a_row_like_any_other(evaluated, tiny_run, tmp_path):
    whole, folder = evaluated
    lines = (folder / "run.run").read_text().splitlines()
    (tmp_path / "same.run").write_text("\n".join(lines))
    first = lines[0].split()[0]
    (tmp_path / "less.run").write_text("\n".join(line for line in lines if line.split()[0] != first))
    files = {"same": tmp_path / "same.run", "less": tmp_path / "less.run"}
    report = evaluate_runs([tiny_run], tmp_path / "report", measured=NO_BASELINES, external=files)
    assert [system.name for system in report.systems] == ["same", "less", "run"]
    assert report.find("same", "test").metrics == whole.find("run", "test").metrics
    assert report.reference == "same"  # the best of the two, which are baselines
    assert report.find("run", "test").versus_reference["mrr@10"].mean == 0
    assert report.find("less", "test").versus_reference["hits@10"].mean < 0
    assert "'less' has no results for 1 of 13 requests, which count as 0." in report.notes
    assert read_run(tmp_path / "report" / "less.run") == read_run(tmp_path / "less.run")
    inside = {"same": tmp_path / "report" / "same.run"}
    with pytest.raises(InputError, match=r"same\.run: a ranking inside the folder of the report, which is replaced"):
        evaluate_runs([tiny_run], tmp_path / "report", measured=NO_BASELINES, external=inside)
    assert inside["same"].is_file()
    chosen = evaluate_runs(
        [tiny_run], tmp_path / "report", measured=NO_BASELINES, external=files, baseline="less", checkpoint="start"
    )
    assert chosen.reference == "less"


def test_names_of_rankings_and_of_the_baseline(evaluated, tiny_run, tmp_path, monkeypatch):
    file = evaluated[1] / "run.run"
    monkeypatch.setattr("genret_jax.run.evaluate._answers", None)  # nothing is searched before names are known
    for name in ("run", "Run", "bm25", "run, untrained"):
        with pytest.raises(InputError, match=f"the name '{name}' is taken by another row"):
            evaluate_runs([tiny_run], tmp_path / "out", measured=Measured(bm25=False), external={name: file})
    with pytest.raises(InputError) as error:
        evaluate_runs(
            [tiny_run], tmp_path / "out", measured=Measured(bm25=False), external={"other": file}, baseline="othr"
        )
    assert "no row of the report is called 'othr'; expected one of 'other', 'run, untrained', 'run'" in str(error.value)
    assert "did you mean 'other'?" in str(error.value)
    assert not (tmp_path / "out").exists()


def test_a_run_with_the_name_of_a_baseline_is_refused(tiny_run, tmp_path):
    taken = ["bm25", "BM25, raw text"] if HAS_BM25 else ["bm25"]
    for name in taken:
        shutil.copytree(tiny_run, tmp_path / name)
        with pytest.raises(InputError, match=f"'{name}'"):
            evaluate_runs([tmp_path / name], tmp_path / "out", measured=Measured(bm25=name != "bm25", untrained=False))
    assert not (tmp_path / "out").exists()


def test_a_run_without_the_split_says_which_there_are(tmp_path):
    untested = dataclasses.replace(tiny_topics(), qrels={"train": tiny_topics().qrels["train"]})
    experiment = tiny_experiment(
        write_tiny_corpus(tmp_path / "c", untested), docids=AtomicDocids(), vocabulary=VocabularyConfig(kind="bytes")
    )
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare(experiment, tmp_path / "run", log=lambda line: None)
    with pytest.raises(InputError) as error:
        evaluate_runs([tmp_path / "run"], tmp_path / "out", measured=NO_BASELINES)
    assert "no judgements for split 'test'" in str(error.value)
    assert "expected one of train, validation" in str(error.value)


def test_runs_with_other_vocabularies_are_asked_in_their_own_tokens(tiny_run, tiny_corpus, tmp_path):
    given = tiny_experiment(tiny_corpus, docids=AtomicDocids(), vocabulary=VocabularyConfig(kind="bytes"))
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare(given, tmp_path / "bytes", log=lambda line: None)
    shutil.copytree(tiny_run, tmp_path / "second")
    # The bytes have never been trained; what they find does not matter here.
    runs = [tmp_path / "bytes", tmp_path / "second"]
    both = evaluate_runs(runs, tmp_path / "report", checkpoint="start", measured=NO_BASELINES)
    alone = evaluate_runs(runs[1:], tmp_path / "report", checkpoint="start", measured=NO_BASELINES)
    for split in ("test", "memorisation"):
        assert both.find("second", split).metrics == alone.find("second", split).metrics
    held_out = dataclasses.replace(given, hold_out=0.5)
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare(held_out, tmp_path / "held out", log=lambda line: None)
    runs = [tmp_path / "held out", tmp_path / "second"]
    with pytest.raises(InputError, match=r"second: other requests in the split 'validation'; expected .*held"):
        evaluate_runs(runs, tmp_path / "out", split="validation", measured=NO_BASELINES, checkpoint="start")


def test_documents_without_words_are_not_asked_for(evaluated):
    _, folder = evaluated
    assert EMPTY not in {line.split()[0] for line in (folder / "qrels.txt").read_text().splitlines()}
