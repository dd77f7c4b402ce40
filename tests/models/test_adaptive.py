"""NCI's adaptive decoder: what a prefix does to the output layer, and the same computed before the search."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.decoding import TrieConstraint, beam_search, rank_documents
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.errors import InputError
from genret_jax.inference import docid_index, node_tree, search_tokens
from genret_jax.models import T5
from genret_jax.models.folding import folded
from genret_jax.models.network import random_variables

CODES = [(0,), (0, 1), (0, 2, 3), (1, 0), (2, 2, 1), (1, 3, 0), (2, 2, 0), (3,), (2, 0)]
SOURCE = jnp.array([[3, 7, 9, 0], [12, 2, 0, 0], [5, 5, 30, 31]])
PLAIN = tiny_t5()
ADAPTIVE = dataclasses.replace(PLAIN, adaptive_layers=2)


def drawn(config, scale=1.0):
    """Random parameters in which the matrices, which start at zero, say something."""
    params = random_variables(config, jax.random.key(0), None)["params"]
    kernel = params["decoder"]["adaptive"]["kernel"]
    noise = np.random.default_rng(0).standard_normal(kernel.shape, np.float32) * scale * config.d_model**-0.5
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: jnp.asarray(noise) if path[-2].key == "adaptive" else leaf, params
    )


def test_at_the_identity_it_is_t5():
    start = random_variables(ADAPTIVE, jax.random.key(0), None)["params"]
    assert not np.any(start["decoder"]["adaptive"]["kernel"])
    prefix = jnp.array([[0, 4, 9], [0, 5, 9], [0, 6, 3]])
    plain = {**start, "decoder": {name: part for name, part in start["decoder"].items() if name != "adaptive"}}
    expected = T5(PLAIN).apply({"params": plain}, SOURCE, prefix)
    np.testing.assert_array_equal(T5(ADAPTIVE).apply({"params": start}, SOURCE, prefix), expected)


def test_a_code_means_something_else_after_another_prefix():
    """The same state of the decoder, whose layers and inputs are silenced, ranks the codes by what was written."""
    params = drawn(ADAPTIVE)
    prefixes = jnp.array([[0, 4, 9], [0, 5, 9], [0, 4, 9]])
    same = jnp.broadcast_to(SOURCE[:1], SOURCE.shape)
    # The decoder's own reading of the prefix: its self-attention and the vectors of its tokens add nothing.
    silent = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf * 0 if "self_attention" in str(path) else leaf, params["decoder"]
    )
    muted = {**params, "decoder": silent}
    model = T5(ADAPTIVE)

    def states_and_logits(prefix):
        logits, kept = model.apply({"params": muted}, same[:1], prefix[None], capture_intermediates=True)
        return kept["intermediates"]["decoder"]["decoder_norm"]["__call__"][0][0, -1], logits[0, -1]

    (state, first), (other_state, second), (_, again) = map(states_and_logits, prefixes)
    np.testing.assert_allclose(state, other_state, atol=1e-6)  # both end with 9, and nothing else is read
    np.testing.assert_array_equal(first, again)
    assert np.corrcoef(first, second)[0, 1] < 0.9
    without = T5(PLAIN).apply({"params": {**muted, "decoder": _without(silent)}}, same, prefixes)[:, -1]
    np.testing.assert_allclose(without[0], without[1], atol=1e-5)


def _without(decoder):
    return {name: part for name, part in decoder.items() if name != "adaptive"}


def test_logits_are_the_state_times_matrix_times_output_layer():
    """Section 3.3's product, by NumPy."""
    params = drawn(ADAPTIVE)
    prefix = jnp.array([[0, 4, 9]] * 3)
    model = T5(ADAPTIVE)
    logits, kept = model.apply({"params": params}, SOURCE, prefix, capture_intermediates=True)
    hidden = np.asarray(kept["intermediates"]["decoder"]["decoder_norm"]["__call__"][0])
    said = np.asarray(
        model.apply({"params": params}, prefix, method=lambda t5, tokens: t5.decoder.adaptive(tokens, True))
    )
    matrix = np.einsum("bqe,def->bqdf", said, params["decoder"]["adaptive"]["kernel"]) + np.eye(16)
    expected = np.einsum("bqd,bqde,ev->bqv", hidden, matrix, params["decoder"]["logits_dense"]["kernel"])
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fields", [{}, {"adaptive_width": 5}, {"tie_embeddings": True, "scale_decoder_outputs": True}])
@pytest.mark.parametrize("eos", ["needed", "always"])
def test_folded_it_finds_what_it_finds_step_by_step(fields, eos):
    table = DocidTable.from_codes(
        [f"doc{i}" for i in range(len(CODES))], CODES, strategy={"name": "hand"}, corpus_fingerprint="none"
    )
    encoded = DocidCodec(first_token=40, level_sizes=table.level_sizes, eos=eos).encode(table)
    config = dataclasses.replace(ADAPTIVE, vocab_size=56, **fields)
    params, tree = drawn(config, scale=2.0), node_tree(encoded)
    index = docid_index(encoded, config.output_vocab_size)
    stepwise = _stepwise(params, config, index)
    docids = {
        "tokens": encoded.tokens,
        "prefix_nodes": encoded.prefix_nodes,
        "node_tokens": encoded.tree.node_token,
    }
    other, shape = folded(params, config, tree, **docids)
    found = search_tokens(other, SOURCE, TrieConstraint(index), tree, shape, 12)
    np.testing.assert_array_equal(found.docids, stepwise.docids)
    np.testing.assert_allclose(found.scores, stepwise.scores, atol=1e-4)
    total = np.exp(np.asarray(found.scores))[np.asarray(found.valid)].reshape(len(SOURCE), -1).sum(axis=1)
    np.testing.assert_allclose(total, 1.0, atol=1e-5)
    assert np.ptp(np.asarray(found.scores)[:, : len(CODES)], axis=1).min() > 0.5
    assert {d for d, _ in rank_documents(found, index).of(0)} == set(range(len(CODES)))


def _stepwise(params, config, index):
    """The adaptive decoder at every step of a search, with its cache."""
    model, variables = T5(config), {"params": params}

    @functools.partial(jax.jit, static_argnames="beams")
    def run(beams):
        cache = model.apply(
            variables, model.apply(variables, SOURCE, method=T5.encode), SOURCE, 4, method=T5.init_cache
        )

        def step(tokens, prefix_nodes, cache, *, first):
            return model.apply(variables, tokens, None, cache, method=T5.step)

        return beam_search(step, cache, TrieConstraint(index, normalize="children"), batch=3, beams=beams)

    return run(12)


def test_it_is_for_the_vocabulary_head():
    with pytest.raises(InputError, match="adaptive_layers"):
        tiny_t5(head="prefix", num_nodes=8, adaptive_layers=1)
    with pytest.raises(InputError, match="adaptive_width"):
        tiny_t5(adaptive_width=4)
