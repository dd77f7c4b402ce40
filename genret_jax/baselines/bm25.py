"""BM25 by bm25s: what a search engine gives with no training at all."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from genret_jax.errors import InputError
from genret_jax.validation import check_fields, require


class Documents(Protocol):
    """What is searched; a ``data.corpus.Corpus`` is one."""

    @property
    def doc_ids(self) -> Sequence[str]: ...

    def document_text(self, index: int, /) -> str: ...


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
        self._index.index(tokens, show_progress=False)

    def search(self, queries: Mapping[str, str], k: int) -> dict[str, list[tuple[str, float]]]:
        """Rank documents for queries.

        Args:
            queries: Query id to text.
            k: Most results a query.

        Returns:
            Query id to (document id, score) from best to worst; ties by order in the corpus. Documents that share no
            word with the query are not results.
        """
        depth = min(k, len(self.doc_ids))
        tokens = self._tokenize(list(queries.values()))
        # bm25s would take its jax backend wherever jax is installed, and compile for each query length.
        found, scores = self._index.retrieve(tokens, k=depth, show_progress=False, backend_selection="numpy")
        order = np.lexsort((found, -scores))
        found, scores = np.take_along_axis(found, order, 1), np.take_along_axis(scores, order, 1)
        return {
            query: [(self.doc_ids[d], s) for d, s in zip(row.tolist(), row_scores.tolist(), strict=True) if s > 0]
            for query, row, row_scores in zip(queries, found, scores, strict=True)
        }

    def _tokenize(self, texts: list[str]) -> list[list[str]]:
        stop_words = "english" if self.config.stop_words else []
        return self._bm25s.tokenize(
            texts, stopwords=stop_words, stemmer=self._stemmer, return_ids=False, show_progress=False, allow_empty=False
        )


def _import_bm25s(config: Bm25Config) -> tuple[Any, Any]:
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise InputError(
            f"BM25 needs {error.name}, which is not installed", fix="pip install 'genret_jax[baselines]'"
        ) from None
    return bm25s, Stemmer.Stemmer("english") if config.stemmer else None
