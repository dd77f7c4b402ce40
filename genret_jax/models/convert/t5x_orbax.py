"""Read checkpoints that t5x writes through Orbax, without t5x and without knowing the network beforehand."""

import functools
import logging
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.convert.stored_arrays import StoredArray, StoredArrays
from genret_jax.models.convert.t5x_layout import parameters_within
from genret_jax.models.shapes import named_shapes, shape_difference
from genret_jax.orbax_reading import DamagedError, read_through_orbax

LAYOUT = "T5X, written by Orbax"
# Names under which a checkpoint of several items holds the parameters; "." is a checkpoint of parameters alone.
_ITEMS = ("state", "params", "default", ".")
_MARKS = ("_METADATA", "manifest.ocdbt")

Keys = tuple[str, ...]
_Result = TypeVar("_Result")


def find_item(path: Path) -> Path | None:
    """Return the folder within an Orbax checkpoint that holds parameters; None if there is none."""
    items = (path / name for name in _ITEMS)
    return next((item for item in items if any((item / mark).is_file() for mark in _MARKS)), None)


def find_orbax_arrays(item: Path) -> StoredArrays:
    """Return the arrays of a checkpoint without reading their values.

    Args:
        item: Folder from :func:`find_item`.

    Raises:
        InputError: If the checkpoint cannot be read.
    """
    item = item.resolve()
    root, leaves, others = _described(item)

    @functools.cache
    def read_all() -> Mapping[Keys, np.ndarray]:
        return _restore(item, root, dict.fromkeys(leaves))

    def stored(keys: Keys, leaf: Any) -> StoredArray:
        return StoredArray(tuple(leaf.shape), str(np.dtype(leaf.dtype)), lambda: read_all()[keys])

    arrays = {"/".join(keys): stored(keys, leaf) for keys, leaf in leaves.items()}
    return StoredArrays(item, LAYOUT, arrays, others, _step(item))


def restore_params(item: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read the parameters of a checkpoint onto devices.

    Args:
        item: Folder from :func:`find_item`.
        like: Arrays or shapes of the parameters. Each array is placed as the one in ``like`` is, or on the first
            device if that has no place.

    Returns:
        The parameters in float32.

    Raises:
        InputError: If the checkpoint cannot be read or belongs to another network.
    """
    item = item.resolve()
    root = require_params(item, like)
    params: dict[str, Any] = unflatten_dict(_restore(item, root, flatten_dict(like)))
    return params


def require_params(item: Path, like: Mapping[str, Any]) -> Keys:
    """Return the keys that lead to the parameters of a checkpoint, without reading these.

    Args:
        item: Folder from :func:`find_item`.
        like: Arrays or shapes that the parameters must have.

    Raises:
        InputError: As :func:`restore_params`.
    """
    item = item.resolve()
    root, leaves, _ = _described(item)
    if difference := shape_difference(named_shapes(unflatten_dict(leaves)), named_shapes(like)):
        raise InputError(
            f"a t5x checkpoint of another network ({difference})", file=item, fix="choose a checkpoint of this run"
        )
    return root


def _described(item: Path) -> tuple[Keys, dict[Keys, Any], int]:
    """Return the keys that lead to the parameters, their metadata by key, and the number of other arrays."""
    tree = _read(item, functools.partial(_read_tree, item))
    root, inside = parameters_within(tree)
    leaves, all_leaves = (
        {keys: leaf for keys, leaf in flatten_dict(part).items() if getattr(leaf, "shape", None) is not None}
        for part in (inside, tree)
    )
    return root, leaves, len(all_leaves) - len(leaves)


def _read_tree(item: Path, checkpointer: Any) -> Any:
    found = checkpointer.metadata(item).item_metadata
    if found is None:
        raise FileNotFoundError("_METADATA is missing")
    return found.tree


def _restore(item: Path, root: Keys, wanted: Mapping[Keys, Any]) -> dict[Keys, Any]:
    """Read these arrays in float32, and no others: placed like the values of ``wanted``, as numpy arrays for None."""
    import orbax.checkpoint as ocp

    def arguments(leaf: Any) -> Any:
        if leaf is None:
            return ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32)
        place = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.devices()[0])
        return ocp.checkpoint_utils.construct_restore_args(jax.ShapeDtypeStruct(leaf.shape, np.float32, sharding=place))

    paths = {keys: (*root, *keys) for keys in wanted}
    places = unflatten_dict(dict.fromkeys(paths.values(), 0))  # Orbax reads the arrays that this tree has a leaf for
    restore_args = unflatten_dict({paths[keys]: arguments(leaf) for keys, leaf in wanted.items()})
    how = ocp.args.PyTreeRestore(item=places, restore_args=restore_args, partial_restore=True)
    flat = flatten_dict(_read(item, lambda checkpointer: checkpointer.restore(item, args=how)))
    return {keys: flat[path] for keys, path in paths.items()}


def _read(item: Path, read: Callable[[Any], _Result]) -> _Result:
    """Call ``read`` with an Orbax checkpointer, and convert its failures to InputError."""
    import orbax.checkpoint as ocp

    def read_item() -> _Result:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            return read(checkpointer)

    logger = logging.getLogger("absl")
    logger.addFilter(_is_relevant)
    try:
        return read_through_orbax(item, read_item)
    except DamagedError as damage:
        raise InputError(
            f"an Orbax checkpoint that cannot be read ({damage})", file=item, fix="copy or download the folder again"
        ) from None
    finally:
        logger.removeFilter(_is_relevant)


def _is_relevant(record: logging.LogRecord) -> bool:
    # Orbax warns about a file that its manager writes one folder above.
    return not record.getMessage().startswith("Metadata file does not exist")


def _step(item: Path) -> int | None:
    named = (re.fullmatch(r"(?:checkpoint_)?(\d+)", folder.name) for folder in (item, item.parent))
    return next((int(match[1]) for match in named if match), None)
