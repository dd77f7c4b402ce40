"""Document vectors, which k-means groups into semantic docids: from a file, from the words, or from a model."""

import warnings
from array import array
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import scipy.sparse
from jaxtyping import Num

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.lsa import lsa
from genret_jax.data.text.words import normalized_words
from genret_jax.errors import InputError
from genret_jax.storage import read_npy
from genret_jax.validation import at_least, check_fields, from_to

_CHECKED_AT_ONCE = 1 << 16  # vectors, so that a large file need not fit in memory


@runtime_checkable
class VectorSource(Protocol):
    """A source of document vectors; a configuration accepts any object with this method.

    :class:`NpyVectors`, :class:`LsaVectors` and :class:`SentenceTransformerVectors` are vector sources.
    """

    def vectors(self, corpus: Corpus) -> Num[np.ndarray, "n d"]:
        """Return one vector for each document of a corpus, in the order of the corpus; may be a memory map."""
        ...


@dataclass(frozen=True, kw_only=True)
class NpyVectors:
    """Vectors from a NumPy file, row i for document i of the corpus.

    Attributes:
        path: A ``.npy`` file with numbers of shape [n, d].
    """

    path: str

    def __post_init__(self) -> None:
        check_fields(self)

    def vectors(self, corpus: Corpus) -> Num[np.ndarray, "n d"]:
        """Map the file into memory, and check it.

        Raises:
            InputError: If it is missing or damaged, or does not hold one finite vector for each document.
        """
        stored = read_npy(self.path, kinds="fiu", expected="numbers of shape [documents, dimensions]")
        return _checked(stored, corpus, file=Path(self.path))


@dataclass(frozen=True, kw_only=True)
class LsaVectors:
    """Vectors from the corpus's own words: TF-IDF and truncated SVD, rows of unit length.

    Attributes:
        dimensions: Length of the vectors.
        seed: Seed of the SVD's random projection.
        min_documents: Words in fewer documents are left out; a word of one document groups nothing.
    """

    dimensions: Annotated[int, at_least(1)] = 64
    seed: Annotated[int, from_to(0, 2**32 - 1)] = 0
    min_documents: Annotated[int, at_least(1)] = 2

    def __post_init__(self) -> None:
        check_fields(self)

    def vectors(self, corpus: Corpus) -> Num[np.ndarray, "n d"]:
        """Compute the vectors; documents without a frequent word get zeros, with a warning."""
        counts = count_words(map(corpus.document_text, range(len(corpus))))
        in_documents = np.bincount(counts.indices, minlength=counts.shape[1])
        common = in_documents >= self.min_documents
        # A handful of documents may share no word at all; then all words count.
        documents = lsa(counts[:, common] if common.any() else counts, self.dimensions, self.seed).documents
        norms = np.linalg.norm(documents, axis=1, keepdims=True)
        return _checked(documents / np.where(norms > 0, norms, 1.0), corpus, file=None)


@dataclass(frozen=True, kw_only=True)
class SentenceTransformerVectors:
    """Vectors of unit length from a model of the sentence-transformers library.

    Attributes:
        model: A name of the model hub, or a folder.
        batch_size: Documents that are encoded together.
    """

    model: str
    batch_size: Annotated[int, at_least(1)] = 32

    def __post_init__(self) -> None:
        check_fields(self)

    def vectors(self, corpus: Corpus) -> Num[np.ndarray, "n d"]:
        """Encode ``title. text`` of every document.

        Raises:
            InputError: If the library or the model is missing.
        """
        try:
            import sentence_transformers
        except ImportError:
            raise InputError(
                "sentence-transformers is not installed", fix="pip install 'genret_jax[embed]', or give a .npy file"
            ) from None
        try:
            model = sentence_transformers.SentenceTransformer(self.model)
        except (OSError, ValueError) as error:
            raise InputError(
                f"the sentence-transformers model {self.model!r} cannot be loaded ({error})",
                expected="a name of the model hub or a folder",
                fix="check the name and the network, or download the model and give its folder",
            ) from error
        encoded = model.encode(
            [corpus.document_text(index) for index in range(len(corpus))],
            batch_size=self.batch_size,
            normalize_embeddings=True,
            convert_to_numpy=True,
            show_progress_bar=len(corpus) > 1000,
        )
        return _checked(np.asarray(encoded, dtype=np.float32), corpus, file=None)


def count_words(texts: Iterable[str]) -> scipy.sparse.csr_matrix:
    """Count normalised words.

    Args:
        texts: Documents.

    Returns:
        Occurrences [n, v]; columns in order of first appearance.
    """
    columns: dict[str, int] = {}
    indices, counts, ends = array("i"), array("i"), array("q", [0])
    for text in texts:
        occurrences = Counter(normalized_words(text))
        indices.extend(columns.setdefault(word, len(columns)) for word in occurrences)
        counts.extend(occurrences.values())
        ends.append(len(indices))
    parts = (np.array(part) for part in (counts, indices, ends))
    return scipy.sparse.csr_matrix(tuple(parts), shape=(len(ends) - 1, len(columns)))


def _checked(vectors: Num[np.ndarray, "r d"], corpus: Corpus, *, file: Path | None) -> Num[np.ndarray, "r d"]:
    """Check that there is one finite vector for each document; warn of zeros, which cannot be clustered."""
    if len(vectors) != len(corpus):
        raise InputError(
            f"{len(vectors):,} vectors",
            file=file,
            expected=f"{len(corpus):,}, one for each document of {corpus.source or corpus.name}",
            fix="compute the vectors again from this corpus",
        )
    finite, zero = np.ones(len(vectors), bool), np.zeros(len(vectors), bool)
    for start in range(0, len(vectors), _CHECKED_AT_ONCE):
        rows = slice(start, start + _CHECKED_AT_ONCE)
        piece = np.asarray(vectors[rows], np.float32)
        finite[rows], zero[rows] = np.isfinite(piece).all(1), ~piece.any(1)
    if not finite.all():
        row = int(np.argmin(finite))
        raise InputError(
            f"row {row} (document {corpus.doc_ids[row]!r}) holds NaN or infinity, as do "
            f"{len(vectors) - int(finite.sum()) - 1:,} other rows",
            file=file,
            expected="finite numbers",
            fix="compute the vectors again; float16 overflows beyond 65,504",
        )
    zero[list(corpus.empty_documents)] = False  # the reader of the corpus has warned of these
    if zero.any():
        row = int(np.argmax(zero))
        warnings.warn(
            f"{file or corpus.source or corpus.name}: {int(zero.sum()):,} of {len(vectors):,} document vectors are "
            f"zero (first: document {corpus.doc_ids[row]!r}); such documents are grouped together",
            stacklevel=3,
        )
    return vectors
