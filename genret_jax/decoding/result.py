"""The result of a search."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from genret_jax.decoding.scores import INVALID


class BeamResult(NamedTuple):
    """The beams of each query, best first; what is invalid comes last."""

    tokens: Any  # int32[b, k, m]  0 after the end of a docid, and where invalid
    scores: Any  # float32[b, k]   sum of log-probabilities, EOS included; INVALID where invalid
    docids: Any  # int32[b, k]     number of the distinct docid in the index; -1 where invalid or unconstrained
    rows: Any  # int32[b, k]       first row with this docid, as given to DocidIndex.build; -1 likewise
    valid: Any  # bool[b, k]       whether there is a result in this place
    bound: Any  # float32[b]       best score of any prefix that was dropped: no missing docid can have a better one
    has_nan: Any  # bool[b]        whether the model gave a logit that is NaN, which is read as the lowest

    @property
    def certified(self) -> Any:
        """Whether these are provably the model's best docids: bool ``[b]``.

        A prefix's score bounds that of every docid behind it, so if no dropped prefix was better than the last result,
        nothing was lost. A query for which the model gave NaN is never certified.
        """
        return self.certified_first(self.scores.shape[1])

    def certified_first(self, results: int) -> Any:
        """Whether the first results are provably the model's best docids: bool ``[b]``."""
        return (self.bound <= self.scores[:, results - 1]) & ~self.has_nan


def widen(result: BeamResult, beams: int) -> BeamResult:
    """Add invalid places up to a number of beams."""
    missing = beams - result.scores.shape[1]
    if not missing:
        return result
    empty = BeamResult(tokens=0.0, scores=INVALID, docids=-1.0, rows=-1.0, valid=False, bound=None, has_nan=None)

    def pad(leaf: Array, value: float | bool) -> Array:
        return jnp.pad(leaf, [(0, 0), (0, missing)] + [(0, 0)] * (leaf.ndim - 2), constant_values=value)

    return jax.tree.map(pad, result._replace(bound=None, has_nan=None), empty)._replace(
        bound=result.bound, has_nan=result.has_nan
    )
