"""Requests of a problem, and the systems that a report measures beside its runs."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Int

from genret_jax.evaluation.compare import EvaluationSplit


@dataclasses.dataclass(frozen=True, kw_only=True)
class History:
    """A request for the next items of a user.

    Attributes:
        items: External ids of the user's items, oldest first.
        user: Id of the user; None for somebody unknown.
    """

    items: Sequence[str]
    user: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Requests:
    """Requests of a split, ready to be searched.

    Attributes:
        split: The judged requests; the order of its qrels is that of the rows.
        tokens: Encoder inputs [q, l], padded with 0.
        texts: Text of each request by its id; empty where requests have no text.
        without: Documents that each request must not find [q, w], -1 for none.
        widths: Columns that short inputs may be cut to.
    """

    split: EvaluationSplit
    tokens: Int[np.ndarray, "q l"]
    texts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    without: Int[np.ndarray, "q w"] | None = None
    widths: Sequence[int] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measured:
    """Systems that a report measures beside the trained runs.

    Attributes:
        bm25: Documents: BM25 by bm25s, in several forms.
        untrained: Each run's network before its first step, where it starts from the data.
        dual_encoder: Documents: a dual encoder with each run's encoder, trained for as many steps, searched exactly and
            by HNSW.
        sasrec: Items: SASRec with its paper's loss and with a softmax over all items, in the first run's folder.
        exclude_history: Items: leave out of every ranking what the user has had.
    """

    bm25: bool = True
    untrained: bool = True
    dual_encoder: bool = False
    sasrec: bool = False
    exclude_history: bool = False
