"""Vocabularies of SentencePiece pieces and of bytes; their common base class is in abstract_vocabulary."""

import functools
import io
import itertools
import os
import re
import string
from collections.abc import Iterable, Iterator
from pathlib import Path

import sentencepiece

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.abstract_vocabulary import EOS, PAD, UNKNOWN, TokenIds, Vocabulary
from genret_jax.data.text.words import normalized_words, valid_unicode
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint

__all__ = [
    "EOS",
    "PAD",
    "UNKNOWN",
    "ByteVocabulary",
    "SentencePieceVocabulary",
    "Vocabulary",
    "from_model_file",
    "make_vocabulary",
    "train_sentencepiece",
]

_MODEL = "sentencepiece.model"
_BYTE_OFFSET = 3  # ByT5: byte 0 is token 3 (Xue et al. 2022, arXiv 2105.13626)
_LONGEST_RESEGMENTED_WORD = 64  # characters; the search for further segmentations grows fast with length
_SPACE = "\u2581"  # how SentencePiece writes a space


class SentencePieceVocabulary(Vocabulary):
    """A SentencePiece model (Kudo & Richardson 2018, arXiv 1808.06226) with T5's special tokens.

    Args:
        model: The serialised model.
        normalization: ``"words"`` or ``"none"``.
        extra_ids: Sentinels to add above the model's pieces.
        source: The file of the model, for errors.

    Raises:
        InputError: If it is no such model, its special tokens are not T5's, or, with ``"none"``, a piece can reach over
            a space, so that the tokens of a text are not those of its words.
    """

    kind = "sentencepiece"

    def __init__(
        self,
        model: bytes,
        *,
        normalization: str = "none",
        extra_ids: int = 0,
        source: str | os.PathLike[str] | None = None,
    ):
        self._model = bytes(model)
        try:
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except RuntimeError:
            raise InputError("not a SentencePiece model", file=source, fix="give a .model file") from None
        super().__init__(self._processor.get_piece_size(), normalization, extra_ids)
        self._check_special_tokens(source)
        if normalization == "none":
            self._check_words_are_independent(source)
        self._has_alternatives = self._supports_alternatives()

    def _check_special_tokens(self, source: str | os.PathLike[str] | None) -> None:
        found = {"pad": self._processor.pad_id(), "eos": self._processor.eos_id(), "unk": self._processor.unk_id()}
        expected = {"pad": PAD, "eos": EOS, "unk": UNKNOWN}
        if found != expected:
            raise InputError(f"special tokens {found}", file=source, expected=f"T5's, {expected}")

    def _check_words_are_independent(self, source: str | os.PathLike[str] | None) -> None:
        """Check that no piece reaches over a space, because words are counted, dropped and drawn one by one.

        Every word must get a space in front, repeated spaces must be removed, and no piece may have a space after
        another character. T5's and mT5's models are such; models trained without ``split_by_whitespace`` are not.
        """
        count = self._processor.get_piece_size()
        pieces = (self._processor.id_to_piece(i) for i in range(count) if not self._processor.is_control(i))
        crossing = next((p for p in pieces if _SPACE in p.lstrip(_SPACE)), None)
        normal = self._processor.normalize(" a  b ")
        if crossing is not None or normal != f"{_SPACE}a{_SPACE}b":
            reason = f"piece {crossing!r}" if crossing is not None else f"' a  b ' normalised to {normal!r}"
            raise InputError(
                f"a model whose words depend on their neighbours ({reason})",
                file=source,
                expected="a space before each word and none inside pieces, as in T5's models",
                fix="use normalization 'words', or another model",
            )

    def _supports_alternatives(self) -> bool:
        try:  # only unigram models have them
            return bool(self._processor.nbest_encode_as_ids("a", 2))
        except RuntimeError:
            return False

    @property
    def model(self) -> bytes:
        """The serialised SentencePiece model."""
        return self._model

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens of a text."""
        return fingerprint("vocabulary", self.kind, self._model, self.normalization, self.extra_ids)

    def words(self, text: str) -> list[str]:
        """Return the words of a text after normalisation; each becomes at least one token."""
        if self.normalization == "words":
            return self._normalized_words(text)
        return [word for word in self._processor.normalize(valid_unicode(text)).split(_SPACE) if word]

    def segmentations(self, word: str, limit: int = 8) -> list[list[int]]:
        """Return up to ``limit`` segmentations of a word into tokens, the best one first."""
        best: list[int] = self._processor.encode(word) or [UNKNOWN]
        if limit == 1 or not self._has_alternatives or len(word) > _LONGEST_RESEGMENTED_WORD:
            return [best]
        found = self._processor.nbest_encode_as_ids(word, limit)
        return [best, *(ids for ids in found if ids and ids != best)][:limit]

    @functools.cached_property
    def _meaningless(self) -> frozenset[int]:
        return frozenset((UNKNOWN, self._processor.piece_to_id(_SPACE)))

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text, without EOS."""
        if self.normalization == "none":
            return list(self._processor.encode(valid_unicode(text)))
        return super().encode(text)

    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens without padding and EOS; sentinels read ``<extra_id_0>``."""
        known = self.size - self.extra_ids
        parts = (
            part if is_text else self._processor.decode([i if 0 <= i < known else UNKNOWN for i in part])
            for is_text, part in self._decode_parts(ids)
        )
        return " ".join(parts)

    def _save_model(self, folder: Path) -> None:
        (folder / _MODEL).write_bytes(self._model)

    @classmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> Vocabulary:
        return from_model_file(folder / _MODEL, normalization=normalization, extra_ids=extra_ids)


class ByteVocabulary(Vocabulary):
    """UTF-8 bytes as tokens 3 to 258, as ByT5 has them (Xue et al. 2022, arXiv 2105.13626).

    A word includes the white space before it. With ``"words"`` that is always one space, so that a word has the same
    tokens everywhere.

    Args:
        normalization: ``"words"`` or ``"none"``.
        extra_ids: Sentinels to add above the bytes (ByT5 has 125).
    """

    kind = "bytes"

    def __init__(self, *, normalization: str = "none", extra_ids: int = 0):
        super().__init__(_BYTE_OFFSET + 256, normalization, extra_ids)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens of a text."""
        return fingerprint("vocabulary", self.kind, self.normalization, self.extra_ids)

    def words(self, text: str) -> list[str]:
        """Return the words of a text after normalisation; each becomes at least one token."""
        if self.normalization == "words":
            return [f" {word}" for word in self._normalized_words(text)]
        return re.findall(r"\s*\S+|\s+\Z", valid_unicode(text))

    def segmentations(self, word: str, limit: int = 8) -> list[list[int]]:
        """Return the only segmentation of a word: its bytes."""
        return [[byte + _BYTE_OFFSET for byte in word.encode("utf-8")]]

    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens without padding and EOS; sentinels read ``<extra_id_0>``."""
        return "".join(
            part
            if is_text
            else bytes(i - _BYTE_OFFSET for i in part if i >= _BYTE_OFFSET and i < _BYTE_OFFSET + 256).decode(
                "utf-8", errors="replace"
            )
            for is_text, part in self._decode_parts(ids)
        )

    def _save_model(self, folder: Path) -> None:
        """Write nothing, as bytes need no model."""

    @classmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> Vocabulary:
        return cls(normalization=normalization, extra_ids=extra_ids)


def make_vocabulary(
    corpus: Corpus,
    *,
    kind: str,
    size: int,
    normalization: str,
    extra_ids: int,
    path: str | os.PathLike[str] | None = None,
) -> Vocabulary:
    """Return a vocabulary for a corpus: trained on it, of bytes, or from a file.

    Args:
        corpus: Its documents and training queries are the texts of ``"sentencepiece"``; a vocabulary must not see other
            queries, which are for tests.
        kind: ``"sentencepiece"``, ``"bytes"`` or ``"file"``.
        size: Most pieces to train.
        normalization: ``"words"`` or ``"none"``.
        extra_ids: Number of sentinels.
        path: The ``.model`` of ``"file"``.

    Raises:
        InputError: If it cannot be trained or read.
    """
    if kind == "bytes":
        return ByteVocabulary(normalization=normalization, extra_ids=extra_ids)
    if path is not None:
        return from_model_file(path, normalization=normalization, extra_ids=extra_ids)
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    texts += [corpus.queries[query] for query in corpus.qrels.get("train", ())]
    return train_sentencepiece(texts, size=size, normalization=normalization, extra_ids=extra_ids)


def from_model_file(
    path: str | os.PathLike[str], *, normalization: str = "none", extra_ids: int = 0
) -> SentencePieceVocabulary:
    """Read an existing SentencePiece model; T5's published one has 100 ``extra_ids`` on top.

    Args:
        path: The ``.model`` file, or a folder with ``spiece.model``, such as a checkpoint from Hugging Face.
        normalization: ``"words"`` or ``"none"``.
        extra_ids: Sentinels to add above the model's pieces.

    Raises:
        InputError: If it is missing, or :class:`SentencePieceVocabulary` refuses it.
    """
    file = Path(path)
    try:
        file = file / "spiece.model" if file.is_dir() else file
        model = file.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=file, expected="a SentencePiece model") from None
    return SentencePieceVocabulary(model, normalization=normalization, extra_ids=extra_ids, source=path)


def train_sentencepiece(
    texts: Iterable[str], *, size: int = 8000, normalization: str = "words", extra_ids: int = 0
) -> SentencePieceVocabulary:
    """Train a unigram SentencePiece model (Kudo 2018, arXiv 1804.10959); the same texts give the same model.

    Args:
        texts: The texts; read once, one at a time.
        size: Most pieces, without sentinels. A small corpus gives fewer.
        normalization: ``"words"`` or ``"none"`` (then SentencePiece's ``nmt_nfkc``).
        extra_ids: Sentinels to add.

    Raises:
        InputError: If there is no text, or ``size`` is smaller than the number of characters.
    """
    model = io.BytesIO()
    lines = _training_lines(texts, normalization)
    first = next(lines, None)
    if first is None:
        raise InputError("no text to train a vocabulary on", fix="check that the documents have titles or texts")
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=itertools.chain([first], lines),
            model_writer=model,
            model_type="unigram",
            vocab_size=size,
            hard_vocab_limit=False,
            pad_id=PAD,
            eos_id=EOS,
            unk_id=UNKNOWN,
            bos_id=-1,
            character_coverage=_COVERAGE,
            required_chars=_ALWAYS_KNOWN,
            normalization_rule_name="identity" if normalization == "words" else "nmt_nfkc",
            num_threads=4,  # stated, as the sums' order and so the model depend on it
            max_sentence_length=_LINE_BYTES,
            minloglevel=2,
        )
    except RuntimeError as error:
        raise InputError(
            f"no vocabulary of {size} pieces ({_reason(error)})", fix="choose another size, or a vocabulary of bytes"
        ) from None
    return SentencePieceVocabulary(model.getvalue(), normalization=normalization, extra_ids=extra_ids)


_LINE_WORDS, _LINE_BYTES = 64, 1 << 16
_COVERAGE = 0.9995  # share of the characters that get a piece of their own; the others are unknown
_ALWAYS_KNOWN = string.digits + string.ascii_lowercase  # docids may be written as text; queries may hold any letter


def _training_lines(texts: Iterable[str], normalization: str) -> Iterator[str]:
    """Cut texts into lines that SentencePiece accepts; it skips longer ones silently."""
    for text in texts:
        words = normalized_words(text) if normalization == "words" else valid_unicode(text).split()
        for start in range(0, len(words), _LINE_WORDS):
            line = " ".join(words[start : start + _LINE_WORDS])
            if len(line.encode("utf-8")) < _LINE_BYTES:
                yield line


def _reason(error: RuntimeError) -> str:
    return str(error).rpartition("] ")[2].strip() or "SentencePiece failed"
