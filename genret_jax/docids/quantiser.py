"""Quantisers map vectors to codes: those of the documents that they were fitted to, and of later documents."""

import abc
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.separating import next_free
from genret_jax.docids.streaming import evenly_spaced, in_pieces, read
from genret_jax.docids.table import DocidTable, require_level_sizes
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint, load_arrays, save_arrays

KIND, VERSION = "quantiser", 1
_ERROR_SAMPLE = 1 << 16  # largest number of vectors that errors are computed on
_BY_NAME: dict[str, "type[Quantiser]"] = {}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quantiser(abc.ABC):
    """Gives vectors their codes.

    A subclass has a ``name``, by which :func:`load_quantiser` finds it, and implements :meth:`encode`.

    Attributes:
        level_sizes: Codebook size of every level.
        arrays: The fitted arrays by name.
        settings: JSON values that are needed beside the arrays.
        width_array: Name of an array whose last axis is as long as the vectors.
    """

    name: ClassVar[str]
    width_array: ClassVar[str]
    level_sizes: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __init_subclass__(cls) -> None:
        """Register the class for :func:`load_quantiser`."""
        if "name" in vars(cls):
            _BY_NAME[cls.name] = cls

    @property
    def width(self) -> int:
        """Length of the vectors."""
        return int(self.arrays[self.width_array].shape[-1])

    @abc.abstractmethod
    def encode(self, piece: Any, arrays: Any) -> Any:
        """Return the codes [p, m] of a piece of vectors [p, d], computed by a jitted function.

        Args:
            piece: Vectors on the device.
            arrays: The quantiser's arrays on the device.
        """

    def codes(self, vectors: np.ndarray) -> Int32[np.ndarray, "n m"]:
        """Return the codes of vectors, without a separating code.

        Args:
            vectors: [n, d]; may be memory-mapped, and is read piece by piece.

        Raises:
            InputError: If the vectors have another width than those of the fit, or are not finite.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.width or not np.issubdtype(vectors.dtype, np.number):
            raise InputError(
                f"vectors {vectors.dtype}{list(vectors.shape)}",
                expected=f"a numeric array [documents, {self.width}], as the quantiser was fitted to",
                fix="compute them as the vectors of the fit were computed",
            )
        if not len(vectors):
            return np.zeros((0, len(self.level_sizes)), np.int32)
        progress = f"quantising {len(vectors):,} vectors"
        rows = np.arange(len(vectors))
        return in_pieces(lambda *given: (self.encode(*given),), vectors, rows, dict(self.arrays), progress)[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that identify everything fitted."""
        arrays = [np.asarray(self.arrays[key]) for key in sorted(self.arrays)]
        return fingerprint(self.name, list(self.level_sizes), *arrays, *([self.settings] if self.settings else []))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the quantiser as a folder of arrays.

        Args:
            folder: Destination.
        """
        details: dict[str, Any] = {
            "name": self.name,
            "level_sizes": list(self.level_sizes),
            "fingerprint": self.fingerprint,
        }
        if self.settings:
            details["settings"] = dict(self.settings)
        arrays = {key: np.asarray(array) for key, array in self.arrays.items()}
        save_arrays(folder, arrays, kind=KIND, version=VERSION, details=details)


class ReconstructingQuantiser(Quantiser):
    """A quantiser that can approximate a vector from its codes."""

    @abc.abstractmethod
    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the approximate vectors of codes; the first levels alone give a coarser approximation."""

    def relative_errors(self, vectors: np.ndarray) -> list[float]:
        """Return the squared error of the reconstruction over the variance of the vectors, after each level.

        Args:
            vectors: [n, d]; of more than 65,536 vectors an evenly spaced sample is taken.
        """
        vectors = read(vectors, evenly_spaced(len(vectors), _ERROR_SAMPLE))
        codes = self.codes(vectors)
        variance = float(np.square(vectors - vectors.mean(0)[None]).sum(dtype=np.float64))
        errors = (vectors - self.reconstruct(codes[:, :levels]) for levels in range(1, codes.shape[1] + 1))
        return [float(np.square(error).sum(dtype=np.float64)) / max(variance, 1e-30) for error in errors]


def load_quantiser(folder: str | os.PathLike[str]) -> Quantiser:
    """Open a saved quantiser.

    Raises:
        InputError: If the folder is missing, damaged, or no quantiser.
    """
    arrays, manifest = load_arrays(folder, kind=KIND, version=VERSION)
    if (found := _BY_NAME.get(manifest["name"])) is None:
        raise InputError(
            f"a quantiser {manifest['name']!r}",
            file=folder,
            expected=f"one of {', '.join(sorted(_BY_NAME))}",
            fix="open it with the version of genret_jax that wrote it",
        )
    sizes = require_level_sizes(manifest["level_sizes"], 0, file=folder)
    return found(level_sizes=sizes, arrays=arrays, settings=manifest.get("settings", {}))


def append_documents(
    table: DocidTable,
    quantiser: Quantiser,
    doc_ids: Sequence[str],
    vectors: np.ndarray,
    *,
    corpus_fingerprint: str | None = None,
) -> DocidTable:
    """Return a table with new documents, whose codes come from their vectors.

    If the table has a separating code, every new document gets the next free one.

    Args:
        table: Made with the quantiser; its documents, rows and nodes keep their indices.
        quantiser: From the strategy's ``fit_and_assign``, or :func:`load_quantiser`.
        doc_ids: External ids of the new documents.
        vectors: One vector per new document, [n, d].
        corpus_fingerprint: Fingerprint of the grown corpus; by default that of the table.

    Raises:
        InputError: If the table comes from another quantiser, an id exists already, or the vectors do not fit.
    """
    made_by = table.strategy.get("quantiser")
    levels, sizes = len(quantiser.level_sizes), table.level_sizes
    # Codes from a file do not name their quantiser.
    made_here = made_by == quantiser.fingerprint or (made_by is None and table.strategy.get("name") == "npy")
    if not made_here or sizes[:levels] != quantiser.level_sizes or len(sizes) > levels + 1:
        raise InputError(
            f"docids of levels {list(sizes)} by {made_by or table.strategy.get('name', 'an unknown strategy')}",
            expected=f"docids of the quantiser {quantiser.fingerprint} ({list(quantiser.level_sizes)} codes)",
            fix="give the quantiser that was saved when the docids were made",
        )
    if len(vectors) != len(doc_ids):
        raise InputError(f"{len(vectors)} vectors for {len(doc_ids)} documents", expected="one vector a document")
    codes = quantiser.codes(vectors)
    if len(sizes) == levels + 1:
        codes = np.column_stack([codes, next_free(table.padded(), codes)])
    return table.append(doc_ids, codes, corpus_fingerprint=corpus_fingerprint)
