"""Interactions for tests: three users that are read at a glance, and a small shop that a model can learn."""

import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.interactions import Interactions
from genret_jax.data.sources.toy_items import toy_items


def three_users() -> Interactions:
    """Return ``ann a b c d``, ``bob c a e`` and ``cyd b a``, who has too few items to be evaluated."""
    items = "abcde"
    histories = {"ann": "abcd", "bob": "cae", "cyd": "ba"}
    return Interactions(
        items=Corpus(
            name="letters",
            doc_ids=tuple(items),
            titles=tuple(f"Letter {item}" for item in items),
            texts=tuple(f"Letter {item}. Categories: letters." for item in items),
            source="letters",
        ),
        user_ids=tuple(histories),
        offsets=np.cumsum([0, *map(len, histories.values())]).astype(np.int64),
        item=np.array([items.index(item) for history in histories.values() for item in history], np.int32),
    )


def small_shop(seed: int = 0) -> Interactions:
    """Return 60 users over 24 items of :func:`genret_jax.data.sources.toy_items.toy_items`."""
    return toy_items(users=60, items=24, seed=seed)
