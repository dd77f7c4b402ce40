"""What happens before the first step: shapes, places, and either fresh parameters or those of the last checkpoint."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax
import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from genret_jax.errors import InputError
from genret_jax.training.batches import check_batch
from genret_jax.training.checkpoint_format import describe, describe_difference
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.mesh import make_mesh, require_split
from genret_jax.training.state import TrainState
from genret_jax.training.step import RunSteps
from genret_jax.training.step_shapes import plan_steps
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
        run_steps: From :func:`~genret_jax.training.step.compile_steps`; call it within
            :func:`~genret_jax.training.mesh.placed_on`.
    """

    state: TrainState
    step: int
    metrics: dict[str, float | None]
    mesh: Mesh
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    run_steps: RunSteps


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
    steps = plan_steps(task, config, mesh, batch)

    def begin_at_random() -> TrainState:
        return steps.begin(flax.core.unfreeze(task.init(jax.random.key(config.seed))["params"]))

    require_split(mesh, steps.like.params, steps.shardings.params)
    restored = checkpoints.restore(steps.like, fingerprint=fingerprint)
    if restored is not None:
        state, metadata = restored
        step, metrics = metadata["step"], metadata["metrics"]
    else:
        step, metrics = 0, {}
        if init_params is None:
            state = jax.jit(begin_at_random, out_shardings=steps.shardings)()
        else:
            _check_params(init_params, steps.like.params)
            spread = _spread(init_params, steps.shardings.params)
            state = jax.jit(steps.begin, out_shardings=steps.shardings)(spread)
    return Start(state, step, metrics, mesh, steps.axes, steps.run_steps)


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
