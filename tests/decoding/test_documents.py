import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.decoding import INVALID, BeamResult, DocidIndex, RankedDocuments, rank_documents, with_share


def result_of(docids, scores):
    """A result from docid numbers, -1 for an invalid place."""
    docids = np.array(docids)
    return BeamResult(
        tokens=np.zeros((*docids.shape, 1), np.int32),
        scores=np.where(docids >= 0, np.array(scores, np.float32), np.float32(INVALID)),
        docids=docids,
        rows=docids,
        valid=docids >= 0,
        bound=np.full(len(docids), INVALID, np.float32),
        has_nan=np.zeros(len(docids), bool),
    )


# Docid 0 names documents 7 and 3, in this order; docid 1 names 3; docid 2 names 5.
INDEX = DocidIndex.build(np.array([[4], [2], [2], [3]]), np.ones(4, int), np.array([5, 7, 3, 3]), vocab_size=5)


def test_each_document_once_with_its_best_score():
    ranked = rank_documents(result_of([[1, 0, 2], [2, -1, -1]], [[-1, -2, -3], [-4, 0, 0]]), INDEX)
    assert ranked.of(0) == [(3, -1.0), (7, -2.0), (5, -3.0)]
    assert ranked.of(1) == [(5, -4.0)]
    np.testing.assert_array_equal(ranked.documents[1], [5, -1, -1])
    np.testing.assert_array_equal(ranked.scores[1, 1:], np.float32([INVALID, INVALID]))


def test_documents_that_share_a_docid_stay_in_their_stated_order():
    ranked = rank_documents(result_of([[0, 1]], [[-1, -2]]), INDEX, limit=5)
    assert ranked.of(0) == [(7, -1.0), (3, -1.0)]
    assert ranked.documents.shape == (1, 5)


def test_the_limit_cuts():
    ranked = rank_documents(result_of([[0, 2]], [[-1, -2]]), INDEX, limit=1)
    assert ranked.of(0) == [(7, -1.0)]


def test_nothing_found():
    assert rank_documents(result_of([[-1, -1]], [[0, 0]]), INDEX).of(0) == []


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    rows=st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=20),
    seed=st.integers(0, 1000),
    limit=st.integers(1, 9),
)
def test_equals_a_loop(rows, seed, limit):
    codes, document = map(np.array, zip(*rows, strict=True))
    index = DocidIndex.build(codes[:, None], np.ones(len(rows), int), document, vocab_size=6)
    names = [document[codes == code].tolist() for code in np.unique(codes)]
    random = np.random.default_rng(seed)
    docids = np.full((3, len(names)), -1)
    for query in range(3):
        count = random.integers(0, len(names) + 1)
        docids[query, :count] = random.permutation(len(names))[:count]
    scores = -np.sort(random.random(docids.shape).astype(np.float32))
    ranked = rank_documents(result_of(docids, scores), index, limit=limit)
    for query in range(3):
        best = {}
        for docid, score in zip(docids[query], scores[query], strict=True):
            for name in names[docid] if docid >= 0 else ():
                best.setdefault(name, float(score))
        assert ranked.of(query) == list(best.items())[:limit]


def ranking(*documents):
    """Documents of one query, best first; -1 for none."""
    found = np.array([documents], np.int32)
    return RankedDocuments(found, np.where(found >= 0, -np.arange(found.shape[1]) - 1.0, INVALID), found >= 0)


def test_a_share_is_spread_over_the_ranks():
    known, new = ranking(1, 2, 3, 4, 5), ranking(11, 12, 13, 14, 15)
    cases = {
        0.0: [1, 2, 3, 4, 5],
        0.2: [1, 2, 3, 4, 11],
        0.4: [1, 2, 11, 3, 12],
        0.5: [1, 11, 2, 12, 3],
        1.0: [11, 12, 13, 14, 15],
    }
    for share, expected in cases.items():
        found = with_share(known, new, share, 5)
        assert found.documents[0].tolist() == expected
        for rank in range(6):
            assert (found.documents[0, :rank] > 10).sum() == int(share * rank + 1e-9)
    np.testing.assert_array_equal(with_share(known, new, 0.4, 5).scores[0], [-1, -2, -1, -3, -2])


def test_where_one_ranking_ends_the_other_goes_on():
    few, many = ranking(1, -1, -1, -1), ranking(11, 12, 13, 14)
    assert with_share(few, many, 0.25, 4).documents[0].tolist() == [1, 11, 12, 13]
    found = with_share(many, few, 0.5, 4)
    assert found.documents[0].tolist() == [11, 1, 12, 13]
    both = with_share(few, ranking(7, -1, -1, -1), 0.5, 4)
    assert both.of(0) == [(1, -1.0), (7, -1.0)]
