"""Natural Questions: a set in TFDS's own format and features, prepared on disk and read by the real code."""

import sys

import pytest

from genret_jax.data.corpus import read_beir, write_beir
from genret_jax.data.sources import natural_questions as nq
from genret_jax.data.sources.natural_questions import Pair, corpus_of_pairs, natural_questions, sample_pairs
from genret_jax.errors import InputError


def pair(number, title, text="text", question=None):
    return Pair(str(number), question or f"question {number}", title, text)


def test_documents_by_title():
    train = [pair(1, "Red Roses", "a"), pair(2, "Tulips", "b"), pair(3, "red  roses", "another revision")]
    test = [pair(4, "TULIPS", "c"), pair(5, "Lilies", "d")]
    corpus = corpus_of_pairs(train, test, name="nq", source="here")
    assert corpus.doc_ids == ("1", "2", "5")
    assert corpus.titles == ("Red Roses", "Tulips", "Lilies")
    assert corpus.texts == ("a", "b", "d")
    assert corpus.queries["3"] == "question 3"
    assert corpus.qrels == {
        "train": {"1": {"1": 1}, "2": {"2": 1}, "3": {"1": 1}},
        "test": {"4": {"2": 1}, "5": {"5": 1}},
    }


def test_documents_by_text():
    train = [pair(1, "Roses", "Red ones"), pair(2, "Roses", "red  ONES"), pair(3, "Roses", "white ones")]
    corpus = corpus_of_pairs(train, [], identity="text", name="nq", source="here")
    assert corpus.doc_ids == ("1", "3")
    assert corpus.qrels == {"train": {"1": {"1": 1}, "2": {"1": 1}, "3": {"3": 1}}}


def test_pages_without_title_go_by_their_text():
    train = [pair(1, "", "one page"), pair(2, " ", "another"), pair(3, "", "one page")]
    assert corpus_of_pairs(train, [], name="nq", source="here").doc_ids == ("1", "2")


def test_a_sample_does_not_depend_on_the_order():
    pairs = [pair(number, f"title {number}") for number in range(100)]
    sample = sample_pairs(pairs, 30, seed=1)
    assert sample_pairs(reversed(pairs), 30, seed=1) == sample
    assert len(set(sample)) == 30
    assert sample_pairs(pairs, 30, seed=2) != sample
    assert sample_pairs(pairs, 60, seed=1)[:30] == sample
    assert sample != sorted(sample, key=lambda drawn: int(drawn.example_id))
    with pytest.raises(InputError, match="100 pairs in Natural Questions; expected at least 101"):
        sample_pairs(pairs, 101, seed=1)


def record(number, title, question):
    """Return a page in the form of TFDS's own builder, markup included."""
    words = [f"word{position}" for position in range(number + 1)]
    tokens = [("<H1>", True), *((word, False) for word in title.split()), ("</H1>", True), ("<P>", True)]
    tokens += [*((word, False) for word in words), ("</P>", True)]
    answer = {"start_token": 0, "end_token": 1, "start_byte": 0, "end_byte": 4}
    return {
        "id": str(5225754983651766092 + number),
        "document": {
            "title": title,
            "url": f"https://en.wikipedia.org//w/index.php?title={title.replace(' ', '_')}&oldid={number}",
            "html": f"<html><h1>{title}</h1></html>",
            "tokens": [{"token": token, "is_html": is_html} for token, is_html in tokens],
        },
        "question": {"text": question, "tokens": question.split()},
        "annotations": [
            {"id": "1", "long_answer": answer, "short_answers": [{**answer, "text": "x"}], "yes_no_answer": -1}
        ],
    }


TRAIN = [record(number, f"Page {number % 7}", f"what is {number}") for number in range(20)]
VALIDATION = [record(number, f"Page {number % 9}", f"who is {number} café") for number in range(24, 29)]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Prepare a small set under the name, configuration and features of the real one, without its downloads."""
    tfds = pytest.importorskip("tensorflow_datasets", reason="TFDS, of the extra seqio, is not installed")
    from tensorflow_datasets.datasets.natural_questions import natural_questions_dataset_builder as original

    class Prepared(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = "natural_questions"
        VERSION = original.Builder.VERSION
        BUILDER_CONFIGS = (original.Builder.BUILDER_CONFIGS[0],)
        pkg_dir_path = code_path = None  # it has no checksums of downloads beside it

        def _info(self):
            return tfds.core.DatasetInfo(builder=self, features=self.builder_config.features)

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples(TRAIN), "validation": self._generate_examples(VALIDATION)}

        def _generate_examples(self, records):
            for example in records:
                yield example["id"], example

    folder = tmp_path_factory.mktemp("tfds")
    Prepared(data_dir=str(folder), config="default").download_and_prepare()
    return str(folder)


def test_all_pairs_of_both_splits(prepared):
    corpus = natural_questions("320k", data_dir=prepared)
    assert corpus.name == "nq320k"
    assert sorted(corpus.titles) == [f"Page {number}" for number in range(9)]
    expected = {example["id"]: example["question"]["text"] for example in (*TRAIN, *VALIDATION)}
    assert corpus.queries == expected
    assert {split: len(qrels) for split, qrels in corpus.qrels.items()} == {"train": 20, "test": 5}
    for split, records in (("train", TRAIN), ("test", VALIDATION)):
        for example in records:
            (doc_id,) = corpus.qrels[split][example["id"]]
            assert corpus.titles[corpus.document_index[doc_id]] == example["document"]["title"]


def test_text_is_the_page_without_markup(prepared):
    corpus = natural_questions("320k", data_dir=prepared, identity="text")
    by_id = {example["id"]: example for example in (*TRAIN, *VALIDATION)}
    assert len(corpus) == 25
    for doc_id, text in zip(corpus.doc_ids, corpus.texts, strict=True):
        tokens = by_id[doc_id]["document"]["tokens"]
        assert text == " ".join(token["token"] for token in tokens if not token["is_html"])


def test_text_ends_after_its_first_characters(prepared, monkeypatch):
    whole = natural_questions("320k", data_dir=prepared, identity="text")
    monkeypatch.setattr(nq, "DOCUMENT_CHARACTERS", 9)
    texts = natural_questions("320k", data_dir=prepared, identity="text").texts
    assert set(texts) == {text[:9].strip() for text in whole.texts}


def test_samples_hold_out_a_fifth_of_the_training_pairs(prepared, monkeypatch):
    monkeypatch.setitem(nq._PAIRS, "10k", 15)
    corpus = natural_questions("10k", data_dir=prepared)
    assert {split: len(qrels) for split, qrels in corpus.qrels.items()} == {"train": 12, "test": 3}
    assert set(corpus.queries) <= {example["id"] for example in TRAIN}
    assert natural_questions("10k", data_dir=prepared).qrels == corpus.qrels
    assert natural_questions("10k", data_dir=prepared, seed=1).qrels != corpus.qrels


def test_too_small_a_set_is_refused(prepared):
    with pytest.raises(InputError, match="20 pairs in Natural Questions; expected at least 10,000"):
        natural_questions("10k", data_dir=prepared)


def test_written_out_it_is_a_folder_like_any_other(prepared, tmp_path):
    corpus = natural_questions("320k", data_dir=prepared)
    write_beir(corpus, tmp_path / "nq320k")
    again = read_beir(tmp_path / "nq320k")
    assert (again.fingerprint, again.qrels, again.queries) == (corpus.fingerprint, corpus.qrels, corpus.queries)


def test_a_set_that_is_not_prepared_is_refused(tmp_path):
    pytest.importorskip("tensorflow_datasets", reason="TFDS, of the extra seqio, is not installed")
    with pytest.raises(InputError, match=r"not prepared.*data_dir.*download"):
        natural_questions("10k", data_dir=str(tmp_path))


def test_without_tensorflow_datasets_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(InputError, match=r"pip install 'genret_jax\[seqio\]'"):
        natural_questions("10k")
