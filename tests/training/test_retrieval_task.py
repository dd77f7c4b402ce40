"""The retrieval task: its loss is the cross-entropy of the network's logits, for both heads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5
from support.tiny_store import tiny_corpus as small_corpus
from support.tiny_store import tiny_store, tiny_table

from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.docids import DocidCodec
from genret_jax.models import NodeTree
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.step import TrainingTask


def make_task(folder, head, dropout_rate=0.0, **options):
    store = tiny_store(folder)
    tree, fields = None, {"vocab_size": store.decoder_vocabulary_size}
    if head == "prefix":
        table = tiny_table(small_corpus())
        encoded = DocidCodec(first_token=store.vocabulary_size, level_sizes=table.level_sizes).encode(table)
        tree = NodeTree.build(encoded.tree.child_offsets, encoded.tree.child_nodes, encoded.tree.child_tokens)
        fields |= {"head": "prefix", "num_nodes": encoded.tree.num_nodes}
    sampler = Sampler(store, SamplerConfig(input_length=8), seed=3, batch_size=4)
    return RetrievalTask(tiny_t5(**fields, dropout_rate=dropout_rate), sampler, tree, **options)


def drawn_params(task):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)


@pytest.mark.parametrize("head", ["vocabulary", "prefix"])
def test_the_loss_is_the_cross_entropy_of_the_targets(head, tmp_path):
    task = make_task(tmp_path / "store", head, z_loss=0.5)
    assert isinstance(task, TrainingTask)
    batch = task.batch(7)
    for name, array in task.sampler.batch(7).items():
        np.testing.assert_array_equal(batch[name], array)
    given = {name: jnp.asarray(array) for name, array in batch.items()} | task.arrays

    params = drawn_params(task)

    @jax.jit
    def both(params, key):
        inputs = [given[f"{name}"] for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_prefix_nodes")]
        return task.loss(params, given, key), task.model.apply({"params": params}, *inputs, task.tree)

    (total, weight, metrics), logits = jax.tree.map(np.asarray, both(params, jax.random.key(0)))
    normaliser = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    expected, count, right = 0.0, 0, 0
    for row, place in np.argwhere(batch["decoder_loss_weights"] > 0):
        target = batch["decoder_target_tokens"][row, place]
        expected += normaliser[row, place] - logits[row, place, target] + 0.5 * normaliser[row, place] ** 2
        right += int(logits[row, place].argmax() == target)
        count += 1
    assert total == pytest.approx(expected, rel=1e-4)
    assert (weight, metrics["token_accuracy"]) == (count, right)
    assert count >= 4


@pytest.mark.parametrize("head", ["vocabulary", "prefix"])
def test_consistency_is_the_divergence_of_two_passes(head, tmp_path):
    plain, both = (
        make_task(tmp_path / name, head, 0.3, consistency=weight) for name, weight in (("a", 0.0), ("b", 0.7))
    )
    given = {name: jnp.asarray(array) for name, array in plain.batch(7).items()}
    twice = {name: jnp.repeat(array, 2, axis=0) for name, array in given.items()}
    key = jax.random.key(1)

    @jax.jit
    def computed(params):
        inputs = [twice[name] for name in ("encoder_input_tokens", "decoder_input_tokens", "decoder_prefix_nodes")]
        logits = plain.model.apply(
            {"params": params}, *inputs, plain.tree, deterministic=False, rngs={"dropout": key}
        )  # the same masks, a row after the other
        loss = plain.loss(params, {**twice, **plain.arrays}, key)
        return both.loss(params, {**given, **both.arrays}, key), loss, logits

    (total, weight, metrics), (expected, count, other), logits = computed(drawn_params(plain))
    assert count == 2 * weight
    assert metrics["token_accuracy"] == other["token_accuracy"] / 2
    logs = np.asarray(jax.nn.log_softmax(logits))
    logs, weights = logs.reshape(4, 2, *logs.shape[1:]), np.asarray(given["decoder_loss_weights"])
    forward, backward = (np.sum(np.exp(logs[:, i]) * (logs[:, i] - logs[:, 1 - i]), axis=-1) for i in (0, 1))
    differ = np.sum(weights * (forward + backward)) / 2
    assert differ > 0.01
    assert metrics["consistency"] == pytest.approx(differ, rel=1e-3)
    assert total == pytest.approx(float(expected) / 2 + 0.7 * differ, rel=1e-4)
