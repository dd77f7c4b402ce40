"""The strategy under which every token may follow, and what it has in common with the constrained one."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.layout import Level
from genret_jax.decoding.scores import log_probs, logsumexp
from genret_jax.errors import InputError

Depth = Int[Array, ""] | int  # number of tokens emitted so far


class Ends(NamedTuple):
    """The results that final states stand for, or forced states, which only one result begins with."""

    tokens: Any  # int32[b, k, m]
    nodes: Any  # int32[b, k, i]  prefix node before each of the last i tokens; None if there are none
    docids: Any  # int32[b, k]    -1 if the strategy has no docids
    rows: Any  # int32[b, k]      -1 likewise
    complete: Any = None  # bool[b, k]  whether it is a valid result; None if all are


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True, kw_only=True)
class Unconstrained:
    """Every token may follow: plain beam search, which shows what a constraint costs.

    Results are no docids, so their rows are -1. A result is valid if it ended with EOS, or, without an EOS, always.
    Prefix nodes are 0, so only models that ignore them can be searched in this way. The state of a beam is its tokens.
    The methods are those of :class:`genret_jax.decoding.TrieConstraint`.

    Attributes:
        vocab_size: Width of the logits.
        max_length: Tokens of a result at most.
        eos: Token that ends a result; None if all have ``max_length`` tokens.
    """

    vocab_size: int
    max_length: int
    eos: int | None = 1
    forced_is_free = False

    @property
    def levels(self) -> tuple[Level, ...]:
        """The root, and all other depths in one loop."""
        root = (Level(0, 1, self.vocab_size, 0, 0),)
        return (*root, Level(1, self.max_length, self.vocab_size, 0, 0)) if self.max_length > 1 else root

    @property
    def mixed(self) -> bool:
        """Whether EOS may end a result early."""
        return self.eos is not None

    @property
    def forced_from(self) -> int:
        """Never look for forced ends."""
        return self.max_length

    def width(self, beams: int) -> int:
        """Return as many beams as asked for."""
        return beams

    def start(self, batch: int) -> Int[Array, "b 1 m"]:
        """Return states without tokens."""
        return jnp.zeros((batch, 1, self.max_length), jnp.int32)

    def candidates(
        self,
        states: Int[Array, "b k m"],
        scores: Float[Array, "b k"],
        logits: Float[Array, "b k v"],
        depth: Depth,
        level: Level,
    ) -> tuple[Float[Array, "b k v"], None, None]:
        """Score every token."""
        check_vocabulary(self.vocab_size, logits)
        return scores[..., None] + log_probs(logits, logsumexp(logits)[..., None]), None, None

    def child(
        self,
        states: Int[Array, "b k m"],
        parents: Int[Array, "b k"],
        slots: Int[Array, "b k"],
        read: Any,
        depth: Depth,
        level: Level,
    ) -> tuple[Int[Array, "b k"], Int[Array, "b k m"]]:
        """Append the token of each slot; slots are numbered by token."""
        return slots, jax.lax.dynamic_update_index_in_dim(states, slots, depth, axis=2)

    def ended(self, states: Int[Array, "b k m"], depth: Depth) -> Bool[Array, "b k"]:
        """Return which beams have emitted EOS."""
        return (states == self.eos).any(axis=-1) if self.eos is not None else jnp.zeros(states.shape[:2], bool)

    def prefix_nodes(self, states: Int[Array, "b k m"], depth: Depth) -> Int[Array, "b k"]:
        """Return 0 for every prefix."""
        return jnp.zeros(states.shape[:2], jnp.int32)

    def forced(self, states: Int[Array, "b k m"], depth: Depth) -> Bool[Array, "b k"]:
        """Return False: any number of results begin like this."""
        return jnp.zeros(states.shape[:2], bool)

    def ends(self, states: Int[Array, "b k m"]) -> Ends:
        """Return the emitted tokens; those without EOS are no results."""
        unknown = jnp.full(states.shape[:2], -1, jnp.int32)
        complete = self.ended(states, self.max_length) if self.mixed else None
        return Ends(states, None, unknown, unknown, complete)


def check_vocabulary(vocab_size: int, logits: Array) -> None:
    """Reject logits of another width than the strategy was built for (seen while tracing, at no cost)."""
    if logits.shape[-1] != vocab_size:
        raise InputError(
            f"logits over {logits.shape[-1]} tokens",
            expected=f"{vocab_size}, the vocabulary that the search was set up for",
            fix="build the docid index with the decoder's vocabulary size",
        )
