"""LSA against scikit-learn's TF-IDF and NumPy's full SVD; BM25 against bm25s."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfTransformer

from genret_jax.data.text.lsa import bm25, bm25_idf, lsa, tf_idf
from genret_jax.errors import InputError


def counts_of_topics(seed=0, documents=60, terms=40, topics=5):
    """Draw counts with a few strong directions, so that their order is not a matter of rounding."""
    random = np.random.default_rng(seed)
    rates = random.gamma(0.2, 1.0, (documents, topics)) @ (random.gamma(0.3, 1.0, (topics, terms)))
    counts = random.poisson(rates)
    counts[:, 0] += 1  # no document is empty
    return scipy.sparse.csr_matrix(counts)


def test_weights_are_those_of_scikit_learn():
    counts = counts_of_topics()
    weighted, idf = tf_idf(counts)
    oracle = TfidfTransformer(sublinear_tf=True).fit(counts)
    np.testing.assert_allclose(idf, oracle.idf_, rtol=1e-6)
    np.testing.assert_allclose(weighted.toarray(), oracle.transform(counts).toarray(), atol=1e-6)


def test_weights_by_hand():
    weighted, idf = tf_idf(scipy.sparse.csr_matrix([[1, 3], [0, 1]]))
    rare, common = 1 + np.log(3 / 2), 1.0
    np.testing.assert_allclose(idf, [rare, common], rtol=1e-6)
    row = np.array([rare, (1 + np.log(3)) * common])
    np.testing.assert_allclose(weighted.toarray(), [row / np.linalg.norm(row), [0, 1]], rtol=1e-6)


def test_the_input_is_left_alone():
    counts = counts_of_topics()
    before = counts.copy()
    lsa(counts, 4, seed=0)
    assert (counts != before).nnz == 0
    assert counts.dtype == before.dtype


def test_directions_are_those_of_the_full_svd():
    counts = counts_of_topics()
    weighted = tf_idf(counts)[0].toarray()
    _, singular_values, rows = np.linalg.svd(weighted, full_matrices=False)
    found = lsa(counts, 4, seed=0)
    np.testing.assert_allclose(np.linalg.norm(found.documents, axis=0), singular_values[:4], rtol=1e-3)
    np.testing.assert_allclose(np.abs(np.sum(found.terms * rows[:4].T, axis=0)), 1.0, atol=1e-2)
    np.testing.assert_allclose(found.documents, weighted @ found.terms, atol=1e-5)
    np.testing.assert_allclose(found.terms.T @ found.terms, np.eye(4), atol=1e-5)


def test_a_seed_gives_the_same_bits_and_another_the_same_signs():
    counts = counts_of_topics()
    first, again, other = lsa(counts, 4, seed=3), lsa(counts, 4, seed=3), lsa(counts, 4, seed=4)
    for name in first._fields:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    np.testing.assert_allclose(first.documents, other.documents, atol=1e-2)
    largest = np.abs(first.terms).argmax(axis=0)
    assert (first.terms[largest, range(4)] > 0).all()


def test_beyond_the_rank_there_are_zeros():
    found = lsa(scipy.sparse.csr_matrix(np.ones((5, 3), int)), 6, seed=0)  # rank 1, and fewer terms than dimensions
    assert found.documents.shape == (5, 6)
    assert found.terms.shape == (3, 6)
    np.testing.assert_allclose(found.documents[:, 0], 1.0, rtol=1e-5)
    np.testing.assert_array_equal(found.documents[:, 1:], 0.0)
    assert {array.dtype for array in found} == {np.dtype(np.float32)}


def test_empty_documents_and_unused_terms_are_zero():
    counts = scipy.sparse.csr_matrix([[2, 0, 1], [0, 0, 0], [1, 0, 0]])
    found = lsa(counts, 2, seed=0)
    np.testing.assert_array_equal(found.documents[1], 0.0)
    np.testing.assert_array_equal(found.terms[1], 0.0)
    assert np.isfinite(found.documents).all()


def test_nothing_to_analyse_is_refused():
    with pytest.raises(InputError, match="no document holds any term"):
        lsa(scipy.sparse.csr_matrix((3, 4), dtype=int), 2, seed=0)
    with pytest.raises(InputError, match="0 LSA dimensions"):
        lsa(counts_of_topics(), 0, seed=0)


def scores_of_bm25s(counts):
    bm25s = pytest.importorskip("bm25s", reason="bm25s, of the extra baselines, is not installed")
    words = [[str(term) for term in np.repeat(np.arange(counts.shape[1]), row)] for row in counts.toarray()]
    index = bm25s.BM25(method="lucene", k1=0.9, b=0.75, backend="numpy")
    index.index(words, show_progress=False)
    found = np.zeros(counts.shape, np.float32)
    for term in range(counts.shape[1]):
        if str(term) in index.vocab_dict:
            found[:, term] = index.get_scores([str(term)])
    return found


def test_bm25_is_that_of_bm25s():
    counts = counts_of_topics()
    np.testing.assert_allclose(bm25(counts, bm25_idf(counts)).toarray(), scores_of_bm25s(counts), rtol=1e-5)


def test_terms_that_queries_hold_often_say_little():
    """A rare word of documents that half of the queries have counts as one that half of the documents have."""
    counts = scipy.sparse.csr_matrix(np.add(np.eye(2000, 3), [0, 0, 1]))
    alone = bm25_idf(counts)
    np.testing.assert_allclose(alone, np.log1p([1999.5 / 1.5, 1999.5 / 1.5, 0.5 / 2000.5]), rtol=1e-5)
    asked = bm25_idf(counts, scipy.sparse.csr_matrix(np.arange(100_000)[:, None] % 2 * [1, 0, 0]))
    assert asked[0] == pytest.approx(np.log(2), rel=0.01)
    np.testing.assert_array_equal(asked[1:], alone[1:])
    few = bm25_idf(counts, scipy.sparse.csr_matrix([[1, 0, 0]]))
    assert np.log(90) < few[0] < alone[0]
