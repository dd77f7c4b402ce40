"""Learning to write the docid of a user's next item: what TIGER trains.

Histories and docids lie on the device, and a batch is a number a row, so the steps of a dispatch run without waiting.
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

# A batch is computed in so many groups of rows of similar length, each as long as its longest.
_GROUPS = 4


class ItemTask(DocidTask):
    """Histories in, docids of items out (Rajput et al. 2023, arXiv 2305.05065, section 3.2).

    Args:
        config: The network.
        sampler: Which examples a step shows.
        item_inputs: Every item as the encoder reads it.
        item_tokens: The docid of every item as the decoder's tokens, padded with 0.
        item_nodes: The tree's node before each of those tokens.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        **losses: ``z_loss`` and ``label_smoothing``, as of :class:`~genret_jax.training.docid_task.DocidTask`.
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
        **losses: float,
    ):
        super().__init__(config, tree, **losses)
        self.sampler = sampler
        # Item -1, the last row, is padding.
        self._inputs, self._tokens, self._nodes = (
            np.concatenate([table, np.zeros_like(table[:1])]) for table in (item_inputs, item_tokens, item_nodes)
        )

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the numbers of a step's examples, or of some rows of it."""
        return {"example": self.sampler.batch(step, rows)}

    def _next_items(
        self,
        params: Mapping[str, Any],
        tokens: Int[Array, "s l"],
        target: Int[Array, " b"],
        rng: jax.Array,
        **packed: Array,
    ) -> Sums:
        """Return the sums of some histories, of each of which an item is to be predicted, -1 for none."""
        targets = jnp.asarray(self._tokens)[target]
        return self.written(
            params,
            constrain(tokens, "batch", "length"),
            jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
            jnp.asarray(self._nodes)[target],
            targets,
            (targets > 0).astype(jnp.float32),
            rng,
            **packed,
        )


class HistoryTask(ItemTask):
    """One target for each encoding of a history, as in the paper.

    Rows come ordered by length, and are computed in groups, without the padding that a batch as long as its longest
    history would mostly be.

    Args:
        examples: The examples, of which the sampler gives the numbers.
        users: Token of every user; None where the model knows no users.
        user_drop: Share of the examples that do without it.
        **common: As of :class:`ItemTask`.
    """

    def __init__(
        self, examples: HistoryExamples, users: Int32[np.ndarray, " u"] | None, user_drop: float, **common: Any
    ):
        super().__init__(**common)
        self.examples, self.user_drop = examples, user_drop
        self._user = None if users is None else users[examples.user]

    def loss(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        numbers = batch["example"]
        groups = math.gcd(len(numbers), _GROUPS)
        sums = []
        for group, of_group in enumerate(jnp.split(numbers, groups)):
            length = self.examples.longest(group / groups, (group + 1) / groups)
            drop_rng, rng = jax.random.split(jax.random.fold_in(dropout_rng, group))
            target = jnp.asarray(self.examples.item)[jnp.asarray(self.examples.place)[of_group]]
            sums.append(self._next_items(params, self._shown(of_group, length, drop_rng), target, rng))
        added: Sums = jax.tree.map(lambda *parts: sum(parts), *sums)
        return added

    def _shown(self, numbers: Int[Array, " g"], length: int, rng: jax.Array) -> Int[Array, "g t"]:
        """Return the tokens of the histories: the user's, then those of at most so many items."""
        examples = self.examples
        begin, end = (jnp.asarray(array)[numbers][:, None] for array in (examples.begin, examples.place))
        places = begin + jnp.arange(length)[None]
        shown = places < end
        items = jnp.where(shown, jnp.asarray(examples.item)[jnp.where(shown, places, 0)], -1)
        tokens = jnp.asarray(self._inputs)[items].reshape(len(numbers), -1)
        if self._user is None:
            return tokens
        users = jnp.asarray(self._user)[numbers]
        if self.user_drop:
            users *= jax.random.bernoulli(rng, 1 - self.user_drop, users.shape)
        return jnp.concatenate([users[:, None], tokens], axis=1)


class PackedHistoryTask(ItemTask):
    """Every item of a history as a target, from one encoding; for networks whose items do not see those after them.

    Args:
        packed: The histories, of whose rows the sampler gives the numbers.
        **common: As of :class:`ItemTask`.
    """

    def __init__(self, packed: PackedHistories, **common: Any):
        super().__init__(**common)
        self.packed = packed

    def loss(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        items, targets, histories = (
            jnp.asarray(array)[batch["example"]]
            for array in (self.packed.items, self.packed.targets, self.packed.histories)
        )
        tokens = jnp.asarray(self._inputs)[items].reshape(len(items), -1)
        return self._next_items(params, tokens, targets.reshape(-1), dropout_rng, histories=histories)
