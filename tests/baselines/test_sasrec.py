"""SASRec: what a place may see, what a batch is, and a chain of items that it learns and popularity cannot."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_interactions import interactions_of, markov_interactions

from genret_jax.baselines import sasrec
from genret_jax.baselines.recommenders import Popularity
from genret_jax.baselines.sasrec import (
    SasRec,
    SasRecConfig,
    SasRecNetwork,
    SasRecTask,
    in_own_history,
    positions_from_the_end,
    rank_items,
)
from genret_jax.errors import InputError
from genret_jax.evaluation.recommendation import Recommender, measure
from genret_jax.losses import sampled_binary_cross_entropy
from genret_jax.training import AdamW, Constant, TrainerConfig, read_metrics, train

CONFIG = SasRecConfig(width=16, heads=2, max_length=8, dropout=0.1)
TRAINER = TrainerConfig(
    steps=150,
    batch_size=16,
    optimizer=AdamW(learning_rate=Constant(rate=0.01)),
    data_parallel=1,
    steps_per_dispatch=25,
    evaluate_every=50,
    checkpoint_every=None,
    best_metric="validation/ndcg@10",
    tensorboard=False,
)
CHAIN = markov_interactions()
SMALLER = dataclasses.replace(CONFIG, blocks=1, loss="cross_entropy")  # compiles in half the time


@pytest.fixture(scope="module")
def params():
    """Large random parameters, so that whatever can matter does."""
    place = jnp.zeros((1, 1), jnp.int32)
    small = jax.jit(SasRecNetwork(CONFIG, 24).init)(jax.random.key(0), place, place, place)["params"]
    leaves, tree = jax.tree.flatten(small)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return tree.unflatten([jax.random.normal(key, leaf.shape) * 0.5 for key, leaf in zip(keys, leaves, strict=True)])


@pytest.fixture(scope="module")
def logits(params):
    @jax.jit
    def apply(items, positions, segments):
        hidden, table = SasRecNetwork(CONFIG, 24).apply({"params": params}, items, positions, segments)
        return hidden @ table.T

    return lambda *rows: np.asarray(apply(*(np.array(row, np.int32)[None] for row in rows)))[0]


def test_a_later_item_changes_nothing_before_it(logits):
    items = [3, 1, 4, 1, 5, 9, 2, 6]
    before = logits(items, np.arange(8), np.ones(8))
    for place in range(1, 8):
        changed = list(items)
        changed[place] = 17
        after = logits(changed, np.arange(8), np.ones(8))
        np.testing.assert_array_equal(after[:place], before[:place])
        assert (np.abs(after[place:] - before[place:]).max(axis=1) > 1e-3).all()  # and everything from it on


def test_histories_in_one_row_do_not_see_each_other(logits):
    alone = logits([5, 6, 7, 0, 0, 0, 0, 0], [5, 6, 7, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0])[:3]
    behind = logits([9, 8, 5, 6, 7, 2, 1, 0], [6, 7, 5, 6, 7, 6, 7, 0], [1, 1, 2, 2, 2, 3, 3, 0])[2:5]
    np.testing.assert_allclose(behind, alone, atol=1e-5)


def test_ranking_is_a_sort_of_the_last_places_logits(params, logits):
    histories = np.array([[4, 7, 2, -1, -1, -1, -1, -1], [1, 2, 3, 4, 5, 6, 7, 8]], np.int32)
    items, scores = rank_items(CONFIG, params, histories, 24)
    short = logits([4, 7, 2, 0, 0, 0, 0, 0], [5, 6, 7, 0, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0, 0, 0])[2]
    full = logits(histories[1], np.arange(8), np.ones(8))[7]
    for row, wanted in enumerate((short, full)):
        np.testing.assert_array_equal(items[row], np.argsort(-wanted, kind="stable"))
        np.testing.assert_allclose(scores[row], np.sort(wanted)[::-1], atol=1e-4)


def test_padding_and_what_is_longer_than_the_network_reads_change_nothing(params):
    short = np.array([[4, 7, 2]], np.int32)
    padded = np.pad(short, ((0, 0), (0, 20)), constant_values=-1)
    long = np.concatenate([np.full((1, 9), 11, np.int32), np.arange(8, dtype=np.int32)[None]], axis=1)
    for one, other in ((short, padded), (long, long[:, -8:])):
        for first, second in zip(rank_items(CONFIG, params, one, 5), rank_items(CONFIG, params, other, 5), strict=True):
            np.testing.assert_array_equal(first, second)


def test_rows_come_back_in_their_order_whatever_their_lengths(params):
    random = np.random.default_rng(0)
    histories = np.full((30, 9), -1, np.int32)
    for row in histories:
        length = random.integers(0, 10)
        row[:length] = random.integers(0, 24, length)
    items, scores = rank_items(CONFIG, params, histories, 3)
    for row in range(30):
        of_one, score = rank_items(CONFIG, params, histories[row : row + 1], 3)
        np.testing.assert_array_equal(items[row], of_one[0])
        np.testing.assert_allclose(scores[row], score[0], atol=1e-5)
    assert rank_items(CONFIG, params, histories[:0], 3)[0].shape == (0, 3)


def test_ties_are_in_the_order_of_the_items(params):
    items, _ = rank_items(CONFIG, {**params, "items": jnp.ones((24, 16))}, np.array([[3, 1, -1]], np.int32), 24)
    np.testing.assert_array_equal(items, [np.arange(24)])


def test_positions_count_from_the_end_of_each_history():
    histories = np.array([[1, 1, 1, 2, 0], [3, 3, 3, 3, 3]], np.int32)
    assert positions_from_the_end(histories)[0, :4].tolist() == [2, 3, 4, 4]
    assert positions_from_the_end(histories)[1].tolist() == [0, 1, 2, 3, 4]


def test_items_of_the_own_history_are_no_negatives():
    items, targets = jnp.array([[1, 2, 5, 6, 0]]), jnp.array([[2, 3, 6, 7, 0]])
    segments = jnp.array([[1, 1, 2, 2, 0]])
    found = [in_own_history(jnp.full((1, 5), item), items, targets, segments)[0].tolist() for item in (3, 5, 9)]
    assert found == [[True, True, False, False, False], [False, False, True, True, False], [False] * 5]


def test_losses_are_those_of_the_scores(params):
    """Without dropout, against the scores of the network at every place."""
    task = SasRecTask(CONFIG, CHAIN, seed=0, batch_size=4)
    batch, key = task.batch(0), jax.random.key(3)
    items, target, histories = batch["items"], batch["targets"], batch["histories"]
    network = SasRecNetwork(CONFIG, 24)
    hidden, table = network.apply(
        {"params": params}, *map(jnp.asarray, (np.maximum(items, 0), positions_from_the_end(histories), histories))
    )
    scores, real = np.asarray(hidden @ table.T), target >= 0
    of_target = np.take_along_axis(scores, target[..., None], axis=2)[..., 0]
    log_normaliser = np.log(np.exp(scores).sum(axis=2))
    loss = {}
    for name in ("bce", "cross_entropy"):
        config = dataclasses.replace(CONFIG, dropout=0.0, loss=name)
        task = SasRecTask(config, CHAIN, seed=0, batch_size=4)
        total, weight, _ = jax.jit(task.loss)(params, batch, key)
        assert weight == real.sum()
        loss[name] = float(total)
    assert loss["cross_entropy"] == pytest.approx((log_normaliser - of_target)[real].sum(), rel=1e-4)
    drawn = np.asarray(jax.random.randint(jax.random.split(key)[1], (4, 8), 0, 24))
    own = np.asarray(in_own_history(jnp.asarray(drawn), *map(jnp.asarray, (items, target, histories))))
    of_drawn = jnp.asarray(np.take_along_axis(scores, drawn[..., None], axis=2)[..., 0])
    weights = (jnp.asarray(mask, jnp.float32) for mask in (real, real & ~own))
    expected, _ = sampled_binary_cross_entropy(jnp.asarray(of_target), of_drawn, *weights)
    assert loss["bce"] == pytest.approx(float(expected), rel=1e-4)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sasrec")


@pytest.fixture(scope="module")
def trained(folder):
    return SasRec.train(CHAIN, SMALLER, TRAINER, folder)


def test_it_learns_the_chain(trained):
    assert isinstance(trained, Recommender)
    found = measure(trained, CHAIN, "test")
    assert found["ndcg@5"] > 0.6
    assert found["ndcg@5"] > 3 * measure(Popularity(CHAIN), CHAIN, "test")["ndcg@5"]


def test_it_learns_from_sampled_negatives_too(tmp_path):
    found = SasRec.train(CHAIN, dataclasses.replace(SMALLER, loss="bce"), TRAINER, tmp_path)
    assert measure(found, CHAIN, "test")["ndcg@5"] > 0.5


def test_the_program_does_not_grow_with_the_data():
    sizes = []
    for users in (60, 600):
        task = SasRecTask(SMALLER, markov_interactions(num_users=users), seed=0, batch_size=4)
        params = jax.eval_shape(task.init, jax.random.key(0))["params"]
        sizes.append(len(jax.jit(task.loss).lower(params, task.batch(0), jax.random.key(1)).as_text()))
    assert sizes[0] == sizes[1]


def test_a_folder_of_other_interactions_is_refused(trained, folder):
    with pytest.raises(InputError, match="interactions"):
        SasRec.train(markov_interactions(seed=1), trained.config, TRAINER, folder)


def test_what_is_trained_already_is_used_again(trained, folder):
    again = SasRec.train(CHAIN, SMALLER, TRAINER, folder)
    histories = CHAIN.histories("test", again.history_length)
    for found, wanted in zip(again.rank(histories, 5), trained.rank(histories, 5), strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    changes = {"steps": 12, "steps_per_dispatch": 4, "evaluate_every": None, "best_metric": None}
    trainer = dataclasses.replace(TRAINER, **changes, checkpoint_every=6, log_every=3)
    task = SasRecTask(dataclasses.replace(SMALLER, loss="bce"), CHAIN, seed=0, batch_size=16)
    whole = train(task, trainer, tmp_path / "whole")
    train(task, dataclasses.replace(trainer, steps=6), tmp_path / "parts")
    parts = train(task, trainer, tmp_path / "parts")
    jax.tree.map(np.testing.assert_array_equal, whole.params, parts.params)


def test_what_a_signal_has_stopped_is_not_taken_for_trained(tmp_path, monkeypatch):
    trainer = dataclasses.replace(TRAINER, steps=75, evaluate_every=25, best_metric=None)
    whole = SasRec.train(CHAIN, SMALLER, trainer, tmp_path / "whole")

    signals = [signal.SIGTERM]

    def stopped(*_):
        if signals:  # a second one would not wait for the steps in progress
            signal.raise_signal(signals.pop())
        return {}

    with monkeypatch.context() as changed:
        changed.setattr(sasrec, "measure", stopped)
        with pytest.raises(KeyboardInterrupt):
            SasRec.train(CHAIN, SMALLER, trainer, tmp_path / "parts")
    jax.tree.map(
        np.testing.assert_array_equal, whole.params, SasRec.train(CHAIN, SMALLER, trainer, tmp_path / "parts").params
    )


def test_several_devices_give_the_same_losses(tmp_path):
    trainer = dataclasses.replace(TRAINER, steps=4, evaluate_every=None, best_metric=None, log_every=1)
    task = SasRecTask(SMALLER, CHAIN, seed=0, batch_size=16)
    train(task, trainer, tmp_path / "one")
    train(task, dataclasses.replace(trainer, data_parallel=4, model_parallel=2), tmp_path / "several")
    losses = [[record["loss"] for record in read_metrics(tmp_path / name)] for name in ("one", "several")]
    assert len(losses[0]) == 4
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)


def test_nothing_to_learn_from():
    with pytest.raises(InputError, match="no user has two items for training"):
        SasRecTask(CONFIG, interactions_of([[0, 1, 2], [1, 2, 0]], 3), seed=0, batch_size=4)


@pytest.mark.usefixtures("annotations_unchecked")
def test_wrong_settings():
    with pytest.raises(InputError, match=r"SasRecConfig\.heads is 3; expected a divisor of width 64"):
        SasRecConfig(heads=3)
    with pytest.raises(InputError, match=r"SasRecConfig\.loss is 'softmax'"):
        SasRecConfig(loss="softmax")
