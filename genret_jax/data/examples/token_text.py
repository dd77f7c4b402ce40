"""Tokens of examples as readable text and back: words, sentinels and docids."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import Any

import numpy as np

from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.abstract_vocabulary import EOS, PAD, TokenIds, Vocabulary
from genret_jax.errors import InputError

_MARKS = re.compile(r"<(?:extra_id_(?P<sentinel>\d+)|(?P<docid>\d+(?:-\d+)*))>")


class TokenText:
    """Converts tokens of text and docids to a string and back; a docid with codes 3 and 17 reads ``<3-17>``.

    Args:
        text: Vocabulary of the text tokens; None if there are none.
        codec: JSON values of the docids' codec; None if there are no docids.
    """

    def __init__(self, text: Vocabulary | None, codec: Mapping[str, Any] | None):
        self._text = text
        self._codec = None if codec is None or codec["kind"] == "text" else dict(codec)
        self._level_starts: list[int] = []
        if self._codec is not None:
            sizes = [0, *self._codec["level_sizes"][:-1]]
            own = self._codec["kind"] == "per_level"
            starts = np.cumsum(sizes) if own else np.zeros(len(sizes), np.int64)
            self._level_starts = (self._codec["first_token"] + starts).tolist()

    @classmethod
    def of_inputs(cls, store: ExampleStore) -> "TokenText":
        """Return the converter for encoder inputs: text, and docids if they share its vocabulary."""
        return cls(store.vocabulary, store.manifest["codec"] if store.shares_vocabulary else None)

    @classmethod
    def of_targets(cls, store: ExampleStore) -> "TokenText":
        """Return the converter for decoder targets: docids, and text if they share its vocabulary."""
        return cls(store.vocabulary if store.shares_vocabulary else None, store.manifest["codec"])

    def decode(self, ids: TokenIds) -> str:
        """Return the text of tokens, without padding and EOS."""
        kept = (int(i) for i in ids if i not in (PAD, EOS))
        return " ".join(self._parts(kept)).strip()

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text that :meth:`decode` wrote, without EOS.

        Raises:
            InputError: If it has text or docids that have no tokens here.
        """
        tokens: list[int] = []
        end = 0
        for mark in _MARKS.finditer(text):
            tokens += self._encode_text(text[end : mark.start()])
            tokens += self._encode_mark(mark)
            end = mark.end()
        return tokens + self._encode_text(text[end:])

    def _parts(self, ids: Iterable[int]) -> Iterator[str]:
        for is_docid, run in groupby(ids, self._is_docid):
            if is_docid:
                yield f"<{'-'.join(str(self._code(token)) for token in run)}>"
            elif self._text is not None:
                yield self._text.decode(run).strip()

    def _is_docid(self, token: int) -> bool:
        return self._codec is not None and token >= self._codec["first_token"]

    def _code(self, token: int) -> int:
        """Return the code of a docid token: its distance from the first token of its level."""
        return token - max(start for start in self._level_starts if start <= token)

    def _encode_text(self, text: str) -> list[int]:
        if not text.strip():
            return []
        if self._text is None:
            raise InputError(f"text {text.strip()[:40]!r}", expected="docids only, such as <3-17>")
        return self._text.encode(text.strip())

    def _encode_mark(self, mark: re.Match[str]) -> list[int]:
        if mark["sentinel"] is not None:
            if self._text is None:
                raise InputError(f"sentinel {mark[0]}", expected="docids only, such as <3-17>")
            return [self._text.sentinel(int(mark["sentinel"]))]
        codes = [int(code) for code in mark["docid"].split("-")]
        if self._codec is None or len(codes) > len(self._level_starts):
            raise InputError(f"docid {mark[0]}", expected=f"at most {len(self._level_starts)} codes")
        return [start + code for start, code in zip(self._level_starts, codes, strict=False)]
