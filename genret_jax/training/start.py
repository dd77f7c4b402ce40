"""What happens before the first step: shapes, places, and either fresh parameters or those of the last checkpoint."""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax
import jax
import numpy as np
from flax.linen import partitioning
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from genret_jax.errors import InputError
from genret_jax.training.batches import check_batch
from genret_jax.training.checkpoint_format import describe, describe_difference
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.mesh import LOGICAL_AXIS_RULES, logical_axes, make_mesh, require_split
from genret_jax.training.state import TrainState, initial_state, state_shardings
from genret_jax.training.step import RunSteps, compile_steps, loss_totals, make_train_step
from genret_jax.training.task import Params, TrainingTask


@dataclasses.dataclass(frozen=True)
class Start:
    """Where a run begins.

    Attributes:
        state: Fresh, or of the last checkpoint.
        step: Updates it has had.
        metrics: Of the last evaluation before it.
        mesh: Where it lies.
        axes: Logical axes by parameter path.
        run_steps: From :func:`~genret_jax.training.step.compile_steps`; call it within :func:`placed_on`.
    """

    state: TrainState
    step: int
    metrics: dict[str, float | None]
    mesh: Mesh
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    run_steps: RunSteps


@contextlib.contextmanager
def placed_on(mesh: Mesh) -> Iterator[None]:
    """Give the model's constraints on activations their mesh and rules while it is traced."""
    with jax.set_mesh(mesh), partitioning.axis_rules(LOGICAL_AXIS_RULES):
        yield


def prepare(
    task: TrainingTask,
    config: TrainerConfig,
    checkpoints: Checkpoints,
    *,
    init_params: Params | None,
    fingerprint: Mapping[str, Any],
) -> Start:
    """Return the state to go on from, placed on the mesh, and the compiled steps.

    Raises:
        InputError: If the mesh, the batch, the given parameters or the checkpoint do not fit.
    """
    mesh = make_mesh(model_parallel=config.model_parallel, data_parallel=config.data_parallel)
    batch = dict(task.batch(0))
    check_batch(batch, config, mesh)
    key = jax.random.key(config.seed)
    optimizer = config.optimizer.build(config.steps)
    variables = jax.eval_shape(task.init, key)
    shapes: Any = flax.core.unfreeze(variables["params"])
    axes = logical_axes(variables)
    totals = jax.eval_shape(lambda p, b, k: loss_totals(task, p, b, k), shapes, batch, key)

    def begin(params: Params) -> TrainState:
        names = (*totals, "gradient_norm")
        return initial_state(params, optimizer, keep_average=config.average_decay is not None, metrics=names)

    def begin_at_random() -> TrainState:
        return begin(flax.core.unfreeze(task.init(jax.random.key(config.seed))["params"]))

    like = jax.eval_shape(begin, shapes)
    shardings = state_shardings(mesh, like, axes)
    require_split(mesh, shapes, shardings.params)
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), like, shardings)

    restored = checkpoints.restore(like, fingerprint=fingerprint)
    if restored is not None:
        state, metadata = restored
        step, metrics = metadata["step"], metadata["metrics"]
    else:
        step, metrics = 0, {}
        if init_params is None:
            state = jax.jit(begin_at_random, out_shardings=shardings)()
        else:
            _check_params(init_params, shapes)
            state = jax.jit(begin, out_shardings=shardings)(_spread(init_params, shardings.params))
    rate = config.optimizer.learning_rate.build(config.steps)
    run_steps = compile_steps(make_train_step(task, config, optimizer), rate, mesh, shardings)
    return Start(state, step, metrics, mesh, axes, run_steps)


def _spread(params: Params, shardings: Any) -> Any:
    """Put parameters where they belong; where there are several processes, those of process 0."""
    if jax.process_count() == 1:
        return jax.device_put(params, shardings)
    # Each process may have computed its own, and the last bits of two need not agree.
    same = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, params))

    def place(array: Any, sharding: NamedSharding) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, same, shardings)


def _check_params(given: Params, shapes: Any) -> None:
    difference = describe_difference(describe(given), describe(shapes), found_in="given", wanted_in="model")
    if difference:
        raise InputError(
            f"initial parameters of another model ({difference})", fix="give parameters made for this configuration"
        )
