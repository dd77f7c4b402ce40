"""What may follow a prefix: the strategies that one beam search works with."""

import dataclasses
import typing
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.index import DocidIndex
from genret_jax.decoding.result import INVALID, LOWEST
from genret_jax.errors import InputError


@runtime_checkable
class Strategy(Protocol):
    """Which tokens may follow a beam's state: an int32 of the strategy's own meaning, 0 at the start."""

    @property
    def max_length(self) -> int:
        """Tokens of a result at most."""

    def width(self, beams: int) -> int:
        """Beams that can be of use: never more than there are results."""

    def log_probs(
        self, states: Int[Array, "b k"], logits: Float[Array, "b k v"], *, first: bool
    ) -> Float[Array, "b k f"]:
        """Log-probability of each candidate, at least LOWEST; INVALID where there is none."""

    def child(self, states: Int[Array, "b k"], slots: Int[Array, "b k"]) -> tuple[Array, Array]:
        """Token and state ``[b, k]`` of the candidate in a slot of each state."""

    def ended(self, states: Int[Array, "b k"]) -> Bool[Array, "b k"]:
        """Whether nothing follows."""

    def complete(self, states: Int[Array, "b k"]) -> Bool[Array, "b k"]:
        """Whether a beam that is left in such a state is a result."""

    def prefix_nodes(self, states: Int[Array, "b k"]) -> Int[Array, "b k"]:
        """What the model's step is told about each state."""

    def docids(self, states: Int[Array, "b k"]) -> tuple[Array, Array]:
        """Number of the docid ended in each state, and its first row, ``[b, k]``; -1 where the strategy knows none."""


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrieConstraint:
    """Only docids of the index can come out.

    A candidate's score is its log-probability over the full vocabulary: the constraint removes continuations and
    leaves the scores of the others as the model gave them.

    Attributes:
        index: The docids.
    """

    index: DocidIndex

    @property
    def max_length(self) -> int:
        """Tokens of the longest docid."""
        return self.index.max_length

    def width(self, beams: int) -> int:
        """Not more than there are docids."""
        return min(beams, self.index.num_docids)

    def log_probs(self, states: Array, logits: Array, *, first: bool) -> Array:
        """Score the children of each state."""
        check_vocabulary(self.index.vocab_size, logits)
        offsets = jnp.asarray(self.index.child_offsets)
        tokens = jnp.asarray(self.index.child_tokens)
        normaliser = jax.nn.logsumexp(logits, axis=-1, keepdims=True)
        if first:  # one state, the root, so its tokens are read once for all queries
            slots = jnp.arange(self.index.root_fanout)
            chosen = logits[:, :, tokens[: self.index.root_fanout].astype(jnp.int32)]  # --> [b, 1, root_fanout]
            exists = (slots < offsets[1])[None, None]
        else:
            start, stop = offsets[states][..., None], offsets[states + 1][..., None]  # --> [b, k, 1]
            edges = start + jnp.arange(self.index.max_fanout)[None, None]  # --> [b, k, max_fanout]
            exists = edges < stop
            following = tokens[jnp.minimum(edges, tokens.shape[0] - 1)].astype(jnp.int32)
            chosen = jnp.take_along_axis(logits, following, axis=-1)
        return jnp.where(exists, jnp.maximum(chosen - normaliser, LOWEST), INVALID)

    def child(self, states: Array, slots: Array) -> tuple[Array, Array]:
        """Follow the edge in a slot of each state."""
        edges = jnp.asarray(self.index.child_offsets)[states] + slots
        edges = jnp.minimum(edges, self.index.child_tokens.shape[0] - 1)  # slots of invalid candidates may lie beyond
        return jnp.asarray(self.index.child_tokens)[edges].astype(jnp.int32), edges + 1

    def ended(self, states: Array) -> Array:
        """A docid ends where nothing follows."""
        offsets = jnp.asarray(self.index.child_offsets)
        return offsets[states] == offsets[states + 1]

    def complete(self, states: Array) -> Array:
        """No prefix is a result."""
        return self.ended(states)

    def prefix_nodes(self, states: Array) -> Array:
        """Look up the nodes that the index's builder gave."""
        return jnp.asarray(self.index.prefix_nodes)[states]

    def docids(self, states: Array) -> tuple[Array, Array]:
        """Look up which docids end here."""
        docids = jnp.searchsorted(jnp.asarray(self.index.docid_states), states).astype(jnp.int32)
        docids = jnp.minimum(docids, self.index.num_docids - 1)
        return docids, jnp.asarray(self.index.rows)[jnp.asarray(self.index.row_offsets)[docids]]


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unconstrained:
    """Every token may follow: plain beam search, the yardstick of what a constraint costs.

    Results are no docids, so their rows are -1. A result is valid if it ended with EOS, or, without an EOS, always.
    Prefix nodes are 0, so only models that ignore them can be searched in this way.

    Attributes:
        vocab_size: Width of the logits.
        max_length: Tokens of a result at most.
        eos: Token that ends a result; None if all have ``max_length`` tokens.
    """

    vocab_size: int
    max_length: int
    eos: int | None = 1

    def width(self, beams: int) -> int:
        """As many as asked for."""
        return beams

    def log_probs(self, states: Array, logits: Array, *, first: bool) -> Array:
        """Score every token."""
        check_vocabulary(self.vocab_size, logits)
        return jnp.maximum(logits - jax.nn.logsumexp(logits, axis=-1, keepdims=True), LOWEST)

    def child(self, states: Array, slots: Array) -> tuple[Array, Array]:
        """A slot is its token; EOS leads to state 1, the end."""
        return slots, jnp.zeros_like(slots) if self.eos is None else (slots == self.eos).astype(jnp.int32)

    def ended(self, states: Array) -> Array:
        """State 1 is the end."""
        return states == 1

    def complete(self, states: Array) -> Array:
        """What did not reach EOS in time is no result."""
        return jnp.ones_like(states, bool) if self.eos is None else self.ended(states)

    def prefix_nodes(self, states: Array) -> Array:
        """No prefix is known."""
        return jnp.zeros_like(states)

    def docids(self, states: Array) -> tuple[Array, Array]:
        """No docid is known."""
        unknown = jnp.full_like(states, -1)
        return unknown, unknown


def check_vocabulary(vocab_size: int, logits: Array) -> None:
    """Reject logits of another width than the strategy was built for (seen while tracing, at no cost)."""
    if logits.shape[-1] != vocab_size:
        raise InputError(
            f"logits over {logits.shape[-1]} tokens",
            expected=f"{vocab_size}, the vocabulary that the search was set up for",
            fix="build the docid index with the decoder's vocabulary size",
        )
