"""What may follow a prefix: what every strategy of the one beam search offers, and the strategy that allows all."""

import dataclasses
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from genret_jax.decoding.layout import Level
from genret_jax.decoding.scores import log_probs, logsumexp
from genret_jax.errors import InputError

Depth = Int[Array, ""] | int


class Ends(NamedTuple):
    """What states have come down to."""

    tokens: Any  # int32[b, k, m]
    nodes: Any  # int32[b, k, i]  what the step is told before each of the last i tokens; None for nothing
    docids: Any  # int32[b, k]    -1 where the strategy knows none
    rows: Any  # int32[b, k]      -1 likewise
    complete: Any = None  # bool[b, k]  whether it is a result; None if all are


@runtime_checkable
class Strategy(Protocol):
    """Which tokens may follow a beam's state: a pytree of the strategy's own, its leaves ``[b, k, ...]``."""

    @property
    def vocab_size(self) -> int:
        """Width of the logits."""

    @property
    def max_length(self) -> int:
        """Tokens of a result at most."""

    @property
    def levels(self) -> tuple[Level, ...]:
        """All depths, those that can share a compiled loop together; the root alone comes first."""

    @property
    def mixed(self) -> bool:
        """Whether results may end before ``max_length``."""

    @property
    def forced_from(self) -> int:
        """First depth at which to look whether all beams are forced; ``max_length`` for never."""

    @property
    def forced_is_free(self) -> bool:
        """Whether forced tokens gain nothing, so that the model need not be asked."""

    def width(self, beams: int) -> int:
        """Beams that can be of use: never more than there are results."""

    def start(self, batch: int) -> Any:
        """One state for each query, before the first token."""

    def columns(self, level: Level, depth: Depth) -> tuple[Int[Array, ""], int] | None:
        """First and number of the logits that a depth needs; None for all."""

    def candidates(
        self,
        states: Any,
        scores: Float[Array, "b k"],
        logits: Float[Array, "b k v"],
        depth: Depth,
        level: Level,
        columns: tuple[Int[Array, ""], int] | None,
    ) -> tuple[Float[Array, "b k f"], Any]:
        """Score of each candidate, and what was read.

        Logits are finite (:func:`genret_jax.decoding.scores.finite`). A candidate gains its log-probability. Where
        there is no candidate the score is INVALID.
        """

    def child(
        self, states: Any, parents: Int[Array, "b k"], slots: Int[Array, "b k"], read: Any, depth: Depth, level: Level
    ) -> tuple[Array, Any]:
        """Token ``[b, k]`` and state of the candidate in a slot of each state.

        Args:
            states: Those of the parents.
            parents: Where these stood when :meth:`candidates` was called.
            slots: Candidate of each.
            read: The second of what that call returned.
            depth: As in that call.
            level: Likewise.
        """

    def ended(self, states: Any, depth: Depth) -> Bool[Array, "b k"]:
        """Whether nothing follows; asked only where results are of mixed lengths."""

    def prefix_nodes(self, states: Any, depth: Depth) -> Int[Array, "b k"]:
        """What the model's step is told about each state."""

    def forced(self, states: Any, depth: Depth) -> Bool[Array, "b k"]:
        """Whether only one result begins like this."""

    def ends(self, states: Any) -> Ends:
        """Tell what forced or final states stand for."""


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

    @property
    def levels(self) -> tuple[Level, ...]:
        """The root and all others."""
        root = (Level(0, 1, self.vocab_size, 0, 0),)
        return (*root, Level(1, self.max_length, self.vocab_size, 0, 0)) if self.max_length > 1 else root

    @property
    def mixed(self) -> bool:
        """Whether EOS may end a result early."""
        return self.eos is not None

    @property
    def forced_from(self) -> int:
        """Nothing is ever forced."""
        return self.max_length

    @property
    def forced_is_free(self) -> bool:
        """Nothing is ever forced."""
        return False

    def width(self, beams: int) -> int:
        """As many as asked for."""
        return beams

    def start(self, batch: int) -> Int[Array, "b 1 m"]:
        """No token yet; the state is what was emitted."""
        return jnp.zeros((batch, 1, self.max_length), jnp.int32)

    def columns(self, level: Level, depth: Depth) -> None:
        """All logits are needed."""

    def candidates(
        self,
        states: Int[Array, "b k m"],
        scores: Float[Array, "b k"],
        logits: Float[Array, "b k v"],
        depth: Depth,
        level: Level,
        columns: None,
    ) -> tuple[Float[Array, "b k v"], None]:
        """Score every token."""
        check_vocabulary(self.vocab_size, logits)
        return scores[..., None] + log_probs(logits, logsumexp(logits)[..., None]), None

    def child(
        self,
        states: Int[Array, "b k m"],
        parents: Int[Array, "b k"],
        slots: Int[Array, "b k"],
        read: None,
        depth: Depth,
        level: Level,
    ) -> tuple[Int[Array, "b k"], Int[Array, "b k m"]]:
        """A slot is its token."""
        return slots, jax.lax.dynamic_update_index_in_dim(states, slots, depth, axis=2)

    def ended(self, states: Int[Array, "b k m"], depth: Depth) -> Bool[Array, "b k"]:
        """Whether EOS was emitted."""
        return (states == self.eos).any(axis=-1) if self.eos is not None else jnp.zeros(states.shape[:2], bool)

    def prefix_nodes(self, states: Int[Array, "b k m"], depth: Depth) -> Int[Array, "b k"]:
        """No prefix is known."""
        return jnp.zeros(states.shape[:2], jnp.int32)

    def forced(self, states: Int[Array, "b k m"], depth: Depth) -> Bool[Array, "b k"]:
        """Nothing is."""
        return jnp.zeros(states.shape[:2], bool)

    def ends(self, states: Int[Array, "b k m"]) -> Ends:
        """What did not reach EOS in time is no result."""
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
