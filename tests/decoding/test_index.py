import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genret_jax.decoding import DocidIndex
from genret_jax.errors import InputError
from genret_jax.testing.decoding_oracle import ended_docids, padded_rows, trie_text

# Unsorted, of three lengths, with a docid of two documents (0 and 4), and a document of two docids (1).
TOKENS = np.array([[5, 6, 0], [5, 1, 0], [5, 7, 8], [9, 0, 0], [5, 6, 0], [5, 7, 9]])
LENGTHS = np.array([2, 2, 3, 1, 2, 3])
DOCUMENT = np.array([0, 1, 2, 3, 4, 1])


def small_index():
    return DocidIndex.build(TOKENS, LENGTHS, DOCUMENT, vocab_size=10)


def test_a_trie_drawn():
    assert trie_text(small_index()) == (
        "root (0)\n  5 (1)\n    1 (3) = 1\n    6 (4) = 0 4\n    7 (5)\n      8 (6) = 2\n      9 (7) = 1\n  9 (2) = 3"
    )


def test_the_arrays():
    index = small_index()
    np.testing.assert_array_equal(index.child_offsets, [0, 2, 5, 5, 5, 5, 7, 7, 7])
    np.testing.assert_array_equal(index.child_tokens, [5, 9, 1, 6, 7, 8, 9])
    np.testing.assert_array_equal(index.docid_states, [2, 3, 4, 6, 7])
    np.testing.assert_array_equal(index.row_offsets, [0, 1, 2, 4, 5, 6])
    np.testing.assert_array_equal(index.rows, [3, 1, 0, 4, 2, 5])
    assert (index.root_fanout, index.max_fanout, index.max_length) == (2, 3, 3)
    assert (index.num_states, index.num_docids) == (8, 5)
    assert index.child_tokens.dtype == np.uint8


def test_prefix_nodes_go_to_their_states():
    nodes = np.array([[0, 40, 99], [0, 40, 99], [0, 40, 47], [0, 99, 99], [0, 40, 99], [0, 40, 47]])
    index = DocidIndex.build(TOKENS, LENGTHS, DOCUMENT, nodes, vocab_size=10)
    np.testing.assert_array_equal(index.prefix_nodes, [0, 40, 0, 0, 0, 47, 0, 0])


def test_token_types_follow_the_vocabulary():
    for vocab_size, dtype in ((256, np.uint8), (257, np.uint16), (65536, np.uint16), (65537, np.uint32)):
        index = DocidIndex.build(TOKENS, LENGTHS, DOCUMENT, vocab_size=vocab_size)
        assert index.child_tokens.dtype == dtype


def test_one_document():
    index = DocidIndex.build(np.array([[7]]), np.array([1]), np.array([0]), vocab_size=8)
    assert trie_text(index) == "root (0)\n  7 (1) = 0"
    assert index.max_fanout == 0


sequences = st.lists(st.lists(st.integers(0, 9).filter(lambda token: token != 1), min_size=1, max_size=5), min_size=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sequences=sequences, always=st.booleans(), seed=st.integers(0, 99))
def test_every_docid_and_no_other_is_found(sequences, always, seed):
    docids = ended_docids(sequences, always=always)
    tokens, lengths = padded_rows(docids)
    document = np.random.default_rng(seed).integers(0, 5, len(docids))
    index = DocidIndex.build(tokens, lengths, document, vocab_size=10)
    spelt = {0: ()}
    for state in range(index.num_states):  # parents have lower numbers than their children
        edges = range(index.child_offsets[state], index.child_offsets[state + 1])
        for edge in edges:
            spelt[edge + 1] = (*spelt[state], int(index.child_tokens[edge]))
        assert sorted({index.child_tokens[e] for e in edges}) == [index.child_tokens[e] for e in edges]
    assert set(spelt.values()) == {docid[:length] for docid in docids for length in range(len(docid) + 1)}
    ends = [spelt[state] for state in index.docid_states]
    assert ends == sorted(set(docids), key=lambda docid: (len(docid), docid))
    for number, docid in enumerate(ends):
        here = slice(index.row_offsets[number], index.row_offsets[number + 1])
        assert index.rows[here].tolist() == [row for row, other in enumerate(docids) if other == docid]
        np.testing.assert_array_equal(index.documents[here], document[index.rows[here]])


def test_long_docids_of_a_large_vocabulary():
    """Sort keys of several words: the order is still that of Python's tuples."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 34_000, (300, 20))
    tokens[:, :12] = tokens[0, :12]  # a long common beginning, so that the second key decides
    index = DocidIndex.build(tokens, np.full(300, 20), np.arange(300), vocab_size=34_000)
    expected = sorted(range(300), key=lambda row: tuple(tokens[row]))
    np.testing.assert_array_equal(index.rows, expected)
    assert index.num_states == 1 + sum(len(np.unique(tokens[:, :length], axis=0)) for length in range(1, 21))


def test_building_loops_over_levels_not_documents():
    random = np.random.default_rng(0)
    tokens = random.integers(2, 258, (200_000, 6))
    start = time.perf_counter()
    index = DocidIndex.build(tokens, np.full(200_000, 6), np.arange(200_000), vocab_size=258)
    assert time.perf_counter() - start < 10  # measured: 0.4 s; a loop over documents takes 30
    assert index.num_docids == len(np.unique(tokens, axis=0))


def test_saved_and_memory_mapped(tmp_path):
    index = small_index()
    index.save(tmp_path / "index", details={"docids": "abc"})
    loaded = DocidIndex.load(tmp_path / "index", vocab_size=10)
    assert isinstance(loaded.child_tokens, np.memmap)
    assert trie_text(loaded) == trie_text(index)
    assert (loaded.max_length, loaded.vocab_size) == (3, 10)


def test_an_index_of_another_vocabulary(tmp_path):
    small_index().save(tmp_path / "index")
    with pytest.raises(InputError, match="vocabulary of 10; expected 12, the decoder's"):
        DocidIndex.load(tmp_path / "index", vocab_size=12)


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        (np.zeros((0, 3)), [], "no docids"),
        ([[3], [4]], [1, 0], "docid 1 has length 0"),
        ([[3], [4]], [1, 2], "docid 1 has length 2; expected 1 to 1"),
        ([[3], [4]], [1], r"lengths of shape \(1,\) for 2 docids"),
        ([[3, 4], [3, 10]], [2, 2], "docid 1 has token 10 at position 1; expected .* 0 to 9"),
        ([[3, 4], [3, -1]], [2, 2], "docid 1 has token -1"),
        ([[3, 4, 2], [5, 0, 0], [3, 4, 7], [3, 4, 0]], [3, 1, 3, 2], r"docid 3 \[3, 4\] is the beginning of docid 0 "),
    ],
)
def test_what_is_no_set_of_docids(tokens, lengths, message):
    with pytest.raises(InputError, match=message):
        DocidIndex.build(np.array(tokens), np.array(lengths), np.arange(len(tokens)), vocab_size=10)


def test_prefix_nodes_that_disagree():
    with pytest.raises(InputError, match="same first 1 tokens have different prefix nodes"):
        DocidIndex.build(
            np.array([[3, 4], [3, 5]]), np.array([2, 2]), np.arange(2), np.array([[0, 1], [0, 2]]), vocab_size=10
        )
