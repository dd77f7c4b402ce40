"""BM25 tuned to a corpus, alone and beside vectors: constants and the use of training queries.

They are chosen on training queries that are left out one after the other; no other queries are read.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from genret_jax.data.text.lsa import bm25, bm25_idf, votes_of_left_out

_LEFT_OUT, _AT_ONCE = 500, 100  # queries to leave out, and those that are scored at once against all documents
_CONSTANTS = ((0.6, 0.4), (0.9, 0.4), (0.9, 0.6), (1.2, 0.4), (1.2, 0.75), (1.8, 0.75))
_USUAL = (1.2, 0.6)  # without training queries
_QUERY_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0)
_BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_VECTOR_WEIGHTS = (0.0, 0.05, 0.15, 0.5)
#: BM25 points that a cosine of 1 counts for; of 10, 15, 20, 30, this was best or near on four collections.
COSINE_POINTS = 20.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a tuned BM25.

    Attributes:
        k1: Saturation of term frequency.
        b: Normalisation by document length.
        query_weight: Terms of a document that a term of a training query it answers counts for.
        bonus: Score added to documents without training queries, which lack the words that others got from theirs.
        vector_weight: Share of the mean vector of its training queries that is added to the vector of a document.
    """

    k1: float = _USUAL[0]
    b: float = _USUAL[1]
    query_weight: float = 0.0
    bonus: float = 0.0
    vector_weight: float = 0.0

    def describe(self) -> str:
        """Return the settings in one line."""
        parts = [f"BM25, k1 {self.k1:g}, b {self.b:g}", f"words of training queries × {self.query_weight:g}"]
        parts += [f"their vectors × {self.vector_weight:g}", f"bonus {self.bonus:g} for documents without"]
        used = self.query_weight or self.vector_weight or self.bonus
        return ", ".join(parts if used else parts[:1])


@dataclasses.dataclass(frozen=True, kw_only=True)
class LexicalDocuments:
    """The terms of documents with their weights.

    Attributes:
        weights: scipy CSR [n, t]; what each term of a query adds to the score of each document.
        bias: float32 [n]; added to the score of each document.
        settings: The settings.
    """

    weights: Any
    bias: Float[np.ndarray, " n"]
    settings: Settings


def lexical_documents(
    counts: Any, queries: Any, answers: Any, *, seed: int = 0, settings: Settings | None = None
) -> LexicalDocuments:
    """Weigh the terms of documents by BM25, with the idf of documents and queries.

    Args:
        counts: Occurrences of each term in each document, scipy CSR [n, t].
        queries: Occurrences of each term in each training query, scipy CSR [q, t].
        answers: One where a document answers a query, scipy CSR [n, q].
        seed: Seed of the sample of held-out queries.
        settings: The settings; chosen on held-out queries by default.
    """
    settings = settings or choose_settings(counts, queries, answers, seed)
    asked = np.asarray(answers.sum(axis=1)).ravel() > 0
    whole = scipy.sparse.csr_matrix(counts + settings.query_weight * (answers @ queries))
    weights = bm25(whole, bm25_idf(counts, queries), k1=settings.k1, b=settings.b)
    bias = np.where(asked, 0.0, settings.bonus).astype(np.float32)
    return LexicalDocuments(weights=weights, bias=bias, settings=settings)


def choose_settings(counts: Any, queries: Any, answers: Any, seed: int) -> Settings:
    """Choose the settings with the highest mean reciprocal rank among ten for training queries that are left out.

    A training query helps to find its document for other queries; but documents without training queries then lose
    against those with some. Left-out queries over-represent the second case: a document with a single query has none
    left once that is left out. So the mean over documents with further queries and the mean over those without are
    weighted by the share of such documents in the corpus.

    Args:
        counts: As for :func:`lexical_documents`, like all that follow.
        queries: Training queries.
        answers: What they answer.
        seed: Seed of the sample.
    """
    document, query = answers.nonzero()
    if not len(document):
        return Settings()
    drawn = np.random.default_rng(seed).permutation(len(query))[:_LEFT_OUT]
    left_out = _LeftOut(counts, queries, answers, document[drawn], query[drawn])
    weights = _QUERY_WEIGHTS if left_out.again.any() else (0.0,)
    best = max((left_out.best_bonus(Settings(query_weight=weight)) for weight in weights), key=lambda found: found[0])
    tried = (dataclasses.replace(best[1], k1=k1, b=b) for k1, b in _CONSTANTS)
    return max([best, *map(left_out.best_bonus, tried)], key=lambda found: found[0])[1]


def choose_beside_vectors(
    settings: Settings,
    counts: Any,
    queries: Any,
    answers: Any,
    seed: int,
    *,
    documents: Float[np.ndarray, "n d"],
    asked: Float[np.ndarray, "q d"],
) -> Settings:
    """Choose the bonus and the weight of queries' vectors for the sum of BM25 and :data:`COSINE_POINTS` × cosine.

    Args:
        settings: The other settings.
        counts: As for :func:`lexical_documents`, like the next three.
        queries: Training queries.
        answers: What they answer.
        seed: Seed of the sample.
        documents: Vectors of the documents, of length 1.
        asked: Vectors of the training queries, of length 1.
    """
    document, query = answers.nonzero()
    if not len(document):
        return settings
    drawn = np.random.default_rng(seed).permutation(len(query))[:_LEFT_OUT]
    left_out = _LeftOut(counts, queries, answers, document[drawn], query[drawn])
    tried = (dataclasses.replace(settings, vector_weight=weight) for weight in _VECTOR_WEIGHTS)
    vectors = QueryMeans(answers, documents, asked)
    return max((left_out.best_bonus(one, vectors) for one in tried), key=lambda found: found[0])[1]


class QueryMeans:
    """Mean vectors of the training queries of documents, with and without one of them.

    Args:
        answers: One where a document answers a query, scipy CSR [n, q].
        documents: Vectors of the documents.
        asked: Vectors of the queries.
    """

    def __init__(self, answers: Any, documents: Float[np.ndarray, "n d"], asked: Float[np.ndarray, "q d"]):
        self.documents, self.asked = np.asarray(documents, np.float32), np.asarray(asked, np.float32)
        self.sums = np.asarray(answers @ self.asked, np.float32)
        self.counts = np.asarray(answers.sum(axis=1), np.float32).reshape(-1, 1)

    def rows(self, weight: float) -> Float[np.ndarray, "n d"]:
        """Return the vectors of documents with a share of their queries' mean."""
        return self.documents + weight * self.sums / np.maximum(self.counts, 1)

    def change(
        self, document: Int[np.ndarray, " p"], query: Int[np.ndarray, " p"], weight: float
    ) -> Float[np.ndarray, "p d"]:
        """Return the change of each document's row when one of its queries is left out."""
        sums, counts = self.sums[document], self.counts[document]
        return weight * ((sums - self.asked[query]) / np.maximum(counts - 1, 1) - sums / np.maximum(counts, 1))


class _LeftOut:
    """Training queries that are left out, one after the other.

    Attributes:
        again: Whether the document of each query has other queries.
    """

    def __init__(
        self, counts: Any, queries: Any, answers: Any, document: Int[np.ndarray, " q"], query: Int[np.ndarray, " q"]
    ):
        self._counts, self._answers, self._document, self._query = counts, answers, document, query
        self._asked, self._idf = queries[query], bm25_idf(counts, queries)
        self._from_queries = answers @ queries
        number = np.asarray(answers.sum(axis=1)).ravel()
        self.again: Bool[np.ndarray, " q"] = number[document] > 1
        self._without = number == 0
        self._votes = votes_of_left_out(self.again, float(np.mean(number > 0)))

    def best_bonus(self, settings: Settings, vectors: QueryMeans | None = None) -> tuple[float, Settings]:
        """Return the value of settings with their best bonus, and these settings; with vectors, that of the sum."""
        constants, weight = {"k1": settings.k1, "b": settings.b}, settings.query_weight
        whole = scipy.sparse.csr_matrix(self._counts + weight * self._from_queries)
        usual = float(whole.sum()) / whole.shape[0]
        weighted = bm25(whole, self._idf, **constants).T.tocsc()
        reduced = _without(whole, self._document, self._asked, weight, self._idf, usual, constants)
        own = np.asarray(reduced.multiply(self._asked).sum(axis=1)).ravel()
        used = weight or settings.vector_weight
        bonuses = np.array(_BONUSES if used else (0.0,), np.float32)
        values = np.zeros(len(bonuses))
        if vectors is not None:
            asked, rows_of = vectors.asked[self._query], vectors.rows(settings.vector_weight)
            mine_alone = rows_of[self._document] + vectors.change(self._document, self._query, settings.vector_weight)
            own = own + COSINE_POINTS * np.sum(asked * mine_alone, axis=1)
        for first in range(0, len(own), _AT_ONCE):
            rows = slice(first, first + _AT_ONCE)
            others = np.asarray((self._asked[rows] @ weighted).todense())
            if vectors is not None:
                others += COSINE_POINTS * asked[rows] @ rows_of.T
            others[self._answers[:, self._query[rows]].T.nonzero()] = -np.inf
            for number, bonus in enumerate(bonuses):
                mine = own[rows] + np.where(self.again[rows], 0, bonus)
                rank = 1 + np.sum(others + bonus * self._without[None] > mine[:, None], axis=1)
                values[number] += np.sum(self._votes[rows] * np.where(rank <= 10, 1 / rank, 0.0))
        best = int(np.argmax(values))
        return float(values[best]), dataclasses.replace(settings, bonus=float(bonuses[best]))


def _without(
    whole: Any,
    document: Int[np.ndarray, " p"],
    asked: Any,
    weight: float,
    idf: Float[np.ndarray, " t"],
    usual: float,
    constants: dict[str, float],
) -> Any:
    """Return the weights of documents without the words of one of their queries, a row for each pair."""
    without = scipy.sparse.csr_matrix(whole[document] - weight * asked)
    without.data = np.maximum(without.data, 0)  # rounding
    return bm25(without, idf, usual_length=usual, **constants)


def changes_without(
    counts: Any, queries: Any, answers: Any, settings: Settings
) -> tuple[Int[np.ndarray, " p"], Int[np.ndarray, " p"], Any, Float[np.ndarray, " p"]]:
    """Return how the terms and the bias of a document change when one of its training queries is left out.

    Args:
        counts: As for :func:`lexical_documents`, like all that follow.
        queries: Training queries.
        answers: What they answer.
        settings: The settings.

    Returns:
        Documents and queries of all pairs; the changes of the weights of the query's terms, scipy CSR [p, t]; and the
        changes of the bias.
    """
    document, query = answers.nonzero()
    asked, idf, weight = queries[query], bm25_idf(counts, queries), settings.query_weight
    constants = {"k1": settings.k1, "b": settings.b}
    whole = scipy.sparse.csr_matrix(counts + weight * (answers @ queries))
    usual = float(whole.sum()) / whole.shape[0]
    reduced = _without(whole, document, asked, weight, idf, usual, constants)
    change = scipy.sparse.csr_matrix((reduced - bm25(whole, idf, **constants)[document]).multiply(asked > 0))
    change.sort_indices()
    alone = np.asarray(answers.sum(axis=1)).ravel()[document] == 1
    return document, query, change, np.where(alone, settings.bonus, 0.0).astype(np.float32)
