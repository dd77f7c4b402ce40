"""Docids from a NumPy file of codes."""

import dataclasses
import warnings
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from genret_jax.docids.separating import separated
from genret_jax.docids.table import DocidTable, code_limit
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint, read_npy
from genret_jax.validation import check_fields


@dataclasses.dataclass(frozen=True, kw_only=True)
class NpyDocids:
    """Codes from a NumPy file, row i for document i of the corpus.

    Attributes:
        path: A ``.npy`` file with integers of shape [n, m], from 0 to below 65,536 (or 16 n, if that is more).
        separate: Append the code that separates documents with equal codes. Without it they share a docid.
    """

    path: str
    separate: bool = False

    def __post_init__(self) -> None:
        check_fields(self)

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid, and warn if documents share one.

        Args:
            doc_ids: External ids.
            vectors: Ignored.
            seed: Ignored.
            corpus_fingerprint: Fingerprint of the corpus.

        Raises:
            InputError: If the file is missing or damaged, or does not hold a row of codes per document.
        """
        codes = self.codes()
        if len(codes) != len(doc_ids):
            raise InputError(
                f"{len(codes):,} rows of codes",
                file=self.path,
                expected=f"{len(doc_ids):,}, one for each document",
                fix="give the codes of this corpus, in its order",
            )
        made_by = {"name": "npy", **dataclasses.asdict(self), "fingerprint": fingerprint(codes)}
        if self.separate:
            codes = separated(codes)
        elif (distinct := len(np.unique(codes, axis=0))) < len(codes):
            warnings.warn(
                f"{self.path}: {len(codes):,} documents have {distinct:,} distinct docids, so some share one; "
                "NpyDocids.separate = True appends a code that tells them apart",
                stacklevel=2,
            )
        return DocidTable.from_codes(doc_ids, codes, strategy=made_by, corpus_fingerprint=corpus_fingerprint)

    def codes(self) -> Int32[np.ndarray, "n m"]:
        """Read and check the file.

        Raises:
            InputError: If it is missing or damaged, or holds something else than codes.
        """
        stored = read_npy(self.path, kinds="iu", expected="integers of shape [documents, codes]")
        limit = code_limit(len(stored))
        if (wrong := (stored < 0) | (stored >= limit)).any():
            row, level = np.argwhere(wrong)[0]
            raise InputError(
                f"code {stored[row, level]} at level {level} of row {row}",
                file=self.path,
                expected=f"codes from 0 to {limit - 1} for {len(stored)} rows",
                fix="number the codes of every level from 0 without gaps",
            )
        return stored.astype(np.int32)
