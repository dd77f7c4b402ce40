"""Pseudo-queries: stretches and words of a document, for training on documents that have few queries or none.

They are drawn afresh at every step. Without pretrained weights a generative index needs them most; and as a corpus
grows, synthetic queries matter more than any other part of training (Pradeep et al. 2023, arXiv 2305.11841).
"""

import dataclasses
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float64, Int

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.store import NO_WORD, ExampleStore, Rows, Words, pack_rows
from genret_jax.validation import at_least, check_fields, require

SPAN, WINDOW, SENTENCE, TERMS = range(4)
_KIND, _LENGTH, _START, _COUNT, _TERMS = range(100, 105)  # streams of the counter-based random numbers
_DRAWS_PER_TERM = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoQueries:
    """Kinds of pseudo-queries that are drawn from a document's words.

    Weights are relative; lengths are (least, most) words, both included.

    Attributes:
        span_weight: Weight of short stretches, about as long as a query.
        span_words: Their lengths.
        window_weight: Weight of longer stretches.
        window_words: Their lengths.
        sentence_weight: Weight of whole sentences.
        terms_weight: Weight of distinct words, drawn in proportion to their idf and shown in the order drawn.
        terms: Numbers of these words.
    """

    span_weight: Annotated[float, at_least(0)] = 1.0
    span_words: tuple[int, int] = (5, 12)
    window_weight: Annotated[float, at_least(0)] = 1.0
    window_words: tuple[int, int] = (8, 24)
    sentence_weight: Annotated[float, at_least(0)] = 0.0
    terms_weight: Annotated[float, at_least(0)] = 1.0
    terms: tuple[int, int] = (3, 8)

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "span_weight", sum(self.weights) > 0, "some weight above 0")
        for name in ("span_words", "window_words", "terms"):
            low, high = getattr(self, name)
            require(self, name, 1 <= low <= high, "(least, most), at least 1")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """Weights of span, window, sentence and terms."""
        return self.span_weight, self.window_weight, self.sentence_weight, self.terms_weight

    def draw(self, store: ExampleStore, documents: Rows, random: RowRandom, width: int) -> tuple[Words, Rows]:
        """Draw one pseudo-query a document.

        Args:
            store: The store of the documents.
            documents: Indices of documents with words.
            random: Random numbers of these rows.
            width: Columns to return, at most as many words a row.

        Returns:
            Word numbers, padded with -1, and the kind of each row (``SPAN``, ``WINDOW``, ``SENTENCE`` or ``TERMS``).
        """
        kinds = choose(self.weights, random.uniform(_KIND))
        first, available = store.spans("document", documents)
        low, high = np.array([self.span_words, self.window_words, (1, 1), (1, 1)]).T[:, kinds]
        lengths = np.minimum(low + random.below(_LENGTH, high - low + 1), available)
        starts = first + random.below(_START, available - lengths + 1)
        sentence_starts, sentence_lengths = self._sentences(store, documents, random)
        starts = np.where(kinds == SENTENCE, sentence_starts, starts)
        lengths = np.where(kinds == SENTENCE, sentence_lengths, lengths)
        words = store.words("document_words", starts, lengths, width)
        rows = np.flatnonzero(kinds == TERMS)
        words[rows] = self._draw_terms(store, documents[rows], random.select(rows), width)
        return words, kinds

    def _sentences(self, store: ExampleStore, documents: Rows, random: RowRandom) -> tuple[Rows, Rows]:
        """Choose a sentence of each document, all equally likely; return positions of first words, and lengths."""
        starts = store.array("sentence_starts")
        first, count = store.spans("sentence", documents)
        chosen = first + random.below(_START, count)
        first_word, size = store.spans("document", documents)
        ends = np.where(chosen == first + count - 1, size, starts[np.minimum(chosen + 1, len(starts) - 1)])
        return first_word + starts[chosen], ends - starts[chosen]

    def _draw_terms(self, store: ExampleStore, documents: Rows, random: RowRandom, width: int) -> Words:
        """Draw distinct words one after the other, each with a probability in proportion to its idf.

        To draw with repetition and keep the first occurrences is the same as to draw without repetition. For a document
        of few words the draws may not suffice, and fewer words are returned.
        """
        low, high = self.terms
        count = low + random.below(_COUNT, np.full(len(documents), high - low + 1))
        ends = store.array("bag_idf_ends")
        first, count_of_bag = store.spans("bag", documents)
        last = first + count_of_bag
        below = np.where(first > 0, ends[first - 1], 0.0)
        draws = random.uniforms(_TERMS, high * _DRAWS_PER_TERM)
        points = below[:, None] + draws * (ends[last - 1] - below)[:, None]
        found = np.searchsorted(ends, points, side="right")
        words = store.array("bag_words")[np.clip(found, first[:, None], last[:, None] - 1)]
        first_time = first_occurrences(words)
        chosen = first_time & (np.cumsum(first_time, axis=1) <= count[:, None])
        return pack_rows(words, chosen, width, NO_WORD)


def choose(weights: tuple[float, ...], uniform: Float64[np.ndarray, " b"]) -> Rows:
    """Choose an index for each number in [0, 1), with a probability in proportion to its weight."""
    ends = np.cumsum(weights)
    return np.searchsorted(ends / ends[-1], uniform, side="right")


def first_occurrences(values: Int[np.ndarray, "b w"]) -> Bool[np.ndarray, "b w"]:
    """Return where a value occurs in its row for the first time."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    new = np.ones(values.shape, bool)
    new[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    first = np.empty_like(new)
    np.put_along_axis(first, order, new, axis=1)
    return first
