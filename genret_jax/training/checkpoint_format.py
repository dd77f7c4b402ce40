"""What a checkpoint holds: items of arrays, and JSON that describes them with a checksum for each item.

Orbax writes under a temporary name and renames, so a half-written checkpoint never has the name of a step. The
checksums catch what may still happen to a finished one: lost, cut or changed files.
"""

import contextlib
import errno
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt32

from genret_jax.errors import InputError
from genret_jax.storage import fingerprint as digest

VERSION = 1
CHECKPOINTS_FOLDER = "checkpoints"
SHOWN_DIFFERENCES = 4

Described = dict[str, list[Any]]


class DamagedError(Exception):
    """A checkpoint that cannot be read back as it was written."""


def describe(tree: Any) -> Described:
    """Return dtype and shape of every array by its path: ``{'decoder/logits/kernel': ['float32', [64, 100]]}``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [str(leaf.dtype), list(leaf.shape)]
        for path, leaf in leaves
    }


def describe_difference(found: Mapping[str, Any], wanted: Mapping[str, Any], *, found_in: str, wanted_in: str) -> str:
    """Return the first differences of two described trees as a phrase, or an empty string.

    Args:
        found: From :func:`describe`.
        wanted: From :func:`describe`.
        found_in: What to call the first: ``'checkpoint'``.
        wanted_in: What to call the second: ``'model'``.
    """

    def show(value: Any) -> str:
        return "nothing" if value is None else f"{value[0]}{value[1]}"

    paths = [path for path in [*wanted, *(p for p in found if p not in wanted)] if found.get(path) != wanted.get(path)]
    phrases = [
        f"{path}: {found_in} {show(found.get(path))}, {wanted_in} {show(wanted.get(path))}"
        for path in paths[:SHOWN_DIFFERENCES]
    ]
    more = f" and {len(paths) - SHOWN_DIFFERENCES} more" if len(paths) > SHOWN_DIFFERENCES else ""
    return ", ".join(phrases) + more


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
    """Return the JSON that goes with a checkpoint: what it holds, the facts given, and a digest of itself."""
    metadata = {
        "version": VERSION,
        **facts,
        "shapes": {name: describe(item) for name, item in items.items()},
        "checksums": {name: checksum(item) for name, item in items.items()},
    }
    return {**metadata, "digest": digest(metadata)}


def checkpoint_steps(root: Path) -> list[int]:
    """Return the steps that have a finished checkpoint, the last first."""
    if not root.is_dir():
        return []
    return sorted((int(entry.name) for entry in root.iterdir() if entry.name.isdecimal()), reverse=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """Read a checkpoint's JSON.

    Raises:
        DamagedError: If it is missing or changed.
    """
    import orbax.checkpoint as ocp

    with any_failure_is_damage():
        metadata = dict(_restore(path, metadata=ocp.args.JsonRestore())["metadata"])
        if metadata.pop("digest") != digest(metadata):
            raise DamagedError("its metadata was changed")
    return metadata


def load_items(path: Path, like: Mapping[str, Any]) -> dict[str, Any]:
    """Read what this process holds of items, without waiting for another process.

    Args:
        path: The checkpoint's folder.
        like: Shapes and shardings of the items to read.

    Raises:
        DamagedError: If files are missing or cut.
    """
    import orbax.checkpoint as ocp

    arguments = {name: ocp.args.StandardRestore(tree) for name, tree in like.items()}
    with any_failure_is_damage():
        restored = _restore(path, **arguments)
        return {name: restored[name] for name in like}


def verify_items(items: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    """Compare items with their checksums; all processes that hold parts of them must do it, with one result.

    Raises:
        DamagedError: If they were changed.
    """
    for name, item in items.items():
        if checksum(item) != metadata["checksums"][name]:
            raise DamagedError(f"the arrays of '{name}' were changed")


def read_items(path: Path, like: Mapping[str, Any], metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Read items of a checkpoint and verify them.

    Args:
        path: The checkpoint's folder.
        like: Shapes and shardings of the items to read.
        metadata: From :func:`read_metadata`.

    Raises:
        DamagedError: If files are missing, cut or changed.
    """
    items = load_items(path, like)
    with any_failure_is_damage():
        verify_items(items, metadata)
    return items


def _restore(path: Path, **arguments: Any) -> Any:
    import orbax.checkpoint as ocp

    # Each process by itself: Orbax would let the others wait for one that cannot read its part.
    process = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=process, active_processes={process}, barrier_sync_key_prefix=f"process_{process}"
    )
    handler = ocp.CompositeCheckpointHandler(composite_options=ocp.CompositeOptions(multiprocessing_options=alone))
    with ocp.Checkpointer(handler, multiprocessing_options=alone) as checkpointer:
        return checkpointer.restore(path, args=ocp.args.Composite(**arguments))


@contextlib.contextmanager
def any_failure_is_damage() -> Iterator[None]:
    """Turn whatever Orbax raises for a checkpoint that it cannot read into :class:`DamagedError`."""
    try:
        yield
    except (DamagedError, MemoryError):
        raise
    except Exception as error:  # Orbax and TensorStore raise many kinds for files that are missing, cut or changed
        raise DamagedError(f"{type(error).__name__}: {str(error)[:160]}") from error


@contextlib.contextmanager
def explain_full_disk(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn a full disk, in whatever form Orbax reports it, into an :class:`InputError`."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or "No space left" in str(error) or "Disk quota exceeded" in str(error):
            raise InputError(
                "no space left on the disk for a checkpoint",
                file=Path(path),
                fix="free some space, then run again: training goes on from the last whole checkpoint",
            ) from error
        raise


def to_shapes(described: Mapping[str, Any]) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the arrays' shapes and dtypes by path from what :func:`describe` wrote."""
    return {path: jax.ShapeDtypeStruct(tuple(shape), jnp.dtype(dtype)) for path, (dtype, shape) in described.items()}
