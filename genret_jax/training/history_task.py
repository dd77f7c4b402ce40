"""The task of TIGER: learn to write the docid of a user's next item.

Histories and docids lie on the devices, and a batch is one number a row, so the steps of a dispatch run without waiting
for the host.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from genret_jax.data.examples.history_examples import EvenSampler, HistoryExamples, PackedHistories
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.layers import constrain
from genret_jax.training.docid_task import DocidTask, Sums
from genret_jax.training.step import DeviceBatch

# A batch is computed in this many groups of rows of similar length, each as long as its longest.
_GROUPS = 4


class ItemTask(DocidTask):
    """Histories in, docids of items out (Rajput et al. 2023, arXiv 2305.05065, section 3.2).

    Args:
        config: Configuration of the network.
        sampler: Returns the numbers of the examples of a step.
        item_inputs: Every item's tokens for the encoder.
        item_tokens: Every item's docid as tokens of the decoder, padded with 0.
        item_nodes: The tree's node before each of those tokens.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        **losses: ``loss``, ``z_loss``, ``label_smoothing`` and ``consistency`` of
            :class:`~genret_jax.training.docid_task.DocidTask`.
    """

    def __init__(
        self,
        config: T5Config,
        sampler: EvenSampler,
        *,
        item_inputs: Int32[np.ndarray, "n t"],
        item_tokens: Int32[np.ndarray, "n m"],
        item_nodes: Int32[np.ndarray, "n m"],
        tree: NodeTree | None,
        **losses: Any,
    ):
        super().__init__(config, tree, **losses)
        self.sampler = sampler
        tables = {"inputs": item_inputs, "tokens": item_tokens, "nodes": item_nodes}
        # The last row, item -1, is padding.
        self._tables = {name: np.concatenate([table, np.zeros_like(table[:1])]) for name, table in tables.items()}

    @property
    def arrays(self) -> dict[str, Any]:
        """The tree, and the tables of all items by number: ``inputs``, ``tokens`` and ``nodes``."""
        return super().arrays | self._tables

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the numbers of the examples of a step, or of the given rows of it."""
        return {"example": self.sampler.batch(step, rows)}

    def _next_items(
        self,
        params: Mapping[str, Any],
        batch: DeviceBatch,
        tokens: Int[Array, "s l"],
        target: Int[Array, " b"],
        rng: jax.Array,
        **packed: Any,
    ) -> Sums:
        """Return the sums of the loss for histories, each with the number of its next item (-1 for none)."""
        targets = batch["tokens"][target]
        return self.written(
            params,
            constrain(tokens, "batch", "length"),
            jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
            batch["nodes"][target],
            targets,
            (targets > 0).astype(jnp.float32),
            rng,
            tree=batch.get("tree"),
            **packed,
        )


class HistoryTask(ItemTask):
    """One target for each encoding of a history, as in the paper.

    Rows come ordered by length and are computed in groups, each padded to its own longest history instead of the
    batch's.

    Args:
        examples: The examples that the sampler numbers.
        users: Token of every user; None for a model without users.
        user_drop: Share of the examples that leave the user's token out.
        **common: Arguments of :class:`ItemTask`.
    """

    def __init__(
        self, examples: HistoryExamples, users: Int32[np.ndarray, " u"] | None, user_drop: float, **common: Any
    ):
        super().__init__(**common)
        self.examples, self.user_drop = examples, user_drop
        self._tables |= {"item": examples.item, "place": examples.place, "begin": examples.begin}
        if users is not None:
            self._tables["user"] = users[examples.user]

    def loss(self, params: Mapping[str, Any], batch: DeviceBatch, dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        numbers = batch["example"]
        groups = math.gcd(len(numbers), _GROUPS)
        sums = []
        for group, of_group in enumerate(jnp.split(numbers, groups)):
            length = self.examples.longest(group / groups, (group + 1) / groups)
            drop_rng, rng = jax.random.split(jax.random.fold_in(dropout_rng, group))
            target = batch["item"][batch["place"][of_group]]
            sums.append(self._next_items(params, batch, self._shown(batch, of_group, length, drop_rng), target, rng))
        added: Sums = jax.tree.map(lambda *parts: sum(parts), *sums)
        return added

    def _shown(self, batch: DeviceBatch, numbers: Int[Array, " g"], length: int, rng: jax.Array) -> Int[Array, "g t"]:
        """Return the tokens of histories: the user's, then those of at most ``length`` items."""
        begin, end = (batch[name][numbers][:, None] for name in ("begin", "place"))
        places = begin + jnp.arange(length)[None]
        shown = places < end
        items = jnp.where(shown, batch["item"][jnp.where(shown, places, 0)], -1)
        tokens = batch["inputs"][items].reshape(len(numbers), -1)
        if "user" not in batch:
            return tokens
        users = batch["user"][numbers]
        if self.user_drop:
            users *= jax.random.bernoulli(rng, 1 - self.user_drop, users.shape)
        return jnp.concatenate([users[:, None], tokens], axis=1)


class PackedHistoryTask(ItemTask):
    """Every item of a history as a target, from one encoding; for networks whose items do not see those after them.

    Args:
        packed: Histories packed into rows, which the sampler numbers.
        **common: Arguments of :class:`ItemTask`.
    """

    def __init__(self, packed: PackedHistories, **common: Any):
        super().__init__(**common)
        self.packed = packed
        self._tables |= {"items": packed.items, "targets": packed.targets, "histories": packed.histories}

    def loss(self, params: Mapping[str, Any], batch: DeviceBatch, dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        items, targets, histories = (batch[name][batch["example"]] for name in ("items", "targets", "histories"))
        tokens = batch["inputs"][items].reshape(len(items), -1)
        return self._next_items(params, batch, tokens, targets.reshape(-1), dropout_rng, histories=histories)
