"""The task that learns docids with the network that writes them (GenRet, Sun et al. 2023, arXiv 2304.04171)."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Int32

from genret_jax.data.examples.counter_random import RowRandom
from genret_jax.data.examples.sampler import Sampler
from genret_jax.docid_learning.model import Codebooks, decoder_inputs
from genret_jax.docids import LearnedDocids
from genret_jax.docids.balanced import balanced_codes
from genret_jax.losses import cross_entropy, in_batch_contrastive, straight_through
from genret_jax.models.network import T5, random_variables
from genret_jax.training.docid_task import Sums

_GROUP_STREAM, _ROW_STREAM = 400, 401  # streams of the counter-based random numbers


@dataclasses.dataclass(frozen=True, kw_only=True)
class Phase:
    """A part of the training with losses of its own.

    Attributes:
        levels: Levels whose codes are learned; empty if the network only learns to write the fixed codes.
        fixed: Number of levels before them; their codes are fixed, and the network learns to write them.
        with_codes: Whether the levels have codebooks already. Before, documents and queries are only drawn together.
    """

    levels: tuple[int, ...]
    fixed: int
    with_codes: bool = True


class DocidLearningTask:
    """Gives a document and the queries that it answers the same codes.

    The losses are those of section 3.2 of the paper. A document's code at a level is the nearest one to its state, or
    that of a balanced assignment over the batch (section 3.4).

    * Reconstruction: among the states of documents with the same earlier codes, the code's vector (with
      straight-through gradients) is nearest to that of its own document.
    * Commitment: the document keeps its code.
    * Retrieval: the query's state is nearest to the state of its document, and the query gets the document's code.
    * Earlier: cross-entropy of document and query at the fixed levels.

    Inner products are divided by the square root of the width, which the paper does not do. The weights of the losses
    are part of a batch, so that one program serves all phases.

    Args:
        books: The network and its codebooks.
        document_tokens: Tokens of every document, padded with 0.
        strategy: Weights of the losses, and how documents are drawn and assigned to codes.
    """

    def __init__(self, books: Codebooks, document_tokens: Int32[np.ndarray, "n l"], strategy: LearnedDocids):
        self.model, self.books, self.strategy = T5(books.config), books, strategy
        self._document_tokens = document_tokens

    def start_phase(self, phase: Phase, sampler: Sampler, codes: Int32[np.ndarray, "n m"]) -> None:
        """Set the phase of the batches that follow.

        Args:
            phase: The phase.
            sampler: Draws queries.
            codes: Codes of every document, -1 where unknown.
        """
        self.phase, self.sampler, self._codes = phase, sampler, codes
        # Id of the prefix of every document before each level.
        self._prefix = np.stack([prefix_ids(codes[:, :level]) for level in range(codes.shape[1])], axis=1)
        deepest = self._prefix[sampler.documents, max(phase.levels, default=0)]
        self._by_prefix = sampler.documents[np.argsort(deepest, kind="stable")]
        ordered = np.sort(deepest)
        self._starts, self._ends = (np.searchsorted(ordered, deepest, side) for side in ("left", "right"))

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        return random_variables(self.books.config, rng, None)

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return documents, drawn in groups with the same prefix, and a query for each."""
        numbers = np.arange(self.sampler.batch_size)
        numbers = numbers if rows is None else numbers[rows]
        documents = self._draw_documents(step, numbers)
        codes, ones = self._codes[documents], np.ones((len(numbers), 1), np.float32)
        levels = np.arange(codes.shape[1])
        return {
            "document": documents.astype(np.int32),
            "document_tokens": self._document_tokens[documents],
            "query_tokens": self.sampler.batch(step, numbers, documents)["encoder_input_tokens"],
            "decoder_input_tokens": decoder_inputs(self.books, codes).astype(np.int32),
            "codes": codes,
            "prefix": self._prefix[documents],
            "learned": ones * np.isin(levels, self.phase.levels),
            "fixed": ones * (levels < self.phase.fixed),
            "with_codes": ones[:, 0] * np.float32(self.phase.with_codes),
        }

    def _draw_documents(self, step: int, numbers: Int[np.ndarray, " r"]) -> Int[np.ndarray, " r"]:
        """Draw one document per group uniformly, and for the rows of the group documents with the same prefix."""
        group_random = RowRandom(self.sampler.seed, step, numbers // self.strategy.alike)
        first = group_random.below(_GROUP_STREAM, np.full(len(numbers), len(self.sampler.documents)))
        starts, ends = self._starts[first], self._ends[first]
        random = RowRandom(self.sampler.seed, step, numbers)
        drawn: np.ndarray = self._by_prefix[starts + random.below(_ROW_STREAM, ends - starts)]
        return drawn

    def loss(self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array) -> Sums:
        """Return the summed loss, the number of rows, and the parts of the loss."""
        keys = jax.random.split(dropout_rng)
        document, query = (
            self._read(params, batch[f"{side}_tokens"], batch["decoder_input_tokens"], key)
            for side, key in zip(("document", "query"), keys, strict=True)
        )
        parts = {name: jnp.float32(0) for name in ("retrieval", "reconstruction", "commitment", "earlier")}
        correct = jnp.float32(0)
        for level in range(len(self.books.level_sizes)):
            document_logits, query_logits = (self._level_logits(side[1], level) for side in (document, query))
            # At this scale the inner products of states are logits.
            document_states, query_states = (self.books.scale**-0.5 * side[0][:, level] for side in (document, query))
            targets = jax.lax.stop_gradient(document_states)
            among: dict[str, Any] = {"document": batch["document"], "prefix": batch["prefix"][:, level]}
            learned, fixed = batch["learned"][:, level], batch["fixed"][:, level]
            coded = learned * batch["with_codes"]
            codes = self._assign(jax.lax.stop_gradient(document_logits))
            vectors = self.books.scale**-0.5 * self.books.vectors(params, level)[codes]
            coded_states = straight_through(document_states, vectors)
            reconstruction = in_batch_contrastive(coded_states, targets, weights=coded, **among)[0]
            parts["retrieval"] += in_batch_contrastive(query_states, document_states, weights=learned, **among)[0]
            parts["retrieval"] += cross_entropy(query_logits, codes, coded)[0]
            parts["reconstruction"] += self.strategy.reconstruction * reconstruction
            parts["commitment"] += self.strategy.commitment * cross_entropy(document_logits, codes, coded)[0]
            fixed_codes = jnp.maximum(batch["codes"][:, level], 0)
            for logits in (document_logits, query_logits):
                parts["earlier"] += cross_entropy(logits, fixed_codes, fixed)[0]
            # The accuracy is that of the last level with codes.
            hits = (jnp.argmax(query_logits, axis=-1) == jnp.where(fixed > 0, fixed_codes, codes)) * (coded + fixed)
            correct = jnp.where(jnp.any(coded + fixed > 0), jnp.sum(hits), correct)
        total = sum(parts.values(), start=jnp.float32(0))
        return total, jnp.float32(len(batch["codes"])), {**parts, "query_code_accuracy": correct}

    def _read(
        self, params: Mapping[str, Any], tokens: Array, decoder_tokens: Array, key: Array
    ) -> tuple[Float[Array, "b m d"], Float[Array, "b m c"]]:
        """Return the decoder's states and the logits of all codes."""

        def read(model: T5) -> tuple[Array, Array]:
            encoded = model.encode(tokens, deterministic=False)
            states = model.states(encoded, tokens, decoder_tokens, deterministic=False)
            return states, model.read(states, (self.books.first_token, sum(self.books.level_sizes)))

        result: tuple[Array, Array] = self.model.apply({"params": params}, method=read, rngs={"dropout": key})
        return result

    def _level_logits(self, logits: Float[Array, "b m c"], level: int) -> Float[Array, "b k"]:
        first, number = self.books.token_range(level)
        start = first - self.books.first_token
        return logits[:, level, start : start + number]

    def _assign(self, logits: Float[Array, "b k"]) -> Int32[Array, " b"]:
        if self.strategy.balanced:
            return balanced_codes(logits)
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)


def prefix_ids(codes: Int[np.ndarray, "n m"]) -> Int32[np.ndarray, " n"]:
    """Return an integer per row, equal for equal rows."""
    if not codes.shape[1]:
        return np.zeros(len(codes), np.int32)
    return np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int32)
