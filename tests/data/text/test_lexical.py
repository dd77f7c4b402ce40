"""BM25 tuned to a corpus."""

import numpy as np
import pytest
import scipy.sparse

from genret_jax.data.text.lexical import Settings, choose_settings, lexical_documents
from genret_jax.data.text.lsa import bm25, bm25_idf
from genret_jax.data.text.terms import number_terms, stop_terms, terms_of


def csr(rows):
    return scipy.sparse.csr_matrix(np.array(rows, np.float32))


COUNTS = csr([[0, 2, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 3]])
NO_QUERIES, NO_ANSWERS = csr(np.zeros((0, 4))), csr(np.zeros((4, 0)))


def test_without_training_queries_it_is_plain_bm25():
    found = lexical_documents(COUNTS, NO_QUERIES, NO_ANSWERS)
    assert found.settings == Settings()
    expected = bm25(COUNTS, bm25_idf(COUNTS), k1=1.2, b=0.6)
    np.testing.assert_allclose(found.weights.toarray(), expected.toarray())
    assert not found.bias.any()


def test_training_queries_count_as_text_of_their_documents():
    queries, answers = csr([[0, 0, 0, 1]]), csr([[1], [0], [0], [0]])
    settings = Settings(k1=0.9, b=0.0, query_weight=0.5, bonus=2.0)
    found = lexical_documents(COUNTS, queries, answers, settings=settings)
    idf = bm25_idf(COUNTS, queries)
    np.testing.assert_allclose(found.weights[0, 3], idf[3] * 0.5 / (0.5 + 0.9), rtol=1e-6)
    assert found.bias.tolist() == [0, 2, 2, 2]


def world(helpful, seed=0):
    """Documents of random words; training queries share a private word per document, or only noise, and its text."""
    random = np.random.default_rng(seed)
    documents, words = 120, 60
    counts = np.zeros((documents, words + documents), np.float32)
    counts[:, 1:words] = random.poisson(0.3, (documents, words - 1))
    asked = np.repeat(np.arange(documents // 2), 3)
    queries = np.zeros((len(asked), counts.shape[1]), np.float32)
    queries[:, 1:words] = random.poisson(0.1, (len(asked), words - 1))
    if helpful:
        queries[np.arange(len(asked)), words + asked] = 1
    else:
        queries[:, 1:words] += counts[asked, 1:words] * (random.random((len(asked), words - 1)) < 0.5)
    answers = np.zeros((documents, len(asked)), np.float32)
    answers[asked, np.arange(len(asked))] = 1
    return csr(counts), csr(queries), csr(answers)


def test_helpful_queries_get_weight_and_useless_ones_little():
    assert choose_settings(*world(helpful=True), seed=0).query_weight >= 0.5
    assert choose_settings(*world(helpful=False), seed=0).query_weight < 0.5


def test_the_choice_is_the_same_every_time_and_asks_no_other_queries():
    given = world(helpful=True)
    assert choose_settings(*given, seed=1) == choose_settings(*given, seed=1)


def test_a_document_that_loses_its_only_query_does_not_count_as_asked():
    """Leaving out the only query of a document must remove its words there, or every weight would look perfect."""
    documents = 30
    counts = csr(np.eye(documents, 2 * documents + 1, 1))
    queries = csr(np.eye(documents, 2 * documents + 1, documents + 1))  # words that no document has
    answers = csr(np.eye(documents))
    assert choose_settings(counts, queries, answers, seed=0).query_weight == 0.0


@pytest.mark.parametrize(
    ("text", "terms"), [("Running-shoes, HTTPServer", ["run", "shoe", "http", "server"]), ("東京駅", ["東京", "京駅"])]
)
def test_terms_are_stems_of_normalised_words(text, terms):
    assert terms_of(text) == terms


def test_words_of_a_vocabulary_hold_any_number_of_terms():
    terms, numbers, ends = number_terms(["(the", "runs!", "--", "the-runner"])
    assert terms == ["the", "run", "runner"]
    assert numbers.tolist() == [1, 2, 1, 3]
    assert ends.tolist() == [0, 1, 2, 2, 4]
    assert "the" in stop_terms()
