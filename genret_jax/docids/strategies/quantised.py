"""The base of the docid strategies that fit a quantiser to the document vectors."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, ClassVar, Generic, TypeVar

import numpy as np
from jaxtyping import Bool, Int32

from genret_jax.docids.quantiser import Quantiser
from genret_jax.docids.separating import with_separating
from genret_jax.docids.streaming import recorded_fields, require_vectors
from genret_jax.docids.table import DocidTable
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, more_than

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
    memory_gib: Annotated[float, more_than(0)] = 4.0

    def __post_init__(self) -> None:
        check_fields(self)

    @abc.abstractmethod
    def _fit(self, vectors: np.ndarray, in_memory: bool, seed: int) -> tuple[Fitted, Int32[np.ndarray, "n m"]]:
        """Return the quantiser fitted to checked vectors, and their codes."""

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
        if not len(doc_ids):
            raise InputError("no documents", expected="at least one")
        vectors, in_memory = require_vectors(
            doc_ids, vectors, strategy=f"{self.name} docids", memory_gib=self.memory_gib
        )
        new = np.flatnonzero(unseen) if unseen is not None else np.zeros(0, np.int64)
        seen = np.setdiff1d(np.arange(len(doc_ids)), new)
        quantiser, known = self._fit(vectors[seen] if len(new) else vectors, in_memory, seed)
        codes = np.empty((len(doc_ids), known.shape[1]), np.int32)
        codes[seen] = known
        if len(new):
            codes[new] = quantiser.codes(vectors[new])
        level_sizes = quantiser.level_sizes
        if self.separate:
            codes, level_sizes = with_separating(codes, level_sizes, np.concatenate([seen, new]))
        record = {"name": self.name, **recorded_fields(self, in_memory), "seed": seed}
        record["quantiser"] = quantiser.fingerprint
        table = DocidTable.from_codes(
            doc_ids, codes, level_sizes=level_sizes, strategy=record, corpus_fingerprint=corpus_fingerprint
        )
        return quantiser, table
