"""Open a run and search it."""

import copy
import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from typing import Any, overload

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from genret_jax.decoding import (
    BeamResult,
    DocidIndex,
    Exhaustive,
    RankedDocuments,
    TrieConstraint,
    beam_search,
    rank_documents,
)
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import T5
from genret_jax.run import Run, node_tree

# Fewer beams than this rank a handful of results noticeably worse than a wide search, at nearly the same cost.
_LEAST_BEAM = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """One retrieved document.

    Attributes:
        rank: 1 for the best.
        doc_id: The corpus's own id.
        score: Log-probability of the document's docid given the query.
        docid: The codes that the model wrote.
        title: Title, may be empty.
        text: The whole text.
    """

    rank: int
    doc_id: str
    score: float
    docid: tuple[int, ...]
    title: str
    text: str


class Retriever:
    """A trained model with the docids it may write.

    Example:
        >>> Retriever.load("runs/python-docs").search("join path components", k=10)

    Args:
        run: The opened run folder.
        params: Parameters of its model.
    """

    def __init__(self, run: Run, params: Mapping[str, Any]):
        self.run = run
        encoded = run.encoded
        index = DocidIndex.build(
            encoded.tokens,
            encoded.lengths,
            encoded.document,
            encoded.prefix_nodes,
            vocab_size=run.model.output_vocab_size,
        )
        self.index: DocidIndex = jax.device_put(index)
        self._params = jax.device_put(params)
        self._tree = node_tree(run.encoded) if run.model.head == "prefix" else None

    @classmethod
    def load(cls, run: str | os.PathLike[str], *, checkpoint: str | int = "best") -> "Retriever":
        """Open a run folder.

        Args:
            run: Folder written by ``genret train``.
            checkpoint: ``"best"`` by the validation metric, ``"last"``, a step, or ``"start"``: the network as
                it was initialised, untrained.

        Raises:
            InputError: If the folder is no run, has no checkpoint yet, or they do not fit each other.
        """
        opened = Run.open(run)
        return cls(opened, opened.params(checkpoint))

    def with_params(self, params: Mapping[str, Any]) -> "Retriever":
        """Return a retriever of the same run with other parameters; nothing is compiled anew."""
        other = copy.copy(self)
        other._params = params
        return other

    @overload
    def search(self, query: str, k: int = 10, *, beam: int | None = None) -> list[SearchResult]: ...  # type: ignore[overload-overlap]
    @overload
    def search(self, query: Sequence[str], k: int = 10, *, beam: int | None = None) -> list[list[SearchResult]]: ...
    def search(
        self, query: str | Sequence[str], k: int = 10, *, beam: int | None = None
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """Return the best documents, best first; fewer than ``k`` if the corpus has fewer.

        Args:
            query: One query, or several to be searched together.
            k: Documents wanted.
            beam: Beams; by default ``max(k, 20)``.

        Raises:
            InputError: If a query has no words, or ``beam < k``.
        """
        queries = [query] if isinstance(query, str) else list(query)
        beam = max(k, _LEAST_BEAM) if beam is None else beam
        if not 1 <= k <= beam:
            raise InputError(f"k={k} with beam={beam}", expected="1 <= k <= beam", fix="raise --beam or lower --k")
        for number, text in enumerate(queries, 1):
            if not self.run.vocabulary.words(text):
                raise InputError(f"query {number} ({text!r}) has no words", fix="give a query with at least one word")
        ranked = self.rank(self.run.encode_queries(queries), beam=beam, limit=k)
        results = [self._results(ranked, row) for row in range(len(queries))]
        return results[0] if isinstance(query, str) else results

    def rank(
        self,
        tokens: Int[np.ndarray, "q l"],
        *,
        beam: int,
        limit: int | None = None,
        batch_size: int = 64,
        progress: bool = False,
    ) -> RankedDocuments:
        """Rank documents for tokenised queries.

        Args:
            tokens: Queries, padded with 0.
            beam: Beams of the search.
            limit: Documents a query at most; ``beam`` when left out.
            batch_size: Queries searched together.
            progress: Show a progress bar on stderr.

        Returns:
            Document indices of the run's corpus with scores, ``[q, limit]``.
        """
        from tqdm import tqdm

        parts = []
        starts = range(0, len(tokens), batch_size)
        for start in tqdm(starts, desc="searching", unit="batch", disable=not progress, leave=False):
            chunk = tokens[start : start + batch_size]
            # A few sizes only, so that a changing number of queries does not compile again and again.
            size = min(batch_size, 1 << (len(chunk) - 1).bit_length())
            padded = np.pad(chunk, ((0, size - len(chunk)), (0, 0)))
            found = _search(self._params, jnp.asarray(padded), TrieConstraint(self.index), self._tree, self.run.model, beam)
            ranked = rank_documents(found, self.index, limit=limit)
            parts.append([array[: len(chunk)] for array in ranked])
        if not parts:
            raise InputError("no queries to search", fix="give at least one query")
        return RankedDocuments(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _results(self, ranked: RankedDocuments, row: int) -> list[SearchResult]:
        corpus, table = self.run.corpus, self.run.table
        results = []
        for rank, (document, score) in enumerate(ranked.of(row), 1):
            results.append(
                SearchResult(
                    rank=rank,
                    doc_id=corpus.doc_ids[document],
                    score=score,
                    docid=table.docid(int(self.run.row_of_document[document])),
                    title=corpus.titles[document],
                    text=corpus.texts[document],
                )
            )
        return results


@functools.partial(jax.jit, static_argnames=("config", "beams"))
def _search(
    params: Mapping[str, Any],
    tokens: Int[Array, "b l"],
    strategy: TrieConstraint | Exhaustive,
    tree: NodeTree | None,
    config: T5Config,
    beams: int,
) -> BeamResult:
    model, variables = T5(config), {"params": params}
    encoded = model.apply(variables, tokens, method=T5.encode)
    cache = model.apply(variables, encoded, tokens, strategy.index.max_length, method=T5.init_cache)

    def step(tokens: Array, prefix_nodes: Array, cache: Any, *, first: bool) -> tuple[Array, Any]:
        # The cache itself says whether this is the first step (T5.init_cache).
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.step)

    def forced(tokens: Array, prefix_nodes: Array, cache: Any) -> Array:
        return model.apply(variables, tokens, prefix_nodes, cache, tree, method=T5.forced)

    return beam_search(step, cache, strategy, batch=tokens.shape[0], beams=beams, forced=forced)
