"""The tasks on histories: their loss is the cross-entropy of the network's logits, however a batch is laid out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny_interactions import interactions_of
from support.tiny_model import tiny_t5

from genret_jax.data.examples.histories import HistoryConfig, history_tokens
from genret_jax.data.examples.history_examples import EvenSampler, HistoryExamples, PackedHistories
from genret_jax.models.config import ItemInput
from genret_jax.models.heads import NodeTree
from genret_jax.parallel.mesh import make_mesh, placed_on
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.history_task import HistoryTask, PackedHistoryTask
from genret_jax.training.start import SeedRun, prepare
from genret_jax.training.step import TrainingTask, plan_steps

ITEMS, USERS, BATCH, SHOWN = 12, 20, 16, 5


random = np.random.default_rng(1)
DATA = interactions_of([random.integers(0, ITEMS, length).tolist() for length in random.integers(4, 12, USERS)], ITEMS)
TOKENS = np.stack([np.arange(ITEMS) // 4 + 2, np.arange(ITEMS) % 4 + 5], 1).astype(np.int32)
NODES = np.stack([np.arange(ITEMS) // 4 + 1, np.arange(ITEMS) + 4], 1).astype(np.int32)


def common(count, inputs=TOKENS, **model):
    return {
        "config": tiny_t5(vocab_size=16, **model),
        "sampler": EvenSampler(count, seed=2, batch_size=BATCH),
        "item_inputs": inputs,
        "item_tokens": TOKENS,
        "item_nodes": 0 * TOKENS,
        "tree": None,
    }


def make_task(users, user_drop=0.0, whole=False):
    config = HistoryConfig(items=SHOWN, user_tokens=users)
    examples = HistoryExamples.of(DATA, config)
    tokens = 9 + config.user_numbers(DATA.user_ids) if users else None
    if not whole:
        return HistoryTask(examples, tokens, user_drop, **common(len(examples)))
    form = ItemInput(leading=int(users > 0), length=2, count=SHOWN, whole=True)
    inputs = np.concatenate([TOKENS, NODES], axis=1)
    return HistoryTask(examples, tokens, user_drop, **common(len(examples), inputs, item_input=form, num_nodes=16))


def drawn_params(task):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.3, leaf.dtype), shapes)


def expected_sums(task, params, histories, targets, users=None):
    """Loss, weight and right tokens of histories that are each encoded alone."""
    rows = np.full((len(histories), SHOWN), -1)
    for row, history in enumerate(histories):
        rows[row, : len(history)] = history
    tokens, wanted = history_tokens(rows, task.arrays["inputs"][:-1], users), TOKENS[targets]
    shifted = np.pad(wanted[:, :-1], ((0, 0), (1, 0)))
    logits = np.asarray(jax.jit(task.model.apply)({"params": params}, tokens, shifted), np.float64)
    logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
    loss = -np.take_along_axis(logits, wanted[..., None], -1).sum()
    return loss, wanted.size, (logits.argmax(-1) == wanted).sum()


def sums_of(task, params, examples):
    loss = jax.jit(task.loss)(params, {"example": jnp.asarray(examples), **task.arrays}, jax.random.key(0))
    total, weight, metrics = jax.tree.map(float, loss)
    return total, weight, metrics["token_accuracy"]


@pytest.mark.parametrize(
    ("users", "rows", "whole"), [(4, BATCH, False), (0, BATCH, False), (4, BATCH // 2, False), (4, BATCH, True)]
)
def test_the_loss_is_the_cross_entropy_of_the_targets(users, rows, whole):
    """Half of the rows, every second one, is what gradient accumulation in two parts gives the task."""
    task = make_task(users, whole=whole)
    assert isinstance(task, TrainingTask)
    numbers, found = task.batch(3)["example"][:: BATCH // rows], task.examples
    params = drawn_params(task)
    histories = [found.item[found.begin[number] : found.place[number]] for number in numbers]
    user = task.arrays.get("user")
    tokens = None if user is None else user[numbers]
    expected = expected_sums(task, params, histories, found.item[found.place[numbers]], tokens)
    assert sums_of(task, params, numbers) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("whole", [False, True])
def test_packed_histories_have_the_loss_of_each_alone(whole):
    """Also with the bias of positions, which must count the items of each history by itself."""
    packed = PackedHistories.of(DATA, SHOWN)
    form = ItemInput(leading=0, length=2, count=SHOWN, causal=True, whole=whole)
    model = {"item_input": form, "num_decoder_layers": 2, "num_nodes": 16 if whole else 0}
    inputs = np.concatenate([TOKENS, NODES], axis=1) if whole else TOKENS
    task = PackedHistoryTask(packed, **common(len(packed), inputs, **model))
    assert isinstance(task, TrainingTask)
    params, rows = drawn_params(task), np.arange(len(packed))
    histories, targets = [], []
    for row, column in np.argwhere(packed.targets >= 0):
        own = packed.histories[row, : column + 1] == packed.histories[row, column]
        histories.append(packed.items[row, : column + 1][own])
        targets.append(packed.targets[row, column])
    assert len(targets) == np.sum(np.diff(DATA.offsets) - 3)
    expected = expected_sums(task, params, histories, np.array(targets))
    assert sums_of(task, params, rows) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("causal", [False, True])
def test_two_passes_without_dropout_are_one(causal):
    """So each target is compared with itself, however histories are grouped or packed."""
    if causal:
        packed = PackedHistories.of(DATA, SHOWN)
        form = ItemInput(leading=0, length=2, count=SHOWN, causal=True)
        task, numbers = PackedHistoryTask(packed, **common(len(packed), item_input=form)), np.arange(len(packed))
    else:
        task = make_task(4)
        numbers = task.batch(3)["example"]
    params = drawn_params(task)
    expected = sums_of(task, params, numbers)
    task.consistency = 5.0
    assert sums_of(task, params, numbers) == pytest.approx(expected, rel=1e-5)
    found = jax.jit(task.loss)(params, {"example": jnp.asarray(numbers), **task.arrays}, jax.random.key(0))
    assert found[2]["consistency"] == pytest.approx(0.0, abs=1e-4)


def test_users_are_dropped_as_often_as_they_should_be():
    task, without = make_task(4, user_drop=0.4), make_task(4)
    numbers = jnp.asarray(np.repeat(len(task.examples) - 1, 4000))  # the one with the longest history
    shown = np.asarray(jax.jit(task._shown, static_argnums=2)(task.arrays, numbers, SHOWN, jax.random.key(0)))
    whole = np.asarray(jax.jit(without._shown, static_argnums=2)(without.arrays, numbers[:1], SHOWN, jax.random.key(0)))
    assert (shown[:, 0] > 0).mean() == pytest.approx(0.6, abs=0.03)
    assert set(shown[:, 0]) == {0, whole[0, 0]}
    np.testing.assert_array_equal(shown[:, 1:], np.broadcast_to(whole[:, 1:], shown[:, 1:].shape))


def big_task(table, packed=False):
    """A task of tables of ``table`` items, of which few occur, with the prefix head."""
    tree = NodeTree.build(np.array([0, 2, *[2] * (table - 1)]), np.array([1, 2]), np.array([1, 2]))
    config = tiny_t5(vocab_size=16, head="prefix", num_nodes=table)
    tables = {name: np.ones((table, 2), np.int32) for name in ("item_inputs", "item_tokens", "item_nodes")}
    sampler = EvenSampler(USERS, seed=2, batch_size=BATCH)
    if packed:
        return PackedHistoryTask(PackedHistories.of(DATA, SHOWN), config=config, sampler=sampler, tree=tree, **tables)
    examples = HistoryExamples.of(DATA, HistoryConfig(items=SHOWN, user_tokens=0))
    return HistoryTask(examples, None, 0.0, config=config, sampler=sampler, tree=tree, **tables)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_tables_are_arguments_of_the_step(packed, seeds, tiny_config):
    """The program is as small for a million items as for a thousand, and the same for other items."""
    sizes, mesh = [], make_mesh()
    for table in (1_000, 1_000_000):
        task = big_task(table, packed)
        batch = {"example": jax.ShapeDtypeStruct((BATCH,), np.int32)}
        steps = plan_steps(task, tiny_config(), mesh, batch, seeds=seeds)
        state, stacked = steps.like, {"example": jax.ShapeDtypeStruct((1, *[2] * (len(seeds) - 1), BATCH), np.int32)}
        if len(seeds) > 1:
            state = jax.tree.map(lambda s: jax.ShapeDtypeStruct((len(seeds), *s.shape), s.dtype), state)
        with placed_on(mesh):
            sizes.append(len(steps.run_steps.lower(state, stacked, 1, task.arrays).as_text()))
            start = jax.jit(lambda task=task: task.init(jax.random.key(0))["params"]).lower().as_text()
        assert len(start) < 1_000_000
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    assert sizes[1] < 1_000_000


def test_other_tables_compile_nothing_anew(tiny_config, tmp_path):
    task, config = make_task(0), tiny_config(data_parallel=None, steps=1)
    with Checkpoints(tmp_path, keep=1) as saved:
        start = prepare([SeedRun(task=task, config=config, folder=tmp_path)], [saved])
    assert {leaf.sharding.spec for leaf in jax.tree.leaves(start.arrays)} == {P()}
    batch = {"example": task.batch(0)["example"][None]}
    params = []
    for tokens in (start.arrays["tokens"], jnp.flip(start.arrays["tokens"], 0)):
        with placed_on(start.mesh):
            state = jax.tree.map(jnp.copy, start.state)
            state, _ = start.run_steps(state, batch, 1, {**start.arrays, "tokens": tokens})
        params.append(jax.device_get(state.params))
    assert start.run_steps._cache_size() == 1
    with pytest.raises(AssertionError):
        jax.tree.map(np.testing.assert_array_equal, *params)
