import dataclasses
import time

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.decoding_oracle import ended_docids, index_text, padded_rows

from genret_jax.decoding import DocidIndex
from genret_jax.decoding.building import rows_of, spelled
from genret_jax.decoding.layout import Capacity, Layout
from genret_jax.errors import InputError

# Unsorted, of three lengths, with a docid of two documents (0 and 4), and a document of two docids (1).
TOKENS = np.array([[5, 6, 0], [5, 1, 0], [5, 7, 8], [9, 0, 0], [5, 6, 0], [5, 7, 9]])
LENGTHS = np.array([2, 2, 3, 1, 2, 3])
DOCUMENT = np.array([0, 1, 2, 3, 4, 1])


def small_index(**fields):
    return DocidIndex.build(TOKENS, LENGTHS, DOCUMENT, vocab_size=10, **fields)


def random_docids(count, length, vocab_size, *, zipf=False, seed=0):
    random = np.random.default_rng(seed)
    weights = 1 / np.arange(1, vocab_size + 1) if zipf else np.ones(vocab_size)
    return random.choice(vocab_size, (count, length), p=weights / weights.sum())


def test_an_index_drawn():
    assert index_text(small_index()) == (
        "0: 5 1 departs 0 = 1\n"
        "1: 5 6 departs 2 = 0 4\n"
        "2: 5 7 8 departs 2 = 2\n"
        "3: 5 7 9 departs 3 = 1\n"
        "4: 9 departs 1 = 3"
    )


def test_wide_prefixes_drawn():
    """70 docids of which 66 begin with 3: more than a window of rows, so the root and that prefix have edges."""
    tokens = np.array([[3, i, 0] for i in range(66)] + [[4, 0, 7], [4, 0, 8], [5, 1, 1], [6, 1, 1]])
    index = DocidIndex.build(tokens[::-1], np.full(70, 3), np.arange(70), vocab_size=66)
    lines = index_text(index).splitlines()
    assert lines[0] == "~0: 0 to ~1, 1 to 66, 2 to 68, 3 to 69"  # tokens less 3, the lowest first one
    assert lines[1].startswith("~1: 0 to 0, 1 to 1, ")
    assert lines[1].endswith("65 to 65")
    assert lines[2 + 66 :] == [
        "66: 4 0 7 departs 1 = 3",
        "67: 4 0 8 departs 3 = 2",
        "68: 5 1 1 departs 1 = 1",
        "69: 6 1 1 departs 1 = 0",
    ]
    assert index.layout.first_column == 1
    assert len(index.columns) == 2 * (70 + index.layout.rows_margin)


def test_the_arrays():
    index = small_index()
    np.testing.assert_array_equal(index.rows, [1, 0, 4, 2, 5, 3])
    np.testing.assert_array_equal(index.row_offsets, [0, 1, 3, 4, 5, 6])
    np.testing.assert_array_equal(index.first_tokens, [5, 1, 8])
    np.testing.assert_array_equal(index.lengths[:5], [2, 2, 3, 3, 1])
    assert (index.max_length, index.num_docids) == (3, 5)
    assert index.columns.dtype == index.departs.dtype == np.uint8


def test_what_says_nothing_is_not_stored():
    """Docids that come sorted, each with one document of its own number, and all of one length."""
    tokens = np.unique(random_docids(500, 3, 30), axis=0)
    index = DocidIndex.build(tokens, np.full(len(tokens), 3), np.arange(len(tokens)), vocab_size=30)
    for leaf in (index.rows, index.row_offsets, index.documents, index.lengths, index.row_nodes):
        assert leaf is None
    np.testing.assert_array_equal(index.documents_of(np.array([7, 3]))[0], [7, 3])


def test_prefix_nodes_go_to_their_prefixes():
    nodes = np.array([[0, 40, 99], [0, 40, 99], [0, 40, 47], [0, 99, 99], [0, 40, 99], [0, 40, 47]])
    index = DocidIndex.build(TOKENS, LENGTHS, DOCUMENT, nodes, vocab_size=10)
    np.testing.assert_array_equal(spelled(index)[2], [[0, 40, 0], [0, 40, 0], [0, 40, 47], [0, 40, 47], [0, 0, 0]])


@pytest.mark.parametrize("span", [256, 257, 65_536, 65_537])
def test_token_types_follow_the_ranges_of_levels(span):
    """A range that begins high up costs no more than one that begins at 0."""
    tokens = 30_000 + np.array([[0], [span - 1]])
    index = DocidIndex.build(tokens, np.ones(2), np.arange(2), vocab_size=200_000)
    expected = {256: np.uint8, 257: np.uint16, 65_536: np.uint16, 65_537: np.int32}[span]
    assert index.columns.dtype == expected
    np.testing.assert_array_equal(spelled(index)[0], tokens)


def test_one_document():
    index = DocidIndex.build(np.array([[7]]), np.array([1]), np.array([0]), vocab_size=8)
    assert index_text(index) == "0: 7 departs 0 = 0"


sequences = st.lists(st.lists(st.integers(0, 9).filter(lambda token: token != 1), min_size=1, max_size=5), min_size=1)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(sequences=sequences, always=st.booleans(), seed=st.integers(0, 99))
def test_every_docid_and_no_other_is_there(sequences, always, seed):
    docids = ended_docids(sequences, always=always)
    tokens, lengths = padded_rows(docids)
    document = np.random.default_rng(seed).integers(0, 5, len(docids))
    index = DocidIndex.build(tokens, lengths, document, vocab_size=10)
    ordered = sorted(set(docids))
    spelt = spelled(index)[0]
    assert [tuple(row[: len(docid)]) for row, docid in zip(spelt, ordered, strict=True)] == ordered
    for number, docid in enumerate(ordered):
        before = ordered[number - 1] if number else ()
        shared = next(i for i in range(len(docid) + 1) if i == len(before) or docid[i] != before[i])
        assert index.departs[number] == (shared + 1 if number else 0)
        named = [row for row, other in enumerate(docids) if other == docid]
        np.testing.assert_array_equal(index.documents_of(np.array([number]))[0], document[named])


@pytest.mark.parametrize("zipf", [False, True])
def test_every_docid_of_a_larger_set_is_there(zipf):
    """Wide prefixes at several depths, duplicates, and the rows found again in the order given."""
    tokens = random_docids(20_000, 5, 12, zipf=zipf)
    index = DocidIndex.build(tokens, np.full(20_000, 5), np.arange(20_000), vocab_size=12)
    ordered, first = np.unique(tokens, axis=0, return_index=True)
    np.testing.assert_array_equal(spelled(index)[0], ordered)
    np.testing.assert_array_equal(np.asarray(index.rows)[np.asarray(index.row_offsets)[:-1]], first)
    np.testing.assert_array_equal(rows_of(index).tokens[np.argsort(rows_of(index).number)], tokens)
    documents, docid = index.documents_of(np.arange(len(ordered)))
    np.testing.assert_array_equal(tokens[documents], ordered[docid])
    assert sorted(documents.tolist()) == list(range(20_000))


def test_long_docids_of_a_large_vocabulary():
    """Sort keys of several words: the order is still that of Python's tuples."""
    random = np.random.default_rng(0)
    tokens = random.integers(0, 34_000, (300, 20))
    tokens[:, :12] = tokens[0, :12]  # a long common beginning, so that the second key decides
    tokens[200:] = tokens[:100]
    index = DocidIndex.build(tokens, np.full(300, 20), np.arange(300), vocab_size=34_000)
    np.testing.assert_array_equal(index.rows, sorted(range(300), key=lambda row: tuple(tokens[row])))
    assert index.num_docids == 200


def test_any_iterable_of_sequences():
    index = DocidIndex.from_sequences(((i % 3 + 2,) * (i % 3 + 1) for i in range(4)), vocab_size=9)
    assert index_text(index) == "0: 2 departs 0 = 0 3\n1: 3 3 departs 1 = 1\n2: 4 4 4 departs 1 = 2"


@pytest.mark.parametrize(("count", "vocab_size", "length"), [(200_000, 256, 8), (200_000, 2048, 4)])
def test_an_index_is_small_and_quickly_built(count, vocab_size, length):
    tokens = np.unique(random_docids(count, length, vocab_size), axis=0)
    start = time.perf_counter()
    index = DocidIndex.build(tokens, np.full(len(tokens), length), np.arange(len(tokens)), vocab_size=vocab_size)
    assert time.perf_counter() - start < 5  # measured: 0.1 s; a loop over documents takes 30
    assert index.num_bytes < 12 * len(tokens)  # a Python dict takes some 1,000 for each


def test_the_same_rows_give_the_same_index():
    tokens = random_docids(3000, 4, 20, zipf=True)
    first, second = (DocidIndex.build(tokens, np.full(3000, 4), np.arange(3000), vocab_size=20) for _ in range(2))
    assert first.layout == second.layout
    jax.tree.map(np.testing.assert_array_equal, first, second)


def test_the_layout_of_atomic_docids():
    """One level of all documents, read as one window: no edges, and logits are taken as they lie."""
    index = DocidIndex.build(np.arange(2, 1002)[:, None], np.ones(1000), np.arange(1000), vocab_size=1002)
    assert (index.layout.rows, index.layout.edges) == ((1000,), (0,))
    assert index.layout.consecutive


def test_levels_of_like_width_share_a_loop():
    layout = Layout(
        max_length=8,
        window=64,
        edges=(256, 200, 180, 0, 0, 0, 0, 0),
        rows=(0, 0, 64, 40, 9, 4, 2, 1),
        spans=(256,) * 8,
        dense=(True, False, False, *(False,) * 5),
        forced_from=6,
        mixed=False,
        consecutive=False,
        capacity=Capacity(1000, 1000, 10, 1000, 1),
    )
    assert [tuple(level) for level in layout.levels] == [
        (0, 1, 256, 0, 0),
        (1, 3, 0, 200, 64),
        (3, 4, 0, 0, 40),
        (4, 8, 0, 0, 9),
    ]
    some = dataclasses.replace(layout, dense=(True, True, True, *(False,) * 5))
    assert [tuple(level) for level in some.levels][:2] == [(0, 1, 256, 0, 0), (1, 3, 256, 0, 64)]
    assert (some.bitmap_depths, some.bitmap_words) == (3, 8)
    assert layout.first_column == 2


@pytest.mark.parametrize(
    ("tokens", "lengths", "message"),
    [
        (np.zeros((0, 3), int), [], "no docids"),
        ([[3], [4]], [1, 0], "docid 1 has length 0"),
        ([[3], [4]], [1, 2], "docid 1 has length 2; expected 1 to 1"),
        ([[3], [4]], [1], r"lengths of shape \(1,\) for 2 docids"),
        ([[3, 4], [3, 10]], [2, 2], "docid 1 has token 10 at position 1; expected .* 0 to 9"),
        ([[3, 4], [3, -1]], [2, 2], "docid 1 has token -1"),
        ([[3.5, 4]], [2], "tokens of type float64; expected integers"),
        ([[3, 4, 2], [5, 0, 0], [3, 4, 7], [3, 4, 0]], [3, 1, 3, 2], r"docid 3 \[3, 4\] is the beginning of docid 0 "),
    ],
)
def test_what_is_no_set_of_docids(tokens, lengths, message):
    with pytest.raises(InputError, match=message):
        DocidIndex.build(np.array(tokens), np.array(lengths), np.arange(len(tokens)), vocab_size=10)


def test_no_sequences():
    with pytest.raises(InputError, match="no docids"):
        DocidIndex.from_sequences([], vocab_size=10)
    with pytest.raises(InputError, match="docid 1 has length 0"):
        DocidIndex.from_sequences([[3], []], vocab_size=10)


def test_tokens_beyond_the_end_are_not_looked_at():
    tokens = np.array([[3, 99, -7], [4, 5, 6]])
    assert DocidIndex.build(tokens, np.array([1, 3]), np.arange(2), vocab_size=10).num_docids == 2


def test_prefix_nodes_that_disagree():
    with pytest.raises(InputError, match="same first 1 tokens have different prefix nodes"):
        DocidIndex.build(
            np.array([[3, 4], [3, 5]]), np.array([2, 2]), np.arange(2), np.array([[0, 1], [0, 2]]), vocab_size=10
        )
    with pytest.raises(InputError, match="same first 0 tokens have different prefix nodes"):
        DocidIndex.build(np.array([[3], [3]]), np.ones(2), np.arange(2), np.array([[0], [2]]), vocab_size=10)
