"""BM25 with the words of training queries."""

import numpy as np
import pytest
import scipy.sparse

from genret_jax.data.text.lexical import Settings, cosine_units, later_documents, lexical_documents
from genret_jax.data.text.lsa import bm25_idf
from genret_jax.data.text.terms import number_terms, stop_terms, terms_of
from genret_jax.models import plan


def csr(rows):
    return scipy.sparse.csr_matrix(np.array(rows, np.float32))


COUNTS = csr([[0, 2, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 3]])


def test_training_queries_count_as_text_of_their_documents():
    queries, answers = csr([[0, 0, 0, 1]]), csr([[1], [0], [0], [0]])
    settings = Settings(k1=0.9, b=0.0, query_weight=0.5, bonus=2.0)
    found = lexical_documents(COUNTS, queries, answers, settings)
    idf = bm25_idf(COUNTS, queries)
    np.testing.assert_allclose(found.weights[0, 3], idf[3] * 0.5 / (0.5 + 0.9), rtol=1e-6)
    assert found.bias.tolist() == [0, 2, 2, 2]


def test_later_documents_are_weighed_like_the_first_without_changing_them():
    queries, answers = csr([[0, 0, 0, 1]]), csr([[1], [0], [0], [0]])
    given = (COUNTS, queries, answers, Settings(k1=0.9, b=0.4, query_weight=0.5))
    found, first = later_documents(COUNTS[1:], *given).weights, lexical_documents(*given).weights
    np.testing.assert_allclose(found.toarray(), first.toarray()[1:], rtol=1e-6)  # documents without training queries


def test_the_least_unit_of_cosines_is_that_of_the_plan():
    unknown = csr(np.zeros((1, 4)))
    assert cosine_units(unknown, np.ones(4, np.float32)).tolist() == [plan.LEAST_UNIT]


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
