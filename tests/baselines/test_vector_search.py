"""Vector search against a sort of all inner products."""

import numpy as np
import pytest

from genret_jax.baselines import vector_search
from genret_jax.baselines.vector_search import ExactIndex, HnswConfig, HnswIndex, recall_of_exact
from genret_jax.errors import InputError


def unit_vectors(count, width, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


DOCUMENTS, QUERIES = unit_vectors(500, 16, 0), unit_vectors(40, 16, 1)


def test_exact_search_is_a_sort():
    scores, found = ExactIndex(DOCUMENTS).search(QUERIES, 7)
    similarity = QUERIES @ DOCUMENTS.T
    np.testing.assert_array_equal(found, np.argsort(-similarity, axis=1)[:, :7])
    np.testing.assert_allclose(scores, np.sort(similarity, axis=1)[:, ::-1][:, :7], atol=1e-6)


def test_vectors_are_kept_in_their_type_and_multiplied_in_float32():
    half = DOCUMENTS.astype(np.float16)
    index, wide = ExactIndex(half), ExactIndex(half.astype(np.float32))
    for kept, widened in zip(index.search(QUERIES, 7), wide.search(QUERIES, 7), strict=True):
        np.testing.assert_array_equal(kept, widened)
    assert (index.num_bytes, wide.num_bytes) == (500 * 16 * 2, 500 * 16 * 4)


def test_the_graph_costs_at_least_its_vectors_and_lowest_links():
    index = HnswIndex(DOCUMENTS, HnswConfig(neighbours=8))
    lowest = 500 * (16 * 4 + 2 * 8 * 4)
    assert lowest < index.num_bytes < 1.5 * lowest


def test_exact_search_in_blocks_is_the_same(monkeypatch):
    whole = ExactIndex(DOCUMENTS).search(QUERIES, 5)
    monkeypatch.setattr(vector_search, "_SCORES_AT_ONCE", 500 * 7)  # seven queries a block, the last block of five
    for blocks, at_once in zip(ExactIndex(DOCUMENTS).search(QUERIES, 5), whole, strict=True):
        np.testing.assert_allclose(blocks, at_once, atol=1e-6)


def test_exact_ties_are_in_the_order_of_the_documents():
    _, found = ExactIndex(np.tile(DOCUMENTS[:1], (6, 1))).search(QUERIES[:1], 4)
    np.testing.assert_array_equal(found, [[0, 1, 2, 3]])


@pytest.mark.parametrize("index", [ExactIndex, HnswIndex])
def test_fewer_documents_than_results_and_no_queries(index):
    built = index(DOCUMENTS[:3])
    scores, found = built.search(QUERIES, 10)
    assert scores.shape == found.shape == (40, 3)
    np.testing.assert_array_equal(np.sort(found, axis=1), np.tile(np.arange(3), (40, 1)))
    assert built.search(QUERIES[:0], 10)[1].shape == (0, 3)


def test_hnsw_finds_nearly_all_and_repeats_itself():
    index = HnswIndex(DOCUMENTS, HnswConfig(ef_search=64))
    scores, found = index.search(QUERIES, 10)
    exact_scores, exact = ExactIndex(DOCUMENTS).search(QUERIES, 10)
    shared = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found.tolist(), exact.tolist(), strict=True)])
    assert shared > 0.97
    np.testing.assert_allclose(scores[:, 0], exact_scores[:, 0], atol=1e-5)
    np.testing.assert_array_equal(HnswIndex(DOCUMENTS, HnswConfig(ef_search=64)).search(QUERIES, 10)[1], found)
    assert index.describe() == "FAISS HNSW, M 32, efConstruction 80"
    assert [index.config.effort(results) for results in (10, 100)] == [64, 100]


def test_less_effort_finds_less():
    documents = unit_vectors(3000, 64, 2)
    exact = ExactIndex(documents).search(QUERIES := unit_vectors(50, 64, 3), 10)[1]

    def recall(ef_search):
        found = HnswIndex(documents, HnswConfig(neighbours=4, ef_construction=8, ef_search=ef_search))
        rows = zip(found.search(QUERIES, 10)[1].tolist(), exact.tolist(), strict=True)
        return np.mean([len(set(a) & set(b)) / 10 for a, b in rows])

    assert recall(10) < recall(200)


def test_recall_of_the_exact_results():
    exact = {"q1": [("a", 3.0), ("b", 2.0), ("c", 1.0)], "q2": [("d", 1.0)], "q3": []}
    approximate = {"q1": [("b", 2.0), ("x", 1.0), ("a", 0.5)], "q2": [("d", 1.0)]}
    assert recall_of_exact(approximate, exact, 2) == pytest.approx((1 / 2 + 1) / 2)
    assert recall_of_exact(exact, exact, 3) == 1


def test_constants_are_checked():
    with pytest.raises(InputError, match=r"HnswConfig\.ef_search is 0; expected at least 2"):
        HnswConfig(ef_search=0)
