"""Words, vectors and their sum on four documents, worked out by hand."""

import numpy as np
import pytest
import scipy.sparse

from genret_jax.baselines import plan_kinds
from genret_jax.baselines.plan_kinds import EncodedQueries, Words, sum_of_both, vectors_alone, words_alone
from genret_jax.baselines.vector_search import has_faiss
from genret_jax.data.text.lexical import LexicalDocuments, Settings

IDS = ("a", "b", "c", "d")
# Weights of terms 1 and 2 in the four documents; column 0 is padding.
WEIGHTS = scipy.sparse.csr_matrix(np.array([[0, 2, 0], [0, 0, 3], [0, 1, 1], [0, 0, 0]], np.float32))
TERMS = {"one": [1, 0, 0], "both": [1, 2, 0], "twice": [1, 1, 0], "none": [0, 0, 0]}
VECTORS = np.array([[1, 0], [0, 1], [1, 0], [-1, 0]], np.float16)
ASKED = {"one": [1, 0], "both": [0, 1], "twice": [1, 0], "none": [0, 0]}
QUERIES = {f"q{number}": text for number, text in enumerate(TERMS)}


def words(bias=0.0, factors=(1.0, 1.0, 1.0)):
    documents = LexicalDocuments(
        weights=WEIGHTS, bias=np.array([0, 0, 0, bias], np.float32), settings=Settings(bonus=bias)
    )
    return Words(
        terms=lambda texts: np.array([TERMS[text] for text in texts], np.int32),
        documents=documents,
        factors=np.array(factors, np.float32),
    )


def encoded():
    def encode(texts):
        return np.array([ASKED[text] for text in texts], np.float32)

    return EncodedQueries(QUERIES, encode, {"kernel": np.zeros((3, 4))}, "an encoder")


def test_words_add_up_their_weights():
    found = words_alone("words", words(), IDS, QUERIES, 3)
    assert found.run["q0"] == [("a", 2.0), ("c", 1.0), ("b", 0.0)]
    assert found.run["q1"] == [("b", 3.0), ("a", 2.0), ("c", 2.0)]  # equal scores in the order of the documents
    assert found.run["q2"] == [("a", 4.0), ("c", 2.0), ("b", 0.0)]
    assert found.run["q3"] == [("a", 0.0), ("b", 0.0), ("c", 0.0)]
    assert found.depth == 3
    # Four weights and their documents, five beginnings, and four scores without a word; all of 4 bytes.
    assert found.system.details == {"parameters": 0, "bytes per document": (4 * 2 + 5 + 4) * 4 / 4}


def test_a_bonus_and_factors_of_terms():
    found = words_alone("words", words(bias=5.0, factors=(1.0, 0.5, 1.0)), IDS, QUERIES, 4)
    assert found.run["q1"] == [("d", 5.0), ("b", 3.0), ("c", 1.5), ("a", 1.0)]
    assert found.system.description.endswith("bonus 5 for documents without, English stop words of queries × 0.5")


def test_many_queries_are_scored_in_parts(monkeypatch):
    whole = words_alone("words", words(), IDS, QUERIES, 4).run
    both = sum_of_both("sum", words(), encoded(), VECTORS, IDS, 4).run
    monkeypatch.setattr(plan_kinds, "_AT_ONCE", 3)
    assert words_alone("words", words(), IDS, QUERIES, 4).run == whole
    assert sum_of_both("sum", words(), encoded(), VECTORS, IDS, 4).run == both


def test_the_sum_counts_a_cosine_of_one_as_the_highest_score_of_its_words():
    found = sum_of_both("sum", words(), encoded(), VECTORS, IDS, 4)
    assert found.run["q0"] == [("a", 4.0), ("c", 3.0), ("b", 0.0), ("d", -2.0)]
    assert found.run["q1"] == [("b", 8.0), ("a", 2.0), ("c", 2.0), ("d", 0.0)]
    assert found.run["q3"] == [("a", 0.0), ("b", 0.0), ("c", 0.0), ("d", 0.0)]
    assert found.system.details == {"parameters": 12, "bytes per document": (4 * 2 + 5 + 4) * 4 / 4 + 2 * 2}
    assert "+ 1 × cosine in units" in found.system.description


def test_vectors_are_searched_exactly_and_by_hnsw(monkeypatch):
    exact, *others = vectors_alone("encoder", encoded(), VECTORS, IDS, 4)
    assert exact.run["q0"] == [("a", 1.0), ("c", 1.0), ("b", 0.0), ("d", -1.0)]
    assert exact.run["q3"] == []  # nothing is similar to a zero vector
    assert exact.system.details == {"parameters": 12, "bytes per document": 4.0}
    if has_faiss():
        (hnsw,) = others
        assert hnsw.system.name == "encoder, HNSW"
        assert {document for document, _ in hnsw.run["q0"]} == set(IDS)
        assert hnsw.system.details["efSearch"] == 64
        assert hnsw.system.details["share of the exact 10 best found"] == 1.0
        assert hnsw.system.details["bytes per document"] > 8.0
    monkeypatch.setattr(plan_kinds, "has_faiss", lambda: False)
    assert len(vectors_alone("encoder", encoded(), VECTORS, IDS, 4)) == 1


def test_the_time_of_a_query_includes_its_encoding(monkeypatch):
    queries = encoded()
    queries.milliseconds = 1e6
    rows = [*vectors_alone("encoder", queries, VECTORS, IDS, 4), sum_of_both("sum", words(), queries, VECTORS, IDS, 4)]
    assert all(row.milliseconds_per_query > 1e6 for row in rows)
    assert words_alone("words", words(), IDS, QUERIES, 4).milliseconds_per_query < 1e6


@pytest.mark.parametrize("depth", [1, 2, 4, 9])
def test_the_best_are_those_of_a_stable_sort(depth):
    scores = np.random.default_rng(0).integers(5, size=40).astype(np.float32)
    expected = np.argsort(-scores, kind="stable")[:depth]
    np.testing.assert_array_equal(plan_kinds._best(scores, depth), expected)
