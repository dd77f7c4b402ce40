"""Learning docids together with the network that writes them (GenRet, Sun et al. 2023, arXiv 2304.04171)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.sampler import Sampler
from genret_jax.docid_learning.model import Codebooks, shifted_tokens
from genret_jax.docids import LearnedDocids
from genret_jax.docids.balanced import balanced_codes
from genret_jax.losses import cross_entropy, in_batch_contrastive, straight_through
from genret_jax.models.network import T5, random_variables
from genret_jax.training.docid_task import Sums

_FIRST, _ALIKE = 400, 401  # streams of the counter-based random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """What is learned for some steps.

    Attributes:
        levels: Levels that are learned; none where codes that are known are only followed.
        known: Levels before them whose codes are fixed, and followed.
        coded: Whether documents are given codes of the levels; otherwise documents and queries are only drawn together,
            as is done before a codebook is made.
    """

    levels: tuple[int, ...]
    known: int
    coded: bool = True


class DocidLearningTask:
    """Documents beside queries that they answer, both to get the same codes.

    The losses are those of section 3.2 of the paper. A document's code at a level is the one that is nearest to its
    state, or what a balanced assignment over the batch gives it (section 3.4). Reconstruction: the code's vector, by
    straight-through gradients, is to be nearest to the state of its own document among those with the same codes
    before. Commitment: the document is to keep to the code. Retrieval: the query's state is to be nearest to that of
    its document, and it is to get its code. The sums over earlier levels, whose codes are fixed, are cross-entropies of
    document and query. Inner products are divided by the square root of the width, which the paper does not do.

    Which of them count is part of a batch, so that one program serves all phases.

    Args:
        books: The network, and which of its tokens are codes.
        document_tokens: Of every document, padded with 0.
        strategy: Weights of the losses, and how documents are drawn and given codes.
    """

    def __init__(self, books: Codebooks, document_tokens: Int32[np.ndarray, "n l"], strategy: LearnedDocids):
        self.model, self.books, self.strategy = T5(books.config), books, strategy
        self._document_tokens = document_tokens

    def begin(self, phase: Phase, sampler: Sampler, codes: Int32[np.ndarray, "n m"]) -> None:
        """Set what further batches are.

        Args:
            phase: What is learned.
            sampler: Draws queries.
            codes: Of every document, -1 where not known.
        """
        self.phase, self.sampler, self._codes = phase, sampler, codes
        #: A number for the codes of every document before each level.
        self._prefix = np.stack([prefix_numbers(codes[:, :level]) for level in range(codes.shape[1])], axis=1)
        deepest = self._prefix[sampler.documents, max(phase.levels, default=0)]
        self._by_prefix = sampler.documents[np.argsort(deepest, kind="stable")]
        ordered = np.sort(deepest)
        self._begins, self._ends = (np.searchsorted(ordered, deepest, side) for side in ("left", "right"))

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        return random_variables(self.books.config, rng, None)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return documents, drawn in runs of the same prefix, each with a query."""
        numbers = np.arange(self.sampler.batch_size)
        numbers = numbers if rows is None else numbers[rows]
        documents = self._documents(step, numbers)
        codes, rows_of = self._codes[documents], np.ones((len(numbers), 1), np.float32)
        levels = np.arange(codes.shape[1])
        return {
            "document": documents.astype(np.int32),
            "document_tokens": self._document_tokens[documents],
            "query_tokens": self.sampler.batch(step, numbers, documents)["encoder_input_tokens"],
            "decoder_input_tokens": shifted_tokens(self.books, codes).astype(np.int32),
            "codes": codes,
            "prefix": self._prefix[documents],
            "learned": rows_of * np.isin(levels, self.phase.levels),
            "known": rows_of * (levels < self.phase.known),
            "coded": rows_of[:, 0] * np.float32(self.phase.coded),
        }

    def _documents(self, step: int, numbers: Int[np.ndarray, " r"]) -> Int[np.ndarray, " r"]:
        """Draw a document a run, all alike likely, and for its rows documents of the same prefix."""
        shown = len(self.sampler.documents)
        of_run = RowRandom(self.sampler.seed, step, numbers // self.strategy.alike)
        first = of_run.below(_FIRST, np.full(len(numbers), shown))
        begins, ends = self._begins[first], self._ends[first]
        random = RowRandom(self.sampler.seed, step, numbers)
        drawn: np.ndarray = self._by_prefix[begins + random.below(_ALIKE, ends - begins)]
        return drawn

    def loss(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the number of rows, and each part of the loss."""
        keys = jax.random.split(dropout_rng)
        document, query = (
            self._read(params, batch[f"{side}_tokens"], batch["decoder_input_tokens"], key)
            for side, key in zip(("document", "query"), keys, strict=True)
        )
        parts = {name: jnp.float32(0) for name in ("retrieval", "reconstruction", "commitment", "earlier")}
        right = jnp.float32(0)
        for level in range(len(self.books.level_sizes)):
            of_document, of_query = (self._level(side[1], level) for side in (document, query))
            # At the scale at which their inner products are logits.
            states, asked = (self.books.scale**-0.5 * side[0][:, level] for side in (document, query))
            among = batch["document"], batch["prefix"][:, level]
            learned, known = batch["learned"][:, level], batch["known"][:, level]
            coded = learned * batch["coded"]
            codes = self._assigned(jax.lax.stop_gradient(of_document))
            vectors = straight_through(states, self.books.scale**-0.5 * self.books.vectors(params, level)[codes])
            told = _told_apart(vectors, jax.lax.stop_gradient(states), *among, coded)
            parts["retrieval"] += _told_apart(asked, states, *among, learned)
            parts["retrieval"] += cross_entropy(of_query, codes, coded)[0]
            parts["reconstruction"] += self.strategy.reconstruction * told
            parts["commitment"] += self.strategy.commitment * cross_entropy(of_document, codes, coded)[0]
            fixed = jnp.maximum(batch["codes"][:, level], 0)
            parts["earlier"] += sum(cross_entropy(logits, fixed, known)[0] for logits in (of_document, of_query))
            # Of the last level that has codes.
            hits = (jnp.argmax(of_query, axis=-1) == jnp.where(known > 0, fixed, codes)) * (coded + known)
            right = jnp.where(jnp.any(coded + known > 0), jnp.sum(hits), right)
        total = sum(parts.values(), start=jnp.float32(0))
        return total, jnp.float32(len(batch["codes"])), {**parts, "query_code_accuracy": right}

    def _read(
        self, params: Mapping[str, Any], tokens: Array, shifted: Array, key: Array
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m c"]]:
        """Return states and the logits of all codes."""

        def read(model: T5) -> tuple[Array, Array]:
            encoded = model.encode(tokens, deterministic=False)
            states = model.states(encoded, tokens, shifted, deterministic=False)
            return states, model.read(states, (self.books.first_token, sum(self.books.level_sizes)))

        found: tuple[Array, Array] = self.model.apply({"params": params}, method=read, rngs={"dropout": key})
        return found

    def _level(self, logits: Float[Array, "b m c"], level: int) -> Float[Array, "b k"]:
        first, number = self.books.tokens(level)
        start = first - self.books.first_token
        return logits[:, level, start : start + number]

    def _assigned(self, logits: Float[Array, "b k"]) -> Int32[Array, " b"]:
        if self.strategy.balanced:
            return balanced_codes(logits)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def _told_apart(
    queries: Float[Array, "b d"],
    states: Float[Array, "b d"],
    document: Int[Array, " b"],
    prefix: Int[Array, " b"],
    weights: Float[Array, " b"],
) -> Float[Array, ""]:
    """Return how badly queries, or codes, tell their documents from others of the same prefix."""
    return in_batch_contrastive(queries, states, document, weights, prefix=prefix)[0]


def prefix_numbers(codes: Int[np.ndarray, "n m"]) -> Int32[np.ndarray, " n"]:
    """Return a number for the codes of each document, the same for the same."""
    if not codes.shape[1]:
        return np.zeros(len(codes), np.int32)
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
