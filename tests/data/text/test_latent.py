"""Latent vectors of texts."""

import numpy as np
import pytest
from support.tiny_run import tiny_topics

from genret_jax.data.text.latent import LatentEncoder, token_counts
from genret_jax.data.text.lsa import lsa
from genret_jax.data.text.vocabulary import make_vocabulary


def test_documents_have_the_vectors_of_the_analysis_and_queries_those_of_their_first_tokens():
    corpus = tiny_topics()
    vocabulary = make_vocabulary(corpus, kind="bytes", size=200, normalization="words", path=None, extra_ids=0)
    texts = [corpus.document_text(index) for index in range(40)]
    counts = token_counts([vocabulary.encode(text) for text in texts], vocabulary.size)
    assert counts.sum() == sum(len(vocabulary.encode(text)) for text in texts)
    found = lsa(counts, 12, seed=0)
    encoder = LatentEncoder(terms=found.terms * found.idf[:, None], vocabulary=vocabulary, length=5)
    expected = found.documents / np.linalg.norm(found.documents, axis=1, keepdims=True)
    np.testing.assert_allclose(encoder.vectors(texts), expected, atol=1e-4)
    query = encoder.vectors(texts[:1], "query")[0]
    by_hand = encoder.terms[vocabulary.encode(texts[0])[:5]].sum(axis=0)
    np.testing.assert_allclose(query, by_hand / np.linalg.norm(by_hand), atol=1e-5)
    assert not encoder.vectors([""], "query").any()
    assert encoder.vectors([]).shape == (0, 12)


def test_tokens_of_no_text_count_nothing():
    assert token_counts([[], [3, 3, 1]], 5).toarray().tolist() == [[0] * 5, [0, 1, 0, 2, 0]]


@pytest.mark.parametrize("role", ["query", "passage"])
def test_vectors_have_length_one(role):
    corpus = tiny_topics()
    vocabulary = make_vocabulary(corpus, kind="bytes", size=200, normalization="words", path=None, extra_ids=0)
    terms = np.random.default_rng(0).normal(size=(vocabulary.size, 6)).astype(np.float32)
    vectors = LatentEncoder(terms=terms, vocabulary=vocabulary, length=9).vectors(["ban bap", "dap"], role)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
