"""BM25 by bm25s: search by shared words, without any training."""

import dataclasses
import logging
import re
import unicodedata
from collections.abc import Collection, Mapping
from typing import Annotated, Any

import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.words import normalized_words, spaced
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.report import System, cost
from genret_jax.evaluation.trec import rankings_by_id
from genret_jax.validation import at_least, check_fields, from_to

BM25_DEPTH = 100
_KNOWN = "BM25, k1 0.9, b 0.4"
#: Names of the rows of :func:`bm25_answers` in a report.
BM25_NAMES = frozenset({"BM25", "BM25, raw text", _KNOWN, f"{_KNOWN}, training queries"})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bm25Config:
    """Constants and text processing; the defaults are those of bm25s.

    Attributes:
        k1: Saturation of term frequency; 1.5 in bm25s, 1.2 in Lucene, 0.9 in Anserini's BEIR runs.
        b: Normalisation by document length; 0.4 in Anserini's BEIR runs.
        stop_words: Drop the English stop words of bm25s.
        stemmer: Reduce words to stems with Snowball's English stemmer.
    """

    k1: Annotated[float, at_least(0)] = 1.5
    b: Annotated[float, from_to(0, 1)] = 0.75
    stop_words: bool = True
    stemmer: bool = True

    def __post_init__(self) -> None:
        check_fields(self)

    def describe(self) -> str:
        """Return one line for a report."""
        words = "English stop words" if self.stop_words else "no stop words"
        stems = "Snowball stemmer" if self.stemmer else "no stemmer"
        return f"bm25s, Lucene variant, k1 {self.k1:g}, b {self.b:g}, {words}, {stems}"


class Bm25:
    """An index of the titles and texts of a corpus, with Lucene's variant of BM25 (Kamphuis et al., ECIR 2020).

    Args:
        corpus: Document ids and texts.
        config: Constants and text processing.

    Raises:
        InputError: If bm25s or PyStemmer is not installed, or no document has a word.
    """

    def __init__(self, corpus: Corpus, config: Bm25Config | None = None):
        self.config = config or Bm25Config()
        self._bm25s, self._stemmer = _import_bm25s(self.config)
        self.doc_ids = tuple(corpus.doc_ids)
        tokens = self._tokenize([corpus.document_text(index) for index in range(len(self.doc_ids))])
        if not any(tokens):
            raise InputError("no document with a word to index", expected="documents with text")
        self._index = self._bm25s.BM25(method="lucene", k1=self.config.k1, b=self.config.b, backend="numpy")
        self._index.index(tokens, show_progress=False, create_empty_token=False)

    @property
    def num_bytes(self) -> int:
        """Size of the postings, without the words."""
        return sum(int(self._index.scores[name].nbytes) for name in ("data", "indices", "indptr"))

    def search(self, queries: Mapping[str, str], k: int) -> dict[str, list[tuple[str, float]]]:
        """Rank documents for queries.

        Args:
            queries: Query id to text.
            k: Most results per query.

        Returns:
            Query id to (document id, score) from best to worst; documents with equal scores are in the order of the
            corpus. Documents that share no word with the query are not results.
        """
        tokens = self._tokenize(list(queries.values()))
        best = [_best(self._index.get_scores(words), k) if words else ([], []) for words in tokens]
        return rankings_by_id(queries, self.doc_ids, (found for found, _ in best), (scores for _, scores in best))

    def _tokenize(self, texts: list[str]) -> list[list[str]]:
        stop_words = "english" if self.config.stop_words else []
        tokens = self._bm25s.tokenize(
            [spaced(text) for text in texts],
            token_pattern=_token_pattern(texts),
            stopwords=stop_words,
            stemmer=self._stemmer,
            return_ids=False,
            show_progress=False,
        )
        return [[token for token in text if token] for text in tokens]  # a text without words comes back as [""]


def _token_pattern(texts: list[str]) -> str:
    """Return bm25s's pattern of a word, two or more letters or digits, for texts in any script.

    Python's ``re`` does not count combining marks as letters, and Hindi vowels are such marks. A single character is a
    word in scripts that have no spaces or write syllables, the first of which is Thai at U+0E00.
    """
    characters = set().union(*(text for text in texts if not text.isascii()))
    marks = "".join(sorted(one for one in characters if unicodedata.category(one).startswith("M")))
    return f"[\\w{re.escape(marks)}]{{2,}}|[^\\W\\x00-\u0dff]"


def _best(scores: np.ndarray, k: int) -> tuple[list[int], list[float]]:
    """Return the documents of the k highest positive scores, and these scores; of equal ones the first documents."""
    found = np.flatnonzero(scores > 0)
    if len(found) > k:
        kth = np.partition(scores[found], len(found) - k)[len(found) - k]
        found = found[scores[found] >= kth]  # with all that tie for the last place
    found = found[np.argsort(-scores[found], kind="stable")][:k]
    return found.tolist(), scores[found].tolist()


def _import_bm25s(config: Bm25Config) -> tuple[Any, Any]:
    try:
        import bm25s
        import Stemmer
    except ImportError as error:
        raise InputError(
            f"BM25 needs {error.name}, which is not installed",
            fix="pip install 'genret_jax[baselines]', or evaluate without BM25",
        ) from None
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets its own to DEBUG, and shows it where others log
    return bm25s, Stemmer.Stemmer("english") if config.stemmer else None


def bm25_answers(corpus: Corpus, normalization: str, query_ids: Collection[str]) -> list[SystemRun]:
    """Search by BM25: over the words that runs see, so that both sides split identifiers alike, and over the raw text.

    Further rows have Anserini's constants, which suit short documents, and know the training queries as runs do.

    Args:
        corpus: The documents and queries.
        normalization: ``"words"`` or ``"none"``, as of the runs' vocabulary.
        query_ids: The queries to answer.
    """
    usual, anserini = Bm25Config(), Bm25Config(k1=0.9, b=0.4)
    seen, over, rows = corpus, "over the text", []
    if normalization == "words":
        rows = [("BM25, raw text", seen, usual, over)]
        seen, over = _as_words(seen), "over the words that the runs see"
    rows = [("BM25", seen, usual, over), *rows, (_KNOWN, seen, anserini, over)]
    if seen.qrels.get("train"):
        about = f"{over} and of the training queries that each document answers"
        rows.append((f"{_KNOWN}, training queries", with_queries(seen), anserini, about))
    systems = []
    for name, searched, config, about in rows:
        bm25 = Bm25(searched, config)
        queries = {query: searched.queries[query] for query in query_ids}
        answers, milliseconds = timed_search(bm25.search, queries, BM25_DEPTH)
        details = cost(num_bytes=bm25.num_bytes, documents=len(searched))
        system = System(name=name, description=f"{bm25.config.describe()}, {about}", details=details)
        systems.append(SystemRun(system=system, run=answers, depth=BM25_DEPTH, milliseconds_per_query=milliseconds))
    return systems


def _as_words(corpus: Corpus) -> Corpus:
    return dataclasses.replace(
        corpus,
        titles=tuple(map(_normalized, corpus.titles)),
        texts=tuple(map(_normalized, corpus.texts)),
        queries={query: _normalized(text) for query, text in corpus.queries.items()},
    )


def _normalized(text: str) -> str:
    return " ".join(normalized_words(text))


def with_queries(corpus: Corpus) -> Corpus:
    """Append to each document the training queries that it answers."""
    texts = list(corpus.texts)
    for query, grades in corpus.qrels["train"].items():
        for doc_id in grades:
            texts[corpus.document_index[doc_id]] += f" {corpus.queries[query]}"
    return dataclasses.replace(corpus, texts=tuple(texts))
