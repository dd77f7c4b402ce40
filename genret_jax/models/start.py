"""The interface of a start: it chooses a network's parameters before the first training step.

A start is a frozen dataclass that a gin file names. :class:`~genret_jax.models.initialize.LsaStart` and
:class:`~genret_jax.models.initialize.ItemStart` are examples; users can write their own in a module of theirs.
"""

from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from genret_jax.models.config import T5Config

#: Nested dictionary of arrays, by t5x's names.
Params = dict[str, Any]


class Vectors(NamedTuple):
    """Vectors of text tokens and of documents, in one space.

    Attributes:
        terms: One row per text token.
        documents: One row per document.
    """

    terms: Float[np.ndarray, "v d"]
    documents: Float[np.ndarray, "n d"]


@runtime_checkable
class Start(Protocol):
    """Chooses a network's parameters before the first training step.

    Three optional attributes tell more about a start: ``source`` is a phrase for the log, such as "public weights"
    (by default the class name); ``covers_new_documents`` is true if documents that are added after training get
    vectors of their own from their texts (by default false); ``keeps_vocabulary`` is true if the rows of the token
    embedding are those of a given vocabulary, so that the embedding must not be smaller (by default false).
    """

    def initial_params(self, random_params: Params, config: T5Config, facts: Any) -> Params:
        """Return the parameters; the same arguments must always give the same parameters.

        Args:
            random_params: Random parameters in float32, which must not be changed in place.
            config: Configuration of the network, with its final sizes.
            facts: A :class:`TextFacts` in an ``Experiment``, an :class:`ItemFacts` in a ``Recommendation``.
        """
        ...


@runtime_checkable
class StartFacts(Protocol):
    """Facts about the data of a run. Each is computed when it is asked for.

    Attributes:
        seed: Seed of the run; while docids are learned, the seed of the docids.
        docids: The docids (:class:`genret_jax.docids.EncodedDocids`); None if they are text or not known yet.
    """

    seed: int
    docids: Any


@runtime_checkable
class PlanFacts(StartFacts, Protocol):
    """Facts about documents and a plan."""

    def shown(self) -> Bool[np.ndarray, " n"]:
        """Return which documents training shows together with their docids."""

    def cosine_weight(self) -> float:
        """Return the weight of vectors in a sum with words."""

    def stop_terms(self) -> Int[np.ndarray, " s"]:
        """Return the terms whose weights a lexical plan lowers; none where training queries tell their weights."""


@runtime_checkable
class TextFacts(PlanFacts, Protocol):
    """Facts about a corpus of documents."""

    def token_counts(self) -> Any:
        """Return how often each text token occurs in each document: scipy CSR matrix ``[n, v]``."""

    def latent(self, width: int) -> Vectors:
        """Return vectors from latent semantic analysis; those of tokens include the token's weight."""


@runtime_checkable
class EncodedFacts(PlanFacts, Protocol):
    """Facts about a corpus of documents and its pretrained encoder."""

    def encoder_params(self) -> Params:
        """Return the parameters of the encoder, as the network has them."""

    def document_vectors(self) -> Float[np.ndarray, "n d"]:
        """Return the vector that the encoder gives to each document."""


@runtime_checkable
class ItemFacts(StartFacts, Protocol):
    """Facts about the items that training shows; the rows of all three arrays are the same items."""

    def item_tokens(self) -> Int[np.ndarray, "n m"]:
        """Return the docid of each item as tokens, padded with 0."""

    def item_nodes(self) -> Int[np.ndarray, "n m"]:
        """Return the node of the docid tree that each token leads to, padded with 0."""

    def item_vectors(self) -> Float[np.ndarray, "n d"]:
        """Return a vector of length 1 for each item."""


def source_of(start: Start) -> str:
    """Return what a start takes the parameters from, in a few words."""
    return str(getattr(start, "source", type(start).__name__))
