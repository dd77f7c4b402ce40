"""A network without decoder layers: its logits are 0, and its parameters are those of its other parts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.models import T5
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoders.config import SentenceForm
from genret_jax.models.network import random_variables
from genret_jax.models.plan import PlanTables

VOCAB = 12
INPUTS = jnp.array([[5, 6, 7, 2, 0], [8, 9, 0, 1, 3]])  # three tokens and two terms
TARGETS = jnp.array([[0, 2, 5], [0, 3, 7]])


def config(layers):
    return tiny_t5(
        num_decoder_layers=layers,
        decoder_vocab_size=VOCAB,
        sentence=SentenceForm(first_tokens=(3,)),
        query_width=8,
        plan=PlanConfig(codes=True, dense=True, terms=2, vocabulary=4),
    )


@pytest.fixture(scope="module")
def silent():
    shape = config(0)
    return T5(shape), random_variables(shape, jax.random.key(0), None)


def test_only_the_decoder_has_no_parameters(silent):
    speaking = random_variables(config(1), jax.random.key(0), None)["params"]
    assert set(speaking) == {"token_embedder", "encoder", "query_vector", "plan", "decoder_token_embedder", "decoder"}
    params = silent[1]["params"]
    assert set(params) == set(speaking) - {"decoder_token_embedder", "decoder"}
    jax.tree.map(np.testing.assert_array_equal, params, {name: speaking[name] for name in params})


def test_whole_targets_leave_the_scores_to_the_plan(silent):
    model, variables = silent
    tables = PlanTables.empty(model.config)
    logits, scores = model.apply(variables, tables, INPUTS, TARGETS, method=T5.planned)
    np.testing.assert_array_equal(logits, np.zeros((2, 3, VOCAB)))
    encoded = model.apply(variables, INPUTS, method=T5.encode)
    np.testing.assert_array_equal(scores, model.apply(variables, encoded, INPUTS, tables, method=T5.plan_scores))


def test_a_search_gets_logits_of_the_same_shapes_as_from_a_decoder(silent):
    speaking = config(1)
    for model, variables in (silent, (T5(speaking), random_variables(speaking, jax.random.key(0), None))):
        encoded = model.apply(variables, INPUTS, method=T5.encode)
        cache = model.apply(variables, encoded, INPUTS, 3, method=T5.init_cache)
        first, cache = model.apply(variables, TARGETS[:, :1], None, cache, method=T5.step)
        some, _ = model.apply(variables, TARGETS[:, :1], None, cache, columns=(2, 4), method=T5.step)
        later = model.apply(variables, TARGETS[:, None, 1:], None, cache, method=T5.forced)
        assert [array.shape for array in (first, some, later)] == [(2, 1, VOCAB), (2, 1, 4), (2, 1, 2, VOCAB)]
        assert {array.dtype for array in (first, some, later)} == {jnp.dtype("float32")}
        if model is silent[0]:
            assert not any(np.any(array) for array in (first, some, later))
            assert not jax.tree.leaves(cache)
