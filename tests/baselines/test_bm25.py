"""BM25 on three documents, worked out by hand."""

import math

import pytest

from genret_jax.baselines.bm25 import Bm25, Bm25Config
from genret_jax.data.corpus import Corpus
from genret_jax.errors import InputError


def corpus(*texts):
    doc_ids = tuple(f"d{i}" for i in range(len(texts)))
    return Corpus(name="c", doc_ids=doc_ids, titles=("",) * len(texts), texts=texts)


# Lengths in words 2, 3, 4 (mean 3); "cat" is in two documents, "dog" in one.
ANIMALS = corpus("cat cat", "cat dog bird", "fish bird fish fish")


def lucene(term_frequency, document_frequency, length, *, k1, b, documents=3, mean_length=3):
    """Return one term's weight; Kamphuis et al. 2020, table 1, "Lucene (accurate)"."""
    idf = math.log(1 + (documents - document_frequency + 0.5) / (document_frequency + 0.5))
    return idf * term_frequency / (term_frequency + k1 * (1 - b + b * length / mean_length))


def test_scores_are_lucenes_formula():
    k1, b = 0.9, 0.4
    found = Bm25(ANIMALS, Bm25Config(k1=k1, b=b)).search({"q1": "cats", "q2": "the dog and the cat"}, k=3)
    assert [d for d, _ in found["q1"]] == ["d0", "d1"]
    assert [s for _, s in found["q1"]] == pytest.approx([lucene(2, 2, 2, k1=k1, b=b), lucene(1, 2, 3, k1=k1, b=b)])
    both = lucene(1, 2, 3, k1=k1, b=b) + lucene(1, 1, 3, k1=k1, b=b)
    assert found["q2"][0] == ("d1", pytest.approx(both))


def test_it_logs_nothing(caplog):
    Bm25(ANIMALS)
    assert caplog.records == []


def test_postings_are_counted():
    bm25 = Bm25(ANIMALS)
    # Six pairs of a word and its document, a float32 and an int32 each; the rest is where each word begins.
    begins = bm25.num_bytes - 6 * (4 + 4)
    assert begins in (4 * 5, 8 * 5)


def test_defaults_are_those_of_bm25s():
    found = Bm25(ANIMALS).search({"q": "dog"}, k=1)
    assert found == {"q": [("d1", pytest.approx(lucene(1, 1, 3, k1=1.5, b=0.75)))]}
    assert Bm25Config().describe() == "bm25s, Lucene variant, k1 1.5, b 0.75, English stop words, Snowball stemmer"


def test_documents_that_share_no_word_are_not_results():
    found = Bm25(ANIMALS).search({"known": "bird", "unknown": "zebra", "stop words": "the", "empty": ""}, k=10)
    assert [len(found[query]) for query in ("known", "unknown", "stop words", "empty")] == [2, 0, 0, 0]


def test_stemming_and_stop_words_can_be_turned_off():
    plain = Bm25(corpus("the cats", "a dog"), Bm25Config(stop_words=False, stemmer=False))
    found = plain.search({"stem": "cat", "word": "cats", "stop": "the"}, k=2)
    assert {query: [d for d, _ in ranking] for query, ranking in found.items()} == {
        "stem": [],
        "word": ["d0"],
        "stop": ["d0"],
    }


def test_ties_are_in_the_order_of_the_corpus():
    found = Bm25(corpus("dog", "cat", "dog", "dog")).search({"q": "dog"}, k=4)
    assert [d for d, _ in found["q"]] == ["d0", "d2", "d3"]
    many = corpus(*["dog"] * 50, "cat")
    assert [d for d, _ in Bm25(many).search({"q": "dog"}, k=5)["q"]] == ["d0", "d1", "d2", "d3", "d4"]


def test_documents_without_text_are_never_found():
    assert [d for d, _ in Bm25(corpus("", "cat", "")).search({"q": "cat"}, k=3)["q"]] == ["d1"]


def test_nothing_to_index_and_wrong_constants():
    with pytest.raises(InputError, match="no document with a word"):
        Bm25(corpus("", "the"))
    with pytest.raises(InputError, match=r"Bm25Config\.b is 2\.0; expected from 0 to 1"):
        Bm25Config(b=2.0)


def test_without_queries_there_are_no_rankings():
    assert Bm25(ANIMALS).search({}, k=3) == {}


def test_scripts_without_spaces_are_found_by_their_bigrams():
    found = Bm25(corpus("東京駅の地図", "京都の寺", "a map")).search({"q": "地図はどこ", "map": "map"}, k=3)
    assert [d for d, _ in found["q"]] == ["d0"]
    assert [d for d, _ in found["map"]] == ["d2"]


@pytest.mark.parametrize(
    ("documents", "query"),
    [
        (("मुंबई की झील", "दिल्ली का नक्शा"), "झील"),  # vowels are combining marks
        (("แผนที่กรุงเทพ", "วัดในเชียงใหม่"), "แผนที่"),
        (("猫", "犬"), "猫"),
        (("배 지도", "산 그림"), "배"),
    ],
)
def test_words_of_other_scripts_are_words(documents, query):
    assert [d for d, _ in Bm25(corpus(*documents)).search({"q": query}, k=2)["q"]] == ["d0"]
    alone = "latin text, à single letter ß"
    assert Bm25(corpus("x", alone))._tokenize([alone, *documents])[0] == ["latin", "text", "singl", "letter"]
