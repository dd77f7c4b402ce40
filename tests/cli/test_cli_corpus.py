"""``genret corpus``: folders made, folders shown, and what is refused."""

import json

import pytest

from genret_jax import cli
from genret_jax.data import natural_questions as nq
from genret_jax.data import python_docs
from genret_jax.data.corpus import Corpus, read_beir


@pytest.fixture
def corpus_folder(tmp_path):
    folder = tmp_path / "mine"
    (folder / "qrels").mkdir(parents=True)
    documents = [{"_id": "d1", "title": "Roses", "text": "They are red."}, {"_id": "d2", "text": "Violets are blue."}]
    queries = [{"_id": "q1", "text": "red flowers"}, {"_id": "q2", "text": "blue ones"}, {"_id": "q3", "text": "bloom"}]
    for name, records in (("corpus", documents), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, records)))
    header = "query-id\tcorpus-id\tscore\n"
    (folder / "qrels" / "train.tsv").write_text(header + "q1\td1\t1\n")
    (folder / "qrels" / "test.tsv").write_text(header + "q2\td2\t1\nq3\td2\t1\nq3\td1\t2\n")
    return folder


def test_show_counts_and_samples(corpus_folder, capsys):
    (corpus_folder / "queries_generated.jsonl").write_text('{"_id": "d1", "queries": ["a", "b"]}')
    assert cli.main(["corpus", "show", str(corpus_folder), "--samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(
        "2 documents (1 with a title, 0 without any text, 3 words on average), 3 queries, fingerprint "
    )
    assert lines[1] == "  train: 1 queries, 1 relevant pairs"
    assert lines[2].startswith("  test: 2 queries, 3 relevant pairs, 1 seen and 1 unseen")
    assert lines[3] == "  generated: 2 queries for 1 documents"
    assert "  [test] bloom" in lines
    assert lines[lines.index("  [test] bloom") + 1] == "      -> d1: Roses. They are red."  # the best of two


def test_show_reports_damage_in_one_line(corpus_folder, capsys):
    (corpus_folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "a"}\n{"_id"')
    assert cli.main(["corpus", "show", str(corpus_folder)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"genret: error: {corpus_folder / 'corpus.jsonl'}:2: broken JSON")
    assert captured.err.count("\n") == 1


def test_python_docs_writes_a_folder_and_never_over_another(tmp_path, monkeypatch, capsys):
    library = tmp_path / "library"
    library.mkdir()
    documented = "".join(f'def f{n}():\n    """Do thing {n}x.\n\n    In way {n}."""\n' for n in range(60))
    (library / "module.py").write_text(documented)
    monkeypatch.setattr(python_docs.sysconfig, "get_path", lambda name: str(library))
    out = tmp_path / "docs"
    assert cli.main(["corpus", "python-docs", "--out", str(out), "--validation", "0.1"]) == 0
    printed = capsys.readouterr().out
    corpus = read_beir(out)
    assert set(corpus.qrels) == {"train", "validation", "test"}
    assert printed.startswith(f"{out}: 60 documents")
    assert f"  validation: {len(corpus.qrels['validation']):,} queries" in printed
    before = (out / "corpus.jsonl").read_bytes()
    assert cli.main(["corpus", "python-docs", "--out", str(out)]) == 2
    assert "the output already exists" in capsys.readouterr().err
    assert (out / "corpus.jsonl").read_bytes() == before


def test_nq_hands_over_its_options(tmp_path, monkeypatch, capsys):
    asked = {}

    def fake(size, **options):
        asked.update(size=size, **options)
        return Corpus(name="nq", doc_ids=("1",), titles=("A",), texts=("b",), queries={"1": "c"})

    monkeypatch.setattr(nq, "natural_questions", fake)
    out = tmp_path / "nq"
    options = ["--size", "100k", "--identity", "text", "--seed", "7", "--data-dir", "somewhere"]
    assert cli.main(["corpus", "nq", "--out", str(out), *options]) == 0
    assert asked == {"size": "100k", "identity": "text", "seed": 7, "data_dir": "somewhere", "download": False}
    assert read_beir(out).queries == {"1": "c"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required"),
        (["python-docs"], "--out"),
        (["nq", "--out", "x", "--size", "5k"], "invalid choice: '5k'"),
        (["python-docs", "--out", "x", "--validation", "much"], "invalid float value: 'much'"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message, capsys):
    assert cli.main(["corpus", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("kind", [[], ["python-docs"], ["nq"], ["show"]])
def test_help_has_an_example(kind, capsys):
    assert cli.main(["corpus", *kind, "--help"]) == 0
    assert "genret corpus " in capsys.readouterr().out.split("example")[1]
