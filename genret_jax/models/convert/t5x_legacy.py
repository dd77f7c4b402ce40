"""Read and write t5x's own checkpoint layout, which predates Orbax; the public T5 weights are published in it.

The file ``checkpoint`` is one MessagePack file with the tree of the train state. A leaf is an array, or the TensorStore
specification of a Zarr array in a folder beside the file. Orbax's first layout is the same, with placeholders instead
of specifications. Today's t5x reads both.
"""

from collections.abc import Mapping
from functools import partial
from math import ceil, prod
from pathlib import Path
from typing import Any

import numpy as np
from flax.serialization import msgpack_restore, msgpack_serialize
from flax.traverse_util import flatten_dict, unflatten_dict

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.convert.stored_arrays import StoredArray, StoredArrays, path_within
from genret_jax.models.convert.t5x_layout import (
    parameters_within,
    require_fitting,
    require_inferable,
    write_sentencepiece,
)
from genret_jax.storage import atomic_folder

LAYOUT = "T5X, its own layout"
_FILE = "checkpoint"
_VERSION = 3  # since June 2021; version 2 differs only in storing bfloat16 arrays as uint16
_READABLE = ("float16", "bfloat16", "float32", "float64")
_PLACEHOLDER = "PLACEHOLDER://"
_CHUNK_BYTES = 64 << 20
_AGAIN = "copy or download the folder again"


def find_tree_file(path: Path) -> Path | None:
    """Return the MessagePack file of a checkpoint at this path; None if there is none."""
    files = (path, path / _FILE, path / "state" / _FILE)
    return next((file for file in files if file.is_file() and not _is_text(file)), None)


def _is_text(file: Path) -> bool:
    """Return whether this is the text file ``checkpoint`` that lies beside TensorFlow's checkpoints."""
    with open(file, "rb") as handle:
        return handle.read(22) == b"model_checkpoint_path:"


def find_legacy_arrays(file: Path) -> StoredArrays:
    """Return the arrays of a checkpoint; arrays in folders of their own are not read yet.

    Args:
        file: File from :func:`find_tree_file`.

    Raises:
        InputError: If the file is damaged, or describes an array that cannot be read or lies outside the folder.
    """
    try:
        tree = msgpack_restore(file.read_bytes())
    except MemoryError:
        raise
    except Exception as error:  # the errors of MessagePack have no common base class
        raise InputError(f"not a MessagePack file, or damaged ({error})", file=file, fix=_AGAIN) from None
    if not isinstance(tree, Mapping):
        raise InputError(f"{type(tree).__name__} instead of a tree", file=file, expected="a t5x checkpoint", fix=_AGAIN)
    leaves = _leaves(parameters_within(tree)[1])
    arrays = {"/".join(keys): _stored(file, "/".join(keys), leaf) for keys, leaf in leaves.items()}
    path = file.parent if file.name == _FILE else file
    return StoredArrays(path, LAYOUT, arrays, len(_leaves(tree)) - len(arrays), _step(tree))


def _leaves(tree: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    flat = flatten_dict(tree, is_leaf=lambda _, value: _is_specification(value))
    return {
        keys: leaf
        for keys, leaf in flat.items()
        if _is_specification(leaf) or isinstance(leaf, np.ndarray) or str(leaf).startswith(_PLACEHOLDER)
    }


def _is_specification(value: Any) -> bool:
    return isinstance(value, Mapping) and {"driver", "kvstore"} <= value.keys()


def _step(tree: Mapping[str, Any]) -> int | None:
    state = tree.get("optimizer", tree.get("_optimizer", tree))
    step = state.get("state", {}).get("step") if isinstance(state, Mapping) else None
    return int(step) if isinstance(step, (int, np.integer, np.ndarray)) else None


def _stored(file: Path, name: str, leaf: Any) -> StoredArray:
    if isinstance(leaf, np.ndarray):
        dtype = str(leaf.dtype)
        array = StoredArray(leaf.shape, dtype, partial(np.asarray, leaf, np.float32))
    else:
        folder = path_within(file.parent, _relative_path(leaf), named_in=file)
        shape, dtype = _described(folder)
        array = StoredArray(shape, dtype, partial(_read_zarr, folder, shape))
    if dtype not in _READABLE:
        raise InputError(
            f"{name} is of type {dtype}",
            file=file,
            expected=f"one of {', '.join(_READABLE)}",
            fix="save it with a t5x from after June 2021, or choose another checkpoint",
        )
    return array


def _relative_path(leaf: Any) -> Any:
    """Return the path of an array: older specifications have it beside the store, newer ones within it."""
    if isinstance(leaf, str):
        return leaf.removeprefix(_PLACEHOLDER)
    store = leaf["kvstore"]
    path = (store.get("path") if isinstance(store, Mapping) else None) or leaf.get("path", "")
    return path.strip("/") if isinstance(path, str) else path


def _described(folder: Path) -> tuple[tuple[int, ...], str]:
    """Return the shape and type of a Zarr array, and check that all its chunks exist.

    Zarr reads missing chunks as zeros, so an incomplete download would pass for a checkpoint.
    """
    array = _open_zarr(folder)
    shape, chunks = tuple(array.shape), array.chunk_layout.read_chunk.shape
    needed = prod(ceil(size / chunk) for size, chunk in zip(shape, chunks, strict=True))
    found = sum(file.is_file() and not file.name.startswith(".") for file in folder.rglob("*"))
    if found < needed:
        raise InputError(f"{needed - found} of {needed} chunks are missing", file=folder, fix=_AGAIN)
    return shape, array.dtype.name


def _open_zarr(folder: Path) -> Any:
    import tensorstore

    store = {"driver": "file", "path": f"{folder.resolve()}/"}
    try:
        # The specification may name another store, such as a bucket; the array was downloaded beside it.
        return tensorstore.open({"driver": "zarr", "kvstore": store}, open=True, read=True).result()
    except (ValueError, OSError) as error:
        raise InputError(f"no Zarr array that can be read ({_reason(error)})", file=folder, fix=_AGAIN) from None


def _read_zarr(folder: Path, shape: tuple[int, ...]) -> np.ndarray:
    array = _open_zarr(folder)
    try:
        return np.asarray(array.read().result()).astype(np.float32).reshape(shape)
    except (ValueError, OSError) as error:
        raise InputError(f"damaged ({_reason(error)})", file=folder, fix=_AGAIN) from None


def _reason(error: Exception) -> str:
    return str(error).split("[")[0].strip()[:160]


def save_t5x(
    folder: str | Path,
    params: Mapping[str, Any],
    config: T5Config,
    *,
    step: int = 0,
    sentencepiece: bytes | None = None,
) -> None:
    """Write a model directory of t5x: a folder that holds ``checkpoint_STEP``.

    The checkpoint has no optimizer state. t5x reads it in training, in inference and by ``load_t5x_checkpoint``.

    Args:
        folder: Folder to create; it must not exist.
        params: Parameters with t5x's names.
        config: Configuration of the parameters.
        step: Training steps of the parameters.
        sentencepiece: Content of the SentencePiece model, written beside the checkpoint as ``spiece.model``.

    Raises:
        InputError: If t5x's layout cannot express the network (the message names the field), or the parameters do not
            fit it.
    """
    require_inferable(config)
    require_fitting(params, config)
    with atomic_folder(folder) as partial_folder:
        checkpoint = partial_folder / f"checkpoint_{step}"
        checkpoint.mkdir()
        flat = flatten_dict(params, sep="/")
        leaves = {("target", *name.split("/")): _write_zarr(checkpoint, name, value) for name, value in flat.items()}
        state = {"state": {"step": np.asarray(step, np.int32)}, **unflatten_dict(leaves)}
        tree = {"version": _VERSION, "optimizer": state}
        (checkpoint / _FILE).write_bytes(msgpack_serialize(tree))
        write_sentencepiece(partial_folder, sentencepiece)


def _write_zarr(checkpoint: Path, name: str, value: Any) -> dict[str, Any]:
    """Write one array and return its specification, with a path relative to the checkpoint."""
    import tensorstore

    array = np.asarray(value, np.float32)
    path = f"target.{name.replace('/', '.')}"
    row_bytes = max(1, array[:1].nbytes)
    metadata = {
        "shape": list(array.shape),
        "chunks": [max(1, min(array.shape[0], _CHUNK_BYTES // row_bytes)), *array.shape[1:]],
        "compressor": {"id": "gzip", "level": 1},
    }
    stored = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "file", "path": f"{checkpoint.resolve() / path}/"},
            "metadata": {**metadata, "dtype": "<f4"},
            "store_data_equal_to_fill_value": True,  # so that every missing chunk is damage
        },
        create=True,
    ).result()
    stored.write(array).result()
    return {
        "driver": "zarr",
        "dtype": "float32",
        "kvstore": {"driver": "file", "path": f"{path}/"},
        "metadata": metadata,
    }
