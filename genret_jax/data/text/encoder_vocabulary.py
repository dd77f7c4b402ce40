"""The vocabulary of a pretrained encoder, as its tokenizer has it."""

import functools
from pathlib import Path
from typing import Any

from genret_jax.data.text.abstract_vocabulary import PAD, TokenIds, Vocabulary
from genret_jax.data.text.words import valid_unicode
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint

_FILE = "tokenizer.json"


class EncoderVocabulary(Vocabulary):
    """Tokens of a ``tokenizers.Tokenizer``, without those that it puts around a text.

    Texts are divided at white space, and each word is tokenised by itself. The result is that of the whole text for
    tokenizers that divide at white space themselves, as those of the BERT family and of T5 do. The token that pads is
    exchanged with 0.

    Args:
        tokenizer: The tokenizer.
        pad: The token that pads.
    """

    kind = "encoder"

    def __init__(self, tokenizer: Any, *, pad: int):
        super().__init__(tokenizer.get_vocab_size(), "none", 0)
        self.pad = pad
        self._tokenizer = type(tokenizer).from_str(tokenizer.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._json = self._tokenizer.to_str()

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of everything that decides the tokens of a text."""
        return fingerprint("vocabulary", self.kind, self.pad, self._json)

    def words(self, text: str) -> list[str]:
        """Return the words of a text, divided at white space."""
        return valid_unicode(text).split()

    def segmentations(self, word: str, limit: int = 8) -> list[list[int]]:
        """Return the only segmentation of a word; one of nothing but characters without a token is unknown."""
        ids = self._tokenizer.encode(word, add_special_tokens=False).ids
        return [[self._exchanged(token) for token in ids] or [*self._meaningless][:1]]

    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens without padding."""
        text: str = self._tokenizer.decode([self._exchanged(int(token)) for token in ids if token != PAD])
        return text

    @functools.cached_property
    def _meaningless(self) -> frozenset[int]:
        """The token of unknown words."""
        numbers = (self._tokenizer.token_to_id(token) for token in ("[UNK]", "<unk>"))
        found = frozenset(self._exchanged(number) for number in numbers if number is not None)
        return found or frozenset((self._exchanged(self.size - 1),))

    def _exchanged(self, token: int) -> int:
        return {self.pad: PAD, PAD: self.pad}.get(token, token)

    def _save_model(self, folder: Path) -> None:
        tokenizer = type(self._tokenizer).from_str(self._json)
        tokenizer.enable_padding(pad_id=self.pad)
        (folder / _FILE).write_text(tokenizer.to_str(), encoding="utf-8")

    @classmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> Vocabulary:
        from tokenizers import Tokenizer

        try:
            tokenizer = Tokenizer.from_file(str(folder / _FILE))
            pad = int((tokenizer.padding or {})["pad_id"])
        except Exception as error:  # tokenizers raises Exception itself
            raise InputError(f"not a tokenizer ({error})", file=folder / _FILE, fix="prepare the run again") from None
        return cls(tokenizer, pad=pad)
