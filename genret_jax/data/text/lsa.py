"""Vectors for documents and terms from counts: latent semantic analysis, and BM25 in few dimensions."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.errors import InputError

_K1, _B = 0.9, 0.75  # BM25's saturation of term frequency, and its normalisation by document length
_QUERY_WEIGHTS = (0.0, 0.1, 0.25, 0.5)
_LEFT_OUT, _AT_ONCE = 1000, 50  # queries to leave out, and those that are scored at once against all documents
_MOST = 20  # weight of a left-out query of one kind, in weights of the other kind
_LIKE_DOCUMENTS = 100  # queries that are assumed to have words as documents do


class Lsa(NamedTuple):
    """Result of :func:`lsa`; ``documents = weighted counts @ terms``.

    Attributes:
        documents: One row for each document; not of unit length.
        terms: Orthonormal columns; the rows of terms that no document holds are zero.
        idf: Inverse document frequency of each term.
    """

    documents: Float[np.ndarray, "n d"]
    terms: Float[np.ndarray, "v d"]
    idf: Float[np.ndarray, " v"]


def tf_idf(
    counts: scipy.sparse.csr_matrix, idf: Float[np.ndarray, " v"] | None = None
) -> tuple[scipy.sparse.csr_matrix, Float[np.ndarray, " v"]]:
    """Weight counts: (1 + log tf) × idf, rows of unit length, idf = 1 + log((1 + n) / (1 + df)).

    Args:
        counts: Occurrences of each term in each document, [n, v].
        idf: Inverse document frequency of each term; by default that in these documents.

    Returns:
        The weighted matrix [n, v] in float32, with zero rows for documents without terms, and the idf of each term.
    """
    weighted = scipy.sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    weighted.sum_duplicates()
    weighted.eliminate_zeros()
    documents, terms = weighted.shape
    if idf is None:
        document_frequency = np.bincount(weighted.indices, minlength=terms)
        idf = (1.0 + np.log((1.0 + documents) / (1.0 + document_frequency))).astype(np.float32)
    weighted.data = (1.0 + np.log(weighted.data)) * idf[weighted.indices]
    squares = weighted.multiply(weighted).sum(axis=1)
    norms = np.sqrt(np.asarray(squares, dtype=np.float32).ravel())
    weighted.data /= np.repeat(norms, np.diff(weighted.indptr))
    return weighted, idf


def lsa(
    counts: scipy.sparse.csr_matrix, dimensions: int, seed: int, *, later: scipy.sparse.csr_matrix | None = None
) -> Lsa:
    """Compute a truncated SVD of TF-IDF weights (Deerwester et al. 1990; Halko et al. 2011 for the algorithm).

    The result depends on the arguments alone, also in its signs: the entry of largest magnitude in each column of
    ``terms`` is positive. Columns beyond the rank of the counts are zero.

    Args:
        counts: Occurrences of each term in each document, [n, v].
        dimensions: Number of dimensions d.
        seed: Seed of the random projection.
        later: Counts of new documents, which get vectors but do not change the terms.

    Raises:
        InputError: If ``dimensions`` is not positive or the counts are empty.
    """
    if dimensions < 1:
        raise InputError(f"{dimensions} LSA dimensions", expected="at least 1", fix="choose e.g. 64")
    weighted, idf = tf_idf(counts)
    if weighted.nnz == 0:
        raise InputError("no document holds any term", expected="documents with words", fix="check the corpus")
    terms, _ = right_singular_vectors(weighted, min(dimensions, *weighted.shape), seed)
    terms = np.pad(terms, ((0, 0), (0, dimensions - terms.shape[1])))
    if later is not None:
        weighted = scipy.sparse.vstack([weighted, tf_idf(later, idf)[0]], format="csr")
    return Lsa(documents=np.asarray(weighted @ terms, dtype=np.float32), terms=terms, idf=idf)


def bm25_idf(
    counts: scipy.sparse.csr_matrix, queries: scipy.sparse.csr_matrix | None = None
) -> Float[np.ndarray, " v"]:
    """Return the inverse document frequency of BM25, Lucene's variant: log(1 + (n - df + 0.5) / (df + 0.5)).

    A term that is more frequent in queries than in documents, such as "what", gets the weight of its frequency in
    queries. That frequency is smoothed by a hundred queries with the frequencies of documents.

    Args:
        counts: Occurrences of each term in each document, [n, v].
        queries: Occurrences of each term in each query, [q, v]; may be left out.
    """
    share = (_document_frequency(counts) + 0.5) / (counts.shape[0] + 1)
    if queries is not None:
        of_queries = (_document_frequency(queries) + _LIKE_DOCUMENTS * share) / (queries.shape[0] + _LIKE_DOCUMENTS)
        share = np.maximum(share, of_queries)
    return -np.log(share).astype(np.float32)


def _document_frequency(counts: scipy.sparse.csr_matrix) -> Int[np.ndarray, " v"]:
    return np.bincount(counts.indices[counts.data > 0], minlength=counts.shape[1])


def bm25(
    counts: scipy.sparse.csr_matrix,
    idf: Float[np.ndarray, " v"],
    *,
    usual_length: float | None = None,
    k1: float = _K1,
    b: float = _B,
) -> scipy.sparse.csr_matrix:
    """Return the contribution of each query term to a document's BM25 score, Lucene's variant, [n, v] in float32.

    See Kamphuis et al., ECIR 2020.

    Args:
        counts: Occurrences of each term in each document, [n, v]; may be fractions.
        idf: Weight of each term, usually its inverse document frequency.
        usual_length: Length that the lengths are compared with; by default the mean of these documents.
        k1: Saturation of term frequency.
        b: Normalisation by document length, from 0 to 1.
    """
    weighted = scipy.sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    weighted.eliminate_zeros()
    lengths = np.asarray(weighted.sum(axis=1), np.float32).ravel()
    saturation = k1 * (1 - b + b * lengths / max(usual_length or float(lengths.mean()), 1e-9))
    frequency = weighted.data
    weighted.data = idf[weighted.indices] * frequency / (frequency + np.repeat(saturation, np.diff(weighted.indptr)))
    return weighted


def right_singular_vectors(
    weighted: scipy.sparse.csr_matrix, rank: int, seed: int
) -> tuple[Float[np.ndarray, "v r"], Float[np.ndarray, " r"]]:
    """Return the leading right singular vectors, in each of which the entry of largest magnitude is positive."""
    from sklearn.utils.extmath import randomized_svd

    # Single precision halves the time; directions beyond the true rank are its rounding noise.
    _, singular_values, rows = randomized_svd(
        weighted, n_components=rank, n_oversamples=max(10, rank // 4), n_iter="auto", flip_sign=False, random_state=seed
    )
    kept = singular_values > singular_values[0] * 1e-5
    singular_values, terms = singular_values[kept], rows[kept].T
    largest = np.argmax(np.abs(terms), axis=0)
    signs = np.where(terms[largest, np.arange(terms.shape[1])] < 0, -1.0, 1.0)
    return np.ascontiguousarray(terms * signs, dtype=np.float32), singular_values.astype(np.float32)
