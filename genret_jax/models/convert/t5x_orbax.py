"""Checkpoints that t5x writes today, through Orbax: read without t5x, and without knowing the network beforehand."""

import functools
import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.convert.stored_arrays import StoredArray, StoredArrays
from genret_jax.models.convert.t5x_layout import parameters_within

LAYOUT = "T5X, written by Orbax"
# Under what name a checkpoint of several items has the parameters; "." is one that consists of them.
_ITEMS = ("state", "params", "default", ".")
_MARKS = ("_METADATA", "manifest.ocdbt")


def find_item(path: Path) -> Path | None:
    """Return the part of an Orbax checkpoint that holds parameters, or None if there is none at this path."""
    items = (path / name for name in _ITEMS)
    return next((item for item in items if any((item / mark).is_file() for mark in _MARKS)), None)


def find_orbax_arrays(item: Path) -> StoredArrays:
    """Return the arrays of a checkpoint without reading them.

    Args:
        item: From :func:`find_item`.

    Raises:
        InputError: If it cannot be read.
    """
    item = item.resolve()
    with _checkpointer(item) as checkpointer:
        tree = checkpointer.metadata(item).item_metadata.tree
    root, inside = parameters_within(tree)
    leaves = {keys: leaf for keys, leaf in flatten_dict(inside).items() if getattr(leaf, "shape", None) is not None}

    @functools.cache
    def everything() -> Mapping[tuple[str, ...], np.ndarray]:
        return _restore(item, root, list(leaves))

    arrays = {
        "/".join(keys): StoredArray(
            tuple(leaf.shape), str(np.dtype(leaf.dtype)), functools.partial(_from_all, everything, keys)
        )
        for keys, leaf in leaves.items()
    }
    others = sum(getattr(leaf, "shape", None) is not None for leaf in flatten_dict(tree).values()) - len(arrays)
    return StoredArrays(item, LAYOUT, arrays, others, _step(item))


def _from_all(everything: Any, keys: tuple[str, ...]) -> np.ndarray:
    found: np.ndarray = everything()[keys]
    return found


def _restore(item: Path, root: tuple[str, ...], wanted: list[tuple[str, ...]]) -> dict[tuple[str, ...], np.ndarray]:
    """Read these arrays and none of the optimizer's."""
    import jax
    import orbax.checkpoint as ocp

    # Orbax reads the arrays at the places of what stands there, and casts them.
    places = unflatten_dict({(*root, *keys): 0 for keys in wanted})
    arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray, dtype=np.float32), places)
    with _checkpointer(item) as checkpointer:
        restored = checkpointer.restore(
            item, args=ocp.args.PyTreeRestore(item=places, restore_args=arguments, partial_restore=True)
        )
    flat = flatten_dict(restored)
    return {keys: np.asarray(flat[(*root, *keys)], np.float32) for keys in wanted}


@contextmanager
def _checkpointer(item: Path) -> Iterator[Any]:
    import orbax.checkpoint as ocp

    logger = logging.getLogger("absl")
    logger.addFilter(_is_news)
    try:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            yield checkpointer
    except (InputError, MemoryError):
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for files that are missing, cut or changed
        raise InputError(
            f"an Orbax checkpoint that cannot be read ({type(error).__name__}: {str(error)[:160]})",
            file=item,
            fix="copy or download the folder again",
        ) from error
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    # Orbax misses a file that its manager writes one folder above.
    return not record.getMessage().startswith("Metadata file does not exist")


def _step(item: Path) -> int | None:
    named = (re.fullmatch(r"(?:checkpoint_)?(\d+)", folder.name) for folder in (item, item.parent))
    return next((int(match[1]) for match in named if match), None)
