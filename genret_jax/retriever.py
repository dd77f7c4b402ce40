"""Open a run and ask it: for documents that answer a query, or for the items that a user may want next."""

import contextlib
import copy
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from genret_jax.decoding import (
    BeamResult,
    DocidIndex,
    Exhaustive,
    RankedDocuments,
    TrieConstraint,
    allow,
    rank_documents,
)
from genret_jax.errors import InputError, nearest
from genret_jax.model_search import search_tokens
from genret_jax.run import Run, node_tree
from genret_jax.run.documents import DocumentRun
from genret_jax.run.items import ItemRun
from genret_jax.training.mesh import DATA, mesh_of, on_all_devices, placed_on

_R = TypeVar("_R", DocumentRun, ItemRun)

# Fewer beams than this rank a handful of results noticeably worse than a wide search, at nearly the same cost.
_LEAST_BEAM = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """One retrieved document, or one recommended item.

    Attributes:
        rank: 1 for the best.
        doc_id: The corpus's own id.
        score: Log-probability of its docid given the query, or the history.
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
        >>> Retriever.load("runs/beauty").recommend(["B004756YJA", "B004ZT0SSG"], k=10)

    Args:
        run: The opened run folder.
        params: Parameters of its model; where they are spread over a mesh, it searches on that mesh.
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
        self._mesh = mesh_of(params)
        self.index: DocidIndex = on_all_devices(index, self._mesh)
        self._tree = on_all_devices(node_tree(run.encoded), self._mesh) if run.model.head == "prefix" else None
        self._params = jax.device_put(params)

    @classmethod
    def load(
        cls, run: str | os.PathLike[str], *, checkpoint: str | int = "best", mesh: Mesh | None = None
    ) -> "Retriever":
        """Open a run folder.

        Args:
            run: Folder written by ``genret train``.
            checkpoint: ``"best"`` by the validation metric, ``"last"``, a step, ``"start"``: the network as it was
                initialised, untrained; or the path of a checkpoint or ``MODEL_DIR`` of t5x.
            mesh: From :func:`genret_jax.training.make_mesh`: queries are divided over its data axis, the network, and
                what it computes for each of many atomic docids, over its model axis. None searches on one device.

        Raises:
            InputError: If the folder is no run, has no checkpoint yet, or they do not fit each other.
        """
        opened = Run.open(run)
        return cls(opened, opened.params(checkpoint, mesh))

    def with_params(self, params: Mapping[str, Any]) -> "Retriever":
        """Return a retriever of the same run with other parameters; on the same devices nothing is compiled anew."""
        other = copy.copy(self)
        other._params = params
        if (mesh := mesh_of(params)) != self._mesh:
            other._mesh = mesh
            other.index, other._tree = on_all_devices((self.index, self._tree), mesh)
        return other

    @overload
    def search(  # type: ignore[overload-overlap]
        self,
        query: str,
        k: int = 10,
        *,
        beam: int | None = None,
        allow: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
    ) -> list[SearchResult]: ...
    @overload
    def search(
        self,
        query: Sequence[str],
        k: int = 10,
        *,
        beam: int | None = None,
        allow: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
    ) -> list[list[SearchResult]]: ...
    def search(
        self,
        query: str | Sequence[str],
        k: int = 10,
        *,
        beam: int | None = None,
        allow: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
    ) -> list[SearchResult] | list[list[SearchResult]]:
        """Return the best documents, best first; fewer than ``k`` if there are fewer.

        Args:
            query: One query, or several to be searched together.
            k: Documents wanted.
            beam: Beams; by default ``max(k, 20)``.
            allow: Ids of the documents to choose from; all when left out. The search is exactly that of an index
                without the others.
            forbid: Ids of documents that may not come out.

        Raises:
            InputError: If a query has no words, ``beam < k``, or there is no such document.
        """
        run = self.run_of(DocumentRun)
        queries = [query] if isinstance(query, str) else list(query)
        beam = _beam(k, beam)
        for number, text in enumerate(queries, 1):
            if not run.vocabulary.words(text):
                raise InputError(f"query {number} ({text!r}) has no words", fix="give a query with at least one word")
        allowed = self._allowed(allow, forbid)
        ranked = self.rank(run.encode_queries(queries), beam=beam, limit=k, allowed=allowed)
        results = [self._results(ranked, row) for row in range(len(queries))]
        return results[0] if isinstance(query, str) else results

    def recommend(
        self,
        history: Sequence[str],
        k: int = 10,
        *,
        user: str | None = None,
        beam: int | None = None,
        allow: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
        repeat: bool = False,
    ) -> list[SearchResult]:
        """Return the items that a user is most likely to want next, best first; fewer than ``k`` if there are fewer.

        Args:
            history: Ids of the user's items, oldest first.
            k: Items wanted.
            user: Id of the user; None for somebody unknown.
            beam: Beams; by default ``max(k, 20)``.
            allow: Ids of the items to choose from; all when left out.
            forbid: Ids of items that may not come out.
            repeat: Let items of the history come out too.

        Raises:
            InputError: If the history is empty, ``beam < k``, or there is no such item.
        """
        run = self.run_of(ItemRun)
        beam = _beam(k, beam)
        items = [self._document(item, "item") for item in history]
        if not items:
            raise InputError("an empty history", expected="one item or more", fix="give the ids of the user's items")
        latest = np.array([items[-run.histories.items :]])
        forbidden = [*forbid, *([] if repeat else history)]
        tokens = run.encode_histories(latest, [user])
        ranked = self.rank(tokens, beam=beam, limit=k, allowed=self._allowed(allow, forbidden), widths=run.input_widths)
        return self._results(ranked, 0)

    def rank(
        self,
        tokens: Int[np.ndarray, "q l"],
        *,
        beam: int,
        limit: int | None = None,
        batch_size: int = 64,
        allowed: Bool[np.ndarray, "#q n"] | None = None,
        widths: Sequence[int] = (),
        progress: bool = False,
    ) -> RankedDocuments:
        """Rank documents for tokenised queries.

        Args:
            tokens: Queries, padded with 0.
            beam: Beams of the search.
            limit: Documents a query at most; ``beam`` when left out.
            batch_size: Queries searched together.
            allowed: Which documents each query may have, or all of them alike; all when left out.
            widths: Columns that queries may be cut to where the others hold padding only, so that short ones cost less.
            progress: Show a progress bar on stderr.

        Returns:
            Document indices of the run's corpus with scores, ``[q, limit]``.
        """
        from tqdm import tqdm

        if not len(tokens):
            raise InputError("no queries to search", fix="give at least one query")
        found: RankedDocuments | None = None
        shared = None if allowed is None or len(allowed) > 1 else allow(self.index, allowed)
        batches = list(_batches(tokens, batch_size, widths))
        for rows, width in tqdm(batches, desc="searching", unit="batch", disable=not progress, leave=False):
            # A few sizes only, so that a changing number of queries does not compile again and again.
            size = min(batch_size, 1 << (len(rows) - 1).bit_length())
            size += -size % (1 if self._mesh is None else self._mesh.shape[DATA])
            mine = allowed
            if allowed is not None and len(allowed) > 1:
                mine = _with_rows(allowed[rows], size)
            chosen = shared if mine is None or shared is not None else allow(self.index, mine)
            padded = _with_rows(tokens[rows, :width], size)
            result = jax.device_get(self._found(padded, TrieConstraint(self.index, chosen), beam))
            ranked = rank_documents(result, self.index, limit=limit, allowed=mine)
            if found is None:
                found = RankedDocuments(*(np.empty((len(tokens), part.shape[1]), part.dtype) for part in ranked))
            for whole, part in zip(found, ranked, strict=True):
                whole[rows] = part[: len(rows)]
        assert found is not None
        return found

    def beside_exhaustive(self, tokens: Int[np.ndarray, "q l"], *, beam: int, k: int = 10) -> dict[str, float]:
        """Compare the beam search with the exhaustive one; costs a decoder pass over all docids for each query.

        Args:
            tokens: Queries, padded with 0.
            beam: Beams of the search.
            k: Results that are compared.

        Returns:
            ``certified``: the share of queries whose first k results are provably the model's best;
            ``found``: the share of the model's best k docids that the beam search found.
        """
        k = min(k, beam, self.index.num_docids)
        found = self._found(tokens, TrieConstraint(self.index), beam)
        exact = self._found(tokens, Exhaustive(self.index), k)
        certified = np.asarray(found.bound) <= np.asarray(found.scores)[:, k - 1]
        first, best = np.asarray(found.docids)[:, :k], np.asarray(exact.docids)
        return {
            "certified": float(certified.mean()),
            "found": float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(first, best, strict=True)])),
        }

    def _found(self, tokens: Int[np.ndarray, "q l"], strategy: TrieConstraint | Exhaustive, beam: int) -> BeamResult:
        with contextlib.nullcontext() if self._mesh is None else placed_on(self._mesh):
            return search_tokens(self._params, tokens, strategy, self._tree, self.run.model, beam)

    def run_of(self, kind: type[_R]) -> _R:
        """Return the run, if it is of this kind.

        Raises:
            InputError: If it is of the other.
        """
        if not isinstance(self.run, kind):
            fix = "recommend items" if kind is DocumentRun else "search with queries"
            raise InputError(
                f"this run is of {self.run.kind}",
                file=self.run.folder,
                expected=f"a run of {kind.kind}",
                fix=f"{fix}, by 'genret {fix.split()[0]}' or Retriever.{fix.split()[0]}",
            )
        return self.run

    def _document(self, doc_id: str, what: str) -> int:
        known = self.run.corpus.document_index
        if doc_id not in known:
            hint = nearest(doc_id, known) if len(known) <= 20_000 else ""
            raise InputError(f"there is no {what} '{doc_id}'", expected="ids of the corpus", fix=hint or None)
        return known[doc_id]

    def _allowed(self, allow: Iterable[str] | None, forbid: Iterable[str]) -> Bool[np.ndarray, "1 n"] | None:
        forbid = list(forbid)
        if allow is None and not forbid:
            return None
        mask = np.full((1, len(self.run.corpus)), allow is None)
        for ids, value in ((allow or (), True), (forbid, False)):
            for doc_id in ids:
                mask[0, self._document(doc_id, "document")] = value
        return mask

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


def _beam(k: int, beam: int | None) -> int:
    beam = max(k, _LEAST_BEAM) if beam is None else beam
    if not 1 <= k <= beam:
        raise InputError(f"k={k} with beam={beam}", expected="1 <= k <= beam", fix="raise --beam or lower --k")
    return beam


def _batches(
    tokens: Int[np.ndarray, "q l"], size: int, widths: Sequence[int]
) -> Iterator[tuple[Int[np.ndarray, " r"], int]]:
    """Yield rows of queries that fit the same width, at most so many together, and that width."""
    allowed = np.unique([*(width for width in widths if width < tokens.shape[1]), tokens.shape[1]])
    needed = tokens.shape[1] - np.argmax(tokens[:, ::-1] > 0, axis=1)
    fits = np.searchsorted(allowed, needed)
    for choice, width in enumerate(allowed.tolist()):
        rows = np.flatnonzero(fits == choice)
        for start in range(0, len(rows), size):
            yield rows[start : start + size], width


def _with_rows(array: np.ndarray, rows: int) -> np.ndarray:
    return array if len(array) == rows else np.pad(array, ((0, rows - len(array)), (0, 0)))
