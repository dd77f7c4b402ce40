"""Fitted quantisers: from any vector to codes, of documents that were there at the fit as of those that come later."""

import abc
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32, Int, Int32

from genret_jax.docids.separating import next_free
from genret_jax.docids.streaming import in_pieces, read
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint, load_arrays, save_arrays

KIND, VERSION = "quantiser", 1
_MOST_RECONSTRUCTED = 1 << 16
_BY_NAME: dict[str, "type[Quantiser]"] = {}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Quantiser(abc.ABC):
    """Gives vectors their codes.

    A subclass has a ``name`` of its own, by which :func:`load_quantiser` finds it, and says how its arrays look at a
    piece of vectors.

    Attributes:
        level_sizes: Codebook size of every level.
        arrays: What was fitted, by name.
        settings: JSON values that say how to read them, where that takes any.
    """

    name: ClassVar[str]
    level_sizes: tuple[int, ...]
    arrays: Mapping[str, np.ndarray]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __init_subclass__(cls) -> None:
        """Make the class known to :func:`load_quantiser`."""
        if "name" in vars(cls):
            _BY_NAME[cls.name] = cls

    @property
    @abc.abstractmethod
    def width(self) -> int:
        """Length of the vectors."""

    @abc.abstractmethod
    def look(self, piece: Any, arrays: Any) -> tuple[Any, ...]:
        """Return the codes [p, m] of a piece of vectors [p, d], and perhaps more, by a jitted function."""

    def codes(self, vectors: np.ndarray) -> Int32[np.ndarray, "n m"]:
        """Return the codes of vectors, without a code that tells equal ones apart.

        Args:
            vectors: [n, d]; may be memory-mapped, and is read piece by piece.

        Raises:
            InputError: If they are not as long as those of the fit, or not finite.
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
        return in_pieces(self.look, vectors, np.arange(len(vectors)), dict(self.arrays), progress)[0]

    @functools.cached_property
    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change with anything fitted."""
        arrays = [np.asarray(self.arrays[key]) for key in sorted(self.arrays)]
        return fingerprint(self.name, list(self.level_sizes), *arrays, *([self.settings] if self.settings else []))

    def save(self, folder: str | os.PathLike[str], *, replace: bool = False) -> None:
        """Write the quantiser as a folder of arrays.

        Args:
            folder: Destination.
            replace: Replace what is there.
        """
        details: dict[str, Any] = {
            "name": self.name,
            "level_sizes": list(self.level_sizes),
            "fingerprint": self.fingerprint,
        }
        if self.settings:
            details["settings"] = dict(self.settings)
        arrays = {key: np.asarray(array) for key, array in self.arrays.items()}
        save_arrays(folder, arrays, kind=KIND, version=VERSION, details=details, replace=replace)


class ReconstructingQuantiser(Quantiser):
    """A quantiser whose codes stand for vectors."""

    @abc.abstractmethod
    def reconstruct(self, codes: Int[np.ndarray, "n m"]) -> Float32[np.ndarray, "n d"]:
        """Return the vectors that codes stand for; fewer levels than there are give a coarser one."""

    def relative_errors(self, vectors: np.ndarray) -> list[float]:
        """Return, for each number of levels from 1, the share of the vectors' variance that codes leave over.

        Args:
            vectors: [n, d]; of very many, some are looked at.
        """
        rows = np.unique(np.linspace(0, len(vectors) - 1, min(len(vectors), _MOST_RECONSTRUCTED)).astype(np.int64))
        vectors = read(vectors, rows)
        codes = self.codes(vectors)
        variance = float(np.square(vectors - vectors.mean(0)[None]).sum(dtype=np.float64))
        levels = range(1, codes.shape[1] + 1)
        left = [np.square(vectors - self.reconstruct(codes[:, :some])).sum(dtype=np.float64) for some in levels]
        return [float(over) / max(variance, 1e-30) for over in left]


def load_quantiser(folder: str | os.PathLike[str]) -> Quantiser:
    """Open a saved quantiser.

    Raises:
        InputError: If the folder is missing, damaged, or something else.
    """
    arrays, manifest = load_arrays(folder, kind=KIND, version=VERSION)
    if (found := _BY_NAME.get(manifest["name"])) is None:
        raise InputError(
            f"a quantiser {manifest['name']!r}",
            file=folder,
            expected=f"one of {', '.join(sorted(_BY_NAME))}",
            fix="open it with the version of genret_jax that wrote it",
        )
    sizes = tuple(manifest["level_sizes"])
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

    Where the table has a code that tells documents with equal codes apart, a new one gets the next free.

    Args:
        table: Made with the quantiser; its documents, rows and nodes keep their indices.
        quantiser: From the strategy's ``fit_and_assign``, or :func:`load_quantiser`.
        doc_ids: External ids of the new documents.
        vectors: One vector for each of them, [n, d].
        corpus_fingerprint: Fingerprint of the grown corpus; by default that of the table.

    Raises:
        InputError: If the table comes from another quantiser, an id is there already, or the vectors do not fit.
    """
    made_by = table.strategy.get("quantiser")
    levels, sizes = len(quantiser.level_sizes), table.level_sizes
    # Codes from a file do not say who made them.
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
