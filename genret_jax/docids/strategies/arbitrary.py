"""Docids that carry no meaning: a token a document, the digits of an arbitrary number, or random codes."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from genret_jax.docids.separating import with_separating
from genret_jax.docids.table import DocidTable
from genret_jax.validation import check_fields, require


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomicDocids:
    """Unstructured atomic identifiers: document i is the single code i (Tay et al. 2022, arXiv 2202.06991, 3.2)."""

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid; vectors and seed have no part in it.

        Args:
            doc_ids: External ids.
            vectors: Ignored.
            seed: Ignored.
            corpus_fingerprint: Fingerprint of the corpus.
        """
        codes = np.arange(len(doc_ids), dtype=np.int32)[:, None]
        return DocidTable.from_codes(doc_ids, codes, strategy={"name": "atomic"}, corpus_fingerprint=corpus_fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NaiveStringDocids:
    """Naively structured strings: the decimal digits of an arbitrary number (Tay et al. 2022, arXiv 2202.06991, 3.2).

    The numbers 0 to n - 1 are drawn in an order of the seed's, because the order of a corpus often has meaning
    (neighbours come from one article) and these docids are there to have none.
    """

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Args:
            doc_ids: External ids.
            vectors: Ignored.
            seed: Decides the order of the numbers.
            corpus_fingerprint: Fingerprint of the corpus.
        """
        numbers = np.random.default_rng(seed).permutation(len(doc_ids))
        return DocidTable.from_codes(
            doc_ids,
            digits(numbers),
            level_sizes=[10] * len(str(max(len(doc_ids) - 1, 0))),
            strategy={"name": "naive", "seed": seed},
            corpus_fingerprint=corpus_fingerprint,
        )


def digits(numbers: np.ndarray) -> np.ndarray:
    """Return the decimal digits of every number from the left, padded with -1 --> [n, m]."""
    width = len(str(numbers.max(initial=0)))
    lengths = np.char.str_len(numbers.astype(str))
    digits = np.full((len(numbers), width), -1, np.int32)
    for position in range(width):
        rows = lengths > position
        digits[rows, position] = numbers[rows] // 10 ** (lengths[rows] - 1 - position) % 10
    return digits


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomDocids:
    """Random codes in the shape of semantic ones, TIGER's ablation (Rajput et al. 2023, arXiv 2305.05065).

    Attributes:
        levels: Number of codes.
        codebook: Codes of a level, all as likely.
        separate: Append the code that tells documents with equal codes apart.
    """

    levels: int = 3
    codebook: int = 256
    separate: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "levels", self.levels >= 1, "at least 1")
        require(self, "codebook", self.codebook >= 2, "at least 2")

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid; vectors have no part in it.

        Args:
            doc_ids: External ids.
            vectors: Ignored.
            seed: Decides the codes.
            corpus_fingerprint: Fingerprint of the corpus.
        """
        codes = np.random.default_rng(seed).integers(0, self.codebook, (len(doc_ids), self.levels), np.int32)
        level_sizes = (self.codebook,) * self.levels
        if self.separate:
            codes, level_sizes = with_separating(codes, level_sizes)
        return DocidTable.from_codes(
            doc_ids,
            codes,
            level_sizes=level_sizes,
            strategy={"name": "random", **dataclasses.asdict(self), "seed": seed},
            corpus_fingerprint=corpus_fingerprint,
        )
