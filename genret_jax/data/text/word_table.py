"""A table of distinct words with their tokens, and texts as sequences of word numbers."""

from array import array
from collections.abc import Iterable

import numpy as np
from jaxtyping import Bool, Int32, Int64

from genret_jax.data.text.vocabulary import Vocabulary
from genret_jax.data.text.words import sentences


class WordSequences:
    """Sequences of word numbers, one after the other in one growing array."""

    def __init__(self) -> None:
        self._words = array("i")
        self._ends = array("q", [0])

    def append(self, words: Iterable[int]) -> None:
        """Add one sequence."""
        self._words.extend(words)
        self._ends.append(len(self._words))

    @property
    def words(self) -> Int32[np.ndarray, " total"]:
        """The words of all sequences."""
        return np.frombuffer(self._words, np.int32) if self._words else np.zeros(0, np.int32)

    @property
    def offsets(self) -> Int64[np.ndarray, " sequences_plus_1"]:
        """Sequence i has ``words[offsets[i]:offsets[i + 1]]``."""
        return np.frombuffer(self._ends, np.int64)


class WordTable:
    """Numbers words in the order in which they first occur.

    Args:
        vocabulary: Vocabulary that splits texts into words, and words into tokens.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def words(self) -> list[str]:
        """All words, in the order of their numbers."""
        return list(self._numbers)

    def add(self, words: Iterable[str]) -> Int32[np.ndarray, " w"]:
        """Return the numbers of words; new words are added."""
        known = self._numbers
        return np.fromiter((known.setdefault(word, len(known)) for word in words), np.int32)

    def numbers(self, text: str) -> list[int]:
        """Return the word numbers of a text; new words are added."""
        known = self._numbers
        return [known.setdefault(word, len(known)) for word in self.vocabulary.words(text)]

    def numbers_by_sentence(self, text: str) -> list[list[int]]:
        """Return the word numbers of each sentence that has words; new words are added."""
        return [numbers for sentence in sentences(text) if (numbers := self.numbers(sentence))]

    def segmentations(self, limit: int) -> dict[str, np.ndarray]:
        """Return the segmentations of every word into tokens, the best one first.

        Args:
            limit: Most segmentations of a word.

        Returns:
            ``segment_tokens`` [total] and ``segment_offsets`` [s + 1]: segmentation i has the tokens from offset i to
            offset i + 1; ``word_segments`` [w + 1]: word j has the segmentations from entry j to entry j + 1.
        """
        tokens, ends, words = array("i"), array("i", [0]), array("i", [0])
        for word in self._numbers:
            for segmentation in self.vocabulary.segmentations(word, limit):
                tokens.extend(segmentation)
                ends.append(len(tokens))
            words.append(len(ends) - 1)
        packed = {"segment_tokens": tokens, "segment_offsets": ends, "word_segments": words}
        return {name: np.array(values, np.int32) for name, values in packed.items()}

    def are_among(self, chosen: frozenset[str]) -> Bool[np.ndarray, " w"]:
        """Mark the words that are among the chosen ones, ignoring case and white space around them."""
        return np.fromiter((word.strip().lower() in chosen for word in self._numbers), bool, len(self._numbers))
