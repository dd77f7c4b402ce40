"""Vocabularies: text to words to tokens and back, without TensorFlow.

Token 0 pads, 1 ends a sequence, 2 is unknown (T5's layout, Raffel et al. 2020, arXiv 1910.10683), and the last
``extra_ids`` tokens are sentinels, number 0 the highest, as in seqio. How text becomes words belongs to the vocabulary
and is saved with it, because a query must be treated as the training text was:

- ``"words"``: lower-cased words with camelCase and snake_case split
  (:func:`~genret_jax.data.text.words.normalized_words`).
- ``"none"``: the model's own normalisation, for pretrained models; text becomes the tokens they were trained on.
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
    """Text to tokens, word by word: the tokens of a text are those of its words, one after the other.

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
        """Return up to ``limit`` ways to write a word in tokens, the best first."""

    @abc.abstractmethod
    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens; padding and EOS vanish, sentinels read ``<extra_id_0>``."""

    @property
    @abc.abstractmethod
    def fingerprint(self) -> str:
        """What changes exactly when some text would become other tokens."""

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
        """Return texts as an encoder reads them: cut to a length, EOS included, and padded with 0.

        Args:
            texts: One a row.
            length: Tokens of a row.
            append_eos: End each with EOS.
            rows: Rows to return, at least as many as texts; further ones are padding.
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
                fix="build the vocabulary with --extra-ids 100",
            )
        return self.size - 1 - number

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the vocabulary as a folder, whole or not at all."""
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
        """Write what the description does not hold."""

    @classmethod
    @abc.abstractmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> "Vocabulary":
        """Read what :meth:`_save_model` wrote."""

    def _decode_parts(self, ids: TokenIds) -> Iterator[tuple[bool, Any]]:
        """Yield ``(True, sentinel's text)`` and ``(False, run of ordinary tokens)``; padding and EOS are left out."""
        first_sentinel = self.size - self.extra_ids
        kept = (int(i) for i in ids if i not in (PAD, EOS))
        for is_sentinel, run in itertools.groupby(kept, lambda i: first_sentinel <= i < self.size):
            if is_sentinel:
                yield from ((True, f"<extra_id_{self.size - 1 - i}>") for i in run)
            else:
                yield False, list(run)
