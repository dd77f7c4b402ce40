"""BM25 tuned to a corpus, alone and beside vectors: its constants, the use of training queries, the weight of vectors.

They are chosen on training queries that are left out one after the other; no other queries are read.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from genret_jax.data.text.lsa import bm25, bm25_idf

_MOST_LEFT_OUT, _AT_ONCE = 500, 100  # queries to leave out, and those that are scored at once against all documents
_FEW = 20  # left-out queries of documents with others that are too few to judge by
_SCORES = 1 << 24  # of documents for left-out queries; more documents mean fewer queries
_CONSTANTS = ((0.6, 0.4), (0.9, 0.4), (0.9, 0.6), (1.2, 0.4), (1.2, 0.75), (1.8, 0.75))
_USUAL = (1.2, 0.6)  # without training queries
_QUERY_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
_BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_VECTOR_WEIGHTS = (0.0, 0.15, 0.5, 1.0)
_COSINE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
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


def lexical_documents(counts: Any, queries: Any, answers: Any, settings: Settings) -> LexicalDocuments:
    """Weigh the terms of documents by BM25, with the idf of documents and queries.

    Args:
        counts: Occurrences of each term in each document, scipy CSR [n, t].
        queries: Occurrences of each term in each training query, scipy CSR [q, t].
        answers: One where a document answers a query, scipy CSR [n, q].
        settings: The settings, from :func:`choose_settings`.
    """
    unasked = np.asarray(answers.sum(axis=1)).ravel() == 0
    bias = np.where(unasked, settings.bonus, 0.0).astype(np.float32)
    weights = _Words(counts, queries, answers, settings).weights()
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
    weights = _Words(counts, queries, answers, settings).weights(later)
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
    words = _Words(counts, queries, answers, settings)
    lost = words.without(document, query) - words.weights()[document]
    change = scipy.sparse.csr_matrix(lost.multiply(queries[query] > 0))
    change.sort_indices()
    alone = np.asarray(answers.sum(axis=1)).ravel()[document] == 1
    return document, query, change, np.where(alone, settings.bonus, 0.0).astype(np.float32)


def choose_settings(counts: Any, queries: Any, answers: Any, *, seed: int) -> Settings:
    """Choose the settings of BM25 alone by its mean reciprocal rank among ten for training queries that are left out.

    A training query helps to find its document for other queries; but documents without training queries then lose
    against those with some. How much that matters depends on which documents later queries ask for. If they recur as
    the training queries do, the share of documents that nobody has asked for is that of the left-out queries whose
    document has no other one (Good 1953, "The Population Frequencies of Species"). If all documents are asked for
    alike, it is the share of documents without training queries. The choice weighs left-out queries by the mean of
    both shares. Where hardly a document has several queries, all left-out queries stand for such documents too, without
    the bonus: one query each does not say that nobody asks for these documents again.

    Args:
        counts: As for :func:`lexical_documents`, like the next two.
        queries: Training queries.
        answers: What they answer.
        seed: Seed of the sample of queries that are left out.

    Returns:
        The settings; the usual ones if there are no training queries.
    """
    if not answers.nnz:
        return Settings()
    left_out = _LeftOut(counts, queries, answers, seed)
    first = max((left_out.best(Settings(query_weight=weight)) for weight in left_out.query_weights), key=_value)
    tried = (left_out.best(dataclasses.replace(first[1], k1=k1, b=b)) for k1, b in _CONSTANTS)
    return max([first, *tried], key=_value)[1]


def choose_beside_vectors(
    alone: Settings, counts: Any, queries: Any, answers: Any, *, seed: int, vectors: QueryMeans
) -> Settings:
    """Choose the settings of a sum of BM25 and vectors, as :func:`choose_settings` chooses those of BM25.

    The constants of BM25 stay. Vectors may do what the words of training queries did, so their weight is chosen again.

    Args:
        alone: The settings of BM25 alone.
        counts: As for :func:`choose_settings`, like the next three.
        queries: Training queries.
        answers: What they answer.
        seed: Seed of the sample of queries that are left out.
        vectors: Vectors of documents and queries.

    Returns:
        The settings; those of BM25 alone if there are no training queries.
    """
    if not answers.nnz:
        return alone
    left_out = _LeftOut(counts, queries, answers, seed, vectors)
    tried = (left_out.best(dataclasses.replace(alone, query_weight=weight)) for weight in left_out.query_weights)
    return max(tried, key=_value)[1]


def _value(found: tuple[float, Settings]) -> float:
    return found[0]


class _Words:
    """The words of documents with those of their training queries."""

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


class _LeftOut:
    """Training queries that are left out, one after the other, with vectors or without.

    Attributes:
        again: Whether the document of each query has other queries.
        query_weights: The weights of the words of training queries that are worth trying.
    """

    def __init__(self, counts: Any, queries: Any, answers: Any, seed: int, vectors: QueryMeans | None = None):
        self._given = counts, queries, answers
        document, query = answers.nonzero()
        number = np.asarray(answers.sum(axis=1)).ravel()
        most = int(np.clip(_SCORES // len(number), _AT_ONCE, _MOST_LEFT_OUT))
        drawn = np.random.default_rng(seed).permutation(len(query))[:most]
        self._document, self._query = document[drawn], query[drawn]
        self._groups = np.flatnonzero(number > 0), np.flatnonzero(number == 0)
        self.again: Bool[np.ndarray, " p"] = number[self._document] > 1
        recurring = float(np.mean(number[document] > 1))
        self._votes = _votes(self.again, (recurring + float(np.mean(number > 0))) / 2)
        # The queries of a document help others only where some document has several.
        recur = bool(self.again.any())
        self.query_weights = _QUERY_WEIGHTS if recur else (0.0,)
        self._parts = [slice(first, first + _AT_ONCE) for first in range(0, len(drawn), _AT_ONCE)]
        self._products: list[_Products | None] = [None] * len(self._parts)
        self._sums: list[dict[str, float]] = [{}]  # BM25 alone
        if vectors is not None:
            self._products = [_Products(vectors, self._document[part], self._query[part]) for part in self._parts]
            shares = _VECTOR_WEIGHTS if recur else (0.0,)
            pairs = itertools.product(_COSINE_WEIGHTS, shares)
            self._sums = [{"cosine_weight": cosine, "vector_weight": share} for cosine, share in pairs]

    def best(self, settings: Settings) -> tuple[float, Settings]:
        """Return the value of settings with the best bonus, and with the best weights of vectors if there are any.

        Args:
            settings: The other settings.

        Returns:
            The value, and all settings.
        """
        sums = [dataclasses.replace(settings, **weights) for weights in self._sums]
        words = _Words(*self._given, settings)
        by_document = words.weights()
        by_term, highest = by_document.T.tocsc(), highest_weights(by_document)
        values = np.zeros((len(sums), len(_BONUSES)))
        for part, products in zip(self._parts, self._products, strict=True):
            document, query = self._document[part], self._query[part]
            asked = self._given[1][query]
            others = np.asarray((asked @ by_term).todense(), np.float32)
            others[self._given[2][:, query].T.nonzero()] = -np.inf
            own = np.asarray(words.without(document, query).multiply(asked).sum(axis=1), np.float32).ravel()
            unit = cosine_units(asked, highest)
            for number, one in enumerate(sums):
                scores = others, own
                if products is not None:
                    factor = np.float32(one.cosine_weight) * unit
                    scores = products.added_to(others, own, factor, np.float32(one.vector_weight))
                values[number] += self._reciprocal_ranks(*scores, part)
        best, bonus = np.unravel_index(np.argmax(values), values.shape)
        return float(values[best, bonus]), dataclasses.replace(sums[best], bonus=_BONUSES[bonus])

    def _reciprocal_ranks(
        self, others: Float[np.ndarray, "p n"], own: Float[np.ndarray, " p"], rows: slice
    ) -> list[float]:
        """Return the weighted sum of the reciprocal ranks of left-out documents for each bonus; ties count against."""
        # Ranks beyond 10 do not count, so the best ten of either group are enough.
        asked, unasked = (_best_ten(others[:, group]) for group in self._groups)
        found = []
        for bonus in _BONUSES:
            value = 0.0
            for votes, gain in zip(self._votes, (0.0, bonus), strict=True):
                mine = own[:, None] + gain
                rank = 1 + np.sum(asked >= mine, axis=1) + np.sum(unasked + bonus >= mine, axis=1)
                value += float(np.sum(votes[rows] * np.where(rank <= 10, 1 / rank, 0.0)))
            found.append(value)
        return found


class _Products:
    """Inner products of left-out queries with the vectors of all documents, and of their own without them."""

    def __init__(self, vectors: QueryMeans, document: Int[np.ndarray, " p"], query: Int[np.ndarray, " p"]):
        asked = vectors.asked[query]
        self._documents, self._means = asked @ vectors.documents.T, asked @ vectors.means.T
        without = vectors.means[document] + vectors.change(document, query)
        self._own, self._own_mean = (np.sum(asked * rows, axis=1) for rows in (vectors.documents[document], without))

    def added_to(
        self,
        others: Float[np.ndarray, "p n"],
        own: Float[np.ndarray, " p"],
        factor: Float[np.ndarray, " p"],
        share: Any,
    ) -> tuple[Float[np.ndarray, "p n"], Float[np.ndarray, " p"]]:
        """Return scores of all documents and of each query's own, with their inner products added.

        Args:
            others: Scores of all documents.
            own: Scores of the left-out documents.
            factor: Points of an inner product of 1, for each query.
            share: Share of the mean of its queries that is added to the vector of a document.
        """
        with_vectors = others + factor[:, None] * (self._documents + share * self._means)
        return with_vectors, own + factor * (self._own + share * self._own_mean)


def _best_ten(scores: Float[np.ndarray, "p n"]) -> Float[np.ndarray, "p t"]:
    return -np.partition(-scores, 10, axis=1)[:, :10] if scores.shape[1] > 10 else scores


def _votes(again: Bool[np.ndarray, " p"], recurring: float) -> tuple[Float[np.ndarray, " p"], Float[np.ndarray, " p"]]:
    """Return the weights of left-out queries as those of documents with other queries, and of documents without."""
    with_others = again if again.sum() >= _FEW else np.ones_like(again)
    of_again = np.where(with_others, recurring / max(with_others.sum(), 1), 0.0)
    return of_again, np.where(again, 0.0, (1 - recurring) / max((~again).sum(), 1))
