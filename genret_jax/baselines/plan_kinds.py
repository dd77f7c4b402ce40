"""What a plan is made of, without a network that was trained for the corpus: words, vectors, and the sum of both.

The rankings are computed from the documents' weights and vectors directly. So they also check the untrained network,
whose plan is the sum of both.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.baselines.vector_search import ExactIndex, HnswIndex, has_faiss, ranked_by, recall_of_exact
from genret_jax.data.text.lexical import LexicalDocuments, cosine_units, highest_weights
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.report import System, cost
from genret_jax.evaluation.trec import rankings_by_id

_AT_ONCE = 64  # queries that are scored against all documents together

Ranking = dict[str, list[tuple[str, float]]]


class EncodedQueries:
    """Queries with their vectors, each encoded once for all systems.

    Args:
        texts: Query id to text.
        encode: Returns the vectors of texts.
        params: Parameters of the encoder.
        encoder: Name of the encoder.
    """

    def __init__(self, texts: Mapping[str, str], encode: Callable[[list[str]], np.ndarray], params: Any, encoder: str):
        self.texts, self.encoder = texts, encoder
        self._vectors, self.milliseconds = timed_search(lambda asked, _: encode(list(asked.values())), texts, 0)
        self._row = {query: row for row, query in enumerate(texts)}
        self.parameters = sum(leaf.size for leaf in jax.tree.leaves(params))

    def vectors(self, asked: Mapping[str, str]) -> Float[np.ndarray, "q d"]:
        """Return the vectors of some of the queries."""
        return self._vectors[[self._row[query] for query in asked]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Words:
    """The lexical scores of a plan.

    Attributes:
        terms: Returns the terms of texts, padded with 0.
        documents: Weights of terms in the documents.
        factors: float32 [t]; factor of each term of a query.
    """

    terms: Callable[[list[str]], Int[np.ndarray, "q t"]]
    documents: LexicalDocuments
    factors: Float[np.ndarray, " t"]

    def scores(self, texts: Sequence[str]) -> Iterator[tuple[Float[np.ndarray, "q n"], Float[np.ndarray, " q"]]]:
        """Yield the scores of all documents for some queries after the others, and what a cosine of 1 counts for."""
        by_term, highest = self.documents.weights.T.tocsr(), highest_weights(self.documents.weights)
        rows = self.terms(list(texts))
        for first in range(0, len(rows), _AT_ONCE):
            some = rows[first : first + _AT_ONCE]
            weights = np.where(some > 0, self.factors[some], 0)
            number = np.repeat(np.arange(len(some)), some.shape[1])
            asked = scipy.sparse.csr_matrix(
                (weights.ravel(), (number, some.ravel())), shape=(len(some), by_term.shape[0]), dtype=np.float32
            )
            yield (asked @ by_term).toarray() + self.documents.bias[None], cosine_units(asked, highest)

    def describe(self, *, vectors: bool = False) -> str:
        """Return one line for a report, about the words alone or about their sum with vectors."""
        others = sorted({float(factor) for factor in self.factors} - {1.0})
        stop_words = [f"English stop words of queries × {factor:.3g}" for factor in others]
        return ", ".join([self.documents.settings.describe(vectors=vectors), *stop_words])

    @property
    def num_bytes(self) -> int:
        """Size of the postings and of the scores that documents have without any word."""
        weights = self.documents.weights
        return int(weights.data.nbytes + weights.indices.nbytes + weights.indptr.nbytes + self.documents.bias.nbytes)


def words_alone(name: str, words: Words, doc_ids: Sequence[str], queries: Mapping[str, str], depth: int) -> SystemRun:
    """Search by the lexical scores of the untrained plan.

    Args:
        name: Name of the system in a report.
        words: The lexical scores.
        doc_ids: Ids of the documents.
        queries: Query id to text.
        depth: Results per query.
    """

    def search(asked: Mapping[str, str], depth: int) -> Ranking:
        return _ranked(asked, (scores for scores, _ in words.scores(list(asked.values()))), doc_ids, depth)

    answers, milliseconds = timed_search(search, queries, depth)
    details = cost(num_bytes=words.num_bytes, documents=len(doc_ids))
    system = System(name=name, description=words.describe(), details=details)
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)


def vectors_alone(
    name: str, queries: EncodedQueries, vectors: Float[np.ndarray, "n d"], doc_ids: Sequence[str], depth: int
) -> list[SystemRun]:
    """Search the encoder's vectors of the documents exactly and, where FAISS is installed, by HNSW.

    Args:
        name: Name of the system in a report.
        queries: The queries.
        vectors: Vectors of the documents.
        doc_ids: Ids of the documents.
        depth: Results per query.
    """
    exact = ExactIndex(vectors)
    about = f"exact inner products of vectors of {queries.encoder} in {vectors.dtype}, untrained"
    found = [_nearest(System(name=name, description=about), exact, queries, doc_ids, depth)]
    if not has_faiss():
        return found
    graph = HnswIndex(np.asarray(vectors, np.float32))
    about = f"vectors of {queries.encoder} in float32, untrained, {graph.describe()}"
    system = System(name=f"{name}, HNSW", description=about, details={"efSearch": graph.config.effort(depth)})
    approximate = _nearest(system, graph, queries, doc_ids, depth)
    recall = {"share of the exact 10 best found": recall_of_exact(approximate.run, found[0].run, 10)}
    system = dataclasses.replace(approximate.system, details={**approximate.system.details, **recall})
    return [*found, dataclasses.replace(approximate, system=system)]


def sum_of_both(
    name: str,
    words: Words,
    queries: EncodedQueries,
    vectors: Float[np.ndarray, "n d"],
    doc_ids: Sequence[str],
    depth: int,
) -> SystemRun:
    """Search by the weighted sum of the lexical scores and the cosines, over all documents.

    Args:
        name: Name of the system in a report.
        words: The lexical scores.
        queries: The queries.
        vectors: Vectors of the documents, with a share of those of their training queries where that was chosen.
        doc_ids: Ids of the documents.
        depth: Results per query.
    """
    documents, weight = np.asarray(vectors, np.float32), words.documents.settings.cosine_weight

    def search(asked: Mapping[str, str], depth: int) -> Ranking:
        encoded = queries.vectors(asked)
        sums = (
            scores + weight * unit[:, None] * (encoded[part * _AT_ONCE : part * _AT_ONCE + len(unit)] @ documents.T)
            for part, (scores, unit) in enumerate(words.scores(list(asked.values())))
        )
        return _ranked(asked, sums, doc_ids, depth)

    answers, milliseconds = timed_search(search, queries.texts, depth)
    num_bytes = words.num_bytes + vectors.nbytes
    system = System(
        name=name,
        description=words.describe(vectors=True),
        details=cost(num_bytes=num_bytes, documents=len(doc_ids), parameters=queries.parameters),
    )
    milliseconds += queries.milliseconds
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)


def _nearest(
    system: System, index: ExactIndex | HnswIndex, queries: EncodedQueries, doc_ids: Sequence[str], depth: int
) -> SystemRun:
    def search(asked: Mapping[str, str], depth: int) -> Ranking:
        return ranked_by(index, list(asked), queries.vectors(asked), doc_ids, depth)

    answers, milliseconds = timed_search(search, queries.texts, depth, compiles_anew=True)
    size = cost(num_bytes=index.num_bytes, documents=len(doc_ids), parameters=queries.parameters)
    return SystemRun(
        system=dataclasses.replace(system, details=size | dict(system.details)),
        run=answers,
        depth=depth,
        milliseconds_per_query=milliseconds + queries.milliseconds,
    )


def _ranked(
    asked: Mapping[str, str], scores: Iterator[Float[np.ndarray, "q n"]], doc_ids: Sequence[str], depth: int
) -> Ranking:
    found, values = [], []
    for part in scores:
        for row in part:
            best = _best(row, depth)
            found.append(best.tolist())
            values.append(row[best].tolist())
    return rankings_by_id(asked, doc_ids, found, values)


def _best(scores: Float[np.ndarray, " n"], depth: int) -> Int[np.ndarray, " k"]:
    """Return the documents of the highest scores, best first; of equal scores the first documents."""
    depth = min(depth, len(scores))
    last = np.partition(scores, len(scores) - depth)[len(scores) - depth]
    found = np.flatnonzero(scores >= last)  # with all that tie for the last place
    return found[np.argsort(-scores[found], kind="stable")][:depth]
