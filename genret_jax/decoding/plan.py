"""A plan: scores of whole docids, which guide every step of a search.

PAG scores documents before it generates their docids, and adds these scores to its beams (Zeng et al. 2024, arXiv
2404.14600, section 3.3). Here they are folded in exactly. With a score s for each docid, the mass of a prefix is the
sum of ``exp(s)`` over the docids that begin with it, and the logit of a child is the logarithm of its mass. Softmax
over the children of a prefix turns it into the child's share of its parent. Along a path these shares multiply to the
softmax of s over all docids.

Many docids of little mass can outweigh a prefix whose one docid is the best of all. The search therefore keeps the
beams with the best docid ahead: the score of a prefix plus the logarithm of the largest share that a docid below it
has. So a decoder whose logits are all equal finds the docids in the order of s, with any number of beams and any tree.
"""

import dataclasses
import typing
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

#: Scores lower than the highest by more than this count as lower by this: ``exp`` of less is no normal float32.
DEEPEST = 80.0


@typing.no_type_check
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Plan:
    """Sums and maxima of ``exp(score)`` over ranges of docids, for each query of a batch; :meth:`of` makes one.

    The docids of a prefix are a range, because an index sorts them. Differences of cumulative sums would lose docids of
    small mass to rounding. Therefore this is a binary tree of sums, and a range adds up at most two numbers of each
    level. All terms are positive, so the relative error stays near that of one float32 operation per level.

    Attributes:
        sums: float32 ``[b, n]``, ``[b, n / 2]``, ..., ``[b, 1]``: the mass of each docid, relative to the highest, and
            the sums of neighbours on the level below.
        maxima: Likewise the maxima of neighbours; the first level is that of ``sums``.
    """

    sums: Any
    maxima: Any

    @classmethod
    def of(cls, scores: Float[Array | np.ndarray, "b n"], exists: Bool[Array, "#b n"] | None = None) -> "Plan":
        """Return the plan of scores, in the order in which an index numbers its docids.

        Args:
            scores: Natural logarithms of unnormalised probabilities.
            exists: Docids that count; by default all. The mass of the others is 0.
        """
        if exists is not None:
            scores = jnp.where(exists, scores, -jnp.inf)
        highest = jax.lax.stop_gradient(jnp.max(scores, axis=-1, keepdims=True))
        mass = jnp.exp(jnp.maximum(scores - jnp.where(jnp.isfinite(highest), highest, 0.0), -DEEPEST))
        if exists is not None:
            mass = jnp.where(exists, mass, 0.0)
        mass = mass.astype(jnp.float32)
        return cls(_halvings(mass, jnp.sum), _halvings(jax.lax.stop_gradient(mass), jnp.max))

    @property
    def num_docids(self) -> int:
        """Number of scores of a query."""
        return int(self.sums[0].shape[1])

    def of_docids(self, docids: Int[Array | np.ndarray, "#b k f"]) -> Float[Array, "b k f"]:
        """Return the logarithm of the mass of single docids."""
        return _log(_read(self.sums[0], docids))

    def of_ranges(
        self, first: Int[Array | np.ndarray, "#b k f"], stop: Int[Array | np.ndarray, "#b k f"]
    ) -> Float[Array, "b k f"]:
        """Return the logarithm of the mass of the docids from ``first`` up to, but not including, ``stop``."""
        return _log(_folded(self.sums, first, stop, jnp.add))

    def best_of_ranges(
        self, first: Int[Array | np.ndarray, "#b k f"], stop: Int[Array | np.ndarray, "#b k f"]
    ) -> Float[Array, "b k f"]:
        """Return the logarithm of the largest mass of a docid in each range."""
        return _log(_folded(self.maxima, first, stop, jnp.maximum))


def _halvings(mass: Float[Array, "b n"], fold: Callable[..., Array]) -> tuple[Array, ...]:
    """Return an array and what its neighbours fold to, until one column is left."""
    levels = [mass]
    while (length := levels[-1].shape[-1]) > 1:
        even = jnp.pad(levels[-1], ((0, 0), (0, length % 2)))
        levels.append(fold(even.reshape(len(even), -1, 2), axis=-1))
    return tuple(levels)


def _folded(
    levels: tuple[Any, ...],
    first: Int[Array | np.ndarray, "#b k f"],
    stop: Int[Array | np.ndarray, "#b k f"],
    fold: Callable[[Array, Array], Array],
) -> Float[Array, "b k f"]:
    """Fold the entries of each range, of which every level holds at most one at either end."""
    total, first, stop = jnp.zeros((), jnp.float32), jnp.asarray(first), jnp.asarray(stop)
    for level in levels:
        at_first = (first % 2 == 1) & (first < stop)
        total = fold(total, jnp.where(at_first, _read(level, first), 0.0))
        first += at_first
        at_stop = (stop % 2 == 1) & (first < stop)
        total = fold(total, jnp.where(at_stop, _read(level, stop - 1), 0.0))
        first, stop = first // 2, stop // 2
    return total


def _read(level: Any, places: Int[Array | np.ndarray, "#b k f"]) -> Float[Array, "b k f"]:
    level, places = jnp.asarray(level), jnp.broadcast_to(places, (len(level), *places.shape[1:]))
    flat = jnp.maximum(places, 0).reshape(len(level), -1)
    return jnp.take_along_axis(level, flat, axis=1, mode="clip").reshape(places.shape)


def _log(mass: Array) -> Array:
    return jnp.log(jnp.maximum(mass, jnp.finfo(jnp.float32).tiny))
