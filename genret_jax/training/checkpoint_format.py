"""The format of a checkpoint, and how the parameters of a run are read from it.

A checkpoint has items of arrays, and JSON metadata that describes them with a checksum for each item. Orbax writes
under a temporary name and renames, so a half-written checkpoint never has the name of a step. The checksums catch what
can still happen to a finished one: lost, cut or changed files.
"""

import contextlib
import os
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import unflatten_dict
from jax import lax
from jax.sharding import Mesh, SingleDeviceSharding
from jaxtyping import Array, UInt32

from genret_jax.errors import InputError
from genret_jax.models.shapes import shape_difference
from genret_jax.orbax_reading import DamagedError, read_through_orbax
from genret_jax.parallel.mesh import param_shardings
from genret_jax.storage import explain_os_errors, list_folder
from genret_jax.storage import fingerprint as digest
from genret_jax.training.step import Params

VERSION = 1
CHECKPOINTS_FOLDER = "checkpoints"

# How dtype and shape of every array of a tree are written to JSON, by the array's path.
Described = dict[str, list[Any]]


def describe(tree: Any) -> Described:
    """Return dtype and shape of every array by its path: ``{'decoder/logits/kernel': ['float32', [64, 100]]}``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [str(leaf.dtype), list(leaf.shape)]
        for path, leaf in leaves
    }


def to_shapes(described: Described) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the arrays' shapes and dtypes by path from what :func:`describe` wrote."""
    return {path: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for path, (dtype, shape) in described.items()}


def require_fingerprint(
    path: Path, metadata: Mapping[str, Any], wanted: Mapping[str, Any], names: Iterable[str], *, fix: str
) -> None:
    """Compare the named parts of a checkpoint's fingerprint with those of this run.

    Raises:
        InputError: If one differs.
    """
    for name in sorted(names):
        found = metadata["fingerprint"].get(name)
        if found != wanted.get(name):
            raise InputError(
                f"a checkpoint made with another {name} ({found})", file=path, expected=str(wanted.get(name)), fix=fix
            )


@jax.jit
def _checksum(tree: Any) -> UInt32[Array, ""]:
    total = jnp.zeros((), jnp.uint32)
    for leaf in jax.tree.leaves(tree):
        words = leaf.reshape(-1)
        if words.dtype != bool:
            words = lax.bitcast_convert_type(words, f"uint{words.dtype.itemsize * 8}")
        bits = words.astype(jnp.uint32)
        # Odd factors are invertible modulo 2**32, so a change of any one number changes the sum.
        factors = 2 * lax.iota(jnp.uint32, bits.size) + 1
        total = total * jnp.uint32(31) + jnp.sum(bits * factors, dtype=jnp.uint32)
    return total


def checksum(tree: Any) -> int:
    """Return a number that depends on every bit of the arrays, and not on the devices they lie on."""
    return int(_checksum(tree))


def make_metadata(items: Mapping[str, Any], **facts: Any) -> dict[str, Any]:
    """Return a checkpoint's JSON: the given facts, shapes and checksums of its items, and a digest of all this."""
    metadata = {
        "version": VERSION,
        **facts,
        "shapes": {name: describe(item) for name, item in items.items()},
        "checksums": {name: checksum(item) for name, item in items.items()},
    }
    return {**metadata, "digest": digest(metadata)}


def checkpoint_steps(root: Path) -> list[int]:
    """Return the steps that have a finished checkpoint, the last first.

    Raises:
        InputError: If the folder cannot be read.
    """
    return sorted((int(name) for name in list_folder(root) if name.isdecimal()), reverse=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON.

    Raises:
        DamagedError: If it is missing or changed.
        UnreadableError: If it cannot be read for another reason.
    """
    import orbax.checkpoint as ocp

    metadata = read_through_orbax(path, lambda: _restore(path, metadata=ocp.args.JsonRestore())["metadata"])
    if not isinstance(metadata, dict) or metadata.pop("digest", None) != digest(metadata):
        raise DamagedError("its metadata was changed")
    if metadata.get("version") != VERSION:
        raise InputError(
            f"a checkpoint of layout {metadata.get('version')}",
            file=path,
            expected=f"layout {VERSION}",
            fix="use the version of genret_jax that wrote it",
        )
    return metadata


def load_items(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read this process's parts of items, without waiting for another process.

    Args:
        path: The checkpoint's folder.
        like: Shapes and shardings of the items to read.

    Raises:
        DamagedError: If files are missing or cut.
        UnreadableError: If they cannot be read for another reason.
    """
    import orbax.checkpoint as ocp

    arguments = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
    restored = read_through_orbax(path, lambda: _restore(path, **arguments))
    return {name: restored[name] for name in like}


def verify_items(items: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Compare items with their checksums; every process that holds parts of them must call this.

    Raises:
        DamagedError: If they were changed.
    """
    for name, item in items.items():
        if checksum(item) != metadata["checksums"][name]:
            raise DamagedError(f"the arrays of '{name}' were changed")


def _restore(path: Path, **arguments: Any) -> Any:
    import orbax.checkpoint as ocp

    # Each process reads by itself: Orbax would let the others wait for one that cannot read its part.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.Composite(**arguments))


@contextlib.contextmanager
def explain_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk, in whatever form Orbax reports it, and other limits into an :class:`InputError`."""
    try:
        with explain_os_errors(path):
            yield
    except Exception as error:
        if "no space left" in str(error).lower() or "Disk quota exceeded" in str(error):
            raise InputError(
                "no space left on the disk for a checkpoint",
                file=Path(path),
                fix="free some space, then run again: training goes on from the last whole checkpoint",
            ) from error
        raise


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


def require_params(
    folder: str | os.PathLike[str], which: str | int = "best", *, like: Params, fingerprint: Mapping[str, Any]
) -> None:
    """Check what :func:`restore_params` can check without reading arrays; arguments and errors as there."""
    path = (Path(folder) / CHECKPOINTS_FOLDER).resolve() / str(checkpoint_step(folder, which))
    with contextlib.suppress(DamagedError):  # restore_params goes on to another checkpoint, or raises
        _require_fitting(path, read_metadata(path), like, fingerprint)


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
    name = _require_fitting(path, metadata, like, fingerprint)
    shapes = unflatten_dict(to_shapes(metadata["shapes"][name]), sep="/")
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


def _require_fitting(
    path: Path, metadata: Mapping[str, Any], like: Params | None, fingerprint: Mapping[str, Any] | None
) -> str:
    """Return the item that holds a checkpoint's parameters, after comparing it with those that are wanted."""
    name = "average" if "average" in metadata["shapes"] else "params"
    fix = "restore the run folder it belongs to"
    if like is not None and (difference := shape_difference(metadata["shapes"][name], describe(like))):
        raise InputError(f"a checkpoint of another model ({difference})", file=path, fix=fix)
    require_fingerprint(path, metadata, fingerprint or {}, fingerprint or (), fix=fix)
    return name
