"""What happens before the first step: shapes, places, and either fresh parameters or those of the last checkpoint."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import make_mesh, require_split, side_by_side
from genret_jax.training.batches import check_batch
from genret_jax.training.checkpoint_format import describe, describe_difference
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.state import TrainState
from genret_jax.training.step import RunSteps
from genret_jax.training.step_shapes import StepShapes, plan_steps
from genret_jax.training.task import Params, TrainingTask

Evaluator = Callable[[Params, int], Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRun:
    """A run, alone or one of several that differ in their seed and are trained together.

    Attributes:
        task: Parameters, loss and batches.
        config: Everything else.
        folder: The run's folder.
        evaluators: Functions of ``(params, step)`` by name.
        init_params: Parameters to start from instead of the task's random ones.
        fingerprint: What the run is made from.
    """

    task: TrainingTask
    config: TrainerConfig
    folder: str | os.PathLike[str]
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    init_params: Params | None = None
    fingerprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """Where runs begin.

    Attributes:
        state: Fresh, or of the last checkpoint; of several runs with a first axis that has an entry for each.
        step: Updates it has had.
        metrics: Of the last evaluation before it, of each run.
        mesh: Where it lies.
        axes: Logical axes by parameter path.
        run_steps: From :func:`~genret_jax.training.step.compile_steps`; call it within
            :func:`~genret_jax.parallel.mesh.placed_on`.
    """

    state: TrainState
    step: int
    metrics: list[dict[str, float | None]]
    mesh: Mesh
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    run_steps: RunSteps


def prepare(runs: Sequence[SeedRun], checkpoints: Sequence[Checkpoints]) -> Start:
    """Return the state to go on from, placed on the mesh, and the compiled steps.

    Args:
        runs: One, or several that are trained together, which then must have come to the same step.
        checkpoints: Of each run.

    Raises:
        InputError: If the mesh, the batch, the given parameters or a checkpoint do not fit.
    """
    task, config = runs[0].task, runs[0].config
    mesh = make_mesh(model_parallel=config.model_parallel, data_parallel=config.data_parallel)
    batch = dict(task.batch(0))
    check_batch(batch, config, mesh)
    shapes = tuple((name, array.shape, array.dtype) for name, array in batch.items())
    # A task is hashed by its identity.
    steps = _planned(task, config, mesh, shapes, tuple(run.config.seed for run in runs))  # type: ignore[arg-type]
    require_split(mesh, steps.like.params, steps.shardings.params)
    begun = [_begin(run, saved, steps) for run, saved in zip(runs, checkpoints, strict=True)]
    reached = [step for _, step, _ in begun]
    if len(set(reached)) > 1:
        raise InputError(
            f"{runs[0].folder} has come to step {reached[0]}, and another of its seeds to "
            f"{next(step for step in reached if step != reached[0])}",
            fix="run again; those that have come as far as each other are then trained together",
        )
    state = begun[0][0]
    if len(runs) > 1:
        stacked = jax.jit(lambda *states: _stacked(states), out_shardings=side_by_side(steps.shardings))
        state = stacked(*[state for state, _, _ in begun])
    return Start(state, reached[0], [metrics for _, _, metrics in begun], mesh, steps.axes, steps.run_steps)


@functools.lru_cache(maxsize=1)
def _planned(
    task: TrainingTask,
    config: TrainerConfig,
    mesh: Mesh,
    batch: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...],
    seeds: tuple[int, ...],
) -> StepShapes:
    """Plan the steps; those of a task that is trained again are the same program, and not compiled again."""
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in batch}
    return plan_steps(task, config, mesh, shapes, seeds=seeds)


def _stacked(states: Sequence[TrainState]) -> TrainState:
    together: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return together


def _begin(run: SeedRun, checkpoints: Checkpoints, steps: StepShapes) -> tuple[TrainState, int, dict[str, Any]]:
    """Return the state of one run, its step, and the metrics of the last evaluation."""
    restored = checkpoints.restore(steps.like, fingerprint=run.fingerprint)
    if restored is not None:
        state, metadata = restored
        return state, metadata["step"], metadata["metrics"]
    if run.init_params is not None:
        _check_params(run.init_params, steps.like.params)
        spread = _spread(run.init_params, steps.shardings.params)
        return jax.jit(steps.begin, out_shardings=steps.shardings)(spread), 0, {}

    def begin_at_random() -> TrainState:
        return steps.begin(flax.core.unfreeze(run.task.init(jax.random.key(run.config.seed))["params"]))

    return jax.jit(begin_at_random, out_shardings=steps.shardings)(), 0, {}


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
