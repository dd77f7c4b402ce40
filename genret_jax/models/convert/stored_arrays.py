"""The arrays of a checkpoint on the disk: names, shapes and types, known before a single array is read."""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_BYTES = {"float16": 2, "bfloat16": 2, "float32": 4, "float64": 8}
_LAYER_NUMBER = re.compile(r"(block\.|layers_)\d+")


@dataclass(frozen=True)
class StoredArray:
    """One array.

    Attributes:
        shape: Its shape.
        dtype: Its type as stored: ``"float32"``, ``"bfloat16"``.
        read: Reads it, as float32.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], np.ndarray]


@dataclass(frozen=True)
class StoredArrays:
    """What a checkpoint holds.

    Attributes:
        path: The folder or file that it was found in.
        layout: How it is written, for people: ``"Hugging Face safetensors"``.
        arrays: The network's arrays by name, in the layout's own names.
        others: Number of further arrays: an optimizer's state.
        step: Updates the parameters have had, where the layout says so.
    """

    path: Path
    layout: str
    arrays: Mapping[str, StoredArray]
    others: int = 0
    step: int | None = None

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shapes by name."""
        return {name: array.shape for name, array in self.arrays.items()}

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in memory, in the types that they are stored in."""
        return sum(math.prod(array.shape) * _BYTES.get(array.dtype, 4) for array in self.arrays.values())


def shape_difference(
    found: Mapping[str, tuple[int, ...]], expected: Mapping[str, tuple[int, ...]], *, limit: int = 10
) -> str:
    """Say in one line how two trees of named shapes differ; an empty string if they do not.

    What differs alike in several layers is named once: ``decoder.block.*.layer_norm.weight ×12 [8]``.

    Args:
        found: Shapes by name.
        expected: Shapes by name.
        limit: Name at most so many differences, so that a message stays readable.
    """
    kinds = {
        "missing": [(name, f"{list(expected[name])}") for name in expected if name not in found],
        "unexpected": [(name, f"{list(found[name])}") for name in found if name not in expected],
        "of another shape": [
            (name, f"{list(found[name])} instead of {list(expected[name])}")
            for name in expected
            if name in found and tuple(found[name]) != tuple(expected[name])
        ],
    }
    # What is there twice under different names says more than its hundred siblings: share the room evenly.
    room = max(1, limit // max(1, sum(bool(entries) for entries in kinds.values())))
    parts = []
    for kind, entries in kinds.items():
        if entries:
            groups = across_layers(entries)
            phrases = [f"{name} {text}" for name, text, _ in groups[:room]]
            rest = sum(count for _, _, count in groups[room:])
            parts.append(f"{len(entries)} {kind}: {', '.join(phrases)}{f' and {rest} more' if rest else ''}")
    return "; ".join(parts)


def across_layers(entries: list[tuple[str, str]]) -> list[tuple[str, str, int]]:
    """Join entries that differ in nothing but the number of a layer.

    Args:
        entries: Names of arrays, each with what is to be said of it.

    Returns:
        Name, what is said, and how many arrays that is about; ``layers_*`` and the count in the name of several.
    """
    groups: dict[tuple[str, str], list[str]] = {}
    for name, text in entries:
        groups.setdefault((_LAYER_NUMBER.sub(r"\1*", name), text), []).append(name)
    return [
        (names[0] if len(names) == 1 else f"{pattern} ×{len(names)}", text, len(names))
        for (pattern, text), names in groups.items()
    ]
