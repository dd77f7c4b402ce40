"""The training step: the protocol of a task, one update, and several of them in one call to the device."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from genret_jax.parallel.mesh import batch_sharding, logical_axes, optimizer_shardings, param_shardings, side_by_side
from genret_jax.training.config import RateFunction, TrainerConfig
from genret_jax.training.rates import Factors, divided, joined, with_factors

Params = dict[str, Any]
Batch = Mapping[str, np.ndarray]
# Arrays of a batch on the devices, beside the task's ``arrays``.
DeviceBatch = Mapping[str, Any]
# A sum over the batch to divide by the loss weights, or a sum with a weight of its own to divide by.
MetricSum = Float[Array, ""] | tuple[Float[Array, ""], Float[Array, ""]]


@runtime_checkable
class TrainingTask(Protocol):
    """A model with its loss and its data.

    A task may have an attribute ``arrays``: a mapping from names to pytrees of arrays that the loss needs at every
    step, such as the tokens of all items. The trainer puts them on all devices once and gives them to ``loss`` as
    entries of the batch. An array that ``loss`` takes from elsewhere becomes a constant of the compiled program, which
    then is as large as the array and must be compiled again when the array changes.
    """

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return Linen variables: ``params``, and ``params_axes`` if parameters have logical axes."""
        ...

    def loss(
        self, params: Params, batch: DeviceBatch, dropout_rng: jax.Array
    ) -> tuple[Float[Array, ""], Float[Array, ""], Mapping[str, MetricSum]]:
        """Return the sum of the loss over the batch, the sum of its weights, and sums of further metrics.

        Sums, not means, so that a batch computed in parts gives the update of the whole. A metric is divided by the
        loss weights, or is a pair ``(sum, weight)``.

        Args:
            params: Parameters.
            batch: From :meth:`batch`, or a part of its rows; and ``arrays``, whole.
            dropout_rng: Key for the dropout masks.
        """
        ...

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> Batch:
        """Return the batch of a step, each array ``[b, ...]``, or only the given rows of it, ``[r, ...]``.

        Must be a pure function of step and rows; it is called in a thread. Rows are given if there are several
        processes, which each make a part of a batch.
        """
        ...


def arrays_of(task: TrainingTask) -> dict[str, Any]:
    """Return the arrays that a task's loss needs at every step, by name; empty for a task without any."""
    return dict(getattr(task, "arrays", {}))


NEVER = -1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """The state between two steps.

    Attributes:
        step: Updates made so far, int32[].
        params: The parameters.
        optimizer_state: Optax's state.
        average: Moving average of the parameters, or None.
        totals: Sum and weight of every metric since the last record, float32[2]. They are part of the state so that a
            run resumed between two records writes the same records.
        first_bad_step: The first step whose loss or gradient was not finite, int32[]; ``NEVER`` if there was none.
    """

    step: Any
    params: Any
    optimizer_state: Any
    average: Any
    totals: Any
    first_bad_step: Any

    @property
    def evaluated_params(self) -> Params:
        """The parameters to evaluate and to search with."""
        return self.params if self.average is None else self.average


def initial_state(
    params: Params,
    optimizer: optax.GradientTransformation,
    *,
    keep_average: bool,
    metrics: tuple[str, ...],
    factors: Factors = (),
) -> TrainState:
    """Return the state before the first step; to be called under jit or ``eval_shape``.

    Args:
        params: Initial parameters.
        optimizer: The run's optax transformation.
        keep_average: Whether the run keeps a moving average.
        metrics: Names of the totals.
        factors: Factors of the learning rate; parameters with factor 0 have no optimizer state.
    """
    # Copies: every step donates its state, which must not take the caller's arrays or the average with it.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        optimizer_state=optimizer.init(divided(params, factors)[0]),
        average=jax.tree.map(jnp.copy, params) if keep_average else None,
        totals={name: jnp.zeros((2,), jnp.float32) for name in metrics},
        first_bad_step=jnp.full((), NEVER, jnp.int32),
    )


def state_shardings(mesh: Mesh, state: TrainState, axes: Any) -> TrainState:
    """Return the shardings of a state: optimizer state and average like the parameters, the rest on all devices.

    Args:
        mesh: From :func:`~genret_jax.parallel.mesh.make_mesh`.
        state: Shapes of the state.
        axes: Logical axes by parameter path.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())
    params = param_shardings(mesh, state.params, axes)
    return TrainState(
        step=everywhere,
        params=params,
        optimizer_state=optimizer_shardings(mesh, state.optimizer_state, state.params, params),
        average=None if state.average is None else params,
        totals=jax.tree.map(lambda _: everywhere, state.totals),
        first_bad_step=everywhere,
    )


Totals = dict[str, Float[Array, "2"]]
# (state, batches, count, arrays) -> (state, report)
RunSteps = Callable[[TrainState, DeviceBatch, Any, Mapping[str, Any]], tuple[TrainState, dict[str, Any]]]
# (state, batch, seed, arrays) -> state
TrainStep = Callable[[TrainState, DeviceBatch, Any, Mapping[str, Any]], TrainState]


def loss_totals(task: TrainingTask, params: Params, batch: DeviceBatch, key: jax.Array) -> Totals:
    """Return the sum and the weight of the loss and of every metric of a batch that holds the task's arrays."""
    loss_sum, weight_sum, metrics = task.loss(params, batch, key)
    pairs = {name: value if isinstance(value, tuple) else (value, weight_sum) for name, value in metrics.items()}
    return {
        name: jnp.stack(pair).astype(jnp.float32) for name, pair in {"loss": (loss_sum, weight_sum), **pairs}.items()
    }


def gradient_sum(
    task: TrainingTask,
    params: Params,
    batch: DeviceBatch,
    key: jax.Array,
    parts: int,
    arrays: Mapping[str, Any],
    factors: Factors = (),
) -> tuple[Params, Totals]:
    """Return the gradient of the summed loss and the totals of a batch, computed in ``parts`` parts.

    Each part draws its own dropout masks. Everything is a sum, so parts with unequal weights count as they should.

    Args:
        task: Has the loss.
        params: Parameters.
        batch: Arrays ``[b, ...]``.
        key: Key for the dropout masks.
        parts: Number of parts; divides b.
        arrays: The task's arrays; every part gets them whole.
        factors: Factors of the learning rate; parameters with factor 0 get no gradient.
    """
    params, frozen = divided(params, factors)

    def loss_of(params: Params, part: DeviceBatch, key: jax.Array) -> tuple[Float[Array, ""], Totals]:
        totals = loss_totals(task, joined(params, frozen), {**part, **arrays}, key)
        return totals["loss"][0], totals

    differentiate = jax.value_and_grad(loss_of, has_aux=True)
    if parts == 1:
        (_, totals), gradients = differentiate(params, batch, key)
        return gradients, totals

    # Every part takes rows from all devices: [b, ...] -> [b / parts, parts, ...] -> [parts, b / parts, ...]
    split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)

    def add_part(sums: tuple[Params, Totals], indexed: tuple[Any, Any]) -> tuple[tuple[Params, Totals], None]:
        part, index = indexed
        (_, totals), gradients = differentiate(params, part, jax.random.fold_in(key, index))
        return jax.tree.map(jnp.add, sums, (gradients, totals)), None

    first = jax.tree.map(lambda x: x[0], split)
    shapes = jax.eval_shape(differentiate, params, first, key)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), (shapes[1], shapes[0][1]))
    (gradients, totals), _ = lax.scan(add_part, zeros, (split, jnp.arange(parts)))
    return gradients, totals


def make_train_step(task: TrainingTask, config: TrainerConfig, optimizer: optax.GradientTransformation) -> TrainStep:
    """Return the function that makes one update; pure, to be jitted by :func:`compile_steps`.

    The seed of the dropout masks is an argument, because runs that train together may differ in nothing else.
    """

    def train_step(
        state: TrainState, batch: DeviceBatch, seed: UInt32[Array, ""] | int, arrays: Mapping[str, Any]
    ) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        factors = config.learning_rates
        gradients, totals = gradient_sum(task, state.params, batch, key, config.gradient_accumulation, arrays, factors)
        weight = totals["loss"][1]
        # A batch without any weight has gradient 0, not 0 / 0.
        gradients = jax.tree.map(lambda g: g / jnp.where(weight == 0, 1.0, weight), gradients)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))
        if config.clip_norm is not None:
            scale = config.clip_norm / jnp.maximum(norm, config.clip_norm)
            gradients = jax.tree.map(lambda g: g * scale, gradients)
        trained, frozen = divided(state.params, factors)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, trained)
        params: Any = joined(optax.apply_updates(trained, updates), frozen)
        totals["gradient_norm"] = jnp.stack([norm, jnp.ones_like(norm)])
        finite = jnp.isfinite(norm) & jnp.isfinite(totals["loss"]).all()
        return TrainState(
            step=state.step + 1,
            params=params,
            optimizer_state=optimizer_state,
            average=_averaged(state, params, config.average_decay),
            totals=_add_totals(state, totals, config.log_every),
            first_bad_step=jnp.where((state.first_bad_step == NEVER) & ~finite, state.step + 1, state.first_bad_step),
        )

    return train_step


def _averaged(state: TrainState, params: Params, decay: float | None) -> Any:
    if decay is None:
        return None
    # The decay grows with the steps, so that the average soon forgets the start; the formula is that of TensorFlow's
    # ExponentialMovingAverage with num_updates.
    rate = jnp.minimum(decay, (1 + state.step) / (10 + state.step))
    return jax.tree.map(lambda old, new: rate * old + (1 - rate) * new, state.average, params)


def _add_totals(state: TrainState, totals: Totals, log_every: int) -> Totals:
    begins = state.step % log_every == 0
    return {name: jnp.where(begins, 0.0, state.totals[name]) + total for name, total in totals.items()}


def compile_steps(
    train_step: TrainStep,
    rate: RateFunction,
    mesh: Mesh,
    shardings: TrainState,
    seeds: Sequence[int],
) -> RunSteps:
    """Return a jitted ``run_steps(state, batches, count, arrays) -> (state, report)``.

    The steps are a loop whose number of turns is known only at run time: one compiled program serves any number, and
    a run split into calls of other lengths has the same losses to the last bit.

    Args:
        train_step: From :func:`make_train_step`.
        rate: The learning rate of a step, for the report.
        mesh: Devices it runs on.
        shardings: Shardings of the state; the state passed in is donated.
        seeds: Seed of each run. Several runs make their steps side by side, and their states, batches and reports
            have an axis of runs in front (in batches after that of the steps).

    Returns:
        A function of the state, stacked batches ``[s, b, ...]``, the number of them to use, and the task's arrays. It
        returns the new state and a report that outlives the state: ``step``, ``totals``, ``first_bad_step`` and
        ``learning_rate``.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step_of_all(state: TrainState, batch: DeviceBatch, arrays: Mapping[str, Any]) -> TrainState:
        if len(seeds) == 1:
            return train_step(state, batch, seeds[0], arrays)
        return jax.vmap(train_step, in_axes=(0, 0, 0, None))(state, batch, jnp.asarray(seeds, jnp.uint32), arrays)

    def run_steps(
        state: TrainState, batches: DeviceBatch, count: Int[Array, ""], arrays: Mapping[str, Any]
    ) -> tuple[TrainState, dict[str, Any]]:
        def body(index: Int[Array, ""], state: TrainState) -> TrainState:
            batch = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), batches)
            return step_of_all(state, batch, arrays)

        state = lax.fori_loop(0, count, body, state)
        report = {"step": state.step, "totals": state.totals, "first_bad_step": state.first_bad_step}
        return state, {**report, "learning_rate": jnp.vectorize(rate)(state.step - 1)}

    return jax.jit(
        run_steps,
        in_shardings=(shardings, batch_sharding(mesh, len(seeds)), everywhere, everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )


@dataclasses.dataclass(frozen=True)
class StepShapes:
    """The compiled steps of a run and the shapes of their state, known before there is a single array.

    Attributes:
        like: Shapes, dtypes and shardings of the state of one run.
        shardings: The shardings alone.
        axes: Logical axes by parameter path.
        first_state: Maps parameters to the state before the first step; to be jitted.
        run_steps: From :func:`compile_steps`.
    """

    like: TrainState
    shardings: TrainState
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    first_state: Callable[[Params], TrainState]
    run_steps: RunSteps


def plan_steps(
    task: TrainingTask,
    config: TrainerConfig,
    mesh: Mesh,
    batch: Mapping[str, Any],
    *,
    seeds: Sequence[int] | None = None,
) -> StepShapes:
    """Return the steps of a run; nothing is computed.

    Args:
        task: The task.
        config: Settings of the run.
        mesh: Devices to run on; they may belong to another machine.
        batch: A batch, or its shapes.
        seeds: Seeds of runs that train together; None takes that of the configuration.
    """
    key = jax.random.key(config.seed)
    optimizer = with_factors(config.optimizer.build(config.steps), config.learning_rates)
    variables = jax.eval_shape(task.init, key)
    shapes: Any = flax.core.unfreeze(variables["params"])
    axes = logical_axes(variables)
    totals = jax.eval_shape(lambda p, b, k: loss_totals(task, p, b, k), shapes, {**batch, **arrays_of(task)}, key)

    def first_state(params: Params) -> TrainState:
        names = (*totals, "gradient_norm")
        average = config.average_decay is not None
        return initial_state(params, optimizer, keep_average=average, metrics=names, factors=config.learning_rates)

    like = jax.eval_shape(first_state, shapes)
    shardings = state_shardings(mesh, like, axes)
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), like, shardings)
    rate = config.optimizer.learning_rate.build(config.steps)
    seeds = seeds or [config.seed]
    of_all = shardings if len(seeds) == 1 else side_by_side(shardings)
    run_steps = compile_steps(make_train_step(task, config, optimizer), rate, mesh, of_all, seeds)
    return StepShapes(like, shardings, axes, first_state, run_steps)
