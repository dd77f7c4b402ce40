"""Histories made up in memory."""

from collections.abc import Sequence

import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.interactions import Interactions


def interactions_of(histories: Sequence[Sequence[int]], num_items: int, name: str = "made up") -> Interactions:
    """Return users ``u0``, ``u1``, … with these histories over items ``i0``, ``i1``, … of those numbers."""
    item_ids = tuple(f"i{number}" for number in range(num_items))
    items = Corpus(name=name, doc_ids=item_ids, titles=item_ids, texts=("",) * num_items)
    lengths = [len(history) for history in histories]
    return Interactions(
        items=items,
        user_ids=tuple(f"u{number}" for number in range(len(histories))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        item=np.concatenate([np.asarray(history, np.int32) for history in histories]),
    )


def markov_interactions(num_users: int = 120, num_items: int = 24, noise: float = 0.1, seed: int = 0) -> Interactions:
    """Return histories in which every item has one successor, which nearly always comes next.

    Items are about equally frequent, so that popularity says nothing, and the last item nearly everything.

    Args:
        num_users: Number of users, with 5 to 9 items each.
        num_items: Number of items.
        noise: Probability that any item comes next instead.
        seed: Makes it repeatable.
    """
    random = np.random.default_rng(seed)
    successor = np.roll(order := random.permutation(num_items), 1)[np.argsort(order)]
    histories = []
    for _ in range(num_users):
        history = [int(random.integers(num_items))]
        for _ in range(random.integers(4, 9)):
            strays = random.random() < noise
            history.append(int(random.integers(num_items)) if strays else int(successor[history[-1]]))
        histories.append(history)
    return interactions_of(histories, num_items, name="markov")
