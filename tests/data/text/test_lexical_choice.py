"""The settings of BM25 and of its sum with vectors, chosen for a corpus."""

import dataclasses

import numpy as np
import scipy.sparse

from genret_jax.data.text import lexical_choice
from genret_jax.data.text.lexical import QueryMeans, Settings, lexical_documents
from genret_jax.data.text.lexical_choice import choose_beside_vectors, choose_settings
from genret_jax.data.text.lsa import bm25, bm25_idf


def csr(rows):
    return scipy.sparse.csr_matrix(np.array(rows, np.float32))


COUNTS = csr([[0, 2, 1, 0], [0, 0, 1, 1], [0, 1, 1, 0], [0, 0, 0, 3]])
NO_QUERIES, NO_ANSWERS = csr(np.zeros((0, 4))), csr(np.zeros((4, 0)))


def test_without_training_queries_it_is_plain_bm25():
    settings = choose_settings(COUNTS, NO_QUERIES, NO_ANSWERS, seed=0)
    assert settings == Settings()
    found = lexical_documents(COUNTS, NO_QUERIES, NO_ANSWERS, settings)
    expected = bm25(COUNTS, bm25_idf(COUNTS), k1=1.2, b=0.6)
    np.testing.assert_allclose(found.weights.toarray(), expected.toarray())
    assert not found.bias.any()


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


def vectors_of(counts, queries, answers, *, noise, seed=1):
    """Return vectors that tell which document a query asks for, but for noise."""
    random = np.random.default_rng(seed)
    documents = random.normal(size=(counts.shape[0], 16))
    asked = answers.T @ documents + noise * random.normal(size=(queries.shape[0], 16))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (documents, asked)]
    return QueryMeans(answers, *unit)


def chosen_beside(vectors, *given, seed=0):
    return choose_beside_vectors(choose_settings(*given, seed=seed), *given, seed=seed, vectors=vectors)


def test_the_choices_are_these():
    """Of BM25 alone, and of its sum with vectors, which begins with the constants of BM25 alone."""
    for helpful, query_weight, share in ((True, 2.0, 1.0), (False, 0.0, 0.0)):
        given = world(helpful)
        alone = Settings(k1=1.8, b=0.75, query_weight=query_weight)
        assert choose_settings(*given, seed=0) == alone
        both = dataclasses.replace(alone, query_weight=share, cosine_weight=0.5)
        assert chosen_beside(vectors_of(*given, noise=1.0), *given) == both
    nothing = COUNTS, NO_QUERIES, NO_ANSWERS
    assert chosen_beside(QueryMeans(NO_ANSWERS, np.eye(4), np.zeros((0, 4))), *nothing) == Settings()


def test_products_with_vectors_are_computed_once(monkeypatch):
    """Not again for every setting: they cost more than all else."""
    given, made, products = world(helpful=True), [], lexical_choice._Products
    monkeypatch.setattr(lexical_choice, "_Products", lambda *parts: made.append(len(parts[1])) or products(*parts))
    chosen_beside(vectors_of(*given, noise=1.0), *given)
    assert made == [100, 80]


def test_vectors_count_for_more_the_better_they_are():
    counts, queries, answers = world(helpful=False)
    given = counts, queries[::-1], answers  # words of other documents
    good, useless = (chosen_beside(vectors_of(*given, noise=noise), *given).cosine_weight for noise in (0.5, 100.0))
    assert good > useless == 0.0


def test_vectors_of_training_queries_count_where_queries_recur():
    """Queries of a document resemble each other, not the document."""
    counts, queries, answers = world(helpful=False)
    random = np.random.default_rng(0)
    documents, topics = random.normal(size=(2, counts.shape[0], 16))
    asked = answers.T @ topics + 0.3 * random.normal(size=(queries.shape[0], 16))
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (documents, asked)]
    found = chosen_beside(QueryMeans(answers, *unit), counts, queries, answers)
    assert found.vector_weight >= 0.5


def test_a_left_out_query_is_ranked_as_if_it_had_never_been_there():
    """Choosing must score each left-out query against weights that are made without it."""
    counts, queries, answers = world(helpful=True)
    vectors = vectors_of(counts, queries, answers, noise=1.0)
    settings = Settings(k1=0.9, b=0.4, query_weight=0.5)
    left_out = lexical_choice._LeftOut(counts, queries, answers, 0, vectors)
    value, chosen = left_out.best(settings)
    kept = np.ones(queries.shape[0], bool)
    expected, weight = 0.0, chosen.vector_weight
    unasked = np.asarray(answers.sum(axis=1)).ravel() == 0
    whole = lexical_documents(counts, queries, answers, settings).weights
    for document, query, vote in zip(left_out._document, left_out._query, sum(left_out._votes), strict=True):
        kept[:] = True
        kept[query] = False
        idf, usual = bm25_idf(counts, queries), float((counts + 0.5 * (answers @ queries)).sum()) / len(unasked)
        own = scipy.sparse.csr_matrix((counts + 0.5 * (answers[:, kept] @ queries[kept]))[document])
        mine = (bm25(own, idf, usual_length=usual, k1=0.9, b=0.4) @ queries[query].T).toarray().item()
        asked = vectors.asked[query]
        points = max(1.0, (whole.max(axis=0).toarray() @ queries[query].T.toarray()).item()) * chosen.cosine_weight
        mean = answers[document][:, kept] @ vectors.asked[kept] / max(answers[document][:, kept].sum(), 1)
        mine += points * float(asked @ (vectors.documents[document] + weight * mean.ravel()))
        mine += chosen.bonus * (answers[document][:, kept].sum() == 0)
        others = (whole @ queries[query].T).toarray().ravel() + points * (vectors.rows(weight) @ asked)
        others += chosen.bonus * unasked
        others[answers[:, [query]].nonzero()[0]] = -np.inf
        rank = 1 + np.sum(others >= mine)
        expected += vote / rank if rank <= 10 else 0.0
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_queries_weigh_as_they_recur_and_as_documents_do(monkeypatch):
    """Half of the left-out queries have a document with others, three quarters of the documents have some."""
    counts, queries = csr(np.eye(8, 20, 1)), csr(np.eye(8, 20, 9))
    answers = np.zeros((8, 8))
    answers[[0, 0, 1, 1, 2, 3, 4, 5], np.arange(8)] = 1
    monkeypatch.setattr(lexical_choice, "_FEW", 4)
    left_out = lexical_choice._LeftOut(counts, queries, csr(answers), 0)
    assert left_out.again.sum() == 4
    of_again, of_alone = left_out._votes
    assert not of_again[~left_out.again].any()
    assert not of_alone[left_out.again].any()
    np.testing.assert_allclose([of_again.sum(), of_alone.sum()], [(0.5 + 0.75) / 2, 1 - (0.5 + 0.75) / 2])


def test_one_query_each_does_not_say_that_nobody_asks_again():
    """Half of the documents have one query each: a high bonus would find only the others."""
    counts, queries, answers = world(helpful=False)
    first = np.unique(answers.tocsc().indices, return_index=True)[1]
    given = counts, queries[first], csr(answers.toarray()[:, first])
    assert given[2].sum(axis=1).max() == 1
    left_out = lexical_choice._LeftOut(*given, 0)
    assert not left_out.again.any()
    np.testing.assert_allclose([votes.sum() for votes in left_out._votes], [0.25, 0.75])
    # The bonus lets the document win as one without queries, and lose as one with some.
    others = np.where(np.diff(given[2].indptr) > 0, 0.0, 1.0)[None].astype(np.float32)
    values = left_out._reciprocal_ranks(others, np.array([1.5]), slice(0, 1))
    whole = sum(votes[0] for votes in left_out._votes)
    np.testing.assert_allclose(values[0], whole)
    np.testing.assert_allclose(values[-1], left_out._votes[1][0])
