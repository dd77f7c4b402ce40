"""The start of training: shapes, placement, and either fresh parameters or those of the last checkpoint."""

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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.errors import InputError
from genret_jax.models.shapes import shape_difference
from genret_jax.parallel.mesh import make_mesh, require_split, side_by_side
from genret_jax.training.batches import check_batch
from genret_jax.training.checkpoint_format import describe
from genret_jax.training.checkpoints import Checkpoints
from genret_jax.training.config import TrainerConfig
from genret_jax.training.step import Params, RunSteps, StepShapes, TrainingTask, TrainState, arrays_of, plan_steps

Evaluator = Callable[[Params, int], Mapping[str, float | None]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SeedRun:
    """A run, alone or one of several that differ in their seed and are trained together.

    Attributes:
        task: Parameters, loss and batches.
        config: Settings of the run.
        folder: The run's folder.
        evaluators: Functions of ``(params, step)`` by name.
        init_params: Parameters to start from instead of the task's random ones.
        fingerprint: Identity of the corpus, docids and model, as for :func:`genret_jax.training.train`.
    """

    task: TrainingTask
    config: TrainerConfig
    folder: str | os.PathLike[str]
    evaluators: Mapping[str, Evaluator] = dataclasses.field(default_factory=dict)
    init_params: Params | None = None
    fingerprint: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Start:
    """Everything that the first step needs.

    Attributes:
        state: Fresh, or from the last checkpoint; several runs are stacked along a first axis.
        step: Updates made so far.
        steps: Length of the run that wrote the last checkpoint; None for a new run, and if it was not recorded.
        metrics: Results of each run's last evaluation.
        mesh: Devices of the state.
        axes: Logical axes by parameter path.
        arrays: The task's arrays, whole on every device.
        run_steps: From :func:`~genret_jax.training.step.compile_steps`; call it within
            :func:`~genret_jax.parallel.mesh.placed_on`.
    """

    state: TrainState
    step: int
    steps: int | None
    metrics: list[dict[str, float | None]]
    mesh: Mesh
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    arrays: Mapping[str, Any]
    run_steps: RunSteps


def prepare(runs: Sequence[SeedRun], checkpoints: Sequence[Checkpoints]) -> Start:
    """Return the state to go on from, placed on the mesh, and the compiled steps.

    Args:
        runs: One run, or several that are trained together and have made the same number of steps.
        checkpoints: The checkpoints of each run.

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
    states, metadata = zip(
        *[_first_or_restored(run, saved, steps) for run, saved in zip(runs, checkpoints, strict=True)], strict=True
    )
    reached = [one["step"] for one in metadata]
    if len(set(reached)) > 1:
        raise InputError(
            f"{runs[0].folder} has reached step {reached[0]}, and another of its seeds step "
            f"{next(step for step in reached if step != reached[0])}",
            fix="run again; seeds that have reached the same step are then trained together",
        )
    state = states[0]
    if len(runs) > 1:
        state = jax.jit(_stacked, out_shardings=side_by_side(steps.shardings))(*states)
    return Start(
        state=state,
        step=reached[0],
        steps=metadata[0].get("steps"),
        metrics=[one["metrics"] for one in metadata],
        mesh=mesh,
        axes=steps.axes,
        arrays=_on_devices(arrays_of(task), NamedSharding(mesh, PartitionSpec())),
        run_steps=steps.run_steps,
    )


@functools.lru_cache(maxsize=1)
def _planned(
    task: TrainingTask,
    config: TrainerConfig,
    mesh: Mesh,
    batch: tuple[tuple[str, tuple[int, ...], np.dtype[Any]], ...],
    seeds: tuple[int, ...],
) -> StepShapes:
    """Plan the steps; a task that is trained again gets the same program and is not compiled again."""
    shapes = {name: jax.ShapeDtypeStruct(shape, dtype) for name, shape, dtype in batch}
    return plan_steps(task, config, mesh, shapes, seeds=seeds)


def _stacked(*states: TrainState) -> TrainState:
    together: TrainState = jax.tree.map(lambda *leaves: jnp.stack(leaves), *states)
    return together


def _first_or_restored(run: SeedRun, checkpoints: Checkpoints, steps: StepShapes) -> tuple[TrainState, dict[str, Any]]:
    """Return the state of one run and the metadata of its checkpoint; for a new run, step 0 without metrics."""
    restored = checkpoints.restore(steps.like, fingerprint=run.fingerprint)
    if restored is not None:
        if (reached := restored[1]["step"]) > run.config.steps:
            raise InputError(
                f"the run has made {reached} steps already",
                file=run.folder,
                expected=f"at least {reached} steps instead of {run.config.steps}",
                fix="give more steps, or train in another folder",
            )
        return restored
    first: dict[str, Any] = {"step": 0, "metrics": {}}
    if run.init_params is not None:
        _check_params(run.init_params, steps.like.params)
        placed = _placed(run.init_params, steps.shardings.params)
        return jax.jit(steps.first_state, out_shardings=steps.shardings)(placed), first

    def random_state() -> TrainState:
        return steps.first_state(flax.core.unfreeze(run.task.init(jax.random.key(run.config.seed))["params"]))

    return jax.jit(random_state, out_shardings=steps.shardings)(), first


def _placed(params: Params, shardings: Any) -> Any:
    """Put parameters on their devices; several processes take those of process 0."""
    if jax.process_count() == 1:
        return jax.device_put(params, shardings)
    # Each process may have computed its own, and two need not agree on the last bit.
    same = multihost_utils.broadcast_one_to_all(jax.tree.map(np.asarray, params))
    return jax.tree.map(_on_devices, same, shardings)


def _on_devices(tree: Any, sharding: NamedSharding) -> Any:
    """Put arrays that every process has whole on the devices of all processes."""

    def place(array: Any) -> jax.Array:
        whole = np.asarray(array)
        return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])

    return jax.tree.map(place, tree)


def _check_params(given: Params, shapes: Any) -> None:
    if difference := shape_difference(describe(given), describe(shapes)):
        raise InputError(
            f"initial parameters of another model ({difference})", fix="give parameters made for this configuration"
        )
