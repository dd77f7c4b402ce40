"""Latent semantic vectors of texts, for networks that have no pretrained encoder."""

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
from jaxtyping import Float

from genret_jax.data.text.vocabulary import Vocabulary


@dataclasses.dataclass(frozen=True, kw_only=True)
class LatentEncoder:
    """Turns texts into sums of their tokens' vectors, scaled to length 1.

    A network that starts from latent semantic analysis gives queries these vectors before its first step, because the
    mean of its encoder's states is the mean of its token vectors.

    Attributes:
        terms: Vector of each token, with its inverse document frequency (:func:`genret_jax.data.text.lsa.lsa`).
        vocabulary: Turns texts into tokens.
        length: Tokens of a query that are read; documents are read whole.
    """

    terms: Float[np.ndarray, "v d"]
    vocabulary: Vocabulary
    length: int

    name: ClassVar[str] = "latent semantic analysis"

    @property
    def params(self) -> dict[str, np.ndarray]:
        """The parameters."""
        return {"terms": self.terms}

    def vectors(
        self, texts: Sequence[str], role: str = "passage", *, progress: bool = False
    ) -> Float[np.ndarray, "n d"]:
        """Return one vector for each text.

        Args:
            texts: Texts.
            role: ``"query"`` or ``"passage"``.
            progress: Not used: this takes no time.
        """
        length = self.length if role == "query" else None
        counts = token_counts([self.vocabulary.encode(text)[:length] for text in texts], len(self.terms))
        return self.of_queries(counts) if role == "query" else self.of_documents(counts)

    def of_queries(self, counts: Any) -> Float[np.ndarray, "n d"]:
        """Return the vectors of queries, given the occurrences of each token, scipy CSR [n, v]."""
        sums = np.asarray(counts @ self.terms, np.float32)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-9)

    def of_documents(self, counts: Any) -> Float[np.ndarray, "n d"]:
        """Return the vectors of documents, in which tokens count for 1 + log of their occurrences."""
        counts = scipy.sparse.csr_matrix(counts, dtype=np.float32, copy=True)
        counts.data = 1 + np.log(counts.data)
        return self.of_queries(counts)


def token_counts(texts: Sequence[Sequence[int]], size: int) -> Any:
    """Return how often each token stands in each text, scipy CSR [n, size]."""
    ends = np.cumsum([0, *map(len, texts)])
    tokens = np.array([token for text in texts for token in text], np.int64)
    counts = scipy.sparse.csr_matrix((np.ones(len(tokens), np.float32), tokens, ends), shape=(len(texts), size))
    counts.sum_duplicates()
    return counts
