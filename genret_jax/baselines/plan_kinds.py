"""What a plan is made of, each by itself and without any training: the encoder's vectors, and the tuned BM25."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from genret_jax.baselines.vector_search import ExactIndex
from genret_jax.data.text.lexical import LexicalDocuments
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.report import System
from genret_jax.evaluation.trec import rankings_by_id

_AT_ONCE = 64  # queries that are scored against all documents together


def vectors_alone(
    name: str, encode: Callable[[list[str]], np.ndarray], vectors: Any, doc_ids: Sequence[str], queries: Any, depth: int
) -> SystemRun:
    """Search the encoder's vectors of the documents exactly.

    Args:
        name: Name of the system in a report.
        encode: Returns the vectors of texts.
        vectors: Vectors of the documents, [n, d].
        doc_ids: Ids of the documents.
        queries: Query id to text.
        depth: Results per query.
    """
    index = ExactIndex(np.asarray(vectors, np.float32))

    def search(asked: Mapping[str, str], depth: int) -> dict[str, list[tuple[str, float]]]:
        scores, found = index.search(encode(list(asked.values())), depth)
        return rankings_by_id(asked, doc_ids, found.tolist(), scores.tolist())

    system = System(name=name, description="exact inner products of the pretrained encoder's vectors, untrained")
    return _measured(system, search, queries, depth)


def words_alone(
    name: str,
    terms: Callable[[list[str]], Int[np.ndarray, "q t"]],
    documents: LexicalDocuments,
    doc_ids: Sequence[str],
    queries: Mapping[str, str],
    depth: int,
) -> SystemRun:
    """Search by the lexical scores of the untrained plan.

    Args:
        name: Name of the system in a report.
        terms: Returns the terms of texts, padded with 0.
        documents: Weights of terms in the documents.
        doc_ids: Ids of the documents.
        queries: Query id to text.
        depth: Results per query.
    """
    by_term = documents.weights.T.tocsr()

    def search(asked: Mapping[str, str], depth: int) -> dict[str, list[tuple[str, float]]]:
        rows, found, scores = terms(list(asked.values())), [], []
        for first in range(0, len(rows), _AT_ONCE):
            best, places = _best(_scores(rows[first : first + _AT_ONCE], by_term, documents.bias), depth)
            found += places.tolist()
            scores += best.tolist()
        return rankings_by_id(asked, doc_ids, found, scores)

    return _measured(System(name=name, description=documents.settings.describe()), search, queries, depth)


def _measured(system: System, search: Callable[..., Any], queries: Mapping[str, str], depth: int) -> SystemRun:
    answers, milliseconds = timed_search(search, queries, depth)
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)


def _scores(rows: Int[np.ndarray, "q t"], by_term: Any, bias: Float[np.ndarray, " n"]) -> Float[np.ndarray, "q n"]:
    counts = np.zeros((len(rows), by_term.shape[0]), np.float32)
    np.add.at(counts, (np.arange(len(rows))[:, None], rows), (rows > 0).astype(np.float32))
    return np.asarray(counts @ by_term + bias[None], np.float32)


def _best(scores: Float[np.ndarray, "q n"], depth: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the best scores and their documents; of equal scores the first documents."""
    places = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(scores, places, axis=1), places
