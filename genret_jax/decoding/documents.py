"""Turn found docids into ranked documents: documents may share a docid, and a document may have several."""

from typing import NamedTuple

import numpy as np

from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import BeamResult
from genret_jax.decoding.scores import INVALID


class RankedDocuments(NamedTuple):
    """Documents of each query, best first, each once."""

    documents: np.ndarray  # int32[b, limit]    document numbers as given to DocidIndex.build; -1 where there is none
    scores: np.ndarray  # float32[b, limit]  score of the document's best docid; INVALID where there is none
    valid: np.ndarray  # bool[b, limit]

    def of(self, query: int) -> list[tuple[int, float]]:
        """Return the documents of one query as (document, score) pairs."""
        kept = self.valid[query]
        return list(zip(self.documents[query, kept].tolist(), self.scores[query, kept].tolist(), strict=True))


def rank_documents(
    result: BeamResult, index: DocidIndex, *, limit: int | None = None, allowed: np.ndarray | None = None
) -> RankedDocuments:
    """Turn docids into documents: each once, with its best score.

    Documents that share a docid share its score and stay in their stated order, so how they rank among each other is
    the index builder's decision.

    Args:
        result: Result of a search with this index.
        index: The index.
        limit: Most documents per query; by default the number of beams.
        allowed: bool ``[b, n]`` or ``[1, n]``, documents that a query may find; by default all.

    Returns:
        The documents, ``[b, limit]``, by descending score.
    """
    docids, scores = np.asarray(result.docids), np.asarray(result.scores)
    limit = docids.shape[1] if limit is None else limit
    query, beam = np.nonzero(np.asarray(result.valid))  # row-major: best first within a query
    documents, of_place = index.documents_of(docids[query, beam])
    query, beam = query[of_place], beam[of_place]
    if allowed is not None:
        kept = np.broadcast_to(allowed, (len(docids), allowed.shape[1]))[query, documents]
        query, beam, documents = query[kept], beam[kept], documents[kept]
    # np.unique gives the first place of each (query, document), which is its best.
    first = np.sort(np.unique(query.astype(np.int64) << 32 | documents, return_index=True)[1])
    query, beam, documents = query[first], beam[first], documents[first]
    place = np.arange(len(query)) - np.searchsorted(query, query)
    query, beam, documents, place = (array[place < limit] for array in (query, beam, documents, place))
    ranked = RankedDocuments(
        documents=np.full((len(docids), limit), -1, np.int32),
        scores=np.full((len(docids), limit), INVALID, np.float32),
        valid=np.zeros((len(docids), limit), bool),
    )
    ranked.documents[query, place], ranked.scores[query, place] = documents, scores[query, beam]
    ranked.valid[query, place] = True
    return ranked


def with_share(first: RankedDocuments, second: RankedDocuments, share: float, limit: int) -> RankedDocuments:
    """Merge two rankings of the same queries so that a share of the results comes from the second.

    Among the first r results, ``floor(r * share)`` are from the second ranking. Each ranking keeps its own order, so
    scores need not descend. When one ranking has no more documents, the other continues.

    Args:
        first: A ranking.
        second: Another; they have no documents in common.
        share: From 0 to 1.
        limit: Most documents per query.
    """
    ranks = np.arange(1, limit + 1)
    # The small number keeps 0.1 * 10 from falling short of 1.
    wanted = np.floor(ranks * share + 1e-9)
    of_second = np.diff(wanted, prepend=0) > 0
    places = [_places(ranked, ranks[mask], limit) for ranked, mask in ((first, ~of_second), (second, of_second))]
    order = np.argsort(np.concatenate(places, axis=1), axis=1, kind="stable")[:, :limit]
    joined = [np.concatenate(arrays, axis=1) for arrays in zip(first, second, strict=True)]
    return RankedDocuments(*(np.take_along_axis(array, order, axis=1) for array in joined))


def _places(ranked: RankedDocuments, ranks: np.ndarray, limit: int) -> np.ndarray:
    """Return the place of each document of a ranking: its given ranks first, then places behind all ranks."""
    width = ranked.valid.shape[1]
    own = np.concatenate([ranks, limit + np.arange(1, width + 1)])[:width]
    return np.where(ranked.valid, own[None], 3 * limit + width)
