"""Beam search against brute force: random docid sets, hashed logits, one compiled program for each width."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.decoding import INVALID, DocidIndex, Exhaustive, TrieConstraint, Unconstrained, beam_search
from genret_jax.errors import InputError
from genret_jax.testing.decoding_oracle import (
    ended_docids,
    oracle_beam_search,
    oracle_exhaustive,
    pad_index,
    padded_rows,
)
from genret_jax.testing.fake_model import FakeModel

VOCAB, BATCH, ROWS, LENGTH = 9, 2, 24, 7
MODEL = FakeModel(vocab_size=VOCAB)


@functools.partial(jax.jit, static_argnames=("model", "beams"))
def _search(strategy, cache, model, beams):
    batch = cache["shared"]["query"].shape[0]
    return beam_search(model.step, cache, strategy, batch=batch, beams=beams)


def search(strategy, beams, model=MODEL):
    # The seed is in the cache, so models that differ in nothing else share a compiled program.
    return _search(strategy, model.cache(BATCH), dataclasses.replace(model, seed=0), beams)


def index_of(docids, vocab_size=VOCAB, document=None):
    tokens, lengths = padded_rows(docids)
    document = np.arange(len(docids)) if document is None else document
    return DocidIndex.build(tokens, lengths, document, vocab_size=vocab_size)


def bucketed(docids):
    return pad_index(
        index_of(docids), states=ROWS * (LENGTH + 1), rows=ROWS, root_fanout=VOCAB, max_fanout=VOCAB, max_length=LENGTH
    )


def log_probs_of(model, index, query):
    """What follows a prefix, the prefix nodes being the trie's states."""

    def following(prefix):
        states = [0]
        for token in prefix:
            edges = np.arange(index.child_offsets[states[-1]], index.child_offsets[states[-1] + 1])
            states.append(int(edges[index.child_tokens[edges] == token][0]) + 1)
        return model.log_probs(query, prefix, states)

    return functools.cache(following)


def found_by(result, query):
    """The valid rows of a result, as an oracle tells them."""
    kept = np.asarray(result.valid)[query]
    assert not kept[kept.sum() :].any(), "what is invalid comes last"
    return [
        (tuple(tokens), float(score))
        for tokens, score in zip(
            np.asarray(result.tokens)[query][kept], np.asarray(result.scores)[query][kept], strict=True
        )
    ]


def unpadded(tokens, docids):
    """The docid behind zero-padded tokens (0 is no token of these sets)."""
    docid = tuple(int(token) for token in tokens if token)
    assert docid in docids, "only members of the set come out"
    return docid


def assert_found(result, query, expected, docids, rows=None):
    found = found_by(result, query)
    assert [unpadded(tokens, docids) for tokens, _ in found] == [docid for docid, _ in expected]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in expected], atol=2e-5)
    first_rows = {docid: row for row, docid in reversed(list(enumerate(docids)))}
    wanted = [first_rows[docid] for docid, _ in expected]
    np.testing.assert_array_equal(np.asarray(result.rows)[query, : len(found)], wanted)
    for leaf, value in ((result.rows, -1), (result.docids, -1), (result.scores, INVALID), (result.tokens, 0)):
        assert (np.asarray(leaf)[query, len(found) :] == np.float32(value)).all()


sequence = st.lists(st.integers(2, VOCAB - 1), min_size=1, max_size=LENGTH - 1)
unary = st.integers(2, VOCAB - 1).map(lambda token: [token] * (LENGTH - 1))
skewed = st.lists(st.sampled_from([2, 2, 2, 2, 3]), min_size=1, max_size=LENGTH - 1)
repeated = st.lists(st.sampled_from([[2, 3], [2, 3, 4], [2, 4], [5], [5, 5, 5, 5, 5, 5]]), min_size=1, max_size=ROWS)
sets_of_sequences = st.one_of(
    st.lists(sequence, min_size=1, max_size=ROWS),
    st.lists(st.one_of(unary, sequence), min_size=1, max_size=6),
    st.lists(skewed, min_size=1, max_size=ROWS),
    repeated,
    st.lists(st.lists(st.integers(2, 4), min_size=LENGTH - 1, max_size=LENGTH - 1), min_size=5, max_size=ROWS),
)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([1, 2, 5, 30]), seed=st.integers(0, 3))
def test_equals_brute_force_of_the_same_width(sequences, always, beams, seed):
    docids = ended_docids(sequences, always=always)
    model, index = FakeModel(vocab_size=VOCAB, seed=seed), bucketed(docids)
    result = search(TrieConstraint(index), beams, model)
    for query in range(BATCH):
        expected = oracle_beam_search(docids, log_probs_of(model, index, query), beams)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([5, 30]))
def test_exhaustive_scores_every_docid(sequences, always, beams):
    docids = ended_docids(sequences, always=always)
    index = bucketed(docids)
    result = search(Exhaustive(index, 10), beams)
    for query in range(BATCH):
        expected = oracle_exhaustive(docids, log_probs_of(MODEL, index, query), beams)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans())
def test_a_beam_as_wide_as_the_set_is_exhaustive(sequences, always):
    docids = ended_docids(sequences, always=always)
    index = bucketed(docids)
    beam, exact = search(TrieConstraint(index), 30), search(Exhaustive(index, 10), 30)
    np.testing.assert_array_equal(beam.valid, exact.valid)
    np.testing.assert_allclose(beam.scores, exact.scores, atol=2e-5)
    for query in range(BATCH):
        expected = oracle_exhaustive(docids, log_probs_of(MODEL, index, query), 30)
        if expected.margin > 1e-4:
            np.testing.assert_array_equal(beam.docids[query], exact.docids[query])


def test_a_beam_can_miss_what_exhaustive_search_finds():
    """The two strategies differ where they should: a best docid behind a poor first token."""
    # States: 0 the root, 1 and 2 after tokens 2 and 3.
    table = jnp.array([[0, 0, 2.0, 1.0, 0, 0], [0] * 6, [0, 0, 0, 0, 9.0, 0], *[[0] * 6] * 3])

    def step(tokens, prefix_nodes, cache, *, first):
        return table[prefix_nodes], cache

    index = index_of([(2, 4), (2, 5), (3, 4)], vocab_size=6)
    cache = {"beams": {}}
    run = jax.jit(lambda strategy: beam_search(step, cache, strategy, batch=1, beams=1))
    narrow, exact = run(TrieConstraint(index)), run(Exhaustive(index))
    np.testing.assert_array_equal(narrow.tokens[0], [[2, 4]])
    np.testing.assert_array_equal(exact.tokens[0], [[3, 4]])
    # log softmax of the root's 1.0, then of 9.0 among six.
    by_hand = 1 - np.log(4 + np.e**2 + np.e) + 9 - np.log(5 + np.e**9)
    np.testing.assert_allclose(exact.scores, [[by_hand]], rtol=1e-5)


def test_equal_scores_go_to_the_lower_beam_then_the_lower_token():
    docids = [(4, 3), (2, 7), (2, 2), (5, 5), (4, 2), (3, 1)]
    result = search(TrieConstraint(index_of(docids)), 4, FakeModel(vocab_size=VOCAB, levels=1))
    np.testing.assert_array_equal(result.tokens[0], [[2, 2], [2, 7], [3, 1], [4, 2]])
    np.testing.assert_allclose(result.scores, np.full((BATCH, 4), -2 * np.log(VOCAB)), rtol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([2, 5]))
def test_ties_are_broken_alike_every_time(sequences, always, beams):
    """Three distinct logits: exact ties all over. The same rows in another order give the same docids."""
    docids = ended_docids(sequences, always=always)
    model = FakeModel(vocab_size=VOCAB, levels=3)
    result = search(TrieConstraint(bucketed(docids)), beams, model)
    again = search(TrieConstraint(bucketed(docids[::-1])), beams, model)
    np.testing.assert_array_equal(result.tokens, again.tokens)
    np.testing.assert_array_equal(result.scores, again.scores)


def test_atomic_docids_take_one_step():
    """A thousand children of the root; the search never asks the model a second time."""
    model, calls = FakeModel(vocab_size=1002), []

    def step(tokens, prefix_nodes, cache, *, first):
        calls.append((tokens.shape, first))
        return model.step(tokens, prefix_nodes, cache, first=first)

    index = DocidIndex.build(np.arange(2, 1002)[:, None], np.ones(1000), np.arange(1000), vocab_size=1002)
    result = jax.jit(lambda s: beam_search(step, model.cache(3), s, batch=3, beams=20))(TrieConstraint(index))
    assert calls == [((3, 1), True)]
    for query in range(3):
        scores = model.log_probs(query, (), [0])[2:]
        best = np.argsort(-scores, kind="stable")[:20]
        np.testing.assert_array_equal(result.rows[query], best)
        np.testing.assert_allclose(result.scores[query], scores[best], atol=1e-5)


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


def test_bfloat16_logits_are_summed_in_float32():
    docids = [(2, 3, 4), (2, 4, 4), (3, 3, 3), (5, 2, 2)]
    half, index = FakeModel(vocab_size=VOCAB, levels=64, scale=4.0, dtype="bfloat16"), index_of(docids)
    whole = FakeModel(vocab_size=VOCAB, levels=64, scale=4.0)  # 64 levels are exact in bfloat16
    result, expected = search(TrieConstraint(index), 4, half), search(TrieConstraint(index), 4, whole)
    assert result.scores.dtype == jnp.float32
    np.testing.assert_array_equal(result.scores, expected.scores)
    np.testing.assert_array_equal(result.tokens, expected.tokens)


def test_a_batch_over_eight_devices_gives_the_same():
    docids = ended_docids(np.random.default_rng(0).integers(2, VOCAB, (60, 4)).tolist())
    index, batch = index_of(docids), 16
    cache = MODEL.cache(batch)
    mesh = Mesh(np.array(jax.devices()[:8]), ("data",))
    over_batch, everywhere = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    shardings = {"beams": {"history": over_batch}, "shared": {"query": over_batch}, "position": everywhere}
    run = jax.jit(lambda cache, strategy: beam_search(MODEL.step, cache, strategy, batch=batch, beams=6))
    alone = run(cache, TrieConstraint(index))
    spread = run(jax.device_put(cache, shardings), jax.device_put(TrieConstraint(index), everywhere))
    assert len(spread.tokens.sharding.device_set) == 8
    jax.tree.map(np.testing.assert_array_equal, alone, spread)


def test_indexes_of_one_shape_share_a_program():
    compiled = []

    @jax.jit
    def run(strategy):
        compiled.append(1)
        return beam_search(MODEL.step, MODEL.cache(1), strategy, batch=1, beams=3)

    for docids in ([(2, 3)], [(4, 5, 6), (2, 2)], [(3,)]):
        assert found_by(run(TrieConstraint(bucketed(docids))), 0)
    assert len(compiled) == 1


def every_sequence(length, eos):
    """All sequences over the vocabulary that EOS ends in time, or all of full length."""
    grown, ended = [()], []
    for _ in range(length):
        grown = [(*prefix, token) for prefix in grown for token in range(5)]
        if eos is not None:
            ended += [sequence for sequence in grown if sequence[-1] == eos]
            grown = [sequence for sequence in grown if sequence[-1] != eos]
    return ended if eos is not None else grown


@pytest.mark.parametrize("eos", [1, None])
def test_unconstrained_search_finds_the_best_of_all_sequences(eos):
    model = FakeModel(vocab_size=5)
    strategy = Unconstrained(vocab_size=5, max_length=3, eos=eos)
    result = search(strategy, 200, model)
    for query in range(BATCH):
        scored = sorted(
            (
                (sum(model.log_probs(query, s[:i], [0] * (i + 1))[t] for i, t in enumerate(s)), s)
                for s in every_sequence(3, eos)
            ),
            reverse=True,
        )
        found = found_by(result, query)
        assert [tokens for tokens, _ in found] == [(*s, 0, 0)[:3] for _, s in scored]
        np.testing.assert_allclose([score for _, score in found], [score for score, _ in scored], atol=1e-5)
    assert (np.asarray(result.rows) == -1).all()


def test_unconstrained_results_are_valid_only_if_they_ended():
    strategy = Unconstrained(vocab_size=5, max_length=2, eos=1)
    result = search(strategy, 10, FakeModel(vocab_size=5))
    tokens, valid = np.asarray(result.tokens), np.asarray(result.valid)
    assert valid.any()
    assert not valid.all()
    assert (tokens[valid] == 1).any(axis=-1).all()
    assert (np.diff(np.asarray(result.scores), axis=1) <= 0).all()


@pytest.mark.parametrize("strategy", [TrieConstraint, Exhaustive])
def test_a_model_of_another_vocabulary(strategy):
    with pytest.raises(InputError, match="logits over 11 tokens; expected 9"):
        search(strategy(index_of([(2, 3)])), 2, FakeModel(vocab_size=11))


def test_unconstrained_checks_the_vocabulary_too():
    with pytest.raises(InputError, match="logits over 11 tokens; expected 9"):
        search(Unconstrained(vocab_size=9, max_length=2), 2, FakeModel(vocab_size=11))


def test_no_beams():
    with pytest.raises(InputError, match="0 beams"):
        search(TrieConstraint(index_of([(2, 3)])), 0)
