"""The state of a run between two steps: one pytree, saved and restored as a whole."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from genret_jax.parallel.mesh import optimizer_shardings, param_shardings
from genret_jax.training.task import Params

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
    params: Params, optimizer: optax.GradientTransformation, *, keep_average: bool, metrics: tuple[str, ...]
) -> TrainState:
    """Return the state before the first step; to be called under jit or ``eval_shape``.

    Args:
        params: Initial parameters.
        optimizer: The run's optax transformation.
        keep_average: Whether the run keeps a moving average.
        metrics: Names of the totals.
    """
    # Copies: every step donates its state, which must not take the caller's arrays or the average with it.
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=jax.tree.map(jnp.copy, params),
        optimizer_state=optimizer.init(params),
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
