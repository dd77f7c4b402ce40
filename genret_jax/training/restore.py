"""Read the parameters of a finished or a running run, without its model's code and on any devices."""

import contextlib
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, SingleDeviceSharding

from genret_jax.errors import InputError
from genret_jax.parallel.mesh import param_shardings
from genret_jax.training.checkpoint_format import (
    CHECKPOINTS_FOLDER,
    DamagedError,
    checkpoint_steps,
    describe,
    describe_difference,
    read_items,
    read_metadata,
    to_shapes,
)
from genret_jax.training.task import Params


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
        like: Arrays or shapes of the network they are for; None accepts any.
        fingerprint: What they must have been trained on; None accepts anything.

    Returns:
        Nested dict of arrays.

    Raises:
        InputError: If there is no such checkpoint, it is damaged, or it is of another network or fingerprint.
    """
    root = (Path(folder) / CHECKPOINTS_FOLDER).resolve()
    for step in _candidates(root, which):
        try:
            return _read_params(root / str(step), mesh, like, fingerprint)
        except DamagedError as damage:
            if which != "last":
                raise InputError(
                    f"checkpoint {step} is damaged ({damage})", file=root, fix="take 'last' or another step"
                ) from None
            warnings.warn(f"checkpoint {step} is damaged ({damage}); trying the one before it", stacklevel=2)
    raise InputError("no checkpoint that can be read", file=root, fix="restore the folder from a copy or train again")


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
    _check_belongs(path, metadata, name, like, fingerprint)
    shapes = {tuple(key.split("/")): shape for key, shape in to_shapes(metadata["shapes"][name]).items()}
    if mesh is None:
        shardings = dict.fromkeys(shapes, SingleDeviceSharding(jax.devices()[0]))
    else:
        axes = {tuple(key.split("/")): names for key, names in metadata["axes"].items()}
        shardings = flatten_dict(param_shardings(mesh, unflatten_dict(shapes), axes))
    placed = {p: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=shardings[p]) for p, s in shapes.items()}
    params: Params = read_items(path, {name: unflatten_dict(placed)}, metadata)[name]
    return params


def _check_belongs(
    path: Path, metadata: Mapping[str, Any], name: str, like: Params | None, fingerprint: Mapping[str, Any] | None
) -> None:
    if like is not None:
        found, wanted = metadata["shapes"][name], describe(like)
        difference = describe_difference(found, wanted, found_in="checkpoint", wanted_in="this run")
        if difference:
            raise InputError(
                f"a checkpoint of another model ({difference})", file=path, fix="restore the run folder it belongs to"
            )
    for key, wanted in (fingerprint or {}).items():
        if metadata["fingerprint"].get(key) != wanted:
            raise InputError(
                f"a checkpoint made with another {key} ({metadata['fingerprint'].get(key)})",
                file=path,
                expected=str(wanted),
                fix="restore the run folder it belongs to",
            )
