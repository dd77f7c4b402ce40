"""What a search returns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

# Scores stay finite: what cannot be has the score INVALID, and what can is never below LOWEST, whatever its logits.
INVALID = -1e30
LOWEST = -1e29


class BeamResult(NamedTuple):
    """The beams of each query, best first; what is invalid comes last."""

    tokens: Any  # int32[b, k, m]  0 after the end of a docid, and where invalid
    scores: Any  # float32[b, k]   sum of log-probabilities, EOS included; INVALID where invalid
    docids: Any  # int32[b, k]     number of the distinct docid in the index; -1 where invalid or unconstrained
    rows: Any  # int32[b, k]       first row with this docid, as given to DocidIndex.build; -1 likewise
    valid: Any  # bool[b, k]       whether there is a result in this place


def widen(result: BeamResult, beams: int) -> BeamResult:
    """Add invalid places up to a number of beams."""
    missing = beams - result.scores.shape[1]
    if not missing:
        return result
    empty = BeamResult(tokens=0, scores=INVALID, docids=-1, rows=-1, valid=False)
    return jax.tree.map(
        lambda leaf, value: jnp.pad(leaf, [(0, 0), (0, missing)] + [(0, 0)] * (leaf.ndim - 2), constant_values=value),
        result,
        empty,
    )
