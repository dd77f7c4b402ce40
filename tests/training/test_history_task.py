"""The history task: its loss is the cross-entropy of the network's logits, however a batch is grouped."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.data.corpus import Corpus
from genret_jax.data.histories import HistoryConfig, HistoryExamples, HistorySampler, history_tokens
from genret_jax.data.interactions import Interactions
from genret_jax.testing.tiny_model import tiny_t5
from genret_jax.training.history_task import HistoryTask
from genret_jax.training.task import TrainingTask

ITEMS, USERS, BATCH = 12, 20, 16


def make_task(config, **options):
    random = np.random.default_rng(1)
    lengths = random.integers(4, 12, USERS)
    ids = tuple(map(str, range(ITEMS)))
    data = Interactions(
        items=Corpus(name="made", doc_ids=ids, titles=ids, texts=ids),
        user_ids=tuple(map(str, range(USERS))),
        offsets=np.cumsum([0, *lengths]).astype(np.int64),
        item=random.integers(0, ITEMS, lengths.sum()).astype(np.int32),
    )
    codes = np.stack([np.arange(ITEMS) // 4, np.arange(ITEMS) % 4], 1).astype(np.int32)
    tokens = codes + np.array([2, 5], np.int32)
    users = 9 + config.user_numbers(data.user_ids) if config.user_tokens else None
    return HistoryTask(
        tiny_t5(vocab_size=16, dropout_rate=0.0),
        HistorySampler(HistoryExamples.of(data, config), seed=2, batch_size=BATCH),
        config,
        item_tokens=tokens,
        item_nodes=np.zeros_like(tokens),
        user_tokens=users,
        tree=None,
        **options,
    )


@pytest.fixture(scope="module")
def params():
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(make_task(HistoryConfig(items=5, user_tokens=4)).init, jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)


def expected_loss(task, params, examples):
    """Cross-entropy of every example with its whole history, padded as far as the longest goes."""
    found, config = task.sampler.examples, task.histories
    histories = np.full((len(examples), config.items), -1)
    for row, example in enumerate(examples):
        shown = found.item[found.begin[example] : found.place[example]]
        histories[row, : len(shown)] = shown
    users = None if task._user is None else task._user[examples]
    tokens = history_tokens(histories, task._tokens[:-1], users)
    targets = task._tokens[found.item[found.place[examples]]]
    shifted = np.pad(targets[:, :-1], ((0, 0), (1, 0)))
    logits = np.asarray(jax.jit(task.model.apply)({"params": params}, tokens, shifted), np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    right = (logits.argmax(-1) == targets).sum()
    return -np.take_along_axis(logits, targets[..., None], -1).sum(), targets.size, right


@pytest.mark.parametrize("users", [4, 0])
@pytest.mark.parametrize("rows", [BATCH, BATCH // 2])
def test_the_loss_is_the_cross_entropy_of_the_targets(users, rows, params):
    """Half of the rows, every second one, is what gradient accumulation in two parts gives the task."""
    task = make_task(HistoryConfig(items=5, user_tokens=users))
    assert isinstance(task, TrainingTask)
    batch = task.batch(3)["example"][:: BATCH // rows]
    loss = jax.jit(task.loss)(params, {"example": jnp.asarray(batch)}, jax.random.key(0))
    total, weight, metrics = jax.tree.map(float, loss)
    expected, count, right = expected_loss(task, params, batch)
    assert total == pytest.approx(expected, rel=1e-4)
    assert (weight, metrics["token_accuracy"]) == (count, right)


def test_dropped_items_and_users(params):
    """The latest item is always shown, the others and the user as often as they should be."""
    task = make_task(HistoryConfig(items=5, user_tokens=4, item_drop=0.3, user_drop=0.4))
    examples = jnp.asarray(np.repeat(len(task.sampler.examples) - 1, 4000))  # the one with the longest history
    tokens = np.asarray(jax.jit(task._shown, static_argnums=1)(examples, 5, jax.random.key(0)))
    users, items = tokens[:, 0], tokens[:, 1:].reshape(-1, 5, 2)
    assert (users > 0).mean() == pytest.approx(0.6, abs=0.03)
    shown = (items > 0).all(-1)
    np.testing.assert_array_equal(shown, (items > 0).any(-1))
    assert shown[:, 4].all()
    np.testing.assert_allclose(shown[:, :4].mean(0), 0.7, atol=0.03)
    without = make_task(HistoryConfig(items=5, user_tokens=4))
    whole = np.asarray(jax.jit(without._shown, static_argnums=1)(examples[:1], 5, jax.random.key(0)))
    assert set(users) == {0, whole[0, 0]}
    np.testing.assert_array_equal(items[shown], np.broadcast_to(whole[0, 1:].reshape(5, 2), items.shape)[shown])
