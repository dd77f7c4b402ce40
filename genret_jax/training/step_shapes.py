"""The steps of a run and the shape of everything that they take, before there is a single array."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import flax
import jax
from jax.sharding import Mesh

from genret_jax.parallel.mesh import logical_axes, side_by_side
from genret_jax.training.config import TrainerConfig
from genret_jax.training.state import TrainState, initial_state, state_shardings
from genret_jax.training.step import RunSteps, compile_steps, loss_totals, make_train_step
from genret_jax.training.task import Params, TrainingTask


@dataclasses.dataclass(frozen=True)
class StepShapes:
    """What is known of a run before its first array.

    Attributes:
        like: Shapes, types and places of the state of one run.
        shardings: The places alone.
        axes: Logical axes by parameter path.
        begin: From parameters to the state before the first step; to be jitted.
        run_steps: From :func:`~genret_jax.training.step.compile_steps`.
    """

    like: TrainState
    shardings: TrainState
    axes: dict[tuple[str, ...], tuple[str | None, ...]]
    begin: Callable[[Params], TrainState]
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
        task: What is trained.
        config: The run's.
        mesh: Where it runs; its devices need not be here.
        batch: A batch, or its shapes.
        seeds: Of the runs whose steps are made together; that of the configuration when left out.
    """
    key = jax.random.key(config.seed)
    optimizer = config.optimizer.build(config.steps)
    variables = jax.eval_shape(task.init, key)
    shapes: Any = flax.core.unfreeze(variables["params"])
    axes = logical_axes(variables)
    totals = jax.eval_shape(lambda p, b, k: loss_totals(task, p, b, k), shapes, batch, key)

    def begin(params: Params) -> TrainState:
        names = (*totals, "gradient_norm")
        return initial_state(params, optimizer, keep_average=config.average_decay is not None, metrics=names)

    like = jax.eval_shape(begin, shapes)
    shardings = state_shardings(mesh, like, axes)
    like = jax.tree.map(lambda s, where: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=where), like, shardings)
    rate = config.optimizer.learning_rate.build(config.steps)
    seeds = seeds or [config.seed]
    of_all = shardings if len(seeds) == 1 else side_by_side(shardings)
    run_steps = compile_steps(make_train_step(task, config, optimizer), rate, mesh, of_all, seeds)
    return StepShapes(like, shardings, axes, begin, run_steps)
