"""Latent semantic analysis: vectors for documents and terms from counts alone."""

from typing import NamedTuple

import numpy as np
import scipy.sparse
from jaxtyping import Float

from genret_jax.errors import InputError


class Lsa(NamedTuple):
    """What :func:`lsa` finds; ``documents = weighted counts @ terms``.

    Attributes:
        documents: One row a document; not of unit length.
        terms: One orthonormal direction a column; rows of terms that no document holds are zero.
        idf: Inverse document frequency of each term.
        singular_values: Descending; zero from the rank of the counts on.
    """

    documents: Float[np.ndarray, "n d"]
    terms: Float[np.ndarray, "v d"]
    idf: Float[np.ndarray, " v"]
    singular_values: Float[np.ndarray, " d"]


def tf_idf(counts: scipy.sparse.csr_matrix) -> tuple[scipy.sparse.csr_matrix, Float[np.ndarray, " v"]]:
    """Weight counts: (1 + log tf) × idf, rows of unit length, idf = 1 + log((1 + n) / (1 + df)).

    Args:
        counts: Occurrences of each term in each document, [n, v].

    Returns:
        The weighted matrix [n, v] in float32 (rows without terms stay zero), and the idf of each term.
    """
    weighted = scipy.sparse.csr_matrix(counts, dtype=np.float32, copy=True)
    weighted.sum_duplicates()
    weighted.eliminate_zeros()
    documents, terms = weighted.shape
    document_frequency = np.bincount(weighted.indices, minlength=terms)
    idf = (1.0 + np.log((1.0 + documents) / (1.0 + document_frequency))).astype(np.float32)
    weighted.data = (1.0 + np.log(weighted.data)) * idf[weighted.indices]
    squares = weighted.multiply(weighted).sum(axis=1)
    norms = np.sqrt(np.asarray(squares, dtype=np.float32).ravel())
    weighted.data /= np.repeat(norms, np.diff(weighted.indptr))
    return weighted, idf


def lsa(counts: scipy.sparse.csr_matrix, dimensions: int, seed: int) -> Lsa:
    """Compute a truncated SVD of TF-IDF weights (Deerwester et al. 1990; Halko et al. 2011 for the algorithm).

    The result is a function of its arguments alone, signs included: in each column of ``terms`` the entry of largest
    magnitude is positive. Columns beyond the rank of the counts are zero.

    Args:
        counts: Occurrences of each term in each document, [n, v].
        dimensions: Number of dimensions d.
        seed: Seed of the random projection.

    Raises:
        InputError: If ``dimensions`` is not positive or the counts are empty.
    """
    if dimensions < 1:
        raise InputError(f"{dimensions} LSA dimensions", expected="at least 1", fix="choose e.g. 64")
    weighted, idf = tf_idf(counts)
    if weighted.nnz == 0:
        raise InputError("no document holds any term", expected="documents with words", fix="check the corpus")
    terms, singular_values = right_singular_vectors(weighted, min(dimensions, *weighted.shape), seed)
    missing = dimensions - len(singular_values)
    terms = np.pad(terms, ((0, 0), (0, missing)))
    return Lsa(
        documents=np.asarray(weighted @ terms, dtype=np.float32),
        terms=terms,
        idf=idf,
        singular_values=np.pad(singular_values, (0, missing)),
    )


def right_singular_vectors(
    weighted: scipy.sparse.csr_matrix, rank: int, seed: int
) -> tuple[Float[np.ndarray, "v r"], Float[np.ndarray, " r"]]:
    """Return the leading right singular vectors, in each of which the entry of largest magnitude is positive."""
    from sklearn.utils.extmath import randomized_svd

    # Single precision halves the time; the directions beyond the true rank are noise of that precision.
    _, singular_values, rows = randomized_svd(
        weighted, n_components=rank, n_oversamples=max(10, rank // 4), n_iter="auto", flip_sign=False, random_state=seed
    )
    kept = singular_values > singular_values[0] * 1e-5
    singular_values, terms = singular_values[kept], rows[kept].T
    largest = np.argmax(np.abs(terms), axis=0)
    signs = np.where(terms[largest, np.arange(terms.shape[1])] < 0, -1.0, 1.0)
    return np.ascontiguousarray(terms * signs, dtype=np.float32), singular_values.astype(np.float32)
