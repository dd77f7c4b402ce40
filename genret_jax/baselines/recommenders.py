"""Recommenders without a network: the most popular items, and the nearest neighbours of the last items of a history.

Both use only the training part of the histories.
"""

import dataclasses
from functools import partial
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float, Float32, Int, Int32, Int64

from genret_jax.data.examples.histories import training_items
from genret_jax.data.interactions import Interactions
from genret_jax.validation import at_least, at_most, check_fields, more_than

_SCORES_AT_ONCE = 1 << 25  # most scores held at a time, 128 MiB

Ranked = tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]


class Popularity:
    """Recommends the items that occur most often, the same to everybody.

    Args:
        interactions: Users and items.
        cold: Items that training must not see.
    """

    description = "the items with most interactions in training"
    history_length = 1  # histories are ignored, but their array needs a column

    def __init__(self, interactions: Interactions, *, cold: Bool[np.ndarray, " n"] | None = None):
        _, item = training_items(interactions, cold)
        self.counts: Int64[np.ndarray, " n"] = np.bincount(item, minlength=len(interactions.items))

    @property
    def num_bytes(self) -> int:
        """Size of the counts."""
        return int(self.counts.nbytes)

    def rank(self, histories: Int32[np.ndarray, "q l"], k: int) -> Ranked:
        """Return the k most frequent items and how often each occurs, the same for each history."""
        best = np.argsort(-self.counts, kind="stable")[:k].astype(np.int32)
        shape = (len(histories), len(best))
        return np.broadcast_to(best, shape).copy(), np.broadcast_to(self.counts[best], shape).astype(np.float32)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ItemNeighboursConfig:
    """The part of a history that counts, and the number of neighbours.

    Attributes:
        last_items: Number of last items of a history that count.
        decay: Weight of an item relative to the one after it. 0.4 was best on the validation items of Amazon Beauty;
            0.3 and 0.5 were about as good.
        neighbours: Number of most similar items that are kept for each item.
    """

    last_items: Annotated[int, at_least(1)] = 20
    decay: Annotated[float, more_than(0), at_most(1)] = 0.4
    neighbours: Annotated[int, at_least(1)] = 200

    def __post_init__(self) -> None:
        check_fields(self)

    def describe(self) -> str:
        """Return one line for a report."""
        return (
            f"cosine of co-occurrence in training, {self.neighbours} neighbours an item, "
            f"the last {self.last_items} items of a history, decay {self.decay:g}"
        )


class ItemNeighbours:
    """Recommends the items that are most similar to the last items of a history.

    An item's score is its summed similarity to the items of the history. Each step back multiplies a similarity by
    ``decay``. The similarity of two items is the number of users who had both, divided by the geometric mean of the
    numbers of users who had each: the cosine of Deshpande & Karypis (2004, "Item-based top-N recommendation
    algorithms", section 4.1).

    Args:
        interactions: Users and items.
        config: Lengths and decay.
        cold: Items that training must not see.
    """

    def __init__(
        self,
        interactions: Interactions,
        config: ItemNeighboursConfig | None = None,
        *,
        cold: Bool[np.ndarray, " n"] | None = None,
    ):
        self.config = config or ItemNeighboursConfig()
        self._similarity = _nearest(_cosines(interactions, cold), self.config.neighbours)

    @property
    def history_length(self) -> int:
        """Number of last items of a history that count."""
        return self.config.last_items

    @property
    def num_bytes(self) -> int:
        """Size of the similarities."""
        return sum(int(getattr(self._similarity, name).nbytes) for name in ("data", "indices", "indptr"))

    def rank(self, histories: Int32[np.ndarray, "q l"], k: int) -> Ranked:
        """Return the k items with the highest summed similarity, which is 0 for an item that is similar to none."""
        count = self._similarity.shape[0]
        weights = _recency(histories, self.config, count)
        k = min(k, count)
        items, scores = [np.zeros((0, k), np.int32)], [np.zeros((0, k), np.float32)]
        rows = max(1, _SCORES_AT_ONCE // count)
        for start in range(0, len(histories), rows):
            found, values = _best((weights[start : start + rows] @ self._similarity).toarray(), k=k)
            items.append(np.asarray(found))
            scores.append(np.asarray(values))
        return np.concatenate(items), np.concatenate(scores)


@partial(jax.jit, static_argnames="k")
def _best(scores: Float[Array | np.ndarray, "q n"], *, k: int) -> tuple[Int[Array, "q k"], Float[Array, "q k"]]:
    values, items = jax.lax.top_k(scores, k)  # ties in the order of the items
    return items, values


def _cosines(interactions: Interactions, cold: Bool[np.ndarray, " n"] | None) -> Any:
    """Return the similarities of different items that share a user, as a sparse matrix [n, n]."""
    from scipy import sparse

    user, item = training_items(interactions, cold)
    shape = (interactions.num_users, len(interactions.items))
    had = sparse.csr_matrix((np.ones(len(item), np.float32), (user, item)), shape)
    had.data[:] = 1  # a user who had an item twice counts once
    together = (had.T @ had).tocoo()
    users = together.diagonal()
    apart = together.row != together.col
    row, column, both = together.row[apart], together.col[apart], together.data[apart]
    return sparse.csr_matrix((both / np.sqrt(users[row] * users[column]), (row, column)), together.shape)


def _nearest(similarity: Any, count: int) -> Any:
    """Return a sparse matrix with the ``count`` largest values of each row; of equal ones the first columns."""
    from scipy import sparse

    found = similarity.tocoo()
    order = np.lexsort((found.col, -found.data, found.row))
    row = found.row[order]
    place = np.arange(len(row)) - np.searchsorted(row, row)
    kept = order[place < count]
    return sparse.csr_matrix((found.data[kept], (found.row[kept], found.col[kept])), found.shape)


def _recency(histories: Int32[np.ndarray, "q l"], config: ItemNeighboursConfig, count: int) -> Any:
    """Return the weights of the items in histories, as a sparse matrix [q, n]."""
    from scipy import sparse

    lengths = (histories >= 0).sum(axis=1, keepdims=True)
    age = lengths - 1 - np.arange(histories.shape[1])  # --> [q, l], 0 for the last item
    query, column = np.nonzero((age >= 0) & (age < config.last_items))
    weights = (config.decay ** age[query, column]).astype(np.float32)
    return sparse.csr_matrix((weights, (query, histories[query, column])), (len(histories), count))
