"""BEIR folders: what is read, and errors for each kind of damage."""

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.data.corpus import Corpus, read_beir, seen_and_unseen, write_beir
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError

DOCUMENTS = [
    {"_id": "d1", "title": "Roses", "text": "Roses are red."},
    {"_id": "d2", "title": "", "text": "Violets are blue.", "colour": "ignored"},
    {"_id": "d3", "text": "Sugar is sweet."},
]
QUERIES = [{"_id": "q1", "text": "which are red"}, {"_id": "q2", "text": "which are blue"}]
HEADER = "query-id\tcorpus-id\tscore\n"


def json_lines(records):
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


@pytest.fixture
def folder(tmp_path):
    """Make a small folder that is in order; tests damage one file of it."""
    (tmp_path / "qrels").mkdir()
    (tmp_path / "corpus.jsonl").write_text(json_lines(DOCUMENTS), encoding="utf-8")
    (tmp_path / "queries.jsonl").write_text(json_lines(QUERIES), encoding="utf-8")
    (tmp_path / "qrels" / "train.tsv").write_text(HEADER + "q1\td1\t2\nq1\td3\t1\n")
    (tmp_path / "qrels" / "test.tsv").write_text(HEADER + "q2\td2\t1\n")
    return tmp_path


def fails(folder: Path) -> InputError:
    with pytest.raises(InputError) as caught:
        read_beir(folder)
    assert "\n" not in str(caught.value)
    return caught.value


def test_reads_documents_queries_and_judgements(folder):
    corpus = read_beir(folder)
    assert corpus.name == folder.name
    assert corpus.doc_ids == ("d1", "d2", "d3")
    assert corpus.titles == ("Roses", "", "")
    assert corpus.texts == ("Roses are red.", "Violets are blue.", "Sugar is sweet.")
    assert corpus.queries == {"q1": "which are red", "q2": "which are blue"}
    assert corpus.qrels == {"train": {"q1": {"d1": 2, "d3": 1}}, "test": {"q2": {"d2": 1}}}
    assert corpus.generated_queries == {}
    assert corpus.document_index == {"d1": 0, "d2": 1, "d3": 2}


def test_documents_alone_are_a_corpus(folder):
    for file in ("queries.jsonl", "qrels/train.tsv", "qrels/test.tsv"):
        (folder / file).unlink()
    corpus = read_beir(folder)
    assert (len(corpus), corpus.queries, corpus.qrels) == (3, {}, {})


def test_accepts_byte_order_mark_windows_line_ends_and_blank_lines(folder):
    (folder / "corpus.jsonl").write_bytes(b"\xef\xbb\xbf" + json_lines(DOCUMENTS).replace("\n", "\r\n\r\n").encode())
    (folder / "qrels" / "test.tsv").write_bytes((HEADER + "q2\td2\t1\n\n").replace("\n", "\r\n").encode())
    (folder / "qrels" / "._test.tsv").write_bytes(b"\x00\x05\x16\x07")  # what macOS leaves on foreign disks
    assert read_beir(folder).doc_ids == ("d1", "d2", "d3")
    assert read_beir(folder).qrels["test"] == {"q2": {"d2": 1}}


def test_unicode_line_separators_do_not_end_a_line(folder):
    (folder / "corpus.jsonl").write_text('{"_id": "d1", "text": "one\u2028two\x85three"}\n', encoding="utf-8")
    (folder / "qrels" / "train.tsv").unlink()
    (folder / "qrels" / "test.tsv").unlink()
    assert read_beir(folder).texts == ("one\u2028two\x85three",)


def test_grades_of_zero_and_below_are_dropped(folder):
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t0\nq2\td1\t-1\nq2\td2\t3\n")
    assert read_beir(folder).qrels["test"] == {"q2": {"d2": 3}}


def test_documents_without_text_are_kept_with_a_warning(folder):
    (folder / "corpus.jsonl").write_text(json_lines([*DOCUMENTS, {"_id": "d4", "title": None, "text": " "}]))
    with pytest.warns(UserWarning, match=r"1 of 4 documents have neither title nor text \('d4'\)"):
        corpus = read_beir(folder)
    assert corpus.empty_documents == (3,)
    assert corpus.document_text(3) == ""


def test_warns_of_test_queries_that_are_training_queries(folder):
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q1\td1\t1\nq2\td2\t1\n")
    with pytest.warns(UserWarning, match="1 of the 2 queries of split 'test' are training queries"):
        read_beir(folder)


def test_sound_folders_give_no_warning(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read_beir(folder)


def test_generated_queries_in_either_form(folder):
    records = [
        {"_id": "d2", "text": "blue flowers"},
        {"doc_id": "d1", "queries": ["red flowers", " ", "roses"]},
        {"_id": "d2", "queries": ["violets"]},
        {"_id": "d3", "queries": []},
    ]
    (folder / "queries_generated.jsonl").write_text(json_lines(records))
    assert read_beir(folder).generated_queries == {"d2": ("blue flowers", "violets"), "d1": ("red flowers", "roses")}


CORPUS_DAMAGE = {
    "empty": (b"", "no documents", None),
    "only blank lines": (b"\n \n", "no documents", None),
    "cut off": (json_lines(DOCUMENTS).encode()[:-20], "broken JSON", 3),
    "not an object": (b'{"_id": "d1", "text": "a"}\n["d2"]\n', "an array", 2),
    "number as id": (b'{"_id": 1, "text": "a"}\n', "'_id' is a number", 1),
    "no id": (b'{"id": "d1", "text": "a"}\n', "a record without '_id' (it has 'id', 'text')", 1),
    "empty id": (b'{"_id": "", "text": "a"}\n', "'_id' is ''", 1),
    "no text": (b'{"_id": "d1", "contents": "a"}\n', "a record without 'text'", 1),
    "list as text": (b'{"_id": "d1", "text": ["a"]}\n', "'text' is an array", 1),
    "title is an object": (b'{"_id": "d1", "title": {}, "text": "a"}\n', "'title' is an object", 1),
    "duplicate id": (b'{"_id": "d1", "text": "a"}\n\n{"_id": "d1", "text": "b"}\n', "'d1' again, first on line 1", 3),
    "latin-1": (b'{"_id": "d1", "text": "a"}\n{"_id": "d2", "text": "caf\xe9"}\n', "byte 0xe9 at position 27", 2),
    "half a surrogate pair": (b'{"_id": "d1", "text": "a\\ud800"}\n', "half of a surrogate pair", 1),
    "nested too deeply": (b'{"_id": "d1", "text": ' + b"[" * 100_000 + b"\n", "broken JSON", 1),
    "no words anywhere": (b'{"_id": "d1", "text": ""}\n{"_id": "d2", "text": " "}\n', "none of the 2 documents", None),
}


@pytest.mark.parametrize("damage", CORPUS_DAMAGE)
def test_damaged_corpus_is_refused_with_its_line(folder, damage):
    content, found, line = CORPUS_DAMAGE[damage]
    (folder / "corpus.jsonl").write_bytes(content)
    error = fails(folder)
    assert found in error.found
    assert (error.file, error.line) == (folder / "corpus.jsonl", line)
    assert error.fix


QRELS_DAMAGE = {
    "empty": ("", "the file is empty", None),
    "no header": ("q2\td2\t1\n", "the header 'q2\\td2\\t1'", 1),
    "spaces for tabs": ("query-id corpus-id score\n", "the header 'query-id corpus-id score'", 1),
    "two columns": (HEADER + "q2\td2\n", "2 columns in 'q2\\td2'", 2),
    "trec format": (HEADER + "q2 0 d2 1\n", "1 column in 'q2 0 d2 1'", 2),
    "fraction": (HEADER + "q2\td2\t0.5\n", "the score '0.5'", 2),
    "score beyond 32 bits": (HEADER + "q2\td2\t3000000000\n", "the score '3000000000'", 2),
    "score beyond 64 bits": (HEADER + f"q2\td2\t{10**30}\n", "the score '1000000", 2),
    "score beyond what Python parses": (HEADER + f"q2\td2\t{'9' * 5000}\n", "the score '99999", 2),
    "no score": (HEADER + "q2\td2\t\n", "the score ''", 2),
    "unknown document": (HEADER + "q2\td2\t1\nq2\td9\t1\n", "unknown document 'd9' (did you mean 'd3'?)", 3),
    "unknown query": (HEADER + "w5\td2\t1\n", "unknown query 'w5'", 2),
    "unknown id with grade 0": (HEADER + "q2\tzzz\t0\nq2\td2\t1\n", "unknown document 'zzz'", 2),
    "two scores": (HEADER + "q2\td2\t1\nq2\td2\t2\n", "'q2' and 'd2' with score 2, but with 1 on line 2", 3),
    "nothing relevant": (HEADER + "q2\td2\t0\n", "no judgement with a positive score", None),
}


@pytest.mark.parametrize("damage", QRELS_DAMAGE)
def test_damaged_judgements_are_refused_with_their_line(folder, damage):
    content, found, line = QRELS_DAMAGE[damage]
    (folder / "qrels" / "test.tsv").write_text(content)
    error = fails(folder)
    assert found in error.found
    assert (error.file, error.line) == (folder / "qrels" / "test.tsv", line)


def test_the_same_judgement_twice_is_no_contradiction(folder):
    (folder / "qrels" / "test.tsv").write_text(HEADER + "q2\td2\t1\nq2\td2\t1\n")
    assert read_beir(folder).qrels["test"] == {"q2": {"d2": 1}}


def test_judgements_under_another_name_are_not_overlooked(folder):
    (folder / "qrels" / "test.tsv").rename(folder / "qrels" / "test.txt")
    assert set(read_beir(folder).qrels) == {"train"}  # beside judgements, other files are nobody's business
    (folder / "qrels" / "train.tsv").unlink()
    assert "no .tsv file, but 'test.txt'" in str(fails(folder))


QUERIES_DAMAGE = {
    "broken": (b'{"_id": "q1", "text": "a"}\n{"_id": "q2"', "broken JSON", 2),
    "duplicate": (b'{"_id": "q1", "text": "a"}\n{"_id": "q1", "text": "a"}\n', "'q1' again, first on line 1", 2),
    "blank": (b'{"_id": "q1", "text": " "}\n', "query 'q1' has no text", 1),
    "null": (b'{"_id": "q1", "text": null}\n', "'text' is null", 1),
}


@pytest.mark.parametrize("damage", QUERIES_DAMAGE)
def test_damaged_queries_are_refused_with_their_line(folder, damage):
    content, found, line = QUERIES_DAMAGE[damage]
    (folder / "queries.jsonl").write_bytes(content)
    error = fails(folder)
    assert found in error.found
    assert (error.file, error.line) == (folder / "queries.jsonl", line)


GENERATED_DAMAGE = {
    "unknown document": ({"_id": "d7", "text": "a"}, "unknown document 'd7'"),
    "no query": ({"_id": "d1"}, "a record without 'text'"),
    "a string as list": ({"_id": "d1", "queries": "a"}, "'queries' is 'a'"),
    "numbers in the list": ({"_id": "d1", "queries": [1]}, "'queries' is '[1]'"),
}


@pytest.mark.parametrize("damage", GENERATED_DAMAGE)
def test_damaged_generated_queries_are_refused_with_their_line(folder, damage):
    record, found = GENERATED_DAMAGE[damage]
    (folder / "queries_generated.jsonl").write_text(json_lines([{"_id": "d1", "text": "fine"}, record]))
    error = fails(folder)
    assert found in error.found
    assert (error.file, error.line) == (folder / "queries_generated.jsonl", 2)


def test_missing_folders_and_files_are_named(folder):
    assert "the folder is missing" in str(fails(folder / "nowhere"))
    assert "not a folder" in str(fails(folder / "corpus.jsonl"))
    (folder / "queries.jsonl").unlink()
    assert fails(folder).file == folder / "queries.jsonl"
    (folder / "corpus.jsonl").unlink()
    assert fails(folder).file == folder / "corpus.jsonl"


@pytest.mark.parametrize(
    ("title", "text", "expected"),
    [
        ("Roses", "They are red.", "Roses. They are red."),
        ("", "They are red.", "They are red."),
        ("Roses", "", "Roses"),
        ("Roses", "Roses are red.", "Roses are red."),  # the title is there already
        ("Rose", "Roses are red.", "Rose. Roses are red."),  # it is another word
        ("Why roses?", "They are red.", "Why roses? They are red."),
        ("flow past a plate .", "it is laminar .", "flow past a plate . it is laminar ."),
        ("  ", " They are red.\n", "They are red."),
    ],
)
def test_document_text_joins_title_and_text(title, text, expected):
    assert Corpus(name="c", doc_ids=("d",), titles=(title,), texts=(text,)).document_text(0) == expected


def test_fingerprint_is_of_the_documents_alone():
    def corpus(**changes):
        return Corpus(**{"name": "c", "doc_ids": ("a", "b"), "titles": ("", "x"), "texts": ("1", "2"), **changes})

    same = corpus(name="other", queries={"q": "1"}, qrels={"test": {"q": {"a": 1}}}, source="elsewhere")
    assert same.fingerprint == corpus().fingerprint
    changes = ({"doc_ids": ("b", "a")}, {"titles": ("x", "")}, {"texts": ("1", "2 ")}, {"doc_ids": ("a", "c")})
    assert len({corpus(**change).fingerprint for change in changes} | {corpus().fingerprint}) == 5


def test_seen_queries_share_a_relevant_document_with_training():
    corpus = Corpus(
        name="c",
        doc_ids=("a", "b", "c"),
        titles=("", "", ""),
        texts=("1", "2", "3"),
        queries={q: q for q in "pqrs"},
        qrels={"train": {"p": {"a": 1}}, "test": {"q": {"b": 1, "a": 1}, "r": {"b": 1}, "s": {"c": 1, "b": 2}}},
    )
    assert seen_and_unseen(corpus, "test") == (["q"], ["r", "s"])
    assert seen_and_unseen(corpus, "train") == (["p"], [])


def test_a_corpus_must_be_aligned():
    with pytest.raises(ValueError, match="2 ids, 1 titles, 2 texts"):
        Corpus(name="c", doc_ids=("a", "b"), titles=("",), texts=("1", "2"))


identifiers = st.text(st.characters(exclude_categories=("Cs",)) | st.sampled_from(' \t\n"\\'), min_size=1, max_size=4)
words = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)


@settings(max_examples=50, deadline=None)
@given(documents=st.dictionaries(identifiers, st.tuples(words, words), min_size=1, max_size=5), data=st.data())
def test_what_is_written_is_read_again(tmp_path_factory, documents, data):
    documents = {**documents, "d": ("", "some text")}
    grades = st.dictionaries(st.sampled_from(sorted(documents)), st.integers(1, 4), min_size=1)
    queries = data.draw(st.dictionaries(identifiers, words.filter(str.strip), min_size=1, max_size=3))
    qrels = data.draw(st.dictionaries(st.sampled_from(sorted(queries)), grades, min_size=1))
    corpus = Corpus(
        name="folder",
        doc_ids=tuple(documents),
        titles=tuple(title for title, _ in documents.values()),
        texts=tuple(text for _, text in documents.values()),
        queries=queries,
        qrels={"dev": qrels},
        generated_queries={"d": ("what is it", "some")},
    )
    folder = tmp_path_factory.mktemp("round") / "folder"
    write_beir(corpus, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = read_beir(folder)
    for name in ("name", "doc_ids", "titles", "texts", "queries", "qrels", "generated_queries", "fingerprint"):
        assert getattr(again, name) == getattr(corpus, name)


def test_writing_never_replaces_what_is_there(folder):
    corpus = read_beir(folder)
    before = (folder / "corpus.jsonl").read_bytes()
    with pytest.raises(InputError, match="the output already exists"):
        write_beir(corpus, folder)
    assert (folder / "corpus.jsonl").read_bytes() == before


def test_an_interrupted_write_leaves_nothing(folder, tmp_path):
    class Interrupted(dict):
        def items(self):
            raise KeyboardInterrupt

    corpus = Corpus(name="c", doc_ids=("a",), titles=("",), texts=("1",), queries=Interrupted())
    with pytest.raises(KeyboardInterrupt):
        write_beir(corpus, tmp_path / "out")
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


CORPUS = Corpus(name="c", doc_ids=("a",), titles=("",), texts=("1",))
WAYS_IN = {
    "document": lambda one: dataclasses.replace(CORPUS, doc_ids=(one,)),
    "query": lambda one: dataclasses.replace(CORPUS, queries={one: "what"}),
    "extended": lambda one: CORPUS.extended([one], (), ["2"]),
    "user": lambda one: Interactions(
        items=CORPUS, user_ids=(one,), offsets=np.array([0, 1]), item=np.array([0], np.int32)
    ),
}


@pytest.mark.parametrize("wrong", ["", "a\ud800", 7])
@pytest.mark.parametrize("way", WAYS_IN)
def test_every_way_in_refuses_what_is_no_id(wrong, way, annotations_unchecked):
    with pytest.raises(InputError, match="expected a Unicode string with at least one character"):
        WAYS_IN[way](wrong)


def test_a_document_that_is_there_already_is_refused():
    with pytest.raises(InputError, match="document id 'a' twice"):
        CORPUS.extended(["b", "a"], (), ["2", "3"])


@pytest.mark.parametrize("grade", [0, -1, 2**31, 10**30])
def test_grades_beyond_31_bits_are_refused(grade):
    with pytest.raises(InputError, match=f"the grade {grade}"):
        Corpus(
            name="c", doc_ids=("a",), titles=("",), texts=("1",), queries={"q": "x"}, qrels={"s": {"q": {"a": grade}}}
        )
