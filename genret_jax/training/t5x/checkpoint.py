"""Checkpoints as t5x writes them, read and written without t5x: parameters go both ways between the engines.

Both engines have the same parameters under the same names. t5x writes them as the item ``state`` of an Orbax checkpoint
``checkpoint_STEP``, together with the state of the optimizer and of the data.
"""

import os
from pathlib import Path

import jax.numpy as jnp

from genret_jax.errors import InputError
from genret_jax.models.convert.t5x_layout import latest_checkpoint
from genret_jax.models.convert.t5x_orbax import require_params, restore_params
from genret_jax.training.checkpoint_format import explain_full_disk
from genret_jax.training.step import Params

_STATE = "state"


def find_checkpoint(path: str | os.PathLike[str]) -> Path | None:
    """Return the t5x checkpoint at a path, the last one if it is a ``MODEL_DIR``; None if there is none."""
    path = Path(path)
    checkpoint = path if (path / _STATE).is_dir() else latest_checkpoint(path)
    return checkpoint.resolve() if checkpoint is not None and (checkpoint / _STATE).is_dir() else None


def read_t5x_params(path: str | os.PathLike[str], like: Params) -> Params:
    """Read the parameters of a checkpoint that t5x wrote (through Orbax, as it does by default).

    Args:
        path: ``MODEL_DIR/checkpoint_STEP``, or ``MODEL_DIR`` for the last one.
        like: Arrays or shapes that the parameters must have.

    Returns:
        Nested dict of float32 arrays, on the devices of ``like``, or on one device if ``like`` has none.

    Raises:
        InputError: If there is no such checkpoint, it cannot be read, or it belongs to another network.
    """
    return restore_params(_state_of(path), like)


def require_t5x_params(path: str | os.PathLike[str], like: Params) -> None:
    """Check what :func:`read_t5x_params` can check without reading arrays; arguments and errors as there."""
    require_params(_state_of(path), like)


def _state_of(path: str | os.PathLike[str]) -> Path:
    found = find_checkpoint(path)
    if found is None:
        raise InputError("no t5x checkpoint here", file=path, expected="MODEL_DIR or MODEL_DIR/checkpoint_STEP")
    return found / _STATE


def write_t5x_params(folder: str | os.PathLike[str], params: Params, *, step: int = 0) -> Path:
    """Write parameters as a t5x checkpoint, for ``INITIAL_CHECKPOINT_PATH`` and ``CHECKPOINT_PATH``.

    It has no optimizer state; with ``gin_configs/t5x``, t5x makes a new one.

    Args:
        folder: Parent folder of ``checkpoint_STEP``.
        params: Nested dict of arrays.
        step: Updates made.

    Returns:
        The checkpoint's path.

    Raises:
        InputError: If it exists, or the disk is full.
    """
    import orbax.checkpoint as ocp

    path = (Path(folder) / f"checkpoint_{step}").resolve()
    if path.exists():
        raise InputError("a checkpoint exists already", file=path, fix="remove it or choose another folder")
    state = {"target": params, "state": {"step": jnp.asarray(step, jnp.int32)}}
    with explain_full_disk(path), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as checkpointer:
        checkpointer.save(path, args=ocp.args.Composite(**{_STATE: ocp.args.PyTreeSave(state)}))
    return path
