"""One update, and several of them in one call to the device."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, UInt32

from genret_jax.parallel.mesh import batch_sharding
from genret_jax.training.config import TrainerConfig
from genret_jax.training.schedules import RateFunction
from genret_jax.training.state import NEVER, TrainState
from genret_jax.training.task import DeviceBatch, Params, TrainingTask

Totals = dict[str, Float[Array, "2"]]
RunSteps = Callable[[TrainState, DeviceBatch, Any], tuple[TrainState, dict[str, Any]]]
# From a state, a batch and a seed to the next state.
TrainStep = Callable[[TrainState, DeviceBatch, Any], TrainState]


def _loss_and_totals(
    task: TrainingTask, params: Params, batch: DeviceBatch, key: jax.Array
) -> tuple[Float[Array, ""], Totals]:
    loss_sum, weight_sum, metrics = task.loss(params, batch, key)
    totals = {"loss": jnp.stack([loss_sum, weight_sum]).astype(jnp.float32)}
    for name, value in metrics.items():
        pair = value if isinstance(value, tuple) else (value, weight_sum)
        totals[name] = jnp.stack(pair).astype(jnp.float32)
    return loss_sum, totals


def loss_totals(task: TrainingTask, params: Any, batch: Any, key: Any) -> Mapping[str, Any]:
    """Return sum and weight of the loss and of every metric of a batch."""
    return _loss_and_totals(task, params, batch, key)[1]


def gradient_sum(
    task: TrainingTask, params: Params, batch: DeviceBatch, key: jax.Array, parts: int
) -> tuple[Params, Totals]:
    """Return the gradient of the summed loss and the totals of a batch, computed in ``parts`` parts.

    Each part draws its own dropout masks. Everything is a sum, so parts with unequal weights count as they should.
    """
    differentiate = jax.value_and_grad(lambda p, part, k: _loss_and_totals(task, p, part, k), has_aux=True)
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

    The seed, of the dropout masks, is an argument of it, as several runs may differ in nothing else.
    """

    def train_step(state: TrainState, batch: DeviceBatch, seed: UInt32[Array, ""] | int) -> TrainState:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradients, totals = gradient_sum(task, state.params, batch, key, config.gradient_accumulation)
        weight = totals["loss"][1]
        # A batch without any weight has gradient 0, not 0 / 0.
        gradients = jax.tree.map(lambda g: g / jnp.where(weight == 0, 1.0, weight), gradients)
        norm = jnp.sqrt(sum(jnp.sum(jnp.square(g)) for g in jax.tree.leaves(gradients)))
        if config.clip_norm is not None:
            scale = config.clip_norm / jnp.maximum(norm, config.clip_norm)
            gradients = jax.tree.map(lambda g: g * scale, gradients)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer_state, state.params)
        params: Any = optax.apply_updates(state.params, updates)
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
    """Return a jitted ``run_steps(state, batches, count) -> (state, report)``.

    The steps are a loop with a number of turns known only when it runs: one compiled program serves any number, and
    a run split into other numbers of steps a call has the same losses to the last bit.

    Args:
        train_step: From :func:`make_train_step`.
        rate: The learning rate of a step, for the report.
        mesh: Where it runs.
        shardings: Of the state; the state given in is donated.
        seeds: Of the runs; several make their steps side by side, and their states, batches and reports have a first
            axis (after that of the steps) with an entry for each.

    Returns:
        A function of the state, stacked batches ``[s, b, ...]`` and the number of them to use, to the new state and
        a report that outlives the state: ``step``, ``totals``, ``first_bad_step`` and ``learning_rate``.
    """
    everywhere = NamedSharding(mesh, PartitionSpec())

    def step_of_all(state: TrainState, batch: DeviceBatch) -> TrainState:
        if len(seeds) == 1:
            return train_step(state, batch, seeds[0])
        return jax.vmap(train_step)(state, batch, jnp.asarray(seeds, jnp.uint32))

    def run_steps(state: TrainState, batches: DeviceBatch, count: Int[Array, ""]) -> tuple[TrainState, dict[str, Any]]:
        def body(index: Int[Array, ""], state: TrainState) -> TrainState:
            batch = jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, index, keepdims=False), batches)
            return step_of_all(state, batch)

        state = lax.fori_loop(0, count, body, state)
        report = {"step": state.step, "totals": state.totals, "first_bad_step": state.first_bad_step}
        return state, {**report, "learning_rate": jnp.vectorize(rate)(state.step - 1)}

    return jax.jit(
        run_steps,
        in_shardings=(shardings, batch_sharding(mesh, len(seeds)), everywhere),
        out_shardings=(shardings, everywhere),
        donate_argnums=0,
    )
