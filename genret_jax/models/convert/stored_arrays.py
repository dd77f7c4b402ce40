"""The arrays of a checkpoint on disk: their names, shapes and types are known before any array is read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

import numpy as np

from genret_jax.errors import InputError

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}


@dataclass(frozen=True)
class StoredArray:
    """One array.

    Attributes:
        shape: Shape of the array.
        dtype: Type on disk, such as ``"float32"`` or ``"bfloat16"``.
        read: Reads the array and returns it as float32; integers as they are.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class StoredArrays:
    """All arrays of one checkpoint.

    Attributes:
        path: Folder or file of the checkpoint.
        layout: Name of the layout for people, such as ``"Hugging Face safetensors"``.
        arrays: The network's arrays, by their names in that layout.
        others: Number of further arrays, such as the optimizer's state.
        step: Training steps of the parameters; None if the layout does not record them.
    """

    path: Path
    layout: str
    arrays: Mapping[str, StoredArray]
    others: int = 0
    step: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of each array, by name."""
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def num_bytes(self) -> int:
        """Total size of the arrays, in the types in which they are stored."""
        return sum(math.prod(array.shape) * _BYTES.get(array.dtype, 4) for array in self.arrays.values())


def path_within(folder: Path, name: object, *, named_in: Path) -> Path:
    """Return the path of a file that a checkpoint's description names.

    Args:
        folder: Folder of the checkpoint.
        name: Path relative to the folder, as read from the description.
        named_in: The description, for the error message.

    Raises:
        InputError: If the name is no text, or leads out of the folder.
    """
    if not isinstance(name, str) or not name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
        raise InputError(
            f"names {name!r} as a part of the checkpoint",
            file=named_in,
            expected=f"a relative path within {folder}",
            fix="use a checkpoint from a source that you trust",
        )
    return folder / name
