"""The engine for pods: our network, vocabularies and search for t5x's ``train``, ``eval`` and ``infer``.

This is the only module that imports t5x (Roberts et al. 2022, arXiv 2203.17189), which is not on PyPI; see
``requirements-t5x.txt``. The gin files of ``gin_configs/t5x/`` name its classes and functions; no module imports it.
"""

import copy
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int
from t5x import adafactor, losses, metrics, models, partitioning, utils

from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.seqio.tasks import feature_converter, store_features
from genret_jax.decoding import BeamResult, DocidIndex, TrieConstraint
from genret_jax.errors import InputError
from genret_jax.inference import search_tokens
from genret_jax.losses import check_consistency, shown_twice, symmetric_divergence, two_passes
from genret_jax.models.config import T5Config
from genret_jax.models.network import T5, random_variables
from genret_jax.models.shapes import named_shapes, shape_difference
from genret_jax.training.docid_task import RetrievalTask
from genret_jax.training.rates import Factors, divided, joined, scaled_changes
from genret_jax.training.t5x.checkpoint import find_checkpoint, read_t5x_params
from genret_jax.training.t5x.planned import PlannedLoss
from genret_jax.validation import require

Params = Mapping[str, Any]
Batch = Mapping[str, Array]

_OTHER_NETWORK = "give the checkpoint's own network: add a file of t5x/models, or t5x/prepared_run.gin"


class RetrievalModel(models.EncoderDecoderModel):
    """A t5x model that writes docids: :class:`genret_jax.models.T5`, decoded by our search over the docid index.

    Training is t5x's own; only docids that exist can be predicted, each with its log-probability as the score. The
    number of beams, and whether all of them are returned, are t5x's ``DecoderParams``.

    Args:
        examples: Folder of the example store whose docids these are; its vocabularies are the model's.
        config: Configuration of the network, with T5's own head (``head="vocabulary"``).
        optimizer_def: A t5x optimizer; Optax's are in ``t5x.optimizers``.
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
        z_loss: Weight of the penalty on the logits' normaliser (T5: 1e-4).
        loss_normalizing_factor: Divisor of the loss, as in t5x; by default 1, since Adafactor does not depend on the
            scale. Our own engine divides by ``"NUM_REAL_TARGET_TOKENS"``.
        consistency: Weight of the divergence between two passes with different dropout masks, as
            ``Experiment.consistency`` (NCI: Wang et al. 2022, arXiv 2206.02743, section 3.4).
        planned: Task of a run whose network has a plan, for its loss and its tables; None without a plan.
        learning_rates: Factors of the learning rate, as ``TrainerConfig.learning_rates``.
        default_decoder_params: ``@models.DecoderParams()``.

    Raises:
        InputError: If the network cannot write the docids of these examples.
    """

    def __init__(
        self,
        examples: str,
        config: T5Config,
        optimizer_def: Any,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        loss_normalizing_factor: float | str | None = None,
        consistency: float = 0.0,
        planned: RetrievalTask | None = None,
        learning_rates: Factors = (),
        default_decoder_params: Any = None,
    ):
        store = ExampleStore.open(examples)
        _check_vocabulary(config, store)
        _check_plan(config, planned, loss_normalizing_factor)
        self.consistency, self.learning_rates = consistency, learning_rates
        check_consistency(self, config.dropout_rate)
        losses_of = {"z_loss": z_loss, "label_smoothing": label_smoothing, "consistency": consistency}
        self._planned = None if planned is None else PlannedLoss(planned, config, store, **losses_of)
        vocabularies = {side: feature.vocabulary for side, feature in store_features(store).items()}
        super().__init__(
            module=T5(config),
            input_vocabulary=vocabularies["inputs"],
            output_vocabulary=vocabularies["targets"],
            optimizer_def=_with_rates(optimizer_def, learning_rates),
            feature_converter_cls=None if planned is None else feature_converter(planned, config.plan_terms),
            label_smoothing=label_smoothing,
            z_loss=z_loss,
            loss_normalizing_factor=loss_normalizing_factor,
            default_decoder_params=default_decoder_params,
        )
        # In host memory: constants of a program of several processes must not lie on the devices of one.
        self._index = jax.device_get(docid_index(store, config.output_vocab_size))

    def get_initial_variables(
        self, rng: Array, input_shapes: Mapping[str, Any], input_types: Mapping[str, Any] | None = None
    ) -> Any:
        """Return random parameters and the names of their axes."""
        _refuse_packing(input_shapes)
        return flax.core.freeze(random_variables(self.module.config, rng, None))

    def _compute_logits(
        self,
        params: Params,
        batch: Batch,
        dropout_rng: Array | None = None,
        mutable: Any = False,
        other_variables: Params | None = None,
    ) -> Any:
        self._check_params(params)
        _refuse_packing(batch)
        if self._planned is not None:
            raise InputError("scores of given docids, from a network with a plan", fix="use mode='predict_with_aux'")
        return self.module.apply(
            {"params": params, **(other_variables or {})},
            batch["encoder_input_tokens"],
            batch["decoder_input_tokens"],
            deterministic=dropout_rng is None,
            rngs=None if dropout_rng is None else {"dropout": dropout_rng},
            mutable=mutable,
        )

    def loss_fn(self, params: Params, batch: Batch, dropout_rng: Array | None) -> tuple[Float[Array, ""], Any]:
        """Return the loss of a batch and t5x's metrics; with consistency, those of the first pass and ``consistency``.

        With a plan, loss and accuracy are those of ``genret train``.

        Args:
            params: Parameters.
            batch: The batch from t5x's feature converter.
            dropout_rng: Key for the dropout masks; None in evaluation, which makes one pass without dropout.
        """
        trained, kept = divided(flax.core.unfreeze(params), self.learning_rates)
        params = joined(trained, jax.lax.stop_gradient(kept))
        if self._planned is not None:
            return self._planned_loss(params, batch, dropout_rng)
        if not self.consistency or dropout_rng is None:
            loss, found = super().loss_fn(params, batch, dropout_rng)
            return loss, found
        rows = len(batch["encoder_input_tokens"])
        logits = self._compute_logits(params, {key: shown_twice(x, rows) for key, x in batch.items()}, dropout_rng)
        one, other = (logits[:, 0] for logits in two_passes(logits, rows))
        divisor, weights = losses.get_loss_normalizing_factor_and_weights(self._loss_normalizing_factor, batch)
        targets = batch["decoder_target_tokens"]
        settings = {
            "label_smoothing": self._label_smoothing,
            "z_loss": self._z_loss,
            "loss_normalizing_factor": divisor,
        }
        of_passes = [
            losses.compute_weighted_cross_entropy(of_pass, targets=targets, weights=weights, **settings)[:2]
            for of_pass in (one, other)
        ]
        loss, z_loss = (sum(parts) / 2 for parts in zip(*of_passes, strict=True))
        apart = symmetric_divergence(one, other, weights) / (1 if divisor is None else divisor)
        loss += self.consistency * apart
        found = self._compute_metrics(one, targets, weights, loss, z_loss, _segments(batch))
        return loss, {**found, "consistency": metrics.AveragePerStep(total=apart)}

    def _planned_loss(self, params: Params, batch: Batch, dropout_rng: Array | None) -> tuple[Float[Array, ""], Any]:
        assert self._planned is not None
        self._check_params(params)
        _refuse_packing(batch)
        total, weight, sums = self._planned(params, batch, dropout_rng)
        given = self._loss_normalizing_factor
        loss = total / (weight if isinstance(given, str) else given or 1)
        targets, inputs = batch["decoder_target_tokens"], batch["encoder_input_tokens"]
        text = inputs[:, : inputs.shape[1] - self.module.config.plan_terms]
        segments = _segments({**batch, "encoder_input_tokens": text})
        no_logits = jnp.zeros((*targets.shape, 1))
        found = self._compute_metrics(no_logits, targets, batch["decoder_loss_weights"], loss, None, segments)
        del found["accuracy"]  # in the sums, under its own name
        return loss, found | {name: metrics.AveragePerStep(total=value / weight) for name, value in sums.items()}

    def predict_batch_with_aux(
        self,
        params: Params,
        batch: Batch,
        rng: Array | None = None,
        decoder_params: Mapping[str, Any] | None = None,
        return_all_decodes: bool | None = None,
        num_decodes: int | None = None,
        prompt_with_targets: bool = False,
    ) -> tuple[Int[Array, "b ..."], dict[str, Float[Array, "b ..."]]]:
        """Search for the docids of a batch of queries.

        Args:
            params: Parameters.
            batch: With ``encoder_input_tokens`` ``[b, l]``.
            rng: Not needed: the search is deterministic.
            decoder_params: Must be empty: everything about the search is in the index.
            return_all_decodes: Return all beams instead of the best one; by default as the model was configured.
            num_decodes: Beams; by default as the model was configured.
            prompt_with_targets: Must be false: a docid is written from its beginning.

        Returns:
            As t5x wants them, the best beam last: tokens ``[b, k, m]`` and ``{"scores": [b, k]}``, or ``[b, m]`` and
            ``[b]``. Where there are fewer docids than beams, tokens are 0 and scores the lowest.
        """
        if decoder_params or prompt_with_targets:
            raise InputError(
                "decoder_params or prompt_with_targets for a search over docids",
                expected="neither",
                fix="remove the binding; beams are DecoderParams.num_decodes",
            )
        defaults = self._default_decoder_params
        beams = defaults.num_decodes if num_decodes is None else num_decodes
        found = self.search(params, batch["encoder_input_tokens"], beams)
        if defaults.return_all_decodes if return_all_decodes is None else return_all_decodes:
            return found.tokens[:, ::-1], {"scores": found.scores[:, ::-1]}
        return found.tokens[:, 0], {"scores": found.scores[:, 0]}

    def search(self, params: Params, tokens: Int[Array, "b l"], beams: int) -> BeamResult:
        """Return the best docids of queries, best first, as :class:`genret_jax.Retriever` finds them."""
        self._check_params(params)
        index, adaptive = jax.tree.map(jnp.asarray, self._index), self.module.config.adaptive_layers
        constraint = TrieConstraint(index, normalize="children" if adaptive else "vocabulary")
        tables = None if self._planned is None else self._planned.tables
        return search_tokens(params, tokens, constraint, None, self.module.config, beams, tables)

    @functools.cached_property
    def _shapes(self) -> dict[str, tuple[int, ...]]:
        variables = jax.eval_shape(lambda key: random_variables(self.module.config, key, None), jax.random.key(0))
        return named_shapes(variables["params"])

    def _check_params(self, params: Params) -> None:
        """Refuse a checkpoint of another network while a program is traced; t5x itself restores any."""
        if difference := shape_difference(named_shapes(flax.core.unfreeze(params)), self._shapes):
            raise InputError(f"a checkpoint of another network ({difference})", fix=_OTHER_NETWORK)


class Partitioner(partitioning.PjitPartitioner):
    """t5x's partitioner with errors that name the setting to change, and with ``num_partitions`` on CPUs too.

    t5x itself ignores ``num_partitions`` on CPUs and takes all devices of a process as partitions of one copy.

    Args:
        settings: t5x's own partitioner, so that ``PjitPartitioner.num_partitions`` is bound as t5x users know it.
    """

    def __init__(self, settings: partitioning.PjitPartitioner):
        self.__dict__.update(vars(settings))

    @functools.cached_property
    def mesh(self) -> Mesh:
        """The devices, with axes ``data`` and ``model``.

        Raises:
            InputError: If ``num_partitions`` does not divide them.
        """
        if self._model_parallel_submesh or self._ici_mesh_shape:
            return super().mesh
        devices = jax.devices(self._backend)
        if len(devices) % self._num_partitions:
            raise InputError(
                f"PjitPartitioner.num_partitions={self._num_partitions} for {len(devices)} devices",
                expected="a divisor of the number of devices",
                fix="change it, or set PjitPartitioner.model_parallel_submesh",
            )
        if devices[0].platform != "cpu":
            return super().mesh
        ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
        return Mesh(np.array(ordered, object).reshape(-1, self._num_partitions), ("data", "model"))

    def get_data_layout(self, batch_size: int | None = None, host_index: int | None = None) -> Any:
        """Return the division of a batch over hosts.

        Raises:
            InputError: If it does not divide over the devices that hold copies of the parameters.
        """
        if batch_size and batch_size % self.data_mesh_size:
            raise InputError(
                f"a batch of {batch_size} rows for {self.data_mesh_size} data-parallel devices",
                expected=f"a multiple of {self.data_mesh_size}",
                fix="change BATCH_SIZE (DatasetConfig.batch_size) or num_partitions",
            )
        return super().get_data_layout(batch_size, host_index)

    def get_mesh_axes(self, train_state: Any) -> Any:
        """Return the division of every array of a train state.

        Raises:
            InputError: If the devices do not divide a parameter's axis.
        """
        axes = super().get_mesh_axes(train_state)
        specs = flax.traverse_util.flatten_dict(flax.core.unfreeze(axes.params), sep="/")
        for path, array in flax.traverse_util.flatten_dict(flax.core.unfreeze(train_state.params), sep="/").items():
            for size, axis in zip(array.shape, specs[path] or (), strict=False):
                parts = self.mesh.shape[axis] if axis is not None else 1
                if size % parts:
                    raise InputError(
                        f"parameter {path} of shape {tuple(array.shape)} for {parts} devices of the '{axis}' axis",
                        expected=f"a multiple of {parts} where it has {size}",
                        fix="change num_partitions, or T5Config.vocab_size if it is the vocabulary",
                    )
        return axes


class TrainStateInitializer(utils.TrainStateInitializer):
    """t5x's initializer, which starts from the parameters of a checkpoint or of a pretrained encoder if there is one.

    t5x restores an Orbax checkpoint only together with optimizer and data, which a new run must not take over. This
    class reads its parameters alone, onto the devices where they belong.

    Args:
        *args: Arguments of t5x's class.
        path: A checkpoint written through Orbax, by t5x or ``genret checkpoint export``; t5x handles other kinds.
        start: Returns the parameters to start with where there is no checkpoint, or None for random ones.
        **kwargs: Arguments of t5x's class.
    """

    def __init__(
        self, *args: Any, path: str | Sequence[str] = (), start: Callable[[], Any] = lambda: None, **kwargs: Any
    ):
        super().__init__(*args, **kwargs)
        self._path = path if isinstance(path, str) and find_checkpoint(path) else None
        self._start = start

    def from_scratch(self, init_rng: Array) -> Any:
        """Return a state with a fresh optimizer."""
        state = super().from_scratch(init_rng)
        like = flax.core.unfreeze(state.params)
        if self._path is not None:
            params = read_t5x_params(self._path, like)
        elif (params := self._start()) is None:
            return state
        else:
            params = jax.device_put(params, jax.tree.map(lambda leaf: leaf.sharding, like))
        return state.replace_params(jax.tree.unflatten(jax.tree.structure(state.params), jax.tree.leaves(params)))


def legacy_path(path: str | Sequence[str]) -> str | Sequence[str]:
    """Return the path if t5x can restore the checkpoint itself, else an empty list.

    Args:
        path: ``INITIAL_CHECKPOINT_PATH``; empty for none.
    """
    if not isinstance(path, str):
        return path
    return [] if find_checkpoint(path) else absolute(path)


def absolute(path: str) -> str:
    """Return the absolute path of a folder; a path with a scheme, as ``gs://``, is unchanged."""
    return path if "://" in path else os.path.abspath(path)


def require_parameters(state: Any, wanted: Any, *, is_resuming: bool = False) -> Any:
    """Refuse to restore a checkpoint without all parameters; for ``RestoreCheckpointConfig.state_transformation_fns``.

    ``fallback_to_scratch`` initialises what a checkpoint lacks. That is meant for the optimizer's state, but would give
    missing parameters random values, too.

    Args:
        state: Content of the checkpoint.
        wanted: State of the model.
        is_resuming: Whether the checkpoint belongs to the run; not used.

    Returns:
        ``state``.

    Raises:
        InputError: If a parameter is missing.
    """
    found, needed = (flax.traverse_util.flatten_dict(tree["target"], sep="/") for tree in (state, wanted))
    missing = [path for path in needed if path not in found]
    if missing:
        raise InputError(
            f"a checkpoint without {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else ""),
            expected="all parameters of the model",
            fix=_OTHER_NETWORK,
        )
    return state


def docid_index(store: ExampleStore, vocab_size: int) -> DocidIndex:
    """Build the index of a store's docids; documents are numbered as in the store."""
    documents = np.repeat(np.arange(store.num_documents), np.diff(store.array("docid_offsets")))
    return DocidIndex.build(store.array("docid_tokens"), store.array("docid_lengths"), documents, vocab_size=vocab_size)


def logical_factor_rules() -> Any:
    """Return t5x's rules for Adafactor's factored moments, with those for the axes that only our networks have."""
    return flax.core.freeze({**adafactor.standard_logical_factor_rules(), "terms": adafactor.FactorDim.NONE})


def _with_rates(optimizer_def: Any, factors: Factors) -> Any:
    """Return a t5x optimizer whose updates of some parameters are scaled."""
    if not factors:
        return optimizer_def
    scaled = copy.copy(optimizer_def)

    def apply_gradient(hyper_params: Any, params: Any, state: Any, gradients: Any) -> tuple[Any, Any]:
        changed, state = type(scaled).apply_gradient(scaled, hyper_params, params, state, gradients)
        return scaled_changes(params, changed, factors), state

    scaled.apply_gradient = apply_gradient
    return scaled


def _segments(batch: Batch) -> dict[str, Array]:
    return {key: batch[key] != 0 for key in ("encoder_input_tokens", "decoder_target_tokens")}


def _check_plan(config: T5Config, planned: RetrievalTask | None, divisor: float | str | None) -> None:
    if (config.plan is None) != (planned is None):
        raise InputError(
            "a network with a plan, without the task that has its tables"
            if planned is None
            else "the task of a plan, for a network without one",
            expected="RetrievalModel.planned of the run that RetrievalModel.config is from",
            fix="take both from a run folder, with t5x/prepared_run.gin",
        )
    if planned is not None and isinstance(divisor, str) and divisor != "NUM_REAL_TARGET_TOKENS":
        raise InputError(
            f"RetrievalModel.loss_normalizing_factor='{divisor}' for a network with a plan",
            expected="None, a number, or 'NUM_REAL_TARGET_TOKENS'",
        )


def _check_vocabulary(config: T5Config, store: ExampleStore) -> None:
    """Refuse a network that cannot write, or would confuse, the tokens of a store."""
    require(config, "head", config.head == "vocabulary", "'vocabulary' with t5x")
    if not store.shares_vocabulary and config.decoder_vocab_size is None:
        raise InputError(
            "docids with tokens of their own, which T5Config.decoder_vocab_size=None takes for text",
            file=store.folder,
            expected=f"T5Config.decoder_vocab_size of at least {store.decoder_vocabulary_size}",
            fix="set it, or build the examples for the vocabulary head",
        )
    needs = {"vocab_size": store.vocabulary_size}
    if config.decoder_vocab_size is None:
        needs["vocab_size"] = max(store.vocabulary_size, store.decoder_vocabulary_size)
    else:
        needs["decoder_vocab_size"] = store.decoder_vocabulary_size
    for field, needed in needs.items():
        if getattr(config, field) < needed:
            raise InputError(
                f"T5Config.{field}={getattr(config, field)} with examples of {needed} tokens",
                file=store.folder,
                expected=f"at least {needed}",
                fix=f"set --gin.T5Config.{field}={-(-needed // 128) * 128}, or build the examples with text docids",
            )


def _refuse_packing(batch: Mapping[str, Any]) -> None:
    if "encoder_segment_ids" in batch:
        raise InputError("packed examples", expected="one example a row", fix="set DatasetConfig.pack = False")
