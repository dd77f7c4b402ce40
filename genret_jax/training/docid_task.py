"""Tasks that learn to write docids, for any head and any input, and the task of DSI among them."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from genret_jax.data.examples.sampler import Sampler
from genret_jax.losses import TokenLoss, cross_entropy, shown_twice, symmetric_divergence, two_passes
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5, random_variables
from genret_jax.models.plan import LeftOut
from genret_jax.training.encoded_pool import STATES, EncodedPool
from genret_jax.training.left_out import BIAS, TERMS, VECTORS, LeftOutQueries
from genret_jax.training.planned_docids import PlannedDocids
from genret_jax.training.step import DeviceBatch

Sums = tuple[jax.Array, jax.Array, dict[str, jax.Array]]


class DocidTask:
    """Teacher forcing, by default with cross-entropy (Tay et al. 2022, arXiv 2202.06991, section 3.1).

    Args:
        config: Configuration of the network.
        tree: The docid tree of the prefix head, and of a plan; None with the vocabulary head alone.
        plan: The docids of the network's plan; None without one.
        loss: Loss of the target tokens; None takes cross-entropy.
        z_loss: Weight of T5X's penalty on the logits' normaliser.
        label_smoothing: Share of the target's probability spread over the vocabulary.
        consistency: Weight of the divergence between two passes with different dropout masks, which are computed as one
            batch of twice as many rows (NCI: Wang et al. 2022, arXiv 2206.02743, section 3.4); their token loss is
            the mean of both.
    """

    def __init__(
        self,
        config: T5Config,
        tree: NodeTree | None,
        *,
        plan: PlannedDocids | None = None,
        loss: TokenLoss | None = None,
        z_loss: float = 0.0,
        label_smoothing: float = 0.0,
        consistency: float = 0.0,
    ):
        self.model, self.tree, self.plan, self.consistency = T5(config), tree, plan, consistency
        self.token_loss = loss or functools.partial(cross_entropy, z_loss=z_loss, label_smoothing=label_smoothing)

    @property
    def arrays(self) -> dict[str, Any]:
        """The docid tree and the docids of the plan, which the trainer adds to every batch."""
        return {name: value for name in ("tree", "plan") if (value := getattr(self, name)) is not None}

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        # Parameters do not depend on the tree; zeros keep its arrays out of the compiled program.
        zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), self.tree)
        return random_variables(self.model.config, rng, zeros)

    def written(
        self,
        params: Mapping[str, Any],
        inputs: Int[Array, "s l"],
        shifted: Int[Array, "b m"],
        nodes: Int[Array, "b m"],
        targets: Int[Array, "b m"],
        weights: Float[Array, "b m"],
        rng: jax.Array | None,
        *,
        tree: NodeTree | None = None,
        plan: PlannedDocids | None = None,
        left_out: LeftOut | None = None,
        **packed: Array,
    ) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right.

        Args:
            params: Parameters of the network.
            inputs: Tokens for the encoder.
            shifted: Targets shifted right, 0 first.
            nodes: The tree's node before each target.
            targets: Tokens to write.
            weights: Weight of each target, 0 for padding.
            rng: Key for the dropout masks; None for one pass without dropout.
            tree: The docid tree, for the prefix head and for a plan.
            plan: The docids of the plan.
            left_out: What targets of the plan know from the queries themselves.
            **packed: ``histories``, if several share a row of the inputs, or ``encoded``, if states of the inputs are
                known (:meth:`genret_jax.models.T5.__call__`).
        """
        shown = (inputs, shifted, nodes)
        passes = 2 if self.consistency and rng is not None else 1
        if passes == 2:
            both = functools.partial(shown_twice, sources=len(inputs))
            given = (shown, packed, targets, weights, left_out)
            shown, packed, targets, weights, left_out = jax.tree.map(both, given)
        apply = functools.partial(
            self.model.apply, {"params": params}, deterministic=rng is None, rngs=_dropout_rngs(rng)
        )
        logits: Array
        if plan is None:
            logits = apply(*shown, tree, **packed)
        else:
            assert tree is not None
            found, scores = apply(plan.tables, *shown, tree, **packed, left_out=left_out, method=T5.planned)
            logits = plan.guided(found, scores, shown[2], tree)
        total, weight = self.token_loss(logits, targets, weights)
        right = jnp.sum((jnp.argmax(logits, axis=-1) == targets) * weights)
        if passes == 1:
            return total, weight, {"token_accuracy": right}
        (one, other), (_, counted) = (two_passes(array, len(inputs)) for array in (logits, weights))
        differ = symmetric_divergence(one, other, counted)
        metrics = {"token_accuracy": right / 2, "consistency": differ}
        return total / 2 + self.consistency * differ, weight / 2, metrics


class RetrievalTask(DocidTask):
    """Documents, pseudo-queries and queries in, docids out.

    Args:
        config: Configuration of the network.
        sampler: Returns the batch of any step; None to plan steps without running one.
        tree: The docid tree of the prefix head, and of a plan; None with the vocabulary head alone.
        left_out: What documents know from training queries; None for a plan that knows nothing from them.
        **losses: ``plan``, ``loss``, ``z_loss``, ``label_smoothing`` and ``consistency`` of
            :class:`~genret_jax.training.docid_task.DocidTask`.
    """

    def __init__(
        self,
        config: T5Config,
        sampler: Sampler | EncodedPool | None,
        tree: NodeTree | None,
        *,
        left_out: LeftOutQueries | None = None,
        **losses: Any,
    ):
        super().__init__(config, tree, **losses)
        self.sampler, self.left_out = sampler, left_out

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return the examples of a step, or some rows of them."""
        assert self.sampler is not None, "a task without a sampler can only be planned"
        batch = self.sampler.batch(step, rows)
        return {**batch, **self.facts(batch)}

    def facts(self, batch: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return what a plan's loss reads of a batch beside its tokens.

        Args:
            batch: ``docid_row``, and ``encoder_input_tokens``, ``query`` and ``document``, as from the sampler.

        Returns:
            ``docid_row`` [b], and what the targets know from the examples' own queries.
        """
        found = {"docid_row": batch["docid_row"]}
        if self.left_out is None:
            return found
        terms = batch["encoder_input_tokens"][:, -self.model.config.plan_terms :]
        return found | self.left_out.of(batch["query"], batch["document"], terms)

    def loss(self, params: Mapping[str, Any], batch: DeviceBatch, dropout_rng: jax.Array | None) -> Sums:
        """Return the summed loss, the summed weights, and the number of target tokens predicted right.

        Without a decoder, targets are whole docids. Without a key there is no dropout.
        """
        if not self.model.config.num_decoder_layers:
            return self._planned(params, batch, dropout_rng)
        return self.written(
            params,
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            batch["decoder_prefix_nodes"],
            batch["decoder_target_tokens"],
            batch["decoder_loss_weights"],
            dropout_rng,
            tree=batch.get("tree"),
            plan=batch.get("plan"),
            left_out=_left_out(batch),
            **_known_states(batch, self.model.config),
        )

    def _planned(self, params: Mapping[str, Any], batch: DeviceBatch, dropout_rng: jax.Array | None) -> Sums:
        inputs, plan = batch["encoder_input_tokens"], batch["plan"]
        variables, states = {"params": params}, _known_states(batch, self.model.config)
        encoded = states.get("encoded")
        if encoded is None:
            rngs = {} if dropout_rng is None else _dropout_rngs(jax.random.fold_in(dropout_rng, 1))
            encoded = self.model.apply(
                variables, inputs, method=T5.encode, deterministic=dropout_rng is None, rngs=rngs
            )
        given = (encoded, inputs, plan.tables, _left_out(batch), dropout_rng is None)
        scores = self.model.apply(variables, *given, method=T5.plan_scores, rngs=_dropout_rngs(dropout_rng))
        weights = batch["decoder_loss_weights"].max(axis=1)
        total, right = plan.flat_loss(scores, plan.numbers[batch["docid_row"]], weights)
        return total, weights.sum(), {"docid_accuracy": right}


def _dropout_rngs(rng: jax.Array | None) -> dict[str, jax.Array]:
    return {} if rng is None else {"dropout": rng}


def _left_out(batch: DeviceBatch) -> LeftOut | None:
    """Return what the targets of a batch know from their own queries, if that comes with it."""
    if TERMS not in batch:
        return None
    docids = batch["plan"].numbers[batch["docid_row"]]
    return LeftOut(docids, batch[TERMS], batch.get(VECTORS), batch[BIAS])


def _known_states(batch: DeviceBatch, config: T5Config) -> dict[str, Array]:
    """Return the encoder's states of a batch, if they come with it."""
    states = batch.get(STATES)
    return {} if states is None else {"encoded": jnp.asarray(states, config.compute_dtype)}
