"""Many strings in two arrays, so that millions of document ids load by memory map and cost no Python objects."""

import itertools
from collections.abc import Iterator, Sequence
from typing import SupportsIndex, overload

import numpy as np
from jaxtyping import Int64, UInt8


class PackedStrings(Sequence[str]):
    """An immutable sequence of strings held as UTF-8.

    Args:
        text: All strings, one after the other, UTF-8.
        offsets: String i is ``text[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, text: UInt8[np.ndarray, " bytes"], offsets: Int64[np.ndarray, " n_plus_1"]):
        self.text, self.offsets = text, offsets

    @classmethod
    def pack(cls, strings: Sequence[str]) -> "PackedStrings":
        """Pack strings; those already packed are returned as they are."""
        if isinstance(strings, cls):
            return strings
        encoded = [string.encode("utf-8") for string in strings]
        offsets = np.fromiter(itertools.accumulate(map(len, encoded), initial=0), np.int64, len(encoded) + 1)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> str | tuple[str, ...]:
        if isinstance(index, slice):
            return tuple(self[i] for i in range(*index.indices(len(self))))
        position = range(len(self))[index]  # raises IndexError, resolves negative indices
        return self.text[self.offsets[position] : self.offsets[position + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        text, offsets = self.text.tobytes(), self.offsets.tolist()
        return (text[start:end].decode("utf-8") for start, end in itertools.pairwise(offsets))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedStrings):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.text, other.text)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"PackedStrings({len(self)} strings, {len(self.text)} bytes)"
