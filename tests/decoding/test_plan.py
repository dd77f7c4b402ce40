"""Plans: a search with scores of whole docids, beside brute force in float64."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.fake_model import FakeModel

from genret_jax.decoding import DocidIndex, Plan, TrieConstraint, allow, beam_search
from genret_jax.decoding.building import spelled
from genret_jax.decoding.plan import DEEPEST

VOCAB, BATCH = 40, 3


def make_index(kind, docids=1500, seed=3, **options):
    """An index whose wide prefixes have rows, bits or edges; some docids end early, and some documents share one."""
    random, spread = np.random.default_rng(seed), 8 if kind == "edges" else 1
    if kind == "atomic":
        tokens = np.arange(2, docids + 2)[:, None]
        return DocidIndex.build(tokens, np.full(docids, 1), np.arange(docids), vocab_size=docids + 2, **options)
    weights = np.ones(VOCAB - 2) if kind == "rows" else 1 / np.arange(1, VOCAB - 1)
    tokens = random.choice(np.arange(2, VOCAB), (docids, 3), p=weights / weights.sum())
    lengths = np.full(docids, 3)
    tokens[: docids // 8, 1:], lengths[: docids // 8] = (1, 0), 2
    tokens[tokens > 1] *= spread
    return DocidIndex.build(tokens, lengths, np.arange(docids), vocab_size=spread * VOCAB, **options)


def search(strategy, scores, beams, model=None):
    model = model or FakeModel(vocab_size=strategy.vocab_size)

    @jax.jit
    def found(strategy, scores):
        return beam_search(
            model.step, model.cache(len(scores)), strategy.planned(scores), batch=len(scores), beams=beams
        )

    return found(strategy, scores)


def silent(vocab_size):
    """A decoder whose logits are all equal."""
    return FakeModel(vocab_size=vocab_size, levels=1)


def brute_force(index, scores, model, exists=None):
    """Return the log-probability of each docid in float64: children share by logit and by the mass below them."""
    tokens, lengths, _ = spelled(index)
    docids = [tuple(row[:length].tolist()) for row, length in zip(tokens, lengths, strict=True)]
    exists = np.ones(scores.shape, bool) if exists is None else exists
    found = np.full(scores.shape, -np.inf)
    for query, of_query in enumerate(np.asarray(scores, np.float64)):
        mass, logits = {}, {}
        for docid, score, there in zip(docids, of_query, exists[query], strict=True):
            for depth in range(len(docid) + 1):
                mass[docid[:depth]] = mass.get(docid[:depth], 0.0) + (np.exp(score) if there else 0.0)
        weight, below = {}, {}
        for prefix in sorted(mass, key=len):
            if prefix and mass[prefix]:
                parent = prefix[:-1]
                if parent not in logits:
                    logits[parent] = model.log_probs(query, parent, [0] * (len(parent) + 1))
                weight[prefix] = np.exp(logits[parent][prefix[-1]]) * mass[prefix]
                below[parent] = below.get(parent, 0.0) + weight[prefix]
        for row, docid in enumerate(docids):
            if exists[query, row]:
                prefixes = [docid[: depth + 1] for depth in range(len(docid))]
                found[query, row] = sum(np.log(weight[p] / below[p[:-1]]) for p in prefixes)
    return found


def scores_of(index, deviation=4.0, seed=0, batch=BATCH):
    return np.random.default_rng(seed).normal(size=(batch, index.layout.capacity.docids), scale=deviation).astype("f4")


@pytest.mark.parametrize("kind", ["rows", "bits", "edges", "atomic"])
def test_a_silent_decoder_finds_the_docids_in_the_order_of_the_scores(kind):
    index = make_index(kind)
    scores = scores_of(index)
    found = search(TrieConstraint(index), scores, 20, silent(index.vocab_size))
    np.testing.assert_array_equal(found.docids, np.argsort(-scores[:, : index.num_docids], axis=1)[:, :20])
    probabilities = jax.nn.log_softmax(scores[:, : index.num_docids].astype("f8"), axis=1)
    np.testing.assert_allclose(found.scores, -np.sort(-probabilities, axis=1)[:, :20], atol=2e-5)


@pytest.mark.parametrize("kind", ["rows", "bits", "edges"])
def test_plan_and_decoder_together_equal_brute_force(kind):
    index = make_index(kind, docids=400)
    scores, model = scores_of(index), FakeModel(vocab_size=index.vocab_size)
    expected = brute_force(index, scores[:, : index.num_docids], model)
    found = search(TrieConstraint(index), scores, index.num_docids, model)
    np.testing.assert_allclose(found.scores, -np.sort(-expected, axis=1), atol=1e-4)
    np.testing.assert_allclose(np.exp(found.scores).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(expected, np.asarray(found.docids), 1), found.scores, atol=1e-4)


@pytest.mark.parametrize("kind", ["rows", "bits", "edges", "atomic"])
def test_a_filtered_plan_is_shared_among_the_allowed_docids_only(kind):
    index = make_index(kind, docids=400)
    scores, model = scores_of(index), silent(index.vocab_size)
    documents = np.random.default_rng(1).random((BATCH, 400)) < 0.05
    documents[:, 7] = True
    of_docid, docid = index.documents_of(np.arange(index.num_docids))
    allowed = np.zeros((BATCH, index.num_docids), bool)
    for query in range(BATCH):
        allowed[query, docid[documents[query, of_docid]]] = True
    expected = brute_force(index, scores[:, : index.num_docids], model, allowed)
    found = search(TrieConstraint(index, allow(index, documents)), scores, 30, model)
    for query in range(BATCH):
        count = min(30, allowed[query].sum())
        assert found.valid[query].sum() == count
        np.testing.assert_allclose(found.scores[query, :count], -np.sort(-expected[query])[:count], atol=1e-4)


def test_added_docids_are_planned_by_the_program_that_is_there():
    traced = []

    @jax.jit
    def found(strategy, scores):
        traced.append(1)
        model = silent(strategy.vocab_size)
        return beam_search(model.step, model.cache(BATCH), strategy.planned(scores), batch=BATCH, beams=10)

    index = make_index("bits", room=0.2)
    tokens = np.array([[5, 38, 39], [30, 31, 32]])
    more = index.updated(tokens, np.array([3, 3]), np.array([1500, 1501]))
    assert more.num_docids > index.num_docids
    for searched in (index, more):
        scores = scores_of(searched)
        result = found(TrieConstraint(searched), scores)
        np.testing.assert_array_equal(result.docids, np.argsort(-scores[:, : searched.num_docids], axis=1)[:, :10])
    assert len(traced) == 1


def test_scores_of_docids_that_are_not_there_do_not_count():
    index = make_index("rows", docids=300, room=0.5)
    scores = scores_of(index)
    scores[:, index.num_docids :] = 1e6
    found = search(TrieConstraint(index), scores, 5, silent(index.vocab_size))
    np.testing.assert_array_equal(found.docids, np.argsort(-scores[:, : index.num_docids], axis=1)[:, :5])


@settings(max_examples=50, deadline=None, derandomize=True)
@given(count=st.sampled_from([1, 2, 3, 7, 16, 70]), seed=st.integers(0, 1000), spread=st.floats(0, 30))
def test_masses_of_all_ranges(count, seed, spread):
    scores = np.random.default_rng(seed).normal(size=(2, count), scale=spread).clip(-35, 35).astype(np.float32)
    first, stop = (places.reshape(1, 1, -1) for places in np.triu_indices(count + 1, 1))
    mass = np.exp(scores.astype(np.float64) - scores.max(axis=1, keepdims=True))
    # Sums, not differences, so that the oracle does not cancel either.
    wanted = [[mass[query, a:b].sum() for a, b in zip(first[0, 0], stop[0, 0], strict=True)] for query in range(2)]
    found = jax.jit(lambda s: Plan.of(s).of_ranges(first, stop))(scores)
    np.testing.assert_allclose(found[:, 0], np.log(wanted), atol=3e-6)


@pytest.mark.parametrize("count", [10, 1_000_000])
def test_small_masses_beside_large_ones_are_exact_at_any_size(count):
    """A difference of cumulative sums would read the last docids as 0: they weigh e**-40 of the first."""
    scores = np.random.default_rng(0).normal(size=(1, count)).astype(np.float32)
    scores[:, 0], scores[:, -3:] = 40.0, [0.25, -1.0, 2.0]
    plan = jax.jit(Plan.of)(scores)
    mass = np.exp(scores[0].astype(np.float64) - 40)
    starts = np.array([0, 0, 1, count // 3, count - 3, count - 1])
    stops = np.array([count, 1, count, count // 2 + 1, count - 1, count])
    wanted = [np.log(mass[a:b].sum()) for a, b in zip(starts, stops, strict=True)]
    found = jax.jit(Plan.of_ranges)(plan, starts[None, None], stops[None, None])
    np.testing.assert_allclose(found[0, 0], wanted, atol=1e-5)


def test_scores_far_below_the_best_keep_a_mass():
    plan = Plan.of(jnp.array([[0.0, -50.0, -1e4, -jnp.inf]]))
    assert plan.of_docids(jnp.arange(4)[None, None])[0, 0].tolist() == pytest.approx([0, -50, -DEEPEST, -DEEPEST])


def test_the_gradient_of_a_path_is_that_of_the_softmax_over_all_docids():
    scores = jnp.asarray(np.random.default_rng(0).normal(size=(1, 21)), jnp.float32)
    places = [(0, 21), (4, 17), (4, 9), (6, 7)]  # each contains the next

    def along_path(scores):
        plan = Plan.of(scores)
        mass = [plan.of_ranges(jnp.full((1, 1, 1), a), jnp.full((1, 1, 1), b)).sum() for a, b in places]
        return sum(below - above for above, below in itertools.pairwise(mass))

    value, gradient = jax.value_and_grad(along_path)(scores)
    expected, wanted = jax.value_and_grad(lambda s: jax.nn.log_softmax(s)[0, 6])(scores)
    assert value == pytest.approx(float(expected), abs=1e-5)
    np.testing.assert_allclose(gradient, wanted, atol=1e-5)
