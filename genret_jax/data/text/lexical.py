"""BM25 with the words of training queries, alone and beside vectors.

:mod:`genret_jax.data.text.lexical_choice` chooses the settings.
"""

import dataclasses
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.data.text.lsa import bm25, bm25_idf

_USUAL = (1.2, 0.6)  # without training queries
_LEAST_UNIT = 1.0  # the unit of cosines for a query whose words no document has


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a tuned BM25, and of its sum with vectors.

    Attributes:
        k1: Saturation of term frequency.
        b: Normalisation by document length.
        query_weight: Terms of a document that a term of a training query it answers counts for.
        bonus: Score added to documents without training queries, which lack the words that others got from theirs.
        vector_weight: Share of the mean vector of its training queries that is added to the vector of a document.
        cosine_weight: Weight of the inner product of the vectors of query and document, in units of the highest BM25
            score that a document could have for the query. The usual one weighs both alike.
    """

    k1: float = _USUAL[0]
    b: float = _USUAL[1]
    query_weight: float = 0.0
    bonus: float = 0.0
    vector_weight: float = 0.0
    cosine_weight: float = 1.0

    def describe(self, *, vectors: bool = False) -> str:
        """Return the settings in one line.

        Args:
            vectors: Whether they are those of a sum with vectors.
        """
        parts = [f"BM25, k1 {self.k1:g}, b {self.b:g}"]
        if vectors:
            parts.append(f"+ {self.cosine_weight:g} × cosine in units of the highest BM25 score")
        if self.query_weight or self.vector_weight or self.bonus:
            parts.append(f"words of training queries × {self.query_weight:g}")
            parts += [f"their vectors × {self.vector_weight:g}"] if vectors else []
            parts.append(f"bonus {self.bonus:g} for documents without")
        return ", ".join(parts)


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

    @property
    def means(self) -> Float[np.ndarray, "n d"]:
        """The mean vectors; zero for documents without queries."""
        return self.sums / np.maximum(self.counts, 1)

    def rows(self, weight: float) -> Float[np.ndarray, "n d"]:
        """Return the vectors of documents with a share of their queries' mean."""
        return self.documents + weight * self.means

    def change(self, document: Int[np.ndarray, " p"], query: Int[np.ndarray, " p"]) -> Float[np.ndarray, "p d"]:
        """Return the change of each document's mean when one of its queries is left out."""
        sums, counts = self.sums[document], self.counts[document]
        return (sums - self.asked[query]) / np.maximum(counts - 1, 1) - sums / np.maximum(counts, 1)


class WeighedWords:
    """The words of documents with those of their training queries, weighed by BM25.

    Args:
        counts: As for :func:`lexical_documents`, like all that follow.
        queries: Training queries.
        answers: What they answer.
        settings: The settings.
    """

    def __init__(self, counts: Any, queries: Any, answers: Any, settings: Settings):
        self._whole = scipy.sparse.csr_matrix(counts + settings.query_weight * (answers @ queries))
        self._queries, self._weight, self._idf = queries, settings.query_weight, bm25_idf(counts, queries)
        usual = float(self._whole.sum()) / max(self._whole.shape[0], 1)
        self._constants = {"usual_length": usual, "k1": settings.k1, "b": settings.b}

    def weights(self, counts: Any = None) -> Any:
        """Return the weights of all documents, or of others whose terms are counted, CSR [n, t]."""
        return bm25(self._whole if counts is None else counts, self._idf, **self._constants)

    def without(self, document: Int[np.ndarray, " p"], query: Int[np.ndarray, " p"]) -> Any:
        """Return the weights of documents without the words of one of their queries, a row for each pair."""
        without = scipy.sparse.csr_matrix(self._whole[document] - self._weight * self._queries[query])
        without.data = np.maximum(without.data, 0)  # rounding
        return bm25(without, self._idf, **self._constants)


def lexical_documents(counts: Any, queries: Any, answers: Any, settings: Settings) -> LexicalDocuments:
    """Weigh the terms of documents by BM25, with the idf of documents and queries.

    Args:
        counts: Occurrences of each term in each document, scipy CSR [n, t].
        queries: Occurrences of each term in each training query, scipy CSR [q, t].
        answers: One where a document answers a query, scipy CSR [n, q].
        settings: The settings, from :func:`~genret_jax.data.text.lexical_choice.choose_settings`.
    """
    unasked = np.asarray(answers.sum(axis=1)).ravel() == 0
    bias = np.where(unasked, settings.bonus, 0.0).astype(np.float32)
    weights = WeighedWords(counts, queries, answers, settings).weights()
    return LexicalDocuments(weights=weights, bias=bias, settings=settings)


def later_documents(later: Any, counts: Any, queries: Any, answers: Any, settings: Settings) -> LexicalDocuments:
    """Weigh the terms of documents that came later as :func:`lexical_documents` does, by the idf of those before.

    Args:
        later: Occurrences of each term in each later document, scipy CSR [m, t].
        counts: As for :func:`lexical_documents`, like all that follow.
        queries: Training queries.
        answers: What they answer.
        settings: The settings.
    """
    weights = WeighedWords(counts, queries, answers, settings).weights(later)
    bonus = settings.bonus if answers.nnz else 0.0
    return LexicalDocuments(weights=weights, bias=np.full(later.shape[0], bonus, np.float32), settings=settings)


def highest_weights(weights: Any) -> Float[np.ndarray, " t"]:
    """Return the highest weight of each term in any document.

    Args:
        weights: Scipy CSR [n, t] of terms in documents.
    """
    return np.asarray(weights.max(axis=0).todense(), np.float32).ravel()


def cosine_units(queries: Any, highest: Float[np.ndarray, " t"]) -> Float[np.ndarray, " q"]:
    """Return the BM25 points that an inner product of 1 counts for at a weight of 1, for each query.

    That is the highest score that a document could have if it had every word of the query at its highest weight, and at
    least 1 (Bruch et al. 2023, arXiv 2210.11934, section 4, the theoretical maximum).

    Args:
        queries: Occurrences of each term in each query, scipy CSR [q, t].
        highest: From :func:`highest_weights`.
    """
    return np.maximum(np.asarray(queries @ highest, np.float32).ravel(), np.float32(_LEAST_UNIT))


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
    words = WeighedWords(counts, queries, answers, settings)
    lost = words.without(document, query) - words.weights()[document]
    change = scipy.sparse.csr_matrix(lost.multiply(queries[query] > 0))
    change.sort_indices()
    alone = np.asarray(answers.sum(axis=1)).ravel()[document] == 1
    return document, query, change, np.where(alone, settings.bonus, 0.0).astype(np.float32)
