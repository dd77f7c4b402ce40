"""The parameters before the first step: random, or made from the corpus or from public weights."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool

from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.lsa import lsa
from genret_jax.data.text.terms import stop_terms
from genret_jax.docids import EncodedDocids
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.network import random_variables
from genret_jax.models.start import Start, Vectors

#: Linen variables of a network at random: ``(config, rng, tree)``; compiled once for each configuration.
jitted_variables = jax.jit(random_variables, static_argnames="config")


def random_params(config: T5Config, seed: int, tree: NodeTree | None = None) -> dict[str, Any]:
    """Return a network's parameters at random."""
    params: dict[str, Any] = jitted_variables(config, jax.random.key(seed), tree)["params"]
    return params


def initial_params(random: dict[str, Any], config: T5Config, start: Start | None, facts: Any) -> dict[str, Any]:
    """Return the parameters before the first step.

    Args:
        random: Parameters at random.
        config: The network.
        start: Chooses the parameters; None keeps the random ones.
        facts: Facts that the start may ask for, such as :class:`DocumentFacts`.
    """
    if start is None:
        return jax.tree.map(np.asarray, random)
    return start.initial_params(random, config, facts)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocumentFacts:
    """Facts about a corpus, computed when a start asks for them.

    Attributes:
        store: Tokens of the documents.
        seed: Seed of the start.
        docids: The docids; None where they are text, or not made yet.
        unseen_split: Qrels split whose documents must not be known to the codes.
        later: Token counts of documents added behind those of the store, scipy CSR [m, v].
        later_vectors: What the encoder makes of these documents, [m, d].
        parts: Has the ``encoder``, pretrained or latent, its ``document_vectors``, and the ``settings`` of the plan's
            sum.
    """

    store: ExampleStore
    seed: int
    docids: EncodedDocids | None
    unseen_split: str | None
    later: Any = None
    later_vectors: Any = None
    parts: Any = None

    def encoder_params(self) -> dict[str, Any]:
        """Return the parameters of the pretrained encoder."""
        return dict(self.parts.encoder.params)

    def document_vectors(self) -> Any:
        """Return the vector that the encoder gives to each document, [n, d]."""
        known = self.parts.document_vectors
        return known if self.later_vectors is None else np.concatenate([known, self.later_vectors])

    def cosine_weight(self) -> float:
        """Return the weight of vectors in a sum with words, as chosen on training queries."""
        return float(self.parts.settings.cosine_weight)

    def stop_terms(self) -> Any:
        """Return the numbers of the terms of English stop words; none if there are training queries."""
        return self.store.term_numbers(() if len(self.store.pairs("train")[0]) else stop_terms())

    def token_counts(self) -> Any:
        """Return how often each token stands in each stored document, scipy CSR [n, v]."""
        return self.store.token_counts()

    def shown(self) -> Bool[np.ndarray, " n"]:
        """Return which documents training shows; added ones are not."""
        count = self.store.num_documents + (0 if self.later is None else self.later.shape[0])
        return np.isin(np.arange(count), self.store.shown_documents(self.unseen_split))

    def latent(self, width: int) -> Vectors:
        """Return latent semantic vectors: terms ``[v, width]`` times their IDF, and documents ``[n, width]``."""
        if self.parts is not None and self.parts.is_latent:
            return Vectors(self.parts.encoder.terms, self.document_vectors())
        found = lsa(self.token_counts(), width, self.seed, later=self.later)
        return Vectors(found.terms * found.idf[:, None], found.documents)
