"""The settings of BM25 and of its sum with vectors, chosen for a corpus.

They are chosen on training queries that are left out one after the other; no other queries are read.
"""

import dataclasses
import itertools
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from genret_jax.data.text.lexical import QueryMeans, Settings, WeighedWords, cosine_units, highest_weights

_MOST_LEFT_OUT, _AT_ONCE = 500, 100  # queries to leave out, and those that are scored at once against all documents
_FEW = 20  # left-out queries of documents with others that are too few to judge by
_SCORES = 1 << 24  # of documents for left-out queries; more documents mean fewer queries
_CONSTANTS = ((0.6, 0.4), (0.9, 0.4), (0.9, 0.6), (1.2, 0.4), (1.2, 0.75), (1.8, 0.75))
_QUERY_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0)
_BONUSES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)
_VECTOR_WEIGHTS = (0.0, 0.15, 0.5, 1.0)
_COSINE_WEIGHTS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)


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
        counts: As for :func:`~genret_jax.data.text.lexical.lexical_documents`, like the next two.
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
        words = WeighedWords(*self._given, settings)
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
