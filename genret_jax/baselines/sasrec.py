"""SASRec as a baseline: its task, its training by the loop that trains generative models, and its recommendations."""

import dataclasses
import os
from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Int32

from genret_jax.baselines.recommenders import Ranked
from genret_jax.baselines.sasrec_network import SasRecConfig, SasRecNetwork, rank_items
from genret_jax.data.examples.histories import training_items
from genret_jax.data.examples.history_examples import EvenSampler, PackedHistories
from genret_jax.data.interactions import Interactions
from genret_jax.evaluation.compare import SystemRun
from genret_jax.evaluation.recommendation import answers_of, measure
from genret_jax.evaluation.report import System
from genret_jax.losses import sampled_binary_cross_entropy, tied_softmax_cross_entropy
from genret_jax.training import AdamW, LinearWarmupLinearDecay, TrainerConfig, restore_params, train

# Rows of packed histories in a batch; epochs, peak learning rate and dropout of each loss.
_ROWS = 16
_RECIPES = {"bce": (200, 1e-3, 0.5), "cross_entropy": (25, 3e-3, 0.3)}


class SasRecTask:
    """Predict the item after each item of a history (section III-F).

    Args:
        config: Network and loss.
        interactions: Users and items.
        seed: Seed of the order of users.
        batch_size: Rows of :class:`genret_jax.data.examples.history_examples.PackedHistories` in a batch.
        cold: Items that training must not see.
    """

    def __init__(
        self,
        config: SasRecConfig,
        interactions: Interactions,
        *,
        seed: int,
        batch_size: int,
        cold: Bool[np.ndarray, " n"] | None = None,
    ):
        self.config = config
        self.packed = PackedHistories.of(interactions, config.max_length, cold=cold)
        self.sampler = EvenSampler(len(self.packed), seed=seed, batch_size=batch_size)
        self.network = SasRecNetwork(config, len(interactions.items))

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        place = jnp.zeros((1, 1), jnp.int32)
        return self.network.init(rng, place, place, place)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the packed histories of a step: items, targets, histories and positions, each [b, l]."""
        row = self.sampler.batch(step, rows)
        histories = self.packed.histories[row]
        return {
            "items": self.packed.items[row],
            "targets": self.packed.targets[row],
            "histories": histories,
            "positions": positions_from_the_end(histories),
        }

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss and the number of items predicted."""
        dropout_rng, negative_rng = jax.random.split(dropout_rng)
        items, targets, histories = batch["items"], batch["targets"], batch["histories"]
        hidden, table = self.network.apply(
            {"params": params},
            jnp.maximum(items, 0),
            batch["positions"],
            histories,
            deterministic=False,
            rngs={"dropout": dropout_rng},
        )
        weights = (targets >= 0).astype(jnp.float32)
        if self.config.loss == "cross_entropy":
            total, weight = tied_softmax_cross_entropy(hidden, table, targets, weights)
        else:
            negatives = jax.random.randint(negative_rng, targets.shape, 0, table.shape[0], jnp.int32)
            usable = weights * ~in_own_history(negatives, items, targets, histories)
            positive = jnp.einsum("bld,bld->bl", hidden, table[targets])
            negative = jnp.einsum("bld,bld->bl", hidden, table[negatives])
            total, weight = sampled_binary_cross_entropy(positive, negative, weights, usable)
        return total, weight, {}


def positions_from_the_end(histories: Int32[np.ndarray, "r l"]) -> Int32[np.ndarray, "r l"]:
    """Return the position of each place in packed histories, counted so that each history's last has ``l - 1``."""
    length = histories.shape[1]
    ends = np.where(np.diff(histories, axis=1, append=-1) != 0, np.arange(length), length)
    last = np.minimum.accumulate(ends[:, ::-1], axis=1)[:, ::-1]
    return (length - 1 - (last - np.arange(length))).astype(np.int32)


def in_own_history(
    drawn: Int[Array, "b l"], items: Int[Array, "b l"], targets: Int[Array, "b l"], histories: Int[Array, "b l"]
) -> Bool[Array, "b l"]:
    """Return whether the item drawn at a place is in the history of that place, and so is no negative."""
    same = histories[:, :, None] == histories[:, None, :]  # --> [b, l, l]
    has = (drawn[:, :, None] == items[:, None, :]) | (drawn[:, :, None] == targets[:, None, :])
    return jnp.any(same & has, axis=-1)


class SasRec:
    """A trained SASRec; :meth:`train` makes one.

    Args:
        config: Network and loss.
        params: Parameters of the network.
    """

    def __init__(self, config: SasRecConfig, params: Mapping[str, Any]):
        self.config, self.params = config, jax.device_put(dict(params))

    @classmethod
    def train(
        cls,
        interactions: Interactions,
        config: SasRecConfig,
        trainer: TrainerConfig,
        folder: str | os.PathLike[str],
        *,
        cold: Bool[np.ndarray, " n"] | None = None,
    ) -> "SasRec":
        """Train on the training part of all histories.

        Args:
            interactions: Users and items.
            config: Network and loss.
            trainer: Steps, optimizer and the rest. A row of its batch holds as many users as fit into
                ``config.max_length`` places. With ``best_metric="validation/ndcg@10"`` the checkpoint that is best
                on the validation items is used.
            folder: Keeps checkpoints and metrics; an interrupted training continues from there.
            cold: Items that training must not see.

        Raises:
            InputError: If the folder has a training on other interactions or with another network, or as
                :func:`genret_jax.training.train` raises it.
            KeyboardInterrupt: If a signal stopped the training; the same call continues it.
        """

        def recommender(params: Mapping[str, Any]) -> "SasRec":
            return cls(config, jax.device_get(params))  # from a mesh to one device

        result = train(
            SasRecTask(config, interactions, seed=trainer.seed, batch_size=trainer.batch_size, cold=cold),
            trainer,
            folder,
            evaluators={"validation": lambda params, step: measure(recommender(params), interactions, "validation")},
            fingerprint={"interactions": interactions.fingerprint, "sasrec": dataclasses.asdict(config)},
        )
        result.require_whole()
        return recommender(result.params if trainer.best_metric is None else restore_params(folder, "best"))

    @property
    def history_length(self) -> int:
        """Number of last items of a history that are read."""
        return self.config.max_length

    def rank(self, histories: Int32[np.ndarray, "q l"], k: int) -> Ranked:
        """Rank all items for each history; see :class:`genret_jax.evaluation.recommendation.Recommender`."""
        return rank_items(self.config, self.params, histories, k)


def train_and_answer(
    interactions: Interactions,
    loss: Literal["bce", "cross_entropy"],
    split: str,
    depth: int,
    *,
    folder: str | os.PathLike[str],
    seed: int,
    cold: Bool[np.ndarray, " n"] | None = None,
    exclude_history: bool = False,
) -> SystemRun:
    """Train SASRec and recommend items to the users of a split.

    Args:
        interactions: Users and items.
        loss: Loss of :class:`SasRecConfig`.
        split: ``"validation"`` or ``"test"``.
        depth: Results per user.
        folder: Keeps checkpoints and metrics. A SASRec that was trained there before is used again.
        seed: Seed of the training.
        cold: Items that training must not see.
        exclude_history: Leave out the items that the user has had.
    """
    config = SasRecConfig(loss=loss, dropout=_RECIPES[loss][2])
    trainer = trainer_for(config, interactions, seed)
    trained = SasRec.train(interactions, config, trainer, folder, cold=cold)
    name = "SASRec, sampled BCE" if loss == "bce" else "SASRec, full softmax"
    details = {"parameters": sum(leaf.size for leaf in jax.tree.leaves(trained.params)), "steps": trainer.steps}
    system = System(name=name, description=config.describe(), details=details)
    return answers_of(trained, interactions, split, system, depth, exclude_history=exclude_history)


def trainer_for(config: SasRecConfig, interactions: Interactions, seed: int) -> TrainerConfig:
    """Return a trainer with settings chosen on Amazon Beauty's validation items; it keeps the best of ten checkpoints.

    Args:
        config: Network and loss.
        interactions: Users and items; their number gives the steps.
        seed: Seed of the parameters and of the order of users.
    """
    epochs, peak, _ = _RECIPES[config.loss]
    steps = max(10, epochs * len(training_items(interactions)[0]) // (_ROWS * config.max_length))
    return TrainerConfig(
        steps=steps,
        batch_size=_ROWS,
        optimizer=AdamW(learning_rate=LinearWarmupLinearDecay(peak=peak)),
        steps_per_dispatch=50,
        log_every=100,
        evaluate_every=max(1, steps // 10),
        checkpoint_every=max(1, steps // 10),
        best_metric="validation/ndcg@10",
        seed=seed,
        data_parallel=1,
        tensorboard=False,
    )
