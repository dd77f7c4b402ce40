"""Search a run for the documents that answer a query, or the items that a user may want next."""

import dataclasses
import os
import warnings
from collections.abc import Collection, Iterable, Sequence
from typing import Any, overload

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool

from genret_jax.decoding import RankedDocuments
from genret_jax.errors import InputError, nearest
from genret_jax.inference import Ranker
from genret_jax.models import with_nodes
from genret_jax.problems import History, Problem
from genret_jax.run.folder import open_run

# Fewer beams than this rank a handful of results noticeably worse than a wide search, at nearly the same cost.
_LEAST_BEAM = 20


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchResult:
    """One retrieved document, or one recommended item.

    Attributes:
        rank: 1 for the best.
        doc_id: External id.
        score: Log-probability of its docid given the request.
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
    """A trained model with the docids it may write, and the documents that have them.

    Example:
        >>> Retriever.load("runs/python-docs").search("join path components", k=10)
        >>> Retriever.load("runs/beauty").recommend(["B004756YJA", "B004ZT0SSG"], k=10)

    Args:
        run: The opened run folder.
        params: Parameters of its model. Where they are spread over a mesh, it searches on that mesh.

    Raises:
        InputError: If the run's decoder writes queries.
    """

    def __init__(self, run: Problem, params: Any):
        run.require_ranks()
        super().__init__(run.model, run.encoded, params, run.plan_tables)
        self.run = run

    @classmethod
    def load(
        cls,
        run: str | os.PathLike[str],
        *,
        checkpoint: str | int = "best",
        mesh: Mesh | None = None,
        allow_imports: Collection[str] = (),
    ) -> "Retriever":
        """Open a run folder.

        Args:
            run: Folder written by ``genret train``.
            checkpoint: ``"best"`` by the validation metric, ``"last"``, a step, ``"start"`` for the untrained network,
                or the path of a checkpoint or ``MODEL_DIR`` of t5x.
            mesh: From :func:`genret_jax.parallel.mesh.make_mesh`. Queries are divided over its data axis; the network,
                and the scores of many atomic docids, over its model axis. None searches on one device.
            allow_imports: Modules outside genret_jax that the run's configuration may import, which runs their code.

        Raises:
            InputError: If the folder is no run, has no checkpoint yet, or they do not fit each other.
        """
        opened = open_run(run, allow_imports=allow_imports)
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
            query: One query, or several that are searched together.
            k: Documents wanted.
            beam: Beams; by default 20, or the power of two from ``k`` on.
            allow: Ids of the documents to choose from; all when left out. The search is exactly that of an index
                without the others.
            forbid: Ids of documents that must not come out.

        Raises:
            InputError: If a query has no words, ``beam < k``, there is no such document, or the run takes histories.
        """
        self.run.require_request(str)
        queries = [query] if isinstance(query, str) else list(query)
        results = self.ask(queries, k, beam=beam, allow=allow, forbid=forbid)
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
            beam: Beams; by default 20, or the power of two from ``k`` on.
            allow: Ids of the items to choose from; all when left out.
            forbid: Ids of items that must not come out.
            repeat: Let items of the history come out too.
            new_items: Share of the results that are items which training has not seen. None ranks all by their scores.
                Known and new items are then searched apart (TIGER's epsilon, arXiv 2305.05065), and scores need not
                descend.

        Raises:
            InputError: If the history is empty, ``beam < k``, there is no such item, a user is given to a run that
                knows none, or the run takes queries.
        """
        self.run.require_request(History)
        forbidden = [*forbid, *([] if repeat else history)]
        request = History(items=history, user=user)
        return self.ask([request], k, beam=beam, allow=allow, forbid=forbidden, new=new_items)[0]

    def ask(
        self,
        requests: Sequence[Any],
        k: int = 10,
        *,
        beam: int | None = None,
        allow: Iterable[str] | None = None,
        forbid: Iterable[str] = (),
        new: float | None = None,
    ) -> list[list[SearchResult]]:
        """Return the best documents for each request, whatever the run's requests are.

        Args:
            requests: Requests that the run's problem can encode, such as queries.
            k: Documents wanted.
            beam: Beams; by default 20, or the power of two from ``k`` on.
            allow: Ids of the documents to choose from; all when left out.
            forbid: Ids of documents that must not come out.
            new: Share of the results that are documents which training has not seen; None ranks all by their scores.

        Raises:
            InputError: If a request cannot be used, ``beam < k``, or there is no such document.
        """
        beam = _beam(k, beam)
        tokens = self.run.encode(requests)
        for request in requests:
            if self.run.unknown_words(request):
                warnings.warn(f"no word of {request!r} is known to this run: its results mean little", stacklevel=3)
        ranked = self.rank_with_share(
            tokens,
            new,
            None if new is None else self.run.later,
            limit=k,
            beam=beam,
            allowed=self._allowed(allow, forbid),
            widths=self.run.input_widths,
        )
        return [self._results(ranked, row) for row in range(len(requests))]

    def with_documents(
        self, doc_ids: Sequence[str], texts: Sequence[str], *, titles: Sequence[str] = ()
    ) -> "Retriever":
        """Return a retriever that searches further documents too; the run folder stays as it is.

        Args:
            doc_ids: Ids of the new documents.
            texts: Texts of the new documents.
            titles: Titles of the new documents; none by default.

        Raises:
            InputError: As :meth:`genret_jax.problems.Problem.extended`.
        """
        self.run.require_request(str)
        return self._with(self.run.extended(doc_ids, titles=titles, texts=texts))

    def with_items(
        self, item_ids: Sequence[str], vectors: np.ndarray, *, titles: Sequence[str] = (), texts: Sequence[str] = ()
    ) -> "Retriever":
        """Return a retriever that recommends further items too; the run folder stays as it is.

        Args:
            item_ids: Ids of the new items.
            vectors: A vector per new item [n, d], made in the same way as those of the run's items.
            titles: Titles of the new items; none by default.
            texts: Texts of the new items; none by default.

        Raises:
            InputError: As :meth:`genret_jax.problems.Problem.extended`.
        """
        self.run.require_request(History)
        return self._with(self.run.extended(item_ids, titles=titles, texts=texts, vectors=vectors))

    def _with(self, grown: Problem) -> "Retriever":
        params = with_nodes(self._params, grown.model.num_nodes)
        if grown.start_changes:
            # Training's changes of the nodes stay; the change of the start by the new texts is added to them.
            before = with_nodes(self.run.start_params(), grown.model.num_nodes)
            params = jax.tree.map(lambda now, old, new: now + (new - old), params, before, grown.start_params())
        return Retriever(grown, params)

    def _document(self, doc_id: str) -> int:
        known = self.run.corpus.document_index
        if doc_id not in known:
            hint = nearest(doc_id, known) if len(known) <= 20_000 else ""
            raise InputError(f"there is no document '{doc_id}'", expected="ids of the corpus", fix=hint or None)
        return known[doc_id]

    def _allowed(self, allow: Iterable[str] | None, forbid: Iterable[str]) -> Bool[np.ndarray, "1 n"] | None:
        forbid = list(forbid)
        if allow is None and not forbid:
            return None
        mask = np.full((1, len(self.run.corpus)), allow is None)
        for ids, value in ((allow or (), True), (forbid, False)):
            for doc_id in ids:
                mask[0, self._document(doc_id)] = value
        return mask

    def _results(self, ranked: RankedDocuments, row: int) -> list[SearchResult]:
        corpus, table = self.run.corpus, self.run.table
        return [
            SearchResult(
                rank=rank,
                doc_id=corpus.doc_ids[document],
                score=score,
                docid=table.docid(int(self.run.row_of_document[document])),
                title=corpus.titles[document],
                text=corpus.texts[document],
            )
            for rank, (document, score) in enumerate(ranked.of(row), 1)
        ]


def _beam(k: int, beam: int | None) -> int:
    # Beams come in powers of two, so that another k seldom compiles anew.
    wanted = max(_LEAST_BEAM, 1 << (k - 1).bit_length() if k > _LEAST_BEAM else 0) if beam is None else beam
    if k < 1:
        raise InputError(f"k is {k}", expected="at least 1 result")
    if k > wanted:
        raise InputError(f"{k} results of {wanted} beams", fix="give more beams or a smaller k")
    return wanted
