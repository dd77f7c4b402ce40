"""The base of the docid strategies that fit a quantiser to the document vectors."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Int32

from genret_jax.docids.quantiser import Quantiser
from genret_jax.docids.separating import with_separating
from genret_jax.docids.streaming import fits_in_memory, recorded_fields, require_vectors
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError

Fitted = TypeVar("Fitted", bound=Quantiser)


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuantisedDocids(abc.ABC, Generic[Fitted]):
    """A strategy whose docids are the codes of a quantiser, which also gives later documents their codes.

    Attributes:
        separate: Append a code that separates documents with equal codes, as in TIGER (Rajput et al. 2023,
            arXiv 2305.05065, section 3.1). Without it they share a docid and are returned in the order of the corpus.
        memory_gib: Vectors that take more memory, in float32, are read from their file piece by piece, and the
            quantiser is fitted to a sample.
    """

    needs_vectors: ClassVar[bool] = True

    name: ClassVar[str]
    separate: bool = True
    memory_gib: float = 4.0

    @abc.abstractmethod
    def _fit(self, vectors: np.ndarray, in_memory: bool, seed: int) -> tuple[Fitted, Int32[np.ndarray, "n m"]]:
        """Return the quantiser fitted to checked vectors, and their codes."""

    def fit(self, vectors: np.ndarray, seed: int) -> Fitted:
        """Return the quantiser fitted to vectors.

        Args:
            vectors: [n, d]; may be memory-mapped.
            seed: Decides every random choice.

        Raises:
            InputError: If there are no vectors, or they are not finite.
        """
        return self._check_and_fit(None, vectors, seed)[0]

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Args:
            doc_ids: External ids.
            vectors: One vector per document, [n, d]; may be memory-mapped.
            seed: Decides every random choice.
            corpus_fingerprint: Fingerprint of the corpus.

        Raises:
            InputError: If vectors are missing, not one per document, or not finite.
        """
        return self.fit_and_assign(doc_ids, vectors, seed, corpus_fingerprint)[1]

    def fit_and_assign(
        self,
        doc_ids: Sequence[str],
        vectors: np.ndarray | None,
        seed: int,
        corpus_fingerprint: str,
        *,
        unseen: Bool[np.ndarray, " n"] | None = None,
    ) -> tuple[Fitted, DocidTable]:
        """Return the fitted quantiser and the table of docids.

        Args:
            doc_ids: External ids.
            vectors: One vector per document, [n, d]; may be memory-mapped.
            seed: Decides every random choice.
            corpus_fingerprint: Fingerprint of the corpus.
            unseen: Documents that the quantiser is not fitted to; they get docids as if they had come later.

        Raises:
            InputError: If vectors are missing, not one per document, or not finite.
        """
        if unseen is None or not unseen.any() or vectors is None or len(vectors) != len(unseen):
            quantiser, codes, in_memory = self._check_and_fit(doc_ids, vectors, seed)
            order = np.arange(len(codes))
        else:
            seen, new = np.flatnonzero(~unseen), np.flatnonzero(unseen)
            quantiser, known, in_memory = self._check_and_fit([doc_ids[int(i)] for i in seen], vectors[seen], seed)
            order = np.concatenate([seen, new])
            codes = np.empty((len(order), known.shape[1]), np.int32)
            codes[seen], codes[new] = known, quantiser.codes(vectors[new])
        level_sizes = quantiser.level_sizes
        if self.separate:
            codes, level_sizes = with_separating(codes, level_sizes, order)
        record = {"name": self.name, **recorded_fields(self, in_memory), "seed": seed}
        record["quantiser"] = quantiser.fingerprint
        table = DocidTable.from_codes(
            doc_ids, codes, level_sizes=level_sizes, strategy=record, corpus_fingerprint=corpus_fingerprint
        )
        return quantiser, table

    def _check_and_fit(
        self, doc_ids: Sequence[str] | None, vectors: np.ndarray | None, seed: int
    ) -> tuple[Fitted, Int32[np.ndarray, "n m"], bool]:
        """Return the quantiser, the codes, and whether the vectors fit in memory."""
        if not len(vectors if doc_ids is None and vectors is not None else doc_ids or ()):
            raise InputError("no documents", expected="at least one")
        checked = require_vectors(doc_ids, vectors, strategy=f"{self.name} docids", memory_gib=self.memory_gib)
        in_memory = fits_in_memory(checked, self.memory_gib)
        return *self._fit(checked, in_memory, seed), in_memory
