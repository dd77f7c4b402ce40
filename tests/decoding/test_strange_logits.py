"""NaN, infinities and the lowest floats among the logits: one order in every path, and NaN is never certified."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.small_sets import index_of

from genret_jax.decoding import Exhaustive, TrieConstraint, beam_search
from genret_jax.decoding.scores import HIGHEST, LOWEST

VOCAB = 5
LOW = float(np.finfo(np.float32).min)
DOCIDS = [(2, 3), (2, 4), (3, 2), (3, 4), (4, 4)]
NAN, INF = float("nan"), float("inf")


def model(rows):
    """A step with the same logits after every token, and the pass that scores forced ends by them."""

    def step(tokens, prefix_nodes, cache, *, first):
        del prefix_nodes
        row = rows[0 if first else 1]
        return jnp.broadcast_to(row, (*tokens.shape, VOCAB)), {**cache, "position": cache["position"] + 1}

    def forced(tokens, prefix_nodes, cache):
        del prefix_nodes, cache
        return jnp.broadcast_to(rows[1], (*tokens.shape, VOCAB))

    return step, forced


@functools.partial(jax.jit, static_argnames=("is_forced", "beams"))
def search(rows, strategy, is_forced, beams):
    step, forced = model(rows)
    cache = {"beams": {}, "shared": {}, "position": jnp.zeros((), jnp.int32)}
    return beam_search(step, cache, strategy, batch=1, beams=beams, forced=forced if is_forced else None)


def found(first, later, path, beams=5):
    index = index_of(DOCIDS, VOCAB)
    strategy = Exhaustive.of(index, chunk=5) if path == "exhaustive" else TrieConstraint(index)
    return search(jnp.array([first, later], jnp.float32), strategy, path == "forced", beams)


PATHS = ("step by step", "forced", "exhaustive")


def docids_of(result):
    assert not np.isnan(np.asarray(result.scores)).any()
    valid = np.asarray(result.valid)[0]
    assert (valid == np.sort(valid)[::-1]).all(), "what is invalid comes last"
    return [tuple(tokens) for tokens in np.asarray(result.tokens)[0][valid].tolist()]


def oracle(first, later):
    """Scores of all docids by the rule of genret_jax.decoding.scores, in NumPy."""

    def log_softmax(row):
        row = np.clip(
            np.nan_to_num(np.array(row, np.float64), nan=LOWEST, posinf=HIGHEST, neginf=LOWEST), LOWEST, HIGHEST
        )
        highest = row.max()
        normaliser = highest + np.log(np.exp(row - highest).sum()) if highest > LOWEST else LOWEST
        return np.clip(row - normaliser, LOWEST, 0.0)

    first, later = log_softmax(first), log_softmax(later)
    return {docid: max(float(first[docid[0]] + later[docid[1]]), LOWEST) for docid in DOCIDS}


STRANGE = [
    [0, 0, 1.0, 2.0, NAN],
    [0, 0, 1.0, 2.0, -INF],
    [0, 0, 1.0, 2.0, LOW],
    [0, 0, 1.0, 2.0, INF],
    [0, 0, NAN, NAN, NAN],
    [-INF] * 5,
    [NAN] * 5,
    [LOW] * 5,
]


@pytest.mark.parametrize("later", STRANGE, ids=str)
@pytest.mark.parametrize("path", PATHS)
def test_every_path_follows_the_rule_and_loses_no_docid(later, path):
    first = [0, 0, 2.0, 1.5, 1.0]
    result, expected = found(first, later, path), oracle(first, later)
    scores = np.asarray(result.scores)[0].tolist()
    docids = docids_of(result)
    assert sorted(docids) == sorted(DOCIDS)
    for docid, score in zip(docids, scores, strict=True):
        assert score == pytest.approx(expected[docid], rel=1e-5, abs=1e-5)
    assert scores == sorted(scores, reverse=True)
    assert bool(result.has_nan[0]) == np.isnan(later).any()
    assert bool(result.certified[0]) != np.isnan(later).any()


@pytest.mark.parametrize("first", [[0, 0, NAN, 2.0, 1.0], [0, 0, INF, 2.0, 1.0], [0, 0, -INF, LOW, NAN], [NAN] * 5])
@pytest.mark.parametrize("later", [[0, 0, 1.0, 2.0, NAN], [0, 0, INF, INF, 1.0], [-INF] * 5])
def test_scores_agree_between_the_paths(first, later):
    results = [found(first, later, path) for path in PATHS]
    scores = [dict(zip(docids_of(result), np.asarray(result.scores)[0].tolist(), strict=True)) for result in results]
    for other in scores[1:]:
        assert other.keys() == scores[0].keys() == set(DOCIDS)
        for docid, score in scores[0].items():
            assert other[docid] == pytest.approx(score, rel=1e-5, abs=1e-5)
    assert len({bool(result.has_nan[0]) for result in results}) == 1


def test_a_narrow_search_of_nan_is_not_certified():
    assert not found([0, 0, 1.0, 2.0, NAN], [0.0] * 5, "step by step", beams=1).certified[0]
    assert found([0, 0, 1.0, 90.0, 0.0], [0, 0, 0, 0, 90.0], "step by step", beams=1).certified[0]
