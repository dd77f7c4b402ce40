"""The search with the real network: docids from a table, cached steps, and scores that teacher forcing confirms."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.decoding import DocidIndex, Exhaustive, TrieConstraint, beam_search, rank_documents
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.models import T5, NodeTree

# (0,) begins others, so it needs EOS; documents 2 and 5 share a docid; document 0 has a second one.
CODES = [(0,), (0, 1), (0, 2, 3), (1, 0), (2, 2, 1), (0, 2, 3), (1, 3, 0), (2, 2, 0), (3,), (2, 0)]
DOCUMENT = [0, 1, 2, 3, 4, 5, 6, 7, 8, 0]
QUERIES = np.array([[3, 7, 9, 0], [12, 2, 0, 0], [5, 5, 30, 31]])


def small_world(head):
    table = DocidTable.from_codes(
        [f"doc{i}" for i in range(9)], CODES, document=DOCUMENT, strategy={"name": "hand"}, corpus_fingerprint="none"
    )
    codec = DocidCodec(kind="per_level", first_token=2, level_sizes=table.level_sizes, eos="needed")
    encoded = codec.encode(table)
    tree, nodes = None, 0
    if head == "prefix":
        tree = NodeTree.build(encoded.tree.child_offsets, encoded.tree.child_nodes, encoded.tree.child_tokens)
        nodes = encoded.tree.num_nodes
    config = tiny_t5(decoder_vocab_size=codec.vocab_size, head=head, num_nodes=nodes)
    index = DocidIndex.build(
        encoded.tokens, encoded.lengths, encoded.document, encoded.prefix_nodes, vocab_size=codec.vocab_size
    )
    return encoded, tree, T5(config), index


def teacher_forced(model, params, encoded, tree):
    """Scores ``[b, r]`` of all rows by the training forward pass."""
    tokens = jnp.asarray(encoded.tokens)
    shifted = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]
    spelt = np.arange(tokens.shape[1])[None] < encoded.lengths[:, None]

    @jax.jit
    def of_query(query):
        every = jnp.broadcast_to(query[None], (len(tokens), query.shape[0]))
        logits = model.apply({"params": params}, every, shifted, jnp.asarray(encoded.prefix_nodes), tree)
        gained = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
        return jnp.where(spelt, gained, 0.0).sum(axis=1)

    return np.stack([of_query(query) for query in jnp.asarray(QUERIES)])


@pytest.mark.parametrize("head", ["vocabulary", "prefix"])
def test_scores_are_those_of_the_training_pass(head):
    encoded, tree, model, index = small_world(head)
    inputs = jnp.asarray(QUERIES)
    start = (inputs, jnp.asarray(encoded.tokens[:3]), jnp.asarray(encoded.prefix_nodes[:3]), tree)
    params = jax.jit(model.init)(jax.random.key(0), *start)["params"]
    # Larger weights than a fresh network's, so that queries and prefixes matter.
    params = jax.tree.map(lambda leaf: leaf * 2.0, params)

    @functools.partial(jax.jit, static_argnames="at_once")
    def run(params, strategy, at_once=False):
        variables = {"params": params}
        states = model.apply(variables, inputs, method=T5.encode)
        cache = model.apply(variables, states, inputs, index.max_length, method=T5.init_cache)

        def step(tokens, prefix_nodes, cache, *, first):
            return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.step)

        def forced(tokens, prefix_nodes, cache):
            return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.forced)

        return beam_search(step, cache, strategy, batch=3, beams=12, forced=forced if at_once else None)

    expected = teacher_forced(model, params, encoded, tree)
    looks_at_once = dataclasses.replace(index, layout=dataclasses.replace(index.layout, forced_from=1))
    for strategy, at_once in (
        (TrieConstraint(index), False),
        (TrieConstraint(looks_at_once), True),
        (Exhaustive.of(index, chunk=4), False),
    ):
        result = run(params, strategy, at_once)
        ranked = rank_documents(result, index)
        for query in range(3):
            assert result.valid[query].sum() == len(set(CODES))
            rows = np.asarray(result.rows)[query, : len(set(CODES))]
            np.testing.assert_allclose(result.scores[query, : len(rows)], expected[query, rows], atol=1e-4)
            assert (np.diff(expected[query, rows]) < 1e-4).all(), "best first"
            best = {d: max(expected[query, r] for r in range(len(CODES)) if DOCUMENT[r] == d) for d in DOCUMENT}
            assert {d: pytest.approx(s, abs=1e-4) for d, s in ranked.of(query)} == best
    assert np.ptp(expected, axis=1).min() > 0.5, "the docids differ in score, so their order means something"
