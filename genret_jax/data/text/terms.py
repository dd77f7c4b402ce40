"""Terms: what a lexical score compares, made from the words of a text."""

import functools
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int32, Int64

from genret_jax.data.text.words import STOP_WORDS, normalized_words


@functools.lru_cache(maxsize=1 << 18)
def _stem(word: str) -> str:
    import snowballstemmer

    return str(snowballstemmer.stemmer("english").stemWord(word))


def terms_of(text: str) -> list[str]:
    """Return the terms of a text, in their order: stems of its normalised words, by Snowball's English stemmer."""
    return [_stem(word) for word in normalized_words(text)]


@functools.cache
def stop_terms() -> frozenset[str]:
    """Return the terms of English stop words."""
    return frozenset(_stem(word) for word in STOP_WORDS)


def term_rows(texts: Sequence[str], width: int, numbers: Mapping[str, int]) -> Int32[np.ndarray, "n w"]:
    """Return the numbers of the terms of texts, padded with 0; unknown ones are left out.

    Args:
        texts: Texts.
        width: Terms of a text that are returned.
        numbers: Number of each known term, from 1.
    """
    rows = np.zeros((len(texts), width), np.int32)
    for row, text in zip(rows, texts, strict=True):
        known = [numbers[term] for term in terms_of(text) if term in numbers][:width]
        row[: len(known)] = known
    return rows


def number_terms(
    words: list[str],
) -> tuple[list[str], Int32[np.ndarray, " total"], Int64[np.ndarray, " words_plus_1"]]:
    """Number the terms of a vocabulary's words.

    Args:
        words: Words of a vocabulary; each may hold several terms, or none.

    Returns:
        The terms, of which the first has number 1; the terms of all words, one word after the other; and where those of
        each word begin.
    """
    numbers: dict[str, int] = {}
    of_words = [[numbers.setdefault(term, len(numbers) + 1) for term in terms_of(word)] for word in words]
    ends = np.cumsum([0, *map(len, of_words)], dtype=np.int64)
    return list(numbers), np.array([number for terms in of_words for number in terms], np.int32), ends
