"""Vocabularies: text to words to tokens and back, without TensorFlow.

Token 0 is padding, 1 ends a sequence, 2 is unknown (T5's layout, Raffel et al. 2020, arXiv 1910.10683). The last
``extra_ids`` tokens are sentinels; number 0 is the highest, as in seqio. The rule that divides text into words is saved
with the vocabulary, because queries need the same rule as the training text:

- ``"words"``: lower-cased words with camelCase and snake_case split
  (:func:`~genret_jax.data.text.words.normalized_words`).
- ``"none"``: the model's own normalisation, for pretrained models; text becomes the tokens that they know.
"""

import abc
import itertools
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Int

from genret_jax.data.records import read_json_object
from genret_jax.data.text.words import normalized_words
from genret_jax.errors import InputError
from genret_jax.storage import atomic_folder, write_json

PAD, EOS, UNKNOWN = 0, 1, 2
TokenIds = Iterable[int] | Int[np.ndarray, " l"]
_DESCRIPTION = "vocabulary.json"


class Vocabulary(abc.ABC):
    """Turns text into tokens, word by word: the tokens of a text are those of its words in order.

    Attributes:
        size: Number of tokens, sentinels included.
        extra_ids: Number of sentinels.
        normalization: ``"words"`` or ``"none"``.
    """

    kind: ClassVar[str]
    _kinds: ClassVar[dict[str, type["Vocabulary"]]] = {}

    def __init_subclass__(cls) -> None:
        Vocabulary._kinds[cls.kind] = cls

    def __init__(self, size: int, normalization: str, extra_ids: int):
        if normalization not in ("words", "none"):
            raise InputError(f"normalization {normalization!r}", expected="'words' or 'none'")
        if extra_ids < 0:
            raise InputError(f"extra_ids {extra_ids}", expected="0 or more")
        self.size = size + extra_ids
        self.extra_ids = extra_ids
        self.normalization = normalization
        self._bigrams = True

    @abc.abstractmethod
    def words(self, text: str) -> list[str]:
        """Return the words of a text after normalisation; each becomes at least one token."""

    @abc.abstractmethod
    def segmentations(self, word: str, limit: int = 8) -> list[list[int]]:
        """Return up to ``limit`` segmentations of a word into tokens, the best one first."""

    @abc.abstractmethod
    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens without padding and EOS; sentinels read ``<extra_id_0>``."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens of a text."""

    def unknown_share(self, text: str) -> float:
        """Return the share of a text's words of which no part is known; 1 for a text without words.

        A model cannot tell texts apart in which all words are unknown, such as queries in a script that the vocabulary
        lacks.
        """
        words = self.words(text)
        unknown = sum(self._meaningless.issuperset(self.segmentations(word, 1)[0]) for word in words)
        return unknown / len(words) if words else 1.0

    def is_known(self, text: str) -> bool:
        """Return whether some part of a text is known to the vocabulary."""
        return self.unknown_share(text) < 1

    @property
    def _meaningless(self) -> frozenset[int]:
        """Tokens that say nothing about a word."""
        return frozenset((UNKNOWN,))

    def _normalized_words(self, text: str) -> list[str]:
        return normalized_words(text, bigrams=self._bigrams)

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without EOS."""
        return [token for word in self.words(text) for token in self.segmentations(word, 1)[0]]

    def encode_rows(
        self, texts: Sequence[str], length: int, *, append_eos: bool, rows: int | None = None
    ) -> Int[np.ndarray, "r length"]:
        """Return texts as rows of encoder tokens, cut to a length that includes EOS, and padded with 0.

        Args:
            texts: Texts, one for each row.
            length: Tokens of a row.
            append_eos: End each row with EOS.
            rows: Number of rows, at least that of texts; the others are padding.
        """
        tokens, ends = np.zeros((len(texts) if rows is None else rows, length), np.int32), int(append_eos)
        for row, text in enumerate(texts):
            kept = self.encode(text)[: length - ends] + [EOS] * ends
            tokens[row, : len(kept)] = kept
        return tokens

    def sentinel(self, number: int) -> int:
        """Return the token of sentinel ``number``; 0 is the highest token, as in seqio."""
        if not 0 <= number < self.extra_ids:
            raise InputError(
                f"sentinel {number} of a vocabulary with {self.extra_ids}",
                fix="build the vocabulary with extra_ids = 100",
            )
        return self.size - 1 - number

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the vocabulary as a folder; a failure leaves no folder."""
        with atomic_folder(folder) as partial:
            self._save_model(partial)
            described = {
                "kind": self.kind,
                "normalization": self.normalization,
                "bigrams": self._bigrams,
                "extra_ids": self.extra_ids,
                "size": self.size,
                "fingerprint": self.fingerprint,
            }
            write_json(partial / _DESCRIPTION, described)

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> "Vocabulary":
        """Read a folder written by :meth:`save`.

        Raises:
            InputError: If it is missing, damaged, or of an unknown kind.
        """
        folder = Path(folder)
        fields = {"kind": str, "normalization": str, "extra_ids": int, "fingerprint": str}
        described = read_json_object(folder / _DESCRIPTION, fields)
        kind = Vocabulary._kinds.get(described["kind"])
        if kind is None:
            known = ", ".join(sorted(Vocabulary._kinds))
            raise InputError(
                f"vocabulary of kind {described['kind']!r}", file=folder / _DESCRIPTION, expected=f"one of {known}"
            )
        vocabulary = kind._load_model(
            folder, normalization=described["normalization"], extra_ids=described["extra_ids"]
        )
        # Earlier versions took a run of Chinese characters for one word, and their models have learnt so.
        vocabulary._bigrams = bool(described.get("bigrams", False))
        if vocabulary.fingerprint != described["fingerprint"]:
            raise InputError("the vocabulary is not the one that was saved", file=folder, fix="restore or rebuild it")
        return vocabulary

    @abc.abstractmethod
    def _save_model(self, folder: Path) -> None:
        """Write the files of this kind of vocabulary, beside the description."""

    @classmethod
    @abc.abstractmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> "Vocabulary":
        """Read the files of :meth:`_save_model`."""

    def _decode_parts(self, ids: TokenIds) -> Iterator[tuple[bool, Any]]:
        """Yield ``(True, text of a sentinel)`` and ``(False, run of other tokens)``, without padding and EOS."""
        first_sentinel = self.size - self.extra_ids
        kept = (int(i) for i in ids if i not in (PAD, EOS))
        for is_sentinel, run in itertools.groupby(kept, lambda i: first_sentinel <= i < self.size):
            if is_sentinel:
                yield from ((True, f"<extra_id_{self.size - 1 - i}>") for i in run)
            else:
                yield False, list(run)
