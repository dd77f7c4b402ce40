"""Learning to write the docid of a user's next item: what TIGER trains."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, Int32

from genret_jax.data.histories import HistoryConfig, HistorySampler
from genret_jax.losses import cross_entropy
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.layers import constrain
from genret_jax.models.network import T5

# A batch is computed in so many groups of rows of similar length, each as long as its longest.
_GROUPS = 4


class HistoryTask:
    """Teacher forcing with cross-entropy (Rajput et al. 2023, arXiv 2305.05065, section 3.2).

    Histories and docids lie on the device, and a batch is a number a row, so the steps of a dispatch run without
    waiting for anything. Rows come ordered by length (:class:`genret_jax.data.histories.HistorySampler`) and are
    computed in groups, without the padding that a batch as long as its longest history would mostly be.

    Args:
        config: The network.
        sampler: Which examples a step shows.
        histories: How they are shown.
        item_tokens: The docid of every item as the decoder's tokens, padded with 0.
        item_nodes: The tree's node before each of those tokens.
        user_tokens: Token of every user; None where the model knows no users.
        tree: The docid tree of the prefix head; None with the vocabulary head.
        z_loss: Weight of T5X's penalty on the logits' normaliser.
        label_smoothing: Share of the target's probability spread over the vocabulary.
    """

    def __init__(
        self,
        config: T5Config,
        sampler: HistorySampler,
        histories: HistoryConfig,
        *,
        item_tokens: Int32[np.ndarray, "n m"],
        item_nodes: Int32[np.ndarray, "n m"],
        user_tokens: Int32[np.ndarray, " u"] | None,
        tree: NodeTree | None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
    ):
        self.model, self.sampler, self.histories, self.tree = T5(config), sampler, histories, tree
        self.z_loss, self.label_smoothing = z_loss, label_smoothing
        examples = sampler.examples
        self._item, self._place, self._begin = examples.item, examples.place, examples.begin
        self._user = None if user_tokens is None else user_tokens[examples.user]
        # A last row of padding for places without an item.
        self._tokens = np.concatenate([item_tokens, np.zeros_like(item_tokens[:1])])
        self._nodes = item_nodes

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        token = jnp.zeros((1, 1), jnp.int32)
        return self.model.init(rng, token, token, token, self.tree)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the numbers of a step's examples, or of some rows of it."""
        return {"example": self.sampler.batch(step, rows)}

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right."""
        examples = batch["example"]
        groups = math.gcd(len(examples), _GROUPS)
        sums = [jnp.zeros(()), jnp.zeros(()), jnp.zeros(())]
        for group, numbers in enumerate(jnp.split(examples, groups)):
            length = self.sampler.examples.longest(group / groups, (group + 1) / groups)
            found = self._group_loss(params, numbers, length, jax.random.fold_in(dropout_rng, group))
            sums = [total + part for total, part in zip(sums, found, strict=True)]
        return sums[0], sums[1], {"token_accuracy": sums[2]}

    def _group_loss(
        self, params: Mapping[str, Any], examples: Int[Array, " g"], length: int, rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        target = jnp.asarray(self._item)[jnp.asarray(self._place)[examples]]
        targets = jnp.asarray(self._tokens)[target]
        shown_rng, dropout_rng = jax.random.split(rng)
        logits = self.model.apply(
            {"params": params},
            constrain(self._shown(examples, length, shown_rng), "batch", "length"),
            jnp.pad(targets[:, :-1], ((0, 0), (1, 0))),
            jnp.asarray(self._nodes)[target],
            self.tree,
            deterministic=False,
            rngs={"dropout": dropout_rng},
        )
        weights = (targets > 0).astype(jnp.float32)
        total, weight = cross_entropy(
            logits, targets, weights, z_loss=self.z_loss, label_smoothing=self.label_smoothing
        )
        right = (jnp.argmax(logits, axis=-1) == targets) * weights
        return total, weight, right.sum()

    def _shown(self, examples: Int[Array, " g"], length: int, rng: jax.Array) -> Int[Array, "g t"]:
        """Return the tokens of the histories: the user's, then those of at most so many items."""
        user_rng, item_rng = jax.random.split(rng)
        begin, end = (jnp.asarray(array)[examples][:, None] for array in (self._begin, self._place))
        places = begin + jnp.arange(length)[None]
        shown = places < end
        if self.histories.item_drop:
            kept = jax.random.bernoulli(item_rng, 1 - self.histories.item_drop, places.shape)
            shown &= kept | (places == end - 1)
        items = jnp.where(shown, jnp.asarray(self._item)[jnp.where(places < end, places, 0)], len(self._tokens) - 1)
        tokens = jnp.asarray(self._tokens)[items].reshape(len(examples), -1)
        if self._user is None:
            return tokens
        users = jnp.asarray(self._user)[examples]
        if self.histories.user_drop:
            users *= jax.random.bernoulli(user_rng, 1 - self.histories.user_drop, users.shape)
        return jnp.concatenate([users[:, None], tokens], axis=1)
