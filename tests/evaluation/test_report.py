"""Reports: measured on rankings small enough to work out, kept as JSON, and rendered to the letter."""

import dataclasses

import pytest

from genret_jax.data.corpus import Corpus
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import (
    EvaluationSplit,
    SystemRun,
    compare,
    evaluation_split,
    memorisation_split,
    require_unique,
    self_matches,
    timed_search,
)
from genret_jax.evaluation.environment import environment
from genret_jax.evaluation.metrics import Difference, Interval
from genret_jax.evaluation.render import markdown, terminal
from genret_jax.evaluation.report import Dataset, Measurement, Report, Split, System, cost, file_names


def ranking(*documents):
    return [(document, -float(place)) for place, document in enumerate(documents)]


def system_run(name, run, depth=10, **options):
    return SystemRun(system=System(name=name), run=run, depth=depth, **options)


FOUR = EvaluationSplit(
    name="test",
    qrels={f"q{i}": {f"d{i}": 1} for i in range(4)},
    parts={"test, seen": ["q0", "q1"], "test, unseen": ["q2", "q3"]},
)
DATASET = Dataset(name="toy", documents=4)
PERFECT = {f"q{i}": ranking(f"d{i}", "x") for i in range(4)}
HALF = {f"q{i}": ranking(f"d{i}") if i < 2 else ranking("x") for i in range(4)}


def test_systems_are_measured_on_the_whole_and_its_parts():
    report = compare(DATASET, [(FOUR, [system_run("BM25", HALF), system_run("ours", PERFECT)])], reference="BM25")
    values = {(m.system, m.split): m.metrics["hits@1"].mean for m in report.measurements}
    assert values == {
        ("BM25", "test"): 0.5,
        ("BM25", "test, seen"): 1.0,
        ("BM25", "test, unseen"): 0.0,
        ("ours", "test"): 1.0,
        ("ours", "test, seen"): 1.0,
        ("ours", "test, unseen"): 1.0,
    }
    assert [(s.name, s.queries, s.one_relevant) for s in report.splits] == [
        ("test", 4, True),
        ("test, seen", 2, True),
        ("test, unseen", 2, True),
    ]
    assert report.find("ours", "test").versus_reference["hits@1"].mean == 0.5
    assert report.find("BM25", "test").versus_reference == {}
    assert report.ratio("ours", "test", "hits@1") == 2
    assert report.ratio("ours", "test, unseen", "hits@1") is None  # the reference found nothing


def test_the_reference_is_the_best_baseline():
    baselines = [system_run("popularity", {}), system_run("BM25", HALF), system_run("dense", PERFECT)]
    ours = system_run("ours", PERFECT | {"q0": ranking("x")})
    report = compare(DATASET, [(FOUR, [*baselines, ours])], baselines=["popularity", "BM25", "dense"], notes=["Last."])
    assert report.reference == "dense"
    assert report.find("ours", "test").versus_reference["mrr@10"].mean == -0.25
    assert report.find("ours", "test, unseen").versus_reference["mrr@10"].mean == 0
    assert report.find("dense", "test").versus_reference == {}
    about = "Differences are against 'dense', the best baseline on 'test' by MRR@10; it was chosen on 'test' itself."
    assert report.notes == (about, "Last.")
    assert about in markdown(report)
    only_weaker = compare(DATASET, [(FOUR, [*baselines, ours])], baselines=["popularity", "BM25"])
    assert only_weaker.reference == "BM25"  # a run is no baseline, however good
    assert compare(DATASET, [(FOUR, [ours])]).reference is None


def test_the_metric_that_chooses_the_reference():
    """'late' finds more, and 'first' finds it earlier."""
    late = system_run("late", {f"q{i}": ranking("x", "y", f"d{i}") for i in range(4)})
    first = system_run("first", {f"q{i}": ranking(f"d{i}" if i < 2 else "x") for i in range(4)})
    both = ["late", "first"]
    assert compare(DATASET, [(FOUR, [late, first])], baselines=both, primary="mrr@10").reference == "first"
    assert compare(DATASET, [(FOUR, [late, first])], baselines=both, primary="recall@10").reference == "late"
    # With four results nothing is known at 10, so that both are judged at what both have.
    shallow = dataclasses.replace(first, depth=4)
    report = compare(DATASET, [(FOUR, [late, shallow])], baselines=both, primary="recall@10")
    assert report.reference == "first"
    assert "by Hits@1" in report.notes[0]
    five = dataclasses.replace(first, depth=5)
    assert "by Recall@5" in compare(DATASET, [(FOUR, [late, five])], baselines=both, primary="recall@10").notes[0]


def test_another_reference_may_be_asked_for():
    rows = [system_run("BM25", HALF), system_run("dense", PERFECT), system_run("ours", HALF)]
    report = compare(DATASET, [(FOUR, rows)], baselines=["BM25", "dense"], reference="ours")
    assert report.find("dense", "test").versus_reference["hits@1"].mean == 0.5
    assert report.notes == (
        "Differences are against 'ours', as was asked for; the best baseline on 'test' by MRR@10 is 'dense'.",
    )
    report = compare(DATASET, [(FOUR, rows)], baselines=["BM25", "dense"], reference="dense")
    assert report.notes == ("Differences are against 'dense', which is the best baseline on 'test' by MRR@10.",)
    with pytest.raises(InputError) as error:
        compare(DATASET, [(FOUR, rows)], baselines=["BM25", "dense"], reference="dens")
    assert "no row of the report is called 'dens'; expected one of 'BM25', 'dense', 'ours'" in str(error.value)
    assert "did you mean 'dense'?" in str(error.value)


def test_names_of_a_report_are_unique():
    with pytest.raises(InputError, match="called 'BM25'"):
        compare(DATASET, [(FOUR, [system_run("BM25", HALF), system_run("BM25", PERFECT)])], reference="BM25")
    seeds = [system_run(f"run, seed {seed}", HALF, seed_of="run") for seed in (0, 1)]
    with pytest.raises(InputError, match="called 'run, mean of 2 seeds'"):
        compare(DATASET, [(FOUR, [*seeds, system_run("run, mean of 2 seeds", PERFECT)])])
    memory = memorisation_split(["d0"])
    other = SystemRun(system=System(name="ours", description="another"), run={}, depth=10)
    with pytest.raises(InputError, match="different systems are called 'ours'"):
        compare(DATASET, [(FOUR, [system_run("ours", HALF)]), (memory, [other])])
    with pytest.raises(InputError, match="two splits are called 'memorisation'"):
        compare(DATASET, [(dataclasses.replace(FOUR, name="memorisation"), []), (memory, [])])


def test_reserved_names_are_refused_in_any_case():
    require_unique(["run", "Run"], "runs", reserved=["BM25"])
    with pytest.raises(InputError, match="'bm25' is reserved"):
        require_unique(["run", "bm25"], "runs", reserved=["BM25"])


def test_every_system_has_files_of_its_own():
    names = ["BM25, k1 0.9, b 0.4", "SASRec, full softmax", "x, 10% new", "bm25", "BM25", "a/b", "a b", "a-b-2", "…"]
    files = file_names(names)
    assert list(files.values()) == [
        *("bm25-k1-0.9-b-0.4", "sasrec-full-softmax", "x-10%-new", "bm25", "bm25-2", "a-b", "a-b-2", "a-b-2-2"),
        "system",
    ]
    assert len(file_names(["é" * 300, "é" * 301])) == 2
    assert all(len(file.encode()) < 210 for file in file_names(["é" * 300, "é" * 301]).values())


def test_queries_that_are_documents_are_counted():
    texts = {"d0": "The cat, sat.", "d1": "a dog"}
    twins = Corpus(
        name="c",
        doc_ids=tuple(texts),
        titles=("", ""),
        texts=tuple(texts.values()),
        queries={"d0": "the cat sat", "d1": "another text", "q": "a dog"},
        qrels={"test": {"d0": {"d1": 1}, "d1": {"d0": 1}, "q": {"d1": 1}}},
    )
    assert self_matches(twins, twins.qrels["test"]) == ["d0"]
    split = evaluation_split(twins, "test")
    report = compare(DATASET, [(split, [system_run("ours", {"d0": ranking("d0", "d1")})])], notes=["Last."])
    assert report.notes[0].startswith("1 of the 3 queries of split 'test' are documents of the corpus")
    assert report.notes[1:] == ("Last.",)
    assert evaluation_split(corpus({}), "test").notes == ()


def test_memorisation_is_a_split_of_its_own():
    memory = memorisation_split(["d0", "d1"])
    remembered = system_run("ours", {"d0": ranking("d0"), "d1": ranking("d0", "d1")})
    systems = [system_run("BM25", HALF), system_run("ours", PERFECT)]
    report = compare(DATASET, [(FOUR, systems), (memory, [remembered])], reference="BM25")
    measured = report.find("ours", "memorisation")
    assert measured.metrics["hits@1"].mean == 0.5
    assert measured.versus_reference == {}
    assert report.find("BM25", "memorisation") is None
    assert [system.name for system in report.systems] == ["BM25", "ours"]


def test_a_shallow_system_is_compared_where_it_can_be():
    runs = [system_run("BM25", HALF, depth=100), system_run("ours", PERFECT, depth=5)]
    report = compare(DATASET, [(FOUR, runs)], reference="BM25")
    ours = report.find("ours", "test")
    assert "hits@10" not in ours.metrics
    assert set(ours.versus_reference) == set(ours.metrics)
    assert "hits@100" in report.find("BM25", "test").metrics


def corpus(train):
    return Corpus(
        name="c",
        doc_ids=("d0", "d1"),
        titles=("", ""),
        texts=("a", "b"),
        queries={"t": "a", "q0": "a", "q1": "b"},
        qrels={"train": train, "test": {"q0": {"d0": 1}, "q1": {"d1": 1}}},
    )


def test_seen_and_unseen_parts_where_there_are_both():
    assert evaluation_split(corpus({"t": {"d0": 1}}), "test").parts == {
        "test, seen": ["q0"],
        "test, unseen": ["q1"],
    }
    assert evaluation_split(corpus({}), "test").parts == {}
    with pytest.raises(InputError, match=r"no judgements for split 'tests' \(did you mean 'test'\?\)"):
        evaluation_split(corpus({}), "tests")


def test_time_is_taken_when_everything_is_compiled():
    calls = []

    def search(queries, depth):
        calls.append((len(queries), depth))
        return {query: ranking("d") for query in queries}

    run, milliseconds = timed_search(search, {str(i): "text" for i in range(300)}, 7)
    assert calls == [(300, 7), (256, 7)]
    assert len(run) == 300
    assert 0 <= milliseconds < 10


def test_a_report_comes_back_from_its_file(tmp_path):
    report = compare(
        DATASET,
        [(FOUR, [system_run("BM25", HALF), system_run("ours", PERFECT, milliseconds_per_query=1.5)])],
        reference="BM25",
        budget={"steps": 600},
        environment=environment(),
        notes=["A note."],
    )
    report.save(tmp_path / "report.json")
    assert Report.load(tmp_path / "report.json") == report


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"kind": "docid_table", "version": 1}', "kind docid_table, version 1; expected an evaluation_report"),
        ('{"kind": "evaluation_report", "version": 1}', "a damaged report"),
        ("[]", "kind None, version None"),
    ],
)
def test_a_file_that_is_no_report(tmp_path, text, message):
    (tmp_path / "report.json").write_text(text)
    with pytest.raises(InputError, match=message):
        Report.load(tmp_path / "report.json")


def test_the_environment_says_where_it_ran():
    found = environment()
    assert found["versions"]["jax"]
    assert found["cores"] >= 1
    assert found["devices"].startswith("8 x ")  # the tests' fake devices


def interval(mean, half=0.02):
    return Interval(mean=mean, low=mean - half, high=mean + half)


SHOWN = Report(
    dataset=Dataset(name="toy", documents=2155, source="folders/toy"),
    splits=(
        Split(name="test", queries=432, relevant=1.0, one_relevant=True),
        Split(name="graded", queries=1, relevant=7.25, one_relevant=False, description="by experts"),
    ),
    systems=(
        System(name="BM25", description="bm25s, Lucene variant"),
        System(
            name="ours | atomic",
            description="atomic docids",
            details={**cost(num_bytes=2155 * 13, documents=2155, parameters=1234567), "beams": 20},
        ),
    ),
    measurements=(
        Measurement(
            system="BM25",
            split="test",
            metrics={"hits@1": interval(0.421), "hits@100": interval(0.96), "recall@100": interval(0.96)},
            depth=100,
            milliseconds_per_query=0.5,
        ),
        Measurement(
            system="ours | atomic",
            split="test",
            metrics={"hits@1": interval(0.5)},
            depth=20,
            milliseconds_per_query=12.345,
            versus_reference={"hits@1": Difference(mean=0.079, low=0.05, high=0.11, p_value=0.01)},
        ),
        Measurement(system="BM25", split="graded", metrics={"recall@100": interval(0.7)}, depth=100),
    ),
    reference="BM25",
    budget={"steps": 600, "seconds": 75.25},
    environment={"python": "3.11.7", "versions": {"jax": "0.10.2"}},
    notes=("Trained on two cores.",),
)

MARKDOWN = """\
# Evaluation on toy

2,155 documents, from folders/toy

## test: 432 queries, one relevant document each

| system         |    Hits@1 |  Hits@100 |
| -------------- | --------: | --------: |
| BM25           | 42.1 ±2.0 | 96.0 ±2.0 |
| ours \\| atomic | 50.0 ±2.0 |         – |

| against BM25   |            Hits@1 |
| -------------- | ----------------: |
| ours \\| atomic | +7.9 ±3.0 (1.19×) |

## graded (by experts): 1 query, 7.2 relevant documents each on average

| system | Recall@100 |
| ------ | ---------: |
| BM25   |  70.0 ±2.0 |

## Cost of a search

| system         | bytes/document | parameters | ms/query |
| -------------- | -------------: | ---------: | -------: |
| BM25           |              – |          – |      0.5 |
| ours \\| atomic |             13 |  1,234,567 |     12.3 |

## How to read this

- Values are per cent; ± is half the width of the 95% bootstrap interval over queries.
- With one relevant document Hits@k = Recall@k and NDCG@k = 1 / log2(rank + 1).
- Hits@k: any relevant document found; Recall@k: the fraction of them found; NDCG: linear gains.
- Against BM25: difference in points, paired by query, and (×) the ratio of the two values.
- Bytes/document: memory that grows with the documents (postings, vectors, docid index, plan, rows of a network).
- –: not measured; a metric at k needs at least k results per query.
- Trained on two cores.

## Systems

- **BM25**: bm25s, Lucene variant
- **ours | atomic**: atomic docids; beams 20

## Budget, versions and hardware

- steps: 600
- seconds: 75.25
- python: 3.11.7
- versions: jax 0.10.2
"""

TERMINAL = """\
toy: 2,155 documents, from folders/toy

test: 432 queries, one relevant document each

system            Hits@1   Hits@100
─────────────  ─────────  ─────────
BM25           42.1 ±2.0  96.0 ±2.0
ours | atomic  50.0 ±2.0          –

against BM25              Hits@1
─────────────  ─────────────────
ours | atomic  +7.9 ±3.0 (1.19×)

graded (by experts): 1 query, 7.2 relevant documents each on average

system  Recall@100
──────  ──────────
BM25     70.0 ±2.0

cost of a search

system         bytes/document  parameters  ms/query
─────────────  ──────────────  ──────────  ────────
BM25                        –           –       0.5
ours | atomic              13   1,234,567      12.3

Values are per cent; ± is half the width of the 95% bootstrap interval over queries.
With one relevant document Hits@k = Recall@k and NDCG@k = 1 / log2(rank + 1).
Hits@k: any relevant document found; Recall@k: the fraction of them found; NDCG: linear gains.
Against BM25: difference in points, paired by query, and (×) the ratio of the two values.
Bytes/document: memory that grows with the documents (postings, vectors, docid index, plan, rows of a network).
–: not measured; a metric at k needs at least k results per query.
Trained on two cores.
"""


def test_a_report_without_costs_has_no_table_of_them():
    unknown = tuple(dataclasses.replace(row, milliseconds_per_query=None) for row in SHOWN.measurements)
    plain = dataclasses.replace(
        SHOWN, systems=(System(name="BM25"), System(name="ours | atomic")), measurements=unknown
    )
    for text in (markdown(plain), terminal(plain)):
        assert "cost of a search" not in text.lower()
        assert "ytes/document" not in text


def test_the_mean_of_seeds_has_what_they_share():
    seeds = [
        SystemRun(
            system=System(name=f"run, seed {seed}", details={"parameters": 9, "beams": 5, "recall": seed}),
            run=HALF,
            depth=5,
            seed_of="run",
        )
        for seed in (0, 1)
    ]
    report = compare(DATASET, [(FOUR, seeds)])
    assert report.systems[-1].name == "run, mean of 2 seeds"
    assert report.systems[-1].details == {"parameters": 9, "beams": 5}


def test_the_page_to_the_letter():
    assert markdown(SHOWN) == MARKDOWN


def test_the_terminal_to_the_letter():
    assert terminal(SHOWN) == TERMINAL


def test_reports_on_other_things_have_tables_too():
    other = dataclasses.replace(SHOWN, dataset=dataclasses.replace(DATASET, kind="songs"))
    assert "requests, one relevant answer each" in markdown(other)


def test_names_cannot_control_the_terminal():
    other = dataclasses.replace(SHOWN, dataset=dataclasses.replace(DATASET, name="\x1b]0;title\x07toy"))
    assert "\x1b" not in terminal(other)
    assert "toy" in terminal(other)


@pytest.mark.parametrize(("one_relevant", "shown"), [(True, 1), (False, 2)])
def test_recall_is_not_shown_where_it_equals_hits(one_relevant, shown):
    split = Split(name="test", queries=432, relevant=1.0, one_relevant=one_relevant)
    table = markdown(dataclasses.replace(SHOWN, splits=(split,))).split("\n")[6]
    assert table.count("@100") == shown


def test_legends_say_only_what_applies():
    alone = dataclasses.replace(
        SHOWN, splits=SHOWN.splits[1:], measurements=SHOWN.measurements[2:], reference=None, notes=()
    )
    assert "With one relevant document" not in terminal(alone)
    assert "Against" not in terminal(alone)
    assert "–:" not in terminal(alone)
