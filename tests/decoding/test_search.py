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
from genret_jax.decoding.index import relaid
from genret_jax.decoding.layout import Capacity, Layout
from genret_jax.errors import InputError
from genret_jax.testing.decoding_oracle import (
    ended_docids,
    node_rows,
    oracle_beam_search,
    oracle_exhaustive,
    padded_rows,
    prefix_numbers,
)
from genret_jax.testing.fake_model import FakeModel

VOCAB, BATCH, ROWS, LENGTH = 9, 2, 24, 7
MODEL = FakeModel(vocab_size=VOCAB)
LAYOUTS = ("narrow", "lists", "bits", "wide")


@functools.partial(jax.jit, static_argnames=("model", "beams", "at_once", "partial_head"))
def _search(strategy, cache, model, beams, at_once, partial_head):
    batch, forced = cache["shared"]["query"].shape[0], model.forced if at_once else None
    return beam_search(model.step, cache, strategy, batch=batch, beams=beams, forced=forced, partial_head=partial_head)


def search(strategy, beams, model=MODEL, at_once=False, partial_head=False):
    # The seed is in the cache, so models that differ in nothing else share a compiled program.
    same = dataclasses.replace(model, seed=0)
    return _search(strategy, model.cache(BATCH), same, beams, at_once, partial_head)


def index_of(docids, vocab_size=VOCAB, document=None):
    tokens, lengths = padded_rows(docids)
    document = np.arange(len(docids)) if document is None else document
    return DocidIndex.build(tokens, lengths, document, node_rows(docids), vocab_size=vocab_size)


@functools.cache
def template(kind):
    """An index of the largest shapes.

    Its prefixes are all narrow; or narrow and wide, whose children are listed or bits; or all wide but single docids,
    the children at one depth being bits and at the next listed.
    """
    window, rows = {"narrow": (64, ROWS), "lists": (3, 3), "bits": (3, 3), "wide": (1, 1)}[kind]
    dense = {"bits": (True,) * LENGTH, "wide": (True, False) * LENGTH}.get(kind, (False,) * LENGTH)
    wide = kind != "narrow"
    layout = Layout(
        max_length=LENGTH,
        window=window,
        edges=(VOCAB * wide,) * LENGTH,
        rows=(ROWS if not wide else 0, *(rows,) * (LENGTH - 1)),
        spans=(VOCAB,) * LENGTH,
        dense=dense[:LENGTH],
        forced_from=1,
        mixed=True,
        consecutive=False,
        capacity=Capacity(
            docids=ROWS,
            rows=ROWS,
            wide=ROWS * LENGTH * wide,
            edges=ROWS * LENGTH * wide,
            bitmaps=ROWS * LENGTH * any(dense),
        ),
        room=1.0,
    )
    start = index_of([(2,), (3,)])
    zeros = np.zeros(ROWS + ROWS, np.uint8)
    return dataclasses.replace(
        start, layout=layout, first_tokens=np.zeros(LENGTH, np.int32), lengths=zeros, columns=zeros
    )


def bucketed(docids, kind="narrow"):
    """The index of any small set, in shapes that all of them share."""
    if len(set(docids)) <= template(kind).layout.window:  # too few for a wide root
        kind = "narrow"
    tokens, lengths = padded_rows(docids)
    rows = (tokens, lengths, np.arange(len(docids)), node_rows(docids))
    index = relaid(rows, template(kind))
    assert index.layout == template(kind).layout
    return index


def log_probs_of(model, docids, query):
    """What follows a prefix, whose nodes are numbers of the prefixes."""
    numbers = prefix_numbers(docids)

    def following(prefix):
        return model.log_probs(query, prefix, [numbers[prefix[:length]] for length in range(len(prefix) + 1)])

    return functools.cache(following)


def without_nodes(model, query):
    """What follows a prefix, for an index that knows no nodes."""
    return lambda prefix: model.log_probs(query, prefix, [0] * (len(prefix) + 1))


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


def assert_found(result, query, expected, docids, width=None):
    found = found_by(result, query)
    spelt = [tokens[:width] if width else unpadded(tokens, docids) for tokens, _ in found]
    assert spelt == [docid for docid, _ in expected]
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


@settings(max_examples=700, deadline=None, derandomize=True)
@given(
    sequences=sets_of_sequences,
    always=st.booleans(),
    beams=st.sampled_from([1, 2, 5, 30]),
    seed=st.integers(0, 3),
    kind=st.sampled_from(LAYOUTS),
    at_once=st.booleans(),
)
def test_equals_brute_force_of_the_same_width(sequences, always, beams, seed, kind, at_once):
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
    result = search(Exhaustive(bucketed(docids, kind), 10), beams)
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
    beam, exact = search(TrieConstraint(index), beams, at_once=True), search(Exhaustive(index, 10), beams)
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
    narrow, exact = run(TrieConstraint(index)), run(Exhaustive(index))
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
@given(sequences=sets_of_sequences, always=st.booleans(), beams=st.sampled_from([2, 5]), kind=st.sampled_from(LAYOUTS))
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


def test_updated_indexes_share_a_program_until_a_bucket_overflows():
    compiled = []

    @jax.jit
    def run(strategy):
        compiled.append(1)
        return beam_search(MODEL.step, MODEL.cache(BATCH), strategy, batch=BATCH, beams=5)

    random = np.random.default_rng(0)
    rows = np.unique(random.integers(2, VOCAB, (400, 5)), axis=0)
    document, lengths = np.arange(len(rows)), np.full(len(rows), 5)

    def built(places):
        return DocidIndex.build(rows[places], lengths[places], document[places], vocab_size=VOCAB)

    start = len(rows) - 60
    index = DocidIndex.build(rows[:start], lengths[:start], document[:start], vocab_size=VOCAB, room=0.25)
    run(TrieConstraint(index))
    held = document[:start]
    for gone, added in (([3, 4], start + np.arange(20)), (range(100, 150), []), ([], start + np.arange(20, 60))):
        index = (
            index.updated(rows[added], lengths[added], document[added], remove=gone)
            if len(added)
            else (index.updated(remove=gone))
        )
        held = np.concatenate([np.setdiff1d(held, gone), added]).astype(int)
        found, expected = run(TrieConstraint(index)), jax.jit(search_alone)(TrieConstraint(built(held)))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert len(compiled) == 1
    many = np.unique(np.random.default_rng(1).integers(2, VOCAB, (2000, 5)), axis=0)
    index = index.updated(many, np.full(len(many), 5), 1000 + np.arange(len(many)))
    assert run(TrieConstraint(index)).valid.all()
    assert len(compiled) == 2


def search_alone(strategy):
    return beam_search(MODEL.step, MODEL.cache(BATCH), strategy, batch=BATCH, beams=5)


def children_only(docids, log_probs):
    """The same log-probabilities, normalised over the tokens that may follow."""

    def following(prefix):
        length, scores = len(prefix), log_probs(prefix)
        children = sorted({docid[length] for docid in docids if len(docid) > length and docid[:length] == prefix})
        return scores - np.log(np.exp(scores[children]).sum())

    return functools.cache(following)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    sequences=sets_of_sequences,
    beams=st.sampled_from([2, 5, 30]),
    kind=st.sampled_from(LAYOUTS),
    at_once=st.booleans(),
    partial_head=st.booleans(),
)
def test_normalised_over_the_children_alone(sequences, beams, kind, at_once, partial_head):
    docids = ended_docids(sequences)
    strategy = TrieConstraint(bucketed(docids, kind), normalize="children")
    result = search(strategy, beams, at_once=at_once, partial_head=partial_head)
    for query in range(BATCH):
        expected = oracle_beam_search(docids, children_only(docids, log_probs_of(MODEL, docids, query)), beams)
        found = found_by(result, query)
        if len(set(docids)) <= beams:
            np.testing.assert_allclose(sum(np.exp(score) for _, score in found), 1.0, rtol=1e-4)
        assume(expected.margin > 1e-4)
        assert_found(result, query, expected.docids, docids)


def test_a_step_is_asked_for_the_columns_of_its_level_only():
    """Tokens 2 to 4 come first, 100 to 103 second: the model never computes the other logits."""
    asked = []

    def step(tokens, prefix_nodes, cache, *, first, columns):
        asked.append(columns[1])
        return jnp.zeros((*tokens.shape, columns[1])), cache

    index = index_of([(2, 100), (3, 101), (4, 103), (4, 102)], vocab_size=200)
    strategy = TrieConstraint(index, normalize="children")
    run = jax.jit(lambda s: beam_search(step, {"beams": {}}, s, batch=1, beams=4, partial_head=True))
    result = run(strategy)
    assert asked == [3, 4]
    np.testing.assert_array_equal(result.tokens[0], [[2, 100], [3, 101], [4, 102], [4, 103]])
    np.testing.assert_allclose(np.exp(result.scores[0]), [1 / 3, 1 / 3, 1 / 6, 1 / 6], rtol=1e-5)


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


def test_all_scored_at_once_from_where_docids_are_decided():
    """Unlike beginnings, long forced ends: the model takes two steps and one pass over the five tokens left."""
    passes = []

    def forced(tokens, prefix_nodes, cache):
        passes.append(tokens.shape)
        return MODEL.forced(tokens, prefix_nodes, cache)

    docids = [
        (a, b, *np.random.default_rng(9 * a + b).integers(2, 9, 5).tolist()) for a in range(2, 9) for b in range(2, 9)
    ]
    index = index_of(docids)
    assert index.layout.forced_from == 2

    @functools.partial(jax.jit, static_argnums=1)
    def run(strategy, at_once):
        return beam_search(
            MODEL.step, MODEL.cache(BATCH), strategy, batch=BATCH, beams=6, forced=forced if at_once else None
        )

    result, expected = run(TrieConstraint(index), True), run(TrieConstraint(index), False)
    assert sorted(passes) == [(BATCH, 6, left) for left in range(1, 6)]
    np.testing.assert_array_equal(result.tokens, expected.tokens)
    np.testing.assert_allclose(result.scores, expected.scores, atol=1e-5)
