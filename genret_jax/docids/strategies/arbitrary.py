"""Docids that carry no meaning: a token a document, the digits of an arbitrary number, or random codes."""

import abc
import dataclasses
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np

from genret_jax.docids.separating import with_separating
from genret_jax.docids.table import DocidTable
from genret_jax.validation import at_least, check_fields

Coded = tuple[np.ndarray, Sequence[int] | None, dict[str, Any]]


class ArbitraryDocids(abc.ABC):
    """A strategy whose docids depend on the number of documents and a seed only."""

    @abc.abstractmethod
    def _codes(self, documents: int, seed: int) -> Coded:
        """Return codes for that many documents, level sizes (None: as the codes need), and the strategy's record."""

    def assign(
        self, doc_ids: Sequence[str], vectors: np.ndarray | None, seed: int, corpus_fingerprint: str
    ) -> DocidTable:
        """Give every document its docid.

        Args:
            doc_ids: External ids.
            vectors: Ignored.
            seed: Seed of random choices.
            corpus_fingerprint: Fingerprint of the corpus.
        """
        codes, level_sizes, record = self._codes(len(doc_ids), seed)
        return DocidTable.from_codes(
            doc_ids, codes, level_sizes=level_sizes, strategy=record, corpus_fingerprint=corpus_fingerprint
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtomicDocids(ArbitraryDocids):
    """Unstructured atomic identifiers: document i is the single code i (Tay et al. 2022, arXiv 2202.06991, 3.2)."""

    def _codes(self, documents: int, seed: int) -> Coded:
        return np.arange(documents, dtype=np.int32)[:, None], None, {"name": "atomic"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class NaiveStringDocids(ArbitraryDocids):
    """Naively structured strings: the decimal digits of an arbitrary number (Tay et al. 2022, arXiv 2202.06991, 3.2).

    The numbers 0 to n - 1 are in random order. The order of a corpus often has meaning (neighbours come from one
    article), and these docids shall have none.
    """

    def _codes(self, documents: int, seed: int) -> Coded:
        numbers = np.random.default_rng(seed).permutation(documents)
        return digits(numbers), [10] * len(str(max(documents - 1, 0))), {"name": "naive", "seed": seed}


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
class RandomDocids(ArbitraryDocids):
    """Random codes in the shape of semantic ones, TIGER's ablation (Rajput et al. 2023, arXiv 2305.05065).

    Attributes:
        levels: Number of codes.
        codebook: Codes of a level, all equally likely.
        separate: Append the code that separates documents with equal codes.
    """

    levels: Annotated[int, at_least(1)] = 3
    codebook: Annotated[int, at_least(2)] = 256
    separate: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def _codes(self, documents: int, seed: int) -> Coded:
        codes = np.random.default_rng(seed).integers(0, self.codebook, (documents, self.levels), np.int32)
        level_sizes = (self.codebook,) * self.levels
        if self.separate:
            codes, level_sizes = with_separating(codes, level_sizes)
        return codes, level_sizes, {"name": "random", **dataclasses.asdict(self), "seed": seed}
