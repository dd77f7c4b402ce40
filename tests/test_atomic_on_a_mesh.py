"""Atomic docids on eight devices: a row, and a logit, for each of many documents, none of which sees all of them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from support.tiny_model import tiny_t5

from genret_jax.decoding import DocidIndex, TrieConstraint, allow
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.inference import search_tokens
from genret_jax.models import NodeTree
from genret_jax.parallel.mesh import logical_axes, make_mesh, param_shardings, placed_on
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.step import gradient_sum

DOCUMENTS, ROWS, MODEL_PARALLEL = 4090, 4096, 4
BATCH, LENGTH, BEAMS = 8, 6, 10


class World:
    """Atomic docids and a network for them."""

    def __init__(self, head):
        codes = np.arange(DOCUMENTS)[:, None]
        names = [f"d{number}" for number in range(DOCUMENTS)]
        table = DocidTable.from_codes(names, codes, strategy={}, corpus_fingerprint="")
        nodes = "tokens" if head == "prefix" else "table"
        self.encoded = DocidCodec(first_token=2, level_sizes=table.level_sizes, nodes=nodes).encode(table)
        tree = self.encoded.tree
        self.tree = (
            NodeTree.build(tree.child_offsets, tree.child_nodes, tree.child_tokens) if head == "prefix" else None
        )
        self.config = tiny_t5(
            decoder_vocab_size=ROWS,
            head=head,
            num_nodes=ROWS if head == "prefix" else 0,
            num_heads=4,
            tie_embeddings=head == "vocabulary",
        )
        encoded = self.encoded
        self.index = DocidIndex.build(
            encoded.tokens, encoded.lengths, encoded.document, encoded.prefix_nodes, vocab_size=ROWS
        )
        self.task = RetrievalTask(self.config, None, self.tree, z_loss=1e-3, label_smoothing=0.1)
        self.params = jax.jit(self.task.init)(jax.random.key(0))["params"]
        self.mesh = make_mesh(model_parallel=MODEL_PARALLEL)
        axes = logical_axes(jax.eval_shape(self.task.init, jax.random.key(0)))
        self.places = param_shardings(self.mesh, self.params, axes)

    def batch(self):
        generator = np.random.default_rng(0)
        zeros = np.zeros((BATCH, 1), np.int32)
        return {
            "encoder_input_tokens": generator.integers(1, 30, (BATCH, LENGTH)).astype(np.int32),
            "decoder_input_tokens": zeros,
            "decoder_prefix_nodes": zeros,
            "decoder_target_tokens": self.encoded.tokens[generator.integers(0, DOCUMENTS, BATCH)],
            "decoder_loss_weights": np.ones((BATCH, 1), np.float32),
        }

    def everywhere(self, tree):
        return jax.device_put(tree, NamedSharding(self.mesh, PartitionSpec()))


def numbers_of_all_documents(compiled):
    """Return the arrays of floating-point numbers on a device that have an axis as long as there are documents."""
    shapes = re.findall(r"= (?:f32|bf16|f64)\[([\d,]+)\]", compiled.as_text())
    return {shape for shape in shapes if any(int(size) > DOCUMENTS // 2 for size in shape.split(","))}


@pytest.mark.parametrize("head", ["prefix", "vocabulary"])
def test_loss_and_gradients_are_those_of_one_device(head):
    world = World(head)
    arrays, key = world.task.arrays, jax.random.key(1)

    def differentiate(params, batch, key, arrays):
        return gradient_sum(world.task, params, batch, key, 1, arrays)

    with jax.threefry_partitionable(True):
        alone = jax.jit(differentiate).lower(world.params, world.batch(), key, arrays).compile()
        gradients, totals = alone(world.params, world.batch(), key, arrays)
        batch = jax.device_put(world.batch(), NamedSharding(world.mesh, PartitionSpec("data")))
        params = jax.device_put(world.params, world.places)
        arrays = world.everywhere(arrays)
        with placed_on(world.mesh):
            places = (world.places, NamedSharding(world.mesh, PartitionSpec()))
            together = jax.jit(differentiate, out_shardings=places).lower(params, batch, key, arrays).compile()
            spread_gradients, spread_totals = together(params, batch, key, arrays)
    assert numbers_of_all_documents(alone)
    assert not numbers_of_all_documents(together)
    np.testing.assert_allclose(spread_totals["loss"], totals["loss"], rtol=1e-6)
    np.testing.assert_array_equal(spread_totals["token_accuracy"], totals["token_accuracy"])
    for one, other in zip(jax.tree.leaves(gradients), jax.tree.leaves(spread_gradients), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5 * float(np.abs(one).max()))


@pytest.mark.parametrize(("head", "filtered"), [("prefix", False), ("prefix", True), ("vocabulary", False)])
def test_search_finds_what_one_device_finds(head, filtered):
    world = World(head)
    queries = world.batch()["encoder_input_tokens"]
    best = np.asarray(
        search_tokens(world.params, queries, TrieConstraint(world.index), world.tree, world.config, 3).rows
    )
    allowed = np.ones((BATCH, DOCUMENTS), bool)
    np.put_along_axis(allowed, best, False, axis=1)  # each query without its own best
    chosen = allow(world.index, allowed) if filtered else None
    params, index, tree = jax.device_put(world.params, world.places), world.everywhere(world.index), world.tree
    alone = search_tokens(world.params, queries, TrieConstraint(world.index, chosen), tree, world.config, BEAMS)
    with placed_on(world.mesh):
        arguments = (params, queries, TrieConstraint(index, chosen), world.everywhere(tree), world.config, BEAMS)
        assert not numbers_of_all_documents(search_tokens.lower(*arguments).compile())
        together = search_tokens(*arguments)
    np.testing.assert_array_equal(together.tokens, alone.tokens)
    np.testing.assert_array_equal(together.rows, alone.rows)
    np.testing.assert_allclose(together.scores, alone.scores, rtol=1e-5)
    found = np.asarray(together.rows)
    assert (found[:, :, None] == best[:, None, :]).any() != filtered
    np.testing.assert_array_equal(world.encoded.tokens[found, 0], together.tokens[..., 0])


def test_scores_are_a_softmax_over_the_documents():
    world = World("prefix")
    queries = world.batch()["encoder_input_tokens"]
    found = search_tokens(world.params, queries, TrieConstraint(world.index), world.tree, world.config, DOCUMENTS)
    np.testing.assert_allclose(jnp.exp(found.scores).sum(axis=1), 1.0, rtol=1e-4)
