"""Filters of the docids that a query may find: a bit for each docid, and counts by which a range takes two reads."""

import dataclasses
import typing
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from genret_jax.decoding.bitmap import WORD, packed, unpacked
from genret_jax.decoding.index import DocidIndex
from genret_jax.errors import InputError


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DocidFilter:
    """A set of docids for each query of a batch, or one for all of them; 0.25 bytes a docid and query.

    Attributes:
        words: uint32 ``[b, w]`` or ``[1, w]``; bit ``q % 32`` of word ``q // 32`` tells whether docid ``q`` is in.
        before: int32, likewise; docids in the words before each.
    """

    words: Any
    before: Any

    def check(self, index: DocidIndex, batch: int) -> None:
        """Raise if the filter is for other queries or another index; checked while tracing, at no cost."""
        queries, words = self.words.shape
        if queries not in (1, batch):
            raise InputError(f"a filter for {queries} queries", expected=f"{batch} or 1")
        if words != _words(index):
            raise InputError("a filter made for another index", fix="make it with the index that is searched")

    def any_between(self, first: Int[Array, "b k f"], stop: Int[Array, "b k f"]) -> Bool[Array, "b k f"]:
        """Return whether a docid from ``first`` up to, but not including, ``stop`` is in the query's set."""
        return self._count(stop) > self._count(first)

    def mask(self, docids: int) -> Bool[Array, "b n"]:
        """Return whether each of the first docids is in the query's set."""
        return unpacked(jnp.asarray(self.words), docids)

    def _count(self, docids: Int[Array, "b k f"]) -> Int[Array, "b k f"]:
        """Return the number of the set's docids before each given docid."""
        place = docids // WORD
        word, before = (
            jnp.take_along_axis(jnp.asarray(leaf)[:, None], place, axis=-1, mode="clip")
            for leaf in (self.words, self.before)
        )
        below = (jnp.uint32(1) << (docids % WORD).astype(jnp.uint32)) - jnp.uint32(1)
        return before + jax.lax.population_count(word & below).astype(jnp.int32)


def allow(index: DocidIndex, documents: np.ndarray | Sequence[Sequence[int]]) -> DocidFilter:
    """Return a filter that lets each query find these documents only.

    The search is then exactly that of an index with no other documents. A docid of several documents is allowed if one
    of them is, so give :func:`genret_jax.decoding.rank_documents` the same documents.

    Args:
        index: The index that is searched.
        documents: bool ``[b, n]`` or ``[1, n]``, n being one more than the highest document; or for each query the
            numbers of its documents.

    Raises:
        InputError: If the length is another, or there is no such document.
    """
    allowed = _mask(index, documents)
    count = index.num_docids
    of_docid, docid = index.documents_of(np.arange(count))
    begins = np.searchsorted(docid, np.arange(count))
    rows = np.add.reduceat(allowed[:, of_docid], begins, axis=1) > 0 if len(docid) > count else allowed[:, of_docid]
    words = _words(index)
    bits = np.zeros((len(allowed), words * WORD), bool)
    bits[:, :count] = rows
    counts = bits.reshape(len(bits), words, WORD).sum(axis=2)
    return DocidFilter(packed(bits), (np.cumsum(counts, axis=1) - counts).astype(np.int32))


def forbid(index: DocidIndex, documents: np.ndarray | Sequence[Sequence[int]]) -> DocidFilter:
    """Return a filter of all but these documents; arguments and errors are those of :func:`allow`."""
    return allow(index, ~_mask(index, documents))


def _words(index: DocidIndex) -> int:
    return index.layout.capacity.docids // WORD + 1


def _mask(index: DocidIndex, documents: np.ndarray | Sequence[Sequence[int]]) -> np.ndarray:
    known = 1 + int(index.documents_of(np.arange(index.num_docids))[0].max())
    if isinstance(documents, np.ndarray) and documents.dtype == bool:
        if documents.ndim != 2 or documents.shape[1] != known:
            raise InputError(
                f"a filter of shape {documents.shape}", expected=f"[queries, {known}], one entry for each document"
            )
        return documents
    mask = np.zeros((len(documents), known), bool)
    for query, numbers in enumerate(documents):
        numbers = np.asarray(numbers, np.int64)
        unknown = numbers[(numbers < 0) | (numbers >= known)]
        if unknown.size:
            raise InputError(f"a filter with document {unknown[0]}", expected=f"numbers from 0 to {known - 1}")
        mask[query, numbers] = True
    return mask
