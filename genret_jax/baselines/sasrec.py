"""SASRec, trained by the loop that trains the generative models: ``SasRec.train``, ``rank``, ``SasRec.load``."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jaxtyping import Bool, Int32

from genret_jax.baselines.recommenders import Ranked
from genret_jax.baselines.sasrec_network import SasRecConfig, rank_items
from genret_jax.baselines.sasrec_training import SasRecTask
from genret_jax.data.examples.histories import training_items
from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun
from genret_jax.evaluation.recommendation import answers_of, measure
from genret_jax.evaluation.report import System
from genret_jax.storage import load_arrays, save_arrays
from genret_jax.training import AdamW, LinearWarmupLinearDecay, TrainerConfig, restore_params, train

KIND, VERSION = "sasrec", 1
# Rows of packed histories in a batch; epochs, highest rate and dropout of each loss.
_ROWS = 16
_RECIPES = {"bce": (200, 1e-3, 0.5), "cross_entropy": (25, 3e-3, 0.3)}
ARRAYS = "sasrec"  # the folder below the run's, beside its checkpoints


class SasRec:
    """A trained SASRec; :meth:`train` or :meth:`load` gives one.

    Args:
        config: Network and loss.
        params: Of the network.
        trained_on: Fingerprint of the interactions.
    """

    def __init__(self, config: SasRecConfig, params: Mapping[str, Any], trained_on: str):
        self.config, self.trained_on = config, trained_on
        self.params = jax.device_put(dict(params))

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
        """Train on the training part of all histories, and save the result below the folder for :meth:`load`.

        Args:
            interactions: Users and items.
            config: Network and loss.
            trainer: Steps, optimizer and the rest. A row of its batch holds as many users as fit into
                ``config.max_length`` places. With
                ``best_metric="validation/ndcg@10"`` the best step is taken, by the validation items.
            folder: For checkpoints and metrics; training goes on where it was stopped.
            cold: Items that training must not see.

        Raises:
            InputError: As ``training.train`` says; if the folder is of other interactions or of another network.
            KeyboardInterrupt: If training was stopped by a signal; the same call goes on.
        """

        def of(params: Mapping[str, Any]) -> "SasRec":
            return cls(config, jax.device_get(params), interactions.fingerprint)  # from a mesh to one device

        result = train(
            SasRecTask(config, interactions, seed=trainer.seed, batch_size=trainer.batch_size, cold=cold),
            trainer,
            folder,
            evaluators={"validation": lambda params, step: measure(of(params), interactions, "validation")},
            fingerprint={"interactions": interactions.fingerprint, "sasrec": dataclasses.asdict(config)},
        )
        result.require_whole()
        trained = of(result.params if trainer.best_metric is None else restore_params(folder, "best"))
        trained.save(folder, replace=True)
        return trained

    @property
    def history_length(self) -> int:
        """How many of the last items of a history are read."""
        return self.config.max_length

    def rank(self, histories: Int32[np.ndarray, "q l"], k: int) -> Ranked:
        """Return the k best of all items for each history, best first, and their scores.

        Args:
            histories: Positions of items, oldest first, -1 behind the last; of longer ones the last are read.
            k: Results a history; fewer where there are fewer items.

        Returns:
            Positions of items and scores; items of equal score in the order of their positions.
        """
        return rank_items(self.config, self.params, histories, k)

    def save(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write the network below a folder, whole or not at all."""
        arrays = {name: np.asarray(leaf) for name, leaf in flatten_dict(self.params, sep=".").items()}
        details = {"config": dataclasses.asdict(self.config), "trained_on": self.trained_on}
        save_arrays(Path(folder) / ARRAYS, arrays, kind=KIND, version=VERSION, details=details, replace=replace)

    @classmethod
    def load(cls, folder: str | os.PathLike[str], interactions: Interactions) -> "SasRec":
        """Open what :meth:`train` or :meth:`save` wrote.

        Args:
            folder: Where it is.
            interactions: What it was trained on: its items have no names, but their places there.

        Raises:
            InputError: If it is missing, damaged, or was trained on other interactions.
        """
        arrays, manifest = load_arrays(Path(folder) / ARRAYS, kind=KIND, version=VERSION)
        if manifest["trained_on"] != interactions.fingerprint:
            raise InputError(
                f"a SASRec trained on other interactions ({manifest['trained_on']})",
                file=folder,
                expected=f"one trained on {interactions.name} ({interactions.fingerprint})",
                fix="give the interactions it was trained on, or train it again in another folder",
            )
        params = unflatten_dict({name: np.asarray(leaf) for name, leaf in arrays.items()}, sep=".")
        return cls(SasRecConfig(**manifest["config"]), params, interactions.fingerprint)


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
    """Return a trainer that was chosen on Amazon Beauty's validation items; the best of ten evaluations is taken.

    Args:
        config: Network and loss.
        interactions: Users and items, whose number decides the steps.
        seed: Of the parameters and of who shares a row with whom.
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
