"""Leave the query of a training example out of what its document knows from training queries."""

from typing import Any

import numpy as np
from jaxtyping import Int

from genret_jax.data.text.lexical import QueryMeans, Settings, changes_without

TERMS, VECTORS, BIAS = "left_out_terms", "left_out_vectors", "left_out_bias"


class LeftOutQueries:
    """Changes of documents' terms, vectors and bias, for all pairs of a training query and its document.

    Args:
        counts: Occurrences of each term in each document, scipy CSR [n, t].
        queries: Occurrences of each term in each training query, scipy CSR [q, t].
        answers: One where a document answers a query, scipy CSR [n, q].
        numbers: Number of each training query in the example store.
        settings: Settings of the plan.
        means: Vectors of documents and queries; None without a dense plan.
    """

    def __init__(
        self,
        counts: Any,
        queries: Any,
        answers: Any,
        *,
        numbers: Int[np.ndarray, " q"],
        settings: Settings,
        means: QueryMeans | None,
    ):
        document, query, change, self._bias = changes_without(counts, queries, answers, settings)
        self._documents, self._terms = answers.shape[0], change.shape[1]
        keys = numbers[query].astype(np.int64) * self._documents + document
        self._order = np.argsort(keys)
        self._keys, self._document, self._query = keys[self._order], document, query
        row = np.repeat(np.arange(len(document)), np.diff(change.indptr))
        # A last key that no term has, so that a search always ends within the arrays.
        self._term_keys = np.append(row.astype(np.int64) * self._terms + change.indices, np.iinfo(np.int64).max)
        self._changes = np.append(change.data, np.float32(0))
        self._means, self._weight = means, settings.vector_weight

    def of(
        self, query: Int[np.ndarray, " b"], document: Int[np.ndarray, " b"], terms: Int[np.ndarray, "b t"]
    ) -> dict[str, np.ndarray]:
        """Return the changes for examples; none for an example that is no training query.

        Args:
            query: Number of each query in the example store, -1 for none.
            document: Number of each document.
            terms: Terms of each query, padded with 0.
        """
        place = np.searchsorted(self._keys, query.astype(np.int64) * self._documents + document)
        place = np.minimum(place, len(self._keys) - 1)
        known = (query >= 0) & (self._keys[place] == query.astype(np.int64) * self._documents + document)
        pair = self._order[place]
        wanted = pair[:, None].astype(np.int64) * self._terms + terms
        at = np.searchsorted(self._term_keys, wanted)
        there = known[:, None] & (terms > 0) & (self._term_keys[at] == wanted)
        found = {TERMS: np.where(there, self._changes[at], np.float32(0))}
        found[BIAS] = np.where(known, self._bias[pair], np.float32(0))
        if self._means is not None and self._weight:
            change = self._weight * self._means.change(self._document[pair], self._query[pair])
            found[VECTORS] = np.where(known[:, None], change, 0).astype(np.float16)
        return found
