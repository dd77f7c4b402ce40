"""A filtered search against the search of an index that holds nothing else."""

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_model import FakeModel

from genret_jax.decoding import DocidIndex, TrieConstraint, allow, beam_search, forbid, rank_documents
from genret_jax.decoding.building import build_members, checked_rows
from genret_jax.errors import InputError

VOCAB, LENGTH, DOCIDS, BATCH = 40, 3, 1500, 3


def world(zipf, spread=1, docids=DOCIDS):
    """Docids with wide and narrow prefixes, mixed lengths, and several documents that share one.

    Tokens may be spread over so large a range that children of wide prefixes are listed and no bits.
    """
    random = np.random.default_rng(3)
    weights = 1 / np.arange(1, VOCAB - 1) if zipf else np.ones(VOCAB - 2)
    tokens = random.choice(np.arange(2, VOCAB), (docids, LENGTH), p=weights / weights.sum())
    lengths = np.full(docids, LENGTH)
    tokens[:200, 2], lengths[:200] = 0, 2
    tokens[:200, 1] = 1  # EOS, so that these begin no other
    tokens[tokens > 1] *= spread
    return tokens, lengths, np.arange(docids)


@jax.jit
def search(strategy):
    model = FakeModel(vocab_size=strategy.vocab_size)
    return beam_search(model.step, model.cache(BATCH), strategy, batch=BATCH, beams=8)


@pytest.mark.parametrize(
    ("zipf", "spread", "kinds"), [(False, 1, "rows"), (True, 1, "bits and rows"), (True, 8, "edges and rows")]
)
@pytest.mark.parametrize("share", [0.5, 0.02, 0.001])
def test_equals_an_index_of_the_allowed_documents(zipf, spread, kinds, share):
    tokens, lengths, document = world(zipf, spread, docids=700 if kinds == "rows" else DOCIDS)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=spread * VOCAB)
    level = index.layout.levels[1]
    sizes = {"bits": level.span, "edges": level.edges, "rows": level.rows}
    assert kinds == " and ".join(name for name, size in sizes.items() if size)
    allowed = np.random.default_rng(0).random((BATCH, len(tokens))) < share
    allowed[:, :3] = allowed[:, -3:] = True
    found = search(TrieConstraint(index, allow(index, allowed)))
    for query in range(BATCH):
        rows = np.flatnonzero(allowed[query])
        # In the shapes of the whole index, so that all of them share a program.
        kept = checked_rows(tokens[rows], lengths[rows], rows, None, spread * VOCAB)
        alone = DocidIndex(**build_members(kept, vocab_size=spread * VOCAB, room=0.0, like=index))
        expected = search(TrieConstraint(alone))
        np.testing.assert_array_equal(found.tokens[query], expected.tokens[query])
        np.testing.assert_array_equal(found.scores[query], expected.scores[query])
        np.testing.assert_array_equal(found.bound[query], expected.bound[query])
        ranked, wanted = (
            rank_documents(found, index, allowed=allowed).of(query),
            rank_documents(expected, alone).of(query),
        )
        assert ranked == wanted
        assert all(allowed[query, number] for number, _ in ranked)


def test_forbidding_is_allowing_the_others():
    tokens, lengths, document = world(True)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    mask = np.random.default_rng(1).random((BATCH, DOCIDS)) < 0.3
    as_lists = [np.flatnonzero(row).tolist() for row in mask]
    for one, other in ((allow(index, ~mask), forbid(index, as_lists)), (allow(index, as_lists), allow(index, mask))):
        jax.tree.map(np.testing.assert_array_equal, one, other)


def test_one_set_for_all_queries_and_none_that_is_left():
    tokens, lengths, document = world(True)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    shared = np.arange(DOCIDS)[None] % 7 == 0
    once = search(TrieConstraint(index, allow(index, shared)))
    each = search(TrieConstraint(index, allow(index, np.repeat(shared, BATCH, axis=0))))
    jax.tree.map(np.testing.assert_array_equal, once, each)
    nothing = search(TrieConstraint(index, allow(index, [[], [5], [5, 6]])))
    np.testing.assert_array_equal(nothing.valid.sum(axis=1), [0, 1, 2])
    assert nothing.certified.all()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000), share=st.floats(0, 1))
def test_only_allowed_documents_come_out(seed, share):
    tokens, lengths, document = world(seed % 2 == 0)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    allowed = np.random.default_rng(seed).random((BATCH, DOCIDS)) < share
    found = search(TrieConstraint(index, allow(index, allowed)))
    for query in range(BATCH):
        docids = {(*tokens[row, : lengths[row]],) for row in np.flatnonzero(allowed[query])}
        assert found.valid[query].sum() == min(8, len(docids))
        kept = np.asarray(found.tokens)[query][np.asarray(found.valid)[query]]
        assert {tuple(t for t in row if t) for row in kept.tolist()} <= docids


def test_a_filter_costs_a_quarter_of_a_byte():
    index = DocidIndex.build(np.arange(64_000)[:, None], np.ones(64_000), np.arange(64_000), vocab_size=64_000)
    made = allow(index, np.ones((1, 64_000), bool))
    assert sum(leaf.nbytes for leaf in jax.tree.leaves(made)) == 0.25 * (64_000 + 32)  # one word more than needed


@pytest.mark.parametrize(
    ("documents", "message"),
    [
        (np.ones((3, 5), bool), r"a filter of shape \(3, 5\); expected \[queries, 1500\]"),
        (np.ones(1500, bool), r"a filter of shape \(1500,\)"),
        ([[3], [1500]], "a filter with document 1500; expected numbers from 0 to 1499"),
        ([[-1]], "a filter with document -1"),
    ],
)
def test_filters_that_do_not_fit(documents, message):
    tokens, lengths, document = world(False)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    with pytest.raises(InputError, match=message):
        allow(index, documents)


def test_a_filter_of_another_number_of_queries():
    tokens, lengths, document = world(False)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    with pytest.raises(InputError, match="a filter for 2 queries; expected 3 or 1"):
        search(TrieConstraint(index, allow(index, [[3], [4]])))


def test_a_filter_of_another_index():
    tokens, lengths, document = world(False)
    index = DocidIndex.build(tokens, lengths, document, vocab_size=VOCAB)
    other = DocidIndex.build(tokens[:700], lengths[:700], document[:700], vocab_size=VOCAB)
    with pytest.raises(InputError, match="a filter made for another index"):
        search(TrieConstraint(index, allow(other, [[3]])))
