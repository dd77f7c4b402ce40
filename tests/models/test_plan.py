"""Scores of a plan, beside the sums that they stand for, in NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse

from genret_jax.models import plan as plan_module
from genret_jax.models.config import PlanConfig, T5Config
from genret_jax.models.encoders.config import SentenceForm
from genret_jax.models.plan import DocidPlan, PlanTables, lexical_scores

DOCIDS, TERMS, WIDTH, TOKENS = 37, 20, 6, 15


@pytest.fixture
def weights():
    """Weights of terms in docids; term 0 is padding, and term 7 occurs nowhere."""
    found = scipy.sparse.random(DOCIDS, TERMS, 0.3, random_state=0, format="lil", dtype=np.float32)
    found[:, 0] = found[:, 7] = 0
    return scipy.sparse.csc_array(found)


def tables_of(weights, **more):
    return PlanTables(
        postings=jnp.append(weights.indices, 0).astype(jnp.int32),
        weights=jnp.append(weights.data, 0.0),
        offsets=jnp.asarray(weights.indptr, jnp.int32),
        highest=jnp.asarray(weights.max(axis=0).toarray().ravel()),
        bias=jnp.zeros(DOCIDS),
        **more,
    )


def config_of(**kinds):
    return T5Config(
        vocab_size=8, decoder_vocab_size=TOKENS, d_model=WIDTH, sentence=SentenceForm(), plan=PlanConfig(**kinds)
    )


@pytest.mark.parametrize("at_once", [4, 1 << 14])
def test_lexical_scores_are_products_with_the_sparse_matrix(weights, monkeypatch, at_once):
    monkeypatch.setattr(plan_module, "_POSTINGS_AT_ONCE", at_once)
    random = np.random.default_rng(0)
    terms = random.integers(0, TERMS, (5, 6))
    terms[0], terms[1] = 0, 7  # queries without a term, and with one that occurs nowhere
    terms[2] = terms[2, 0]  # a term again and again
    wanted = random.random(terms.shape).astype(np.float32)
    expected = np.stack([weights @ np.bincount(t, w, TERMS) for t, w in zip(terms, wanted, strict=True)])
    tables = tables_of(weights)

    def total(wanted):
        return jnp.sum(lexical_scores(wanted, jnp.asarray(terms), tables) * direction)

    direction = random.normal(size=expected.shape).astype(np.float32)
    np.testing.assert_allclose(lexical_scores(jnp.asarray(wanted), jnp.asarray(terms), tables), expected, atol=1e-5)
    gradient = np.take_along_axis(direction @ weights.toarray(), terms, axis=1)
    np.testing.assert_allclose(jax.jit(jax.grad(total))(wanted), gradient, atol=1e-4)


def test_the_kinds_of_a_plan_add_up(weights):
    random = np.random.default_rng(1)
    codes = random.integers(1, TOKENS, (DOCIDS, 3))
    codes[5, 2] = 0  # a shorter docid
    rows = random.normal(size=(DOCIDS, WIDTH)).astype(np.float32)
    bias = random.normal(size=DOCIDS).astype(np.float32)
    tables = tables_of(weights, codes=jnp.asarray(codes), vectors=jnp.asarray(rows)).replace(bias=jnp.asarray(bias))
    terms = jnp.asarray(random.integers(0, TERMS, (4, 5)))
    vectors = jnp.asarray(random.normal(size=(4, WIDTH)), jnp.float32)
    module = DocidPlan(config_of(codes=True, dense=True, terms=5, vocabulary=TERMS))
    params = module.init(jax.random.key(0), vectors, terms, tables)["params"]
    term_weights = random.normal(size=TERMS).astype(np.float32)
    params = {**params, "term_weights": term_weights, "lexical_scale": jnp.array(0.7), "dense_scale": jnp.array(1.5)}
    found = module.apply({"params": params}, vectors, terms, tables)
    logits = np.where(np.arange(TOKENS) > 0, vectors @ params["codes"], 0)
    counts = np.stack([np.bincount(row, np.exp(term_weights[row]) * (row > 0), TERMS) for row in np.asarray(terms)])
    lexical = counts @ weights.toarray().T + bias[None]
    highest = counts @ weights.toarray().max(axis=0)
    expected = 1.5 * 0.7 * highest[:, None] * (vectors @ rows.T) + logits[:, codes].sum(axis=2) + 0.7 * lexical
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_an_untouched_kind_has_no_parameters_and_reads_no_table():
    module = DocidPlan(config_of(dense=True))
    tables = PlanTables(vectors=jnp.ones((DOCIDS, WIDTH)), bias=jnp.zeros(DOCIDS))
    params = module.init(jax.random.key(0), jnp.ones((1, WIDTH)), jnp.zeros((1, 0), jnp.int32), tables)["params"]
    assert set(params) == {"dense_scale"}
    assert tables.num_bytes == 4 * DOCIDS * (WIDTH + 1)
