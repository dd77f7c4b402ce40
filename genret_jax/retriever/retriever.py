"""Open a run and ask it: for documents that answer a query, or for the items that a user may want next."""

import dataclasses
import os
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from genret_jax.decoding import RankedDocuments, with_share
from genret_jax.errors import InputError, nearest
from genret_jax.inference.ranker import Ranker
from genret_jax.models import with_nodes
from genret_jax.run import DocumentRun, ItemRun, Run

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


class Retriever(Ranker):
    """A trained model with the docids it may write, and what has them.

    Example:
        >>> Retriever.load("runs/python-docs").search("join path components", k=10)
        >>> Retriever.load("runs/beauty").recommend(["B004756YJA", "B004ZT0SSG"], k=10)

    Args:
        run: The opened run folder.
        params: Parameters of its model; where they are spread over a mesh, it searches on that mesh.
    """

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
        new_items: float | None = None,
    ) -> list[SearchResult]:
        """Return the items that a user is most likely to want next, best first; fewer than ``k`` if there are fewer.

        Args:
            history: Ids of the user's items, oldest first.
            k: Items wanted.
            user: Id of the user, where the run knows users; None for somebody unknown.
            beam: Beams; by default ``max(k, 20)``.
            allow: Ids of the items to choose from; all when left out.
            forbid: Ids of items that may not come out.
            repeat: Let items of the history come out too.
            new_items: This share of the results are items that training has not seen, the best of them; None ranks
                them by their scores. The known ones and the new ones are then searched apart (TIGER's epsilon,
                arXiv 2305.05065), and scores need not descend.

        Raises:
            InputError: If the history is empty, ``beam < k``, there is no such item, or a user is given to a run that
                knows none.
        """
        run = self.run_of(ItemRun)
        beam = _beam(k, beam)
        if user is not None and not run.histories.user_tokens:
            raise InputError(
                f"the user '{user}' for a run that knows histories alone",
                file=run.folder,
                fix="leave the user out, or train with HistoryConfig.user_tokens, as runs/tiger_paper.gin does",
            )
        items = [self._document(item, "item") for item in history]
        if not items:
            raise InputError("an empty history", expected="one item or more", fix="give the ids of the user's items")
        latest = np.array([items[-run.histories.items :]])
        forbidden = [*forbid, *([] if repeat else history)]
        tokens = run.encode_histories(latest, [user])
        ranked = self.rank_items(
            tokens, beam=beam, limit=k, allowed=self._allowed(allow, forbidden), new_items=new_items
        )
        return self._results(ranked, 0)

    def rank_items(
        self,
        tokens: Int[np.ndarray, "q l"],
        *,
        beam: int,
        limit: int,
        batch_size: int = 64,
        allowed: Bool[np.ndarray, "#q n"] | None = None,
        without: Int[np.ndarray, "q w"] | None = None,
        new_items: float | None = None,
        progress: bool = False,
    ) -> RankedDocuments:
        """Rank items for histories; arguments as of :meth:`rank` and :meth:`recommend`."""
        run = self.run_of(ItemRun)
        asked: dict[str, Any] = {
            "beam": beam,
            "batch_size": batch_size,
            "without": without,
            "widths": run.input_widths,
            "progress": progress,
        }
        if new_items is None:
            return self.rank(tokens, limit=limit, allowed=allowed, **asked)
        if not 0 <= new_items <= 1:
            raise InputError(f"new_items={new_items}", expected="a share from 0 to 1")
        everything = np.ones((1, len(run.corpus)), bool) if allowed is None else allowed
        known = self.rank(tokens, limit=limit, allowed=everything & ~run.cold[None], **asked)
        if new_items == 0:
            return known
        new = self.rank(tokens, limit=limit, allowed=everything & run.cold[None], **asked)
        return with_share(known, new, new_items, limit)

    def with_items(
        self, item_ids: Sequence[str], vectors: np.ndarray, *, titles: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> "Retriever":
        """Return a retriever that can recommend further items too; see :meth:`genret_jax.run.ItemRun.with_items`."""
        grown = self.run_of(ItemRun).with_items(item_ids, vectors, titles=titles, texts=texts)
        return Retriever(grown, with_nodes(self._params, grown.model.num_nodes))

    def with_documents(
        self, doc_ids: Sequence[str], texts: Sequence[str], *, titles: Sequence[str] = ()
    ) -> "Retriever":
        """Return a retriever of further documents too; see :meth:`genret_jax.run.DocumentRun.with_documents`."""
        run = self.run_of(DocumentRun)
        grown = run.with_documents(doc_ids, texts, titles=titles)
        if grown.added is None:
            return Retriever(grown, self._params)
        # What training has made of the nodes stays, and what the new texts change of their start comes in addition.
        trained, before = (with_nodes(params, grown.model.num_nodes) for params in (self._params, run.start_params()))
        changed = jax.tree.map(lambda old, new: new - old, before, grown.start_params())
        return Retriever(grown, jax.tree.map(jnp.add, trained, changed))

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
