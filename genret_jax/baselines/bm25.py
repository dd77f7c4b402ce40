"""BM25 by bm25s: what a search engine gives with no training at all."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from genret_jax.data.text.words import spaced
from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require


@runtime_checkable
class Documents(Protocol):
    """What is searched; a ``data.corpus.Corpus`` is one."""

    @property
    def doc_ids(self) -> Sequence[str]:
        """External ids, [n]."""
        ...

    def document_text(self, index: int, /) -> str:
        """Title and text of a document as one string."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bm25Config:
    """The variant and its constants; the defaults are bm25s's own.

    Attributes:
        k1: Saturation of term frequency. Lucene and bm25s take 1.5 or 1.2, Anserini's BEIR runs 0.9.
        b: Normalisation by document length; Anserini's BEIR runs take 0.4.
        stop_words: Drop bm25s's list of English stop words.
        stemmer: Reduce words to stems by Snowball's English stemmer.
    """

    k1: float = 1.5
    b: float = 0.75
    stop_words: bool = True
    stemmer: bool = True

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "k1", self.k1 >= 0, "a number of at least 0")
        require(self, "b", 0 <= self.b <= 1, "a number from 0 to 1")

    def describe(self) -> str:
        """Return one line for a report."""
        words = "English stop words" if self.stop_words else "no stop words"
        stems = "Snowball stemmer" if self.stemmer else "no stemmer"
        return f"bm25s, Lucene variant, k1 {self.k1:g}, b {self.b:g}, {words}, {stems}"


class Bm25:
    """An index of a corpus's ``title. text``, by Lucene's variant of BM25 (Kamphuis et al., ECIR 2020).

    Args:
        corpus: Document ids and texts.
        config: Constants and text processing.

    Raises:
        InputError: If bm25s or PyStemmer is not installed, or no document has a word.
    """

    def __init__(self, corpus: Documents, config: Bm25Config | None = None):
        self.config = config or Bm25Config()
        self._bm25s, self._stemmer = _import_bm25s(self.config)
        self.doc_ids = tuple(corpus.doc_ids)
        tokens = self._tokenize([corpus.document_text(index) for index in range(len(self.doc_ids))])
        if not any(tokens):
            raise InputError("no document with a word to index", expected="documents with text")
        self._index = self._bm25s.BM25(method="lucene", k1=self.config.k1, b=self.config.b, backend="numpy")
        self._index.index(tokens, show_progress=False, create_empty_token=False)

    def search(self, queries: Mapping[str, str], k: int) -> dict[str, list[tuple[str, float]]]:
        """Rank documents for queries.

        Args:
            queries: Query id to text.
            k: Most results a query.

        Returns:
            Query id to (document id, score) from best to worst; ties by order in the corpus. Documents that share no
            word with the query are not results.
        """
        rankings = {}
        for query, tokens in zip(queries, self._tokenize(list(queries.values())), strict=True):
            found, scores = _best(self._index.get_scores(tokens), k) if tokens else ((), ())
            rankings[query] = [(self.doc_ids[d], float(s)) for d, s in zip(found, scores, strict=True)]
        return rankings

    def _tokenize(self, texts: list[str]) -> list[list[str]]:
        stop_words = "english" if self.config.stop_words else []
        tokens = self._bm25s.tokenize(
            [spaced(text) for text in texts],
            stopwords=stop_words,
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )
        return [[token for token in text if token] for text in tokens]  # a text without words comes back as [""]


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the documents of the k highest positive scores and the scores; ties by order in the corpus."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        kth = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= kth]  # all that tie for the last place, of which the first remain below
    found = found[np.argsort(-scores[found], kind="stable")][:k]
    return found, scores[found]


def _import_bm25s(config: Bm25Config) -> tuple[Any, Any]:
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise InputError(
            f"BM25 needs {error.name}, which is not installed",
            fix="pip install 'genret_jax[baselines]', or leave it out (genret evaluate --no-bm25)",
        ) from None
    return bm25s, Stemmer.Stemmer("english") if config.stemmer else None
