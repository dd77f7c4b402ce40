"""Beam search against brute force: random docid sets, hashed logits, one compiled program for each width."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from support.decoding_oracle import ended_docids, oracle_beam_search, oracle_exhaustive
from support.fake_model import FakeModel
from support.small_sets import (
    BATCH,
    LAYOUTS,
    LENGTH,
    MODEL,
    VOCAB,
    assert_found,
    bucketed,
    found_by,
    index_of,
    log_probs_of,
    search,
    sets_of_sequences,
    unpadded,
    without_nodes,
)

from genret_jax.decoding import INVALID, DocidIndex, Exhaustive, TrieConstraint, beam_search


def assert_equals_brute_force(sequences, always, beams, seed, kind, at_once):
    docids = ended_docids(sequences, always=always)
    model, index = FakeModel(vocab_size=VOCAB, seed=seed), bucketed(docids, kind)
    result = search(TrieConstraint(index), beams, model, at_once)
    for query in range(BATCH):
        expected = oracle_beam_search(docids, log_probs_of(model, docids, query), beams)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)
        dropped = expected.bound > -np.inf
        np.testing.assert_allclose(result.bound[query], expected.bound if dropped else INVALID, atol=2e-5)
        assert result.certified[query] == (not dropped or expected.bound < expected.docids[-1][1])


searches = given(
    sequences=sets_of_sequences,
    always=st.booleans(),
    beams=st.sampled_from([1, 5, 30]),
    seed=st.integers(0, 3),
    kind=st.sampled_from(LAYOUTS),
    at_once=st.booleans(),
)


@settings(max_examples=500, deadline=None, derandomize=True)
@searches
def test_equals_brute_force_of_the_same_width(**case):
    assert_equals_brute_force(**case)


@pytest.mark.slow
@settings(max_examples=4000, deadline=None, derandomize=True)
@searches
def test_equals_brute_force_in_thousands_of_cases(**case):
    assert_equals_brute_force(**case)


@pytest.mark.parametrize("spread", [1, 40])
def test_equals_brute_force_on_a_set_whose_arrays_are_large(spread):
    # Few reads from large arrays, and the best of many candidates, are found in ways of their own.
    vocab, random = 128, np.random.default_rng(0)
    tokens = (vocab * random.random((50_000, LENGTH)) ** spread**0.5).astype(np.int64)
    index = DocidIndex.build(tokens, np.full(len(tokens), LENGTH), np.arange(len(tokens)), vocab_size=vocab)
    docids, model = [*map(tuple, np.unique(tokens, axis=0).tolist())], FakeModel(vocab_size=vocab)
    result = search(TrieConstraint(index), 5, model, at_once=True)
    for query in range(BATCH):
        expected = oracle_beam_search(docids, without_nodes(model, query), 5)
        assert expected.margin > 1e-5
        assert [tuple(row) for row in np.asarray(result.tokens)[query].tolist()] == [
            docid for docid, _ in expected.docids
        ]
        np.testing.assert_allclose(result.scores[query], [score for _, score in expected.docids], atol=1e-4)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([5, 30]), kind=st.sampled_from(LAYOUTS))
def test_exhaustive_scores_every_docid(sequences, always, beams, kind):
    docids = ended_docids(sequences, always=always)
    result = search(Exhaustive.of(bucketed(docids, kind), chunk=12), beams)
    for query in range(BATCH):
        expected = oracle_exhaustive(docids, log_probs_of(MODEL, docids, query), beams)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([5, 30]), kind=st.sampled_from(LAYOUTS))
def test_what_is_certified_is_the_true_best(sequences, always, beams, kind):
    """And a beam as wide as the set always is."""
    docids = ended_docids(sequences, always=always)
    index = bucketed(docids, kind)
    beam, exact = search(TrieConstraint(index), beams, at_once=True), search(Exhaustive.of(index, chunk=12), beams)
    np.testing.assert_array_equal(beam.valid, exact.valid)
    certified = np.asarray(beam.certified)
    assert certified.all() or len(set(docids)) > beams
    np.testing.assert_allclose(np.asarray(beam.scores)[certified], np.asarray(exact.scores)[certified], atol=2e-5)
    assert (np.asarray(beam.scores) <= np.asarray(exact.scores) + 2e-5).all(), "no beam is better than the truth"
    for query in np.flatnonzero(certified).tolist():
        expected = oracle_exhaustive(docids, log_probs_of(MODEL, docids, query), beams)
        if expected.margin > 1e-4:
            np.testing.assert_array_equal(beam.docids[query], exact.docids[query])


def test_a_beam_can_miss_what_exhaustive_search_finds():
    """The two strategies differ where they should: a best docid behind a poor first token."""
    # Nodes in the order of the prefixes: the root, (2,), (2, 4), (2, 5), (3,), (3, 4).
    table = jnp.array([[0, 0, 2.0, 1.0, 0, 0], *[[0] * 6] * 3, [0, 0, 0, 0, 9.0, 0], [0] * 6])

    def step(tokens, prefix_nodes, cache, *, first):
        return table[prefix_nodes], cache

    index = index_of([(2, 4), (2, 5), (3, 4)], vocab_size=6)
    cache = {"beams": {}}
    run = jax.jit(lambda strategy: beam_search(step, cache, strategy, batch=1, beams=1))
    narrow, exact = run(TrieConstraint(index)), run(Exhaustive.of(index))
    np.testing.assert_array_equal(narrow.tokens[0], [[2, 4]])
    np.testing.assert_array_equal(exact.tokens[0], [[3, 4]])
    assert not narrow.certified[0]
    # log softmax of the root's 1.0, then of 9.0 among six.
    by_hand = 1 - np.log(4 + np.e**2 + np.e) + 9 - np.log(5 + np.e**9)
    np.testing.assert_allclose(exact.scores, [[by_hand]], rtol=1e-5)


def test_equal_scores_go_to_the_lower_beam_then_the_lower_token():
    docids = [(4, 3), (2, 7), (2, 2), (5, 5), (4, 2), (3, 1)]
    result = search(TrieConstraint(index_of(docids)), 4, FakeModel(vocab_size=VOCAB, levels=1))
    np.testing.assert_array_equal(result.tokens[0], [[2, 2], [2, 7], [3, 1], [4, 2]])
    np.testing.assert_allclose(result.scores, np.full((BATCH, 4), -2 * np.log(VOCAB)), rtol=1e-6)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([1, 5]), kind=st.sampled_from(LAYOUTS))
def test_ties_are_broken_alike_every_time(sequences, always, beams, kind):
    """Three distinct logits: exact ties all over. Other layouts, other orders and one pass give the same docids."""
    docids = ended_docids(sequences, always=always)
    model = FakeModel(vocab_size=VOCAB, levels=3)
    result = search(TrieConstraint(bucketed(docids)), beams, model)
    for again in (
        search(TrieConstraint(bucketed(docids[::-1], kind)), beams, model),
        search(TrieConstraint(bucketed(docids, kind)), beams, model, at_once=True),
    ):
        np.testing.assert_array_equal(result.tokens, again.tokens)
        np.testing.assert_allclose(result.scores, again.scores, atol=1e-5)


def test_more_beams_than_documents():
    docids = [(2, 3), (4,), (2, 5)]
    result = search(TrieConstraint(index_of(docids)), 8)
    np.testing.assert_array_equal(result.valid.sum(axis=1), [3, 3])
    assert result.tokens.shape == (BATCH, 8, 2)
    assert np.isfinite(result.scores).all()
    assert {tuple(t) for t in np.asarray(result.tokens)[0, :3].tolist()} == {(2, 3), (4, 0), (2, 5)}


def test_one_document():
    result = search(TrieConstraint(index_of([(5, 6, 7)])), 2)
    np.testing.assert_array_equal(result.tokens[:, 0], [[5, 6, 7]] * BATCH)
    np.testing.assert_array_equal(result.valid, [[True, False]] * BATCH)


@pytest.mark.parametrize("masked", [-1e7, -1e30, -np.inf])
def test_docids_the_model_rules_out_are_still_members(masked):
    """However low the logits, what is valid is a docid, finite, and above what is invalid."""

    def step(tokens, prefix_nodes, cache, *, first):
        return jnp.full((*tokens.shape, VOCAB), masked).at[..., 0].set(0.0), cache

    docids = [(2, 3, 4, 5, 6, 7, 8), (2, 3), (3, 3)]
    docids = ended_docids(docids)
    run = jax.jit(lambda strategy: beam_search(step, {"beams": {}}, strategy, batch=1, beams=5))
    result = run(TrieConstraint(index_of(docids)))
    np.testing.assert_array_equal(result.valid[0], [True, True, True, False, False])
    assert np.isfinite(result.scores).all()
    assert result.scores[0, 2] > result.scores[0, 3]
    for tokens in np.asarray(result.tokens)[0, :3]:
        unpadded(tokens, docids)


def children_only(docids, log_probs):
    """The same log-probabilities, normalised over the tokens that may follow."""

    def following(prefix):
        length, scores = len(prefix), log_probs(prefix)
        children = sorted({docid[length] for docid in docids if len(docid) > length and docid[:length] == prefix})
        return scores - np.log(np.exp(scores[children]).sum())

    return functools.cache(following)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, beams=st.sampled_from([5, 30]), kind=st.sampled_from(LAYOUTS), always=st.booleans())
def test_normalised_over_the_children_alone(sequences, beams, kind, always):
    docids = ended_docids(sequences, always=always)
    strategy = TrieConstraint(bucketed(docids, kind), normalize="children")
    result = search(strategy, beams, at_once=kind == "lists")  # the pass is never needed, and changes nothing
    for query in range(BATCH):
        expected = oracle_beam_search(docids, children_only(docids, log_probs_of(MODEL, docids, query)), beams)
        found = found_by(result, query)
        if len(set(docids)) <= beams:
            np.testing.assert_allclose(sum(np.exp(score) for _, score in found), 1.0, rtol=1e-4)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)


@pytest.mark.parametrize(("vocab_size", "length", "beams"), [(300, 1, 50), (4, 3, 60), (34_000, 6, 10), (300, 5, 400)])
@pytest.mark.parametrize("zipf", [False, True])
def test_sizes_of_all_kinds(vocab_size, length, beams, zipf):
    """Atomic docids, more beams than tokens, string docids of a large vocabulary, beams as many as documents."""
    random = np.random.default_rng(0)
    weights = 1 / np.arange(1, vocab_size + 1) if zipf else np.ones(vocab_size)
    docids = [*map(tuple, random.choice(vocab_size, (400, length), p=weights / weights.sum()).tolist())]
    model = FakeModel(vocab_size=vocab_size)
    result = search(TrieConstraint(index_of(docids, vocab_size)), beams, model, at_once=True)
    for query in range(BATCH):
        expected = oracle_beam_search(docids, log_probs_of(model, docids, query), beams)
        assert [score for _, score in found_by(result, query)] == pytest.approx(
            [score for _, score in expected.docids], abs=1e-3
        )
        if expected.margin > 1e-4:
            assert_found(result, query, expected.docids, docids, width=length)
