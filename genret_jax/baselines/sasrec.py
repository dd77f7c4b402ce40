"""SASRec as a baseline (Kang & McAuley 2018, arXiv 1808.09781): causal self-attention over the items of a history.

It is trained by the loop that trains generative models.
"""

import dataclasses
import functools
import os
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.linen.partitioning import param_with_axes
from jaxtyping import Array, Bool, Float, Float32, Int, Int32

from genret_jax.baselines.recommenders import Ranked
from genret_jax.data.examples.histories import training_items
from genret_jax.data.examples.history_examples import EvenSampler, PackedHistories
from genret_jax.data.interactions import Interactions
from genret_jax.evaluation.compare import SystemRun
from genret_jax.evaluation.recommendation import answers_of, measure
from genret_jax.evaluation.report import System, cost
from genret_jax.losses import sampled_binary_cross_entropy, tied_softmax_cross_entropy
from genret_jax.training import AdamW, LinearWarmupLinearDecay, TrainerConfig, restore_params, train
from genret_jax.validation import at_least, check_fields, less_than, require

_MASKED = -1e9
_ROWS_AT_ONCE = 512  # most histories ranked in one call
_SCORES_AT_ONCE = 1 << 25  # most scores held at a time, 128 MiB
# Rows of packed histories in a batch; epochs, peak learning rate and dropout of each loss.
_ROWS = 16
_RECIPES = {"bce": (200, 1e-3, 0.5), "cross_entropy": (25, 3e-3, 0.3)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class SasRecConfig:
    """The network and its loss; the defaults are those of the paper for Amazon's data (sections III and IV-D).

    Attributes:
        width: Width of item vectors, d; 50 in the paper, often 64 in comparisons with it.
        blocks: Number of layers of self-attention and feed-forward network.
        heads: Attention heads per layer; two were no better than one in the paper.
        max_length: Number of last items of a history that are read, n; 200 for MovieLens in the paper.
        dropout: Dropout rate of embeddings, attention weights and layers; 0.2 for MovieLens in the paper.
        loss: ``"bce"`` is the paper's loss, with one negative per position. ``"cross_entropy"`` is the softmax over all
            items, which makes SASRec far stronger (Klenitskiy & Vasilev 2023, arXiv 2309.07602).
    """

    width: Annotated[int, at_least(1)] = 64
    blocks: Annotated[int, at_least(1)] = 2
    heads: Annotated[int, at_least(1)] = 1
    max_length: Annotated[int, at_least(2)] = 50
    dropout: Annotated[float, at_least(0), less_than(1)] = 0.5
    loss: Literal["bce", "cross_entropy"] = "bce"

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "heads", self.width % self.heads == 0, f"a divisor of width {self.width}")

    def describe(self) -> str:
        """Return one line for a report."""
        loss = "softmax over all items" if self.loss == "cross_entropy" else "one negative per position"
        shape = f"d {self.width}, blocks {self.blocks}, heads {self.heads}, n {self.max_length}"
        return f"SASRec, {shape}, dropout {self.dropout:g}, {loss}"


class Attention(nn.Module):
    """Scaled dot-product attention without an output projection (equations 2 and 3).

    Attributes:
        config: Width and heads.
    """

    config: SasRecConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], allowed: Bool[Array, "b l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Return for every place the weighted sum over the places that it is allowed to see."""
        heads, width = self.config.heads, self.config.width // self.config.heads
        query, key, value = (
            nn.Dense(self.config.width, use_bias=False, name=name)(x).reshape(*x.shape[:2], heads, width)
            for name in ("query", "key", "value")
        )  # --> [b, l, h, d / h]
        scores = jnp.einsum("blhd,bmhd->bhlm", query, key) / width**0.5
        weights = nn.softmax(jnp.where(allowed[:, None], scores, _MASKED))
        weights = nn.Dropout(self.config.dropout)(weights, deterministic=deterministic)
        return jnp.einsum("bhlm,bmhd->blhd", weights, value).reshape(x.shape)


class Block(nn.Module):
    """Attention and a feed-forward network, each as ``x + Dropout(g(LayerNorm(x)))`` (section III-D).

    Attributes:
        config: Width, heads and dropout.
    """

    config: SasRecConfig

    @nn.compact
    def __call__(
        self, x: Float[Array, "b l d"], allowed: Bool[Array, "b l l"], deterministic: bool
    ) -> Float[Array, "b l d"]:
        """Return the vectors after both."""
        drop = functools.partial(nn.Dropout(self.config.dropout), deterministic=deterministic)
        normed = nn.LayerNorm(name="attention_norm")(x)
        x = x + drop(Attention(self.config, name="attention")(normed, allowed, deterministic))
        hidden = nn.relu(nn.Dense(self.config.width, name="wi")(nn.LayerNorm(name="mlp_norm")(x)))
        return x + drop(nn.Dense(self.config.width, name="wo")(drop(hidden)))


class SasRecNetwork(nn.Module):
    """Turns histories into a vector at each place, whose inner products with item vectors score the next item.

    Input and output share the item vectors (section III-E).

    Attributes:
        config: Shape of the network.
        num_items: Number of items, n.
    """

    config: SasRecConfig
    num_items: int

    @nn.compact
    def __call__(
        self,
        items: Int[Array, "b l"],
        positions: Int[Array, "b l"],
        segments: Int[Array, "b l"],
        *,
        deterministic: bool = True,
    ) -> tuple[Float[Array, "b l d"], Float[Array, "n d"]]:
        """Return the vectors at all places, and the vectors of all items.

        Args:
            items: Items, from 0.
            positions: Position of each item in its history, counted so that the last one has ``max_length - 1``.
            segments: Number of the history of each item; a place sees earlier places of its own history only.
            deterministic: Turns dropout off.
        """
        config, normal = self.config, nn.initializers.normal(0.02)
        table = param_with_axes("items", normal, (self.num_items, config.width), jnp.float32, axes=("vocab", "embed"))
        learned = self.param(
            "positions", nn.initializers.normal(config.width**-0.5), (config.max_length, config.width), jnp.float32
        )
        causal = jnp.tril(jnp.ones((1, items.shape[1], items.shape[1]), bool))
        allowed = causal & (segments[:, :, None] == segments[:, None, :])
        # The factor is in the authors' code, not in the paper. Without it item vectors are so small beside the outputs
        # of the blocks, whose inputs are normalised, that the last item hardly counts.
        x = table[items] * config.width**0.5 + learned[positions]  # --> [b, l, d]
        x = nn.Dropout(config.dropout)(x, deterministic=deterministic)
        for number in range(config.blocks):
            x = Block(config, name=f"block_{number}")(x, allowed, deterministic)
        return nn.LayerNorm(name="final_norm")(x), table


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


def rank_items(
    config: SasRecConfig, params: Mapping[str, Any], histories: Int32[np.ndarray, "q l"], k: int
) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
    """Return the k best items for each history, and their scores; see ``evaluation.recommendation.Recommender``.

    Args:
        config: Shape of the network.
        params: Parameters of the network, on one device.
        histories: Positions of items, oldest first, -1 behind the last. Only the last ``max_length`` items are read.
        k: Results per history.
    """
    num_items = params["items"].shape[0]
    k = min(k, num_items)
    items, scores = np.zeros((len(histories), k), np.int32), np.zeros((len(histories), k), np.float32)
    for rows, width in _blocks(histories, config.max_length, min(_ROWS_AT_ONCE, max(1, _SCORES_AT_ONCE // num_items))):
        block = np.full((len(rows), width), -1, np.int32)
        taken = rows[rows >= 0]
        block[: len(taken)] = _last_items(histories[taken], width)
        found, values = _rank(params, block, config=config, k=k)
        items[taken], scores[taken] = np.asarray(found)[: len(taken)], np.asarray(values)[: len(taken)]
    return items, scores


def _blocks(histories: Int32[np.ndarray, "q l"], longest: int, size: int) -> list[tuple[np.ndarray, int]]:
    """Return row numbers in blocks of ``size``, padded with -1, each with a width that holds its histories.

    Most histories are short, so those that fit a quarter or half of the longest width are computed at that width.
    """
    lengths = np.minimum((histories >= 0).sum(axis=1), longest)
    size = min(size, max(1, len(histories)))
    blocks, shorter = [], -1
    for width in (-(-longest // 4), -(-longest // 2), longest):
        rows = np.flatnonzero((lengths > shorter) & (lengths <= width))
        padded = np.full(-(-len(rows) // size) * size, -1)
        padded[: len(rows)] = rows
        blocks += [(block, width) for block in padded.reshape(-1, size)]
        shorter = width
    return blocks


def _last_items(histories: Int32[np.ndarray, "q l"], count: int) -> Int32[np.ndarray, "q count"]:
    """Return the last items of each history, -1 behind them."""
    begins = np.maximum((histories >= 0).sum(axis=1) - count, 0)
    columns = begins[:, None] + np.arange(count)
    padded = np.pad(histories, ((0, 0), (0, count)), constant_values=-1)
    return np.take_along_axis(padded, columns, axis=1)


@functools.partial(jax.jit, static_argnames=("config", "k"))
def _rank(
    params: Mapping[str, Any], histories: Int[Array | np.ndarray, "q l"], *, config: SasRecConfig, k: int
) -> tuple[Int[Array, "q k"], Float[Array, "q k"]]:
    known = histories >= 0
    last = jnp.maximum(known.sum(axis=1) - 1, 0)
    positions = jnp.arange(histories.shape[1])[None] + config.max_length - 1 - last[:, None]
    network = SasRecNetwork(config, params["items"].shape[0])
    hidden, table = network.apply(
        {"params": params},
        jnp.maximum(histories, 0),
        jnp.minimum(positions, config.max_length - 1),  # places behind the last item are not used
        known.astype(jnp.int32),
    )
    of_last = jnp.take_along_axis(hidden, last[:, None, None], axis=1)[:, 0]
    # The highest precision: an accelerator's default would change the order of near ties.
    scores = jnp.einsum("qd,nd->qn", of_last, table, precision=jax.lax.Precision.HIGHEST)
    values, items = jax.lax.top_k(scores, k)  # ties in the order of the items
    return items, values


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
    size = cost(
        num_bytes=int(trained.params["items"].nbytes),  # the vectors of the items
        documents=len(interactions.items),
        parameters=sum(leaf.size for leaf in jax.tree.leaves(trained.params)),
    )
    details = size | {"steps": trainer.steps}
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
