"""What a search is made with: strategies, programs that are shared, steps that are saved, and what is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from support.decoding_oracle import ended_docids
from support.fake_model import FakeModel
from support.small_sets import (
    BATCH,
    MODEL,
    VOCAB,
    bucketed,
    found_by,
    index_of,
    search,
)

from genret_jax.decoding import DocidIndex, Exhaustive, TrieConstraint, Unconstrained, beam_search
from genret_jax.errors import InputError


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
    shared = {"query": over_batch, "levels": over_batch}
    shardings = {"beams": {"history": over_batch}, "shared": shared, "position": everywhere}
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


@pytest.mark.parametrize("strategy", [TrieConstraint, Exhaustive.of])
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
