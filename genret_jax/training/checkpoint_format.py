"""The format of a checkpoint: items of arrays, and JSON metadata that describes them with a checksum for each item.

Orbax writes under a temporary name and renames, so a half-written checkpoint never has the name of a step. The
checksums catch what can still happen to a finished one: lost, cut or changed files.
"""

import contextlib
import errno
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, UInt32

from genret_jax.errors import InputError
from genret_jax.models.shapes import shape_difference
from genret_jax.storage import explain_os_errors, list_folder
from genret_jax.storage import fingerprint as digest

VERSION = 1
CHECKPOINTS_FOLDER = "checkpoints"

# How dtype and shape of every array of a tree are written to JSON, by the array's path.
Described = dict[str, list[Any]]
_Result = TypeVar("_Result")

# TensorStore's codes for bytes that are missing, cut or cannot be decoded.
_DAMAGE_CODES = ("NOT_FOUND: ", "OUT_OF_RANGE: ", "DATA_LOSS: ", "INVALID_ARGUMENT: ", "FAILED_PRECONDITION: ")
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_TRANSIENT_REASONS = tuple(os.strerror(number) for number in errno.errorcode if number not in _MISSING)

_SECONDS_TO_END = 0.2


class DamagedError(Exception):
    """A checkpoint that a checksum, a parser or a missing file proves to be damaged."""


class UnreadableError(InputError):
    """A checkpoint that could not be read for another reason, such as too many open files; it may be whole."""


def describe(tree: Any) -> Described:
    """Return dtype and shape of every array by its path: ``{'decoder/logits/kernel': ['float32', [64, 100]]}``."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): [str(leaf.dtype), list(leaf.shape)]
        for path, leaf in leaves
    }


def describe_difference(found: Described, wanted: Described) -> str:
    """Return the differences of two described trees as a phrase; empty if there are none."""
    return shape_difference(_named_shapes(found), _named_shapes(wanted), limit=4)


def _named_shapes(described: Described) -> dict[str, tuple[int, ...]]:
    return {
        path if dtype == "float32" else f"{path} ({dtype})": tuple(shape) for path, (dtype, shape) in described.items()
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


def read_through_orbax(path: Path, read: Callable[[], _Result]) -> _Result:
    """Return what ``read`` reads from the checkpoint at ``path``, and sort its failures.

    Raises:
        DamagedError: If the failure proves that files are missing, cut or changed.
        UnreadableError: If it has another reason.
    """
    with _without_orbax_noise():
        try:
            return read()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            reason = _short_reason(error)
            is_proof = _proves_damage(error)
        # Orbax's unfinished reads complain when they end, in threads of TensorStore, and when they are collected.
        time.sleep(_SECONDS_TO_END)
        gc.collect()
    if is_proof:
        _require_readable(path)
        raise DamagedError(reason)
    raise _unreadable(path, reason)


def _unreadable(path: Path, reason: str) -> UnreadableError:
    return UnreadableError(
        f"the checkpoint could not be read ({reason})",
        file=path,
        fix="remove the cause and run again; nothing was changed",
    )


def _short_reason(error: Exception) -> str:
    """Return the operating system's reason if the error has one, which may come late in a long text, or its start."""
    text = " ".join(str(error).split())
    reason = next((reason for reason in _TRANSIENT_REASONS if reason in text), text[:160])
    return f"{type(error).__name__}: {reason}"


def _proves_damage(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that bytes are missing or cannot be decoded."""
    proven = False
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno not in (None, *_MISSING):
            return False
        if isinstance(error, MemoryError) or any(reason in text for reason in _TRANSIENT_REASONS):
            return False
        proven |= isinstance(error, (FileNotFoundError, KeyError, json.JSONDecodeError, UnicodeDecodeError))
        proven |= any(code in text for code in _DAMAGE_CODES)
        error = error.__cause__ or error.__context__
    return proven


def _require_readable(path: Path) -> None:
    """Read all files of a checkpoint: libraries may report a file that they could not open as one that is missing."""

    def refuse(error: OSError) -> None:
        if error.errno not in _MISSING:
            raise _unreadable(path, f"{error.filename}: {error.strerror}") from None

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(folder, name), "rb", buffering=0) as handle:
                    while handle.read(1 << 24):
                        pass
            except OSError as error:
                refuse(error)


@contextlib.contextmanager
def _without_orbax_noise() -> Iterator[None]:
    """Silence what Orbax's event loop prints about reads that it dropped after one of them failed."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = before


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
