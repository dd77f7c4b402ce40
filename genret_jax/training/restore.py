"""Read the parameters of a run, finished or in training, without its model's code and onto any devices."""

import contextlib
import os
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import unflatten_dict
from jax.sharding import Mesh, SingleDeviceSharding

from genret_jax.errors import InputError
from genret_jax.models.shapes import shape_difference
from genret_jax.orbax_reading import DamagedError
from genret_jax.parallel.mesh import param_shardings
from genret_jax.training.checkpoint_format import (
    CHECKPOINTS_FOLDER,
    checkpoint_steps,
    describe,
    load_items,
    read_metadata,
    require_fingerprint,
    to_shapes,
    verify_items,
)
from genret_jax.training.task import Params

_SECONDS_TO_DELETE = 0.5


def restore_params(
    folder: str | os.PathLike[str],
    which: str | int = "best",
    mesh: Mesh | None = None,
    *,
    like: Params | None = None,
    fingerprint: Mapping[str, Any] | None = None,
) -> Params:
    """Read the parameters of a run; the averaged ones if it keeps an average.

    Args:
        folder: The run's folder.
        which: ``'best'`` (by the run's ``best_metric``; the last if it has none), ``'last'``, or a step.
        mesh: Devices to spread them over by the logical axes they were saved with; None puts them on one device.
        like: Arrays or shapes that the parameters must have; None accepts any.
        fingerprint: Parts of a run's fingerprint that the checkpoint must have; None accepts any.

    Returns:
        Nested dict of arrays.

    Raises:
        InputError: If there is no such checkpoint, it is damaged or cannot be read, or it belongs to another network
            or fingerprint.
    """
    root, tried = (Path(folder) / CHECKPOINTS_FOLDER).resolve(), set[int]()
    while candidates := [step for step in _candidates(root, which) if step not in tried]:
        step = candidates[0]
        tried.add(step)
        try:
            return _read_params(root / str(step), mesh, like, fingerprint)
        except DamagedError as damage:
            if _is_deleted(root / str(step)):
                continue
            if which != "last":
                raise InputError(
                    f"checkpoint {step} is damaged ({damage})", file=root, fix="take 'last' or another step"
                ) from None
            warnings.warn(f"checkpoint {step} is damaged ({damage}); trying the one before it", stacklevel=2)
    raise InputError("no checkpoint that can be read", file=root, fix="restore the folder from a copy or train again")


def _is_deleted(path: Path) -> bool:
    """Return whether training has deleted a checkpoint, or is about to, while it was read."""
    deadline = time.monotonic() + _SECONDS_TO_DELETE
    while path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def checkpoint_step(folder: str | os.PathLike[str], which: str | int = "best") -> int:
    """Return the step of the checkpoint that :func:`restore_params` tries first; arguments and errors as there."""
    return _candidates((Path(folder) / CHECKPOINTS_FOLDER).resolve(), which)[0]


def _candidates(root: Path, which: str | int) -> list[int]:
    steps = checkpoint_steps(root)
    if not steps:
        raise InputError("no checkpoints here", file=root, fix="give the folder of a run that was trained")
    if which == "last":
        return steps
    if which == "best":
        for step in steps:
            with contextlib.suppress(DamagedError):
                best = read_metadata(root / str(step))["best"]
                return [best["step"] if best else step]
        return steps
    if which not in steps:
        raise InputError(
            f"no checkpoint {which!r}", file=root, expected=f"'best', 'last' or one of the steps {sorted(steps)}"
        )
    return [int(which)]


def _read_params(path: Path, mesh: Mesh | None, like: Params | None, fingerprint: Mapping[str, Any] | None) -> Params:
    metadata = read_metadata(path)
    name = "average" if "average" in metadata["shapes"] else "params"
    described, fix = metadata["shapes"][name], "restore the run folder it belongs to"
    if like is not None and (difference := shape_difference(described, describe(like))):
        raise InputError(f"a checkpoint of another model ({difference})", file=path, fix=fix)
    require_fingerprint(path, metadata, fingerprint or {}, fingerprint or (), fix=fix)
    shapes = unflatten_dict(to_shapes(described), sep="/")
    if mesh is None:
        places = jax.tree.map(lambda _: SingleDeviceSharding(jax.devices()[0]), shapes)
    else:
        axes = {tuple(key.split("/")): names for key, names in metadata["axes"].items()}
        places = param_shardings(mesh, shapes, axes)
    placed = jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)
    items = load_items(path, {name: placed})
    verify_items(items, metadata)
    params: Params = items[name]
    return params
