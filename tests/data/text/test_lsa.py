"""LSA against scikit-learn's TF-IDF and NumPy's full SVD; lexical vectors against bm25s."""

import numpy as np
import pytest
import scipy.sparse
from sklearn.feature_extraction.text import TfidfTransformer

from genret_jax.data.text.lsa import best_query_weight, bm25, bm25_idf, lexical, lsa, tf_idf, votes_of_left_out
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


def lexical_of(counts, dimensions, seed, *, queries=None, answers=None, query_weight=0.25, **more):
    """Return lexical vectors, by default without queries."""
    if queries is None:
        queries = scipy.sparse.csr_matrix((0, counts.shape[1]), dtype=np.float32)
        answers = scipy.sparse.csr_matrix((counts.shape[0], 0), dtype=np.float32)
    return lexical(counts, dimensions, seed, queries=queries, answers=answers, query_weight=query_weight, **more)


def test_lexical_vectors_are_bm25_where_there_is_room():
    counts = counts_of_topics(documents=20)  # half of the dimensions for each
    found = lexical_of(counts, 40, seed=0)
    assert found.documents.shape == (20, 40)
    expected = bm25(counts, bm25_idf(counts)).toarray()
    np.testing.assert_allclose(found.documents @ found.terms.T, expected, atol=1e-5)


def test_lexical_vectors_are_bm25_in_the_mean_where_there_is_not():
    """Singular vectors alone lose the same part of a word every time; the sketch of the rest is right in the mean."""
    counts = counts_of_topics(documents=300, terms=200)
    weighted = bm25(counts, bm25_idf(counts)).toarray()

    def scores(width):
        every = [lexical_of(counts, width, seed=seed) for seed in range(50)]
        return np.stack([found.documents @ found.terms.T for found in every])

    def share(found):
        return np.vdot(found, weighted) / np.vdot(weighted, weighted)

    narrow, leading = scores(32), lexical_of(counts, 32, seed=0)
    assert share(narrow.mean(axis=0)) == pytest.approx(1, abs=0.02)
    assert share(leading.documents[:, :16] @ leading.terms[:, :16].T) < 0.9
    assert scores(128).std(axis=0).mean() < 0.5 * narrow.std(axis=0).mean()


def test_queries_are_words_of_the_documents_that_answer_them():
    """As bm25s scores documents with their queries appended, where a word of a query counts as one of the document."""
    counts, queries = counts_of_topics(documents=20), counts_of_topics(seed=1, documents=8)
    answered = np.array([0, 0, 3, 3, 3, 7, 9, 11])
    answers = scipy.sparse.csr_matrix((np.ones(8), (answered, np.arange(8))), shape=(20, 8))
    found = lexical_of(counts, 40, 0, queries=queries, answers=answers, query_weight=1.0)
    together = scipy.sparse.csr_matrix(counts + answers @ queries)
    weights = bm25(together, np.ones(counts.shape[1], np.float32))
    idf = bm25_idf(counts, queries)
    np.testing.assert_allclose(found.documents @ found.terms.T, weights.toarray() * idf, atol=1e-4)
    without = lexical_of(counts, 40, 0, queries=queries, answers=answers, query_weight=0.0)
    weights = bm25(counts, idf).toarray()
    np.testing.assert_allclose(without.documents @ without.terms.T, weights, atol=1e-4)


def test_later_documents_get_vectors_by_what_was_found():
    """The same that they would have had, where they are documents of before; and nothing else changes."""
    counts = counts_of_topics()
    again = counts[[5, 9]]
    for found, grown in (
        (lsa(counts, 8, 0), lsa(counts, 8, 0, later=again)),
        (lexical_of(counts, 16, 0), lexical_of(counts, 16, 0, later=again)),
    ):
        np.testing.assert_allclose(grown.documents[:-2], found.documents, atol=1e-6)
        np.testing.assert_allclose(grown.documents[-2:], found.documents[[5, 9]], atol=1e-5)
        np.testing.assert_array_equal(grown.terms, found.terms)


def test_lexical_vectors_of_unused_terms_and_empty_documents_are_zero():
    counts = counts_of_topics().tolil()
    counts[3], counts[:, 5] = 0, 0
    found = lexical_of(counts.tocsr(), 16, seed=0)
    assert not found.documents[3].any()
    assert not found.terms[5].any()
    assert np.isfinite(found.documents).all()
    with pytest.raises(InputError, match="no document holds any term"):
        lexical_of(scipy.sparse.csr_matrix((3, 4)), 8, seed=0)


def asked(times):
    """Documents of one word each, asked for so many times by it and, thrice each, words that no document has.

    Those are the document's own where it is asked for several times, and one that all queries have where it is not.
    """
    counts, number = scipy.sparse.identity(60, format="lil"), 60 * times
    counts.resize((60, 121))
    queries, answers = scipy.sparse.lil_matrix((number, 121)), scipy.sparse.lil_matrix((60, number))
    for query in range(number):
        document = query // times
        answers[document, query] = 1
        queries[query, [(document + query % 2) % 60, 60 + document if times > 1 else 120]] = [1, 3]
    return tuple(matrix.tocsr() for matrix in (counts, queries, answers))


def test_the_weight_of_queries_is_what_finds_those_that_are_left_out():
    """A query in two names its document's word; with words that belong to the document the others find it too."""
    assert best_query_weight(*asked(times=2), 0) > 0
    assert best_query_weight(*asked(times=1), 0) == 0
    counts = asked(times=1)[0]
    nothing = scipy.sparse.csr_matrix((0, 121)), scipy.sparse.csr_matrix((60, 0))
    assert best_query_weight(counts, *nothing, 0) == 0


def test_left_out_queries_vote_as_documents_have_queries():
    """Few documents have several queries, but once all of them have two they all have; and the others lose nothing."""
    (counts, once, of_once), (_, twice, of_twice) = asked(times=1), asked(times=2)
    queries = scipy.sparse.vstack([once[5:], twice[:10]], format="csr")
    answers = scipy.sparse.hstack([of_once[:, 5:], of_twice[:, :10]], format="csr")
    assert best_query_weight(counts, queries, answers, 0) > 0
    again = np.arange(1000) < 300
    votes = votes_of_left_out(again, 0.8)
    assert votes[again].sum() == pytest.approx(0.8)
    assert votes[~again].sum() == pytest.approx(0.2)


@pytest.mark.parametrize("few", [True, False])
def test_a_handful_of_left_out_queries_does_not_outvote_the_others(few):
    again = (np.arange(1000) < 2) == few
    votes = votes_of_left_out(again, float(few))
    assert votes[again == few].sum() < 0.05 * votes.sum()
