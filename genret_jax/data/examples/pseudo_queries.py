"""Pseudo-queries: stretches and words of a document that stand in for the queries it has not got.

Drawn afresh at every step they are what carries a generative index from scratch; synthetic queries are also what
matters most as a corpus grows (Pradeep et al. 2023, arXiv 2305.11841).
"""

import dataclasses

import numpy as np
from jaxtyping import Bool, Float64, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.store import NO_WORD, ExampleStore
from genret_jax.validation import check_fields, require

SPAN, WINDOW, SENTENCE, TERMS = range(4)
_KIND, _LENGTH, _START, _COUNT, _TERMS = range(100, 105)  # streams of the counter-based random numbers
_DRAWS_PER_TERM = 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class PseudoQueries:
    """How pseudo-queries are drawn from a document's words.

    Weights are relative; lengths are in words, both ends included.

    Attributes:
        span_weight: Short stretches, about as long as a query.
        span_words: Their lengths.
        window_weight: Longer stretches.
        window_words: Their lengths.
        sentence_weight: Whole sentences.
        terms_weight: Distinct words, drawn with their idf as weight, in the order drawn.
        terms: How many.
    """

    span_weight: float = 1.0
    span_words: tuple[int, int] = (5, 12)
    window_weight: float = 1.0
    window_words: tuple[int, int] = (8, 24)
    sentence_weight: float = 0.0
    terms_weight: float = 1.0
    terms: tuple[int, int] = (3, 8)

    def __post_init__(self) -> None:
        check_fields(self)
        for name in ("span_weight", "window_weight", "sentence_weight", "terms_weight"):
            require(self, name, getattr(self, name) >= 0, "0 or more")
        require(self, "span_weight", sum(self.weights) > 0, "some weight above 0")
        for name in ("span_words", "window_words", "terms"):
            low, high = getattr(self, name)
            require(self, name, 1 <= low <= high, "(least, most), at least 1")

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The weights of span, window, sentence and terms."""
        return self.span_weight, self.window_weight, self.sentence_weight, self.terms_weight

    def draw(
        self, store: ExampleStore, documents: Int[np.ndarray, " b"], random: RowRandom, width: int
    ) -> tuple[Int32[np.ndarray, "b width"], Int[np.ndarray, " b"]]:
        """Draw one pseudo-query a document.

        Args:
            store: Where the documents are.
            documents: Indices of documents with words.
            random: Random numbers of these rows.
            width: Most words to return a row.

        Returns:
            Word numbers, -1 for none, and the kind of each (``SPAN``, ``WINDOW``, ``SENTENCE`` or ``TERMS``).
        """
        kinds = choose(self.weights, random.uniform(_KIND))
        offsets = store.array("document_offsets")
        first, available = offsets[documents], offsets[documents + 1] - offsets[documents]
        low, high = np.array([self.span_words, self.window_words, (1, 1), (1, 1)]).T[:, kinds]
        lengths = np.minimum(low + random.below(_LENGTH, high - low + 1), available)
        starts = first + random.below(_START, available - lengths + 1)
        sentence_starts, sentence_lengths = self._sentences(store, documents, random)
        starts = np.where(kinds == SENTENCE, sentence_starts, starts)
        lengths = np.where(kinds == SENTENCE, sentence_lengths, lengths)
        words = store.words("document_words", starts, lengths, width)
        rows = np.flatnonzero(kinds == TERMS)
        if len(rows):
            words[rows] = self._draw_terms(store, documents[rows], random.select(rows), width)
        return words, kinds

    def _sentences(
        self, store: ExampleStore, documents: Int[np.ndarray, " b"], random: RowRandom
    ) -> tuple[Int[np.ndarray, " b"], Int[np.ndarray, " b"]]:
        """Choose a sentence of each document, all alike likely: positions of first words, and lengths."""
        offsets, starts = store.array("sentence_offsets"), store.array("sentence_starts")
        first, last = offsets[documents], offsets[documents + 1] - 1
        chosen = first + random.below(_START, last - first + 1)
        words = store.array("document_offsets")
        size = words[documents + 1] - words[documents]
        ends = np.where(chosen == last, size, starts[np.minimum(chosen + 1, len(starts) - 1)])
        return words[documents] + starts[chosen], ends - starts[chosen]

    def _draw_terms(
        self, store: ExampleStore, documents: Int[np.ndarray, " b"], random: RowRandom, width: int
    ) -> Int32[np.ndarray, "b width"]:
        """Draw distinct words one after the other, each with a chance in proportion to its idf.

        Drawing with repetition and keeping the first distinct ones is the same as drawing without. A document of few
        words may run out of draws and give fewer.
        """
        low, high = self.terms
        count = low + random.below(_COUNT, np.full(len(documents), high - low + 1))
        bag, ends = store.array("bag_offsets"), store.array("bag_idf_ends")
        first, last = bag[documents], bag[documents + 1]
        below = np.where(first > 0, ends[first - 1], 0.0)
        draws = random.uniforms(_TERMS, high * _DRAWS_PER_TERM)
        points = below[:, None] + draws * (ends[last - 1] - below)[:, None]
        found = np.searchsorted(ends, points, side="right")
        words = store.array("bag_words")[np.clip(found, first[:, None], last[:, None] - 1)]
        chosen = keep_first(first_occurrences(words), count)
        return compact(np.where(chosen, words, np.int32(NO_WORD)), width)


def choose(weights: tuple[float, ...], uniform: Float64[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """Choose an index for each number in [0, 1), with chances in proportion to the weights."""
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


def keep_first(chosen: Bool[np.ndarray, "b w"], count: Int[np.ndarray, " b"]) -> Bool[np.ndarray, "b w"]:
    """Keep the first ``count`` of the chosen places in each row."""
    return chosen & (np.cumsum(chosen, axis=1) <= count[:, None])


def compact(words: Int32[np.ndarray, "b w"], width: int) -> Int32[np.ndarray, "b width"]:
    """Move the words of each row to its front, in their order, and cut or pad with -1 to ``width`` columns."""
    order = np.argsort(words == NO_WORD, axis=1, kind="stable")[:, :width]
    moved = np.take_along_axis(words, order, axis=1)
    return np.pad(moved, ((0, 0), (0, width - moved.shape[1])), constant_values=NO_WORD)
