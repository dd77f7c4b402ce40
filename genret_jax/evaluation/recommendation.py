"""Measure recommenders: users are the queries, the item that each took next is what is relevant.

Every item is ranked for every user; those in the user's own history too, unless they are to be left out, which raises
scores where nobody takes an item twice. Metrics over sampled items order systems differently (Krichene & Rendle 2020,
KDD, "On sampled metrics for item recommendation") and are not offered.
"""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int32

from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, timed_search
from genret_jax.evaluation.metrics import rank_metrics
from genret_jax.evaluation.report import System
from genret_jax.evaluation.trec import Run, rankings_by_id

RECOMMENDATION_KS = (5, 10)
RECOMMENDATION_SPLITS = ("validation", "test")


@runtime_checkable
class Recommender(Protocol):
    """Something that ranks all items for a user by what the user did before."""

    @property
    def history_length(self) -> int:
        """How many of the last items of a history it looks at."""
        ...

    def rank(
        self, histories: Int32[np.ndarray, "q l"], k: int
    ) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Return the k best of all items for each history, best first, and their scores.

        Args:
            histories: Positions of items, oldest first, -1 behind the last.
            k: Results a history; fewer where there are fewer items.

        Returns:
            Positions of items and scores; items of equal score in the order of their positions.
        """
        ...


def recommendation_split(
    interactions: Interactions,
    split: str,
    *,
    cold: Bool[np.ndarray, " n"] | None = None,
    exclude_history: bool = False,
) -> EvaluationSplit:
    """Return the evaluated users with the one item that each took next, and a note on the items of their histories.

    Args:
        interactions: Users and items.
        split: ``"validation"`` or ``"test"``.
        cold: Items that training was not shown; the users who took one of them next become a part of the split.
        exclude_history: Rankings leave out the items that the user has had.

    Raises:
        InputError: If the split has another name.
    """
    if split not in RECOMMENDATION_SPLITS:
        raise InputError(
            f"the split '{split}' of users' histories",
            file=interactions.items.source or interactions.name,
            expected=f"one of {', '.join(RECOMMENDATION_SPLITS)}",
            fix="choose one of them",
        )
    users = interactions.evaluated_ids
    targets = interactions.item[interactions.targets(split)]
    qrels = {user: {interactions.items.doc_ids[item]: 1} for user, item in zip(users, targets.tolist(), strict=True)}
    parts = {}
    if cold is not None and (new := cold[targets]).any():
        parts = {
            f"{split}, {name} items": [users[row] for row in np.flatnonzero(which)]
            for name, which in (("known", ~new), ("new", new))
        }
    note = "Items that a user has had may be in the rankings."
    if exclude_history:
        again = int(takes_again(interactions, split).sum())
        note = (
            f"Items that a user has had are left out of the rankings: {again:,} of {len(users):,} users took such an "
            "item again, and can only score 0."
        )
    description = "users, each with the item taken next"
    return EvaluationSplit(name=split, qrels=qrels, parts=parts, description=description, notes=(note,))


def takes_again(interactions: Interactions, split: str) -> Bool[np.ndarray, " e"]:
    """Return for each evaluated user whether the item to predict is in the user's history.

    A system that leaves out the history can never find such an item.
    """
    users = interactions.evaluated_users
    end, target = np.zeros(interactions.num_users, np.int64), np.full(interactions.num_users, -1)
    end[users] = interactions.targets(split)
    target[users] = interactions.item[end[users]]
    user = np.repeat(np.arange(interactions.num_users), interactions.lengths)
    same = (interactions.item == target[user]) & (np.arange(len(user)) < end[user])
    return np.isin(users, user[same])


def answers_of(
    recommender: Recommender,
    interactions: Interactions,
    split: str,
    system: System,
    depth: int = 10,
    *,
    exclude_history: bool = False,
) -> SystemRun:
    """Rank all items for every evaluated user, then for some of them again for the time, when all is compiled.

    Args:
        recommender: What ranks.
        interactions: Users and items.
        split: ``"validation"`` or ``"test"``.
        system: How the report calls it.
        depth: Results a user.
        exclude_history: Leave out what the user has had.
    """
    histories = interactions.histories(split, recommender.history_length)
    had = interactions.histories(split, int(interactions.lengths.max()) if exclude_history else 0)
    row = {user: number for number, user in enumerate(interactions.evaluated_ids)}

    def ranked(asking: Mapping[str, str], depth: int) -> Run:
        rows = [row[user] for user in asking]
        items, scores = without(had[rows], *recommender.rank(histories[rows], depth + had.shape[1]), depth)
        return rankings_by_id(asking, interactions.items.doc_ids, items.tolist(), scores.tolist())

    run, milliseconds = timed_search(ranked, dict.fromkeys(row, ""), depth, compiles_anew=True)
    return SystemRun(system=system, run=run, depth=depth, milliseconds_per_query=milliseconds)


def without(
    had: Int32[np.ndarray, "q l"], items: Int32[np.ndarray, "q k"], scores: Float32[np.ndarray, "q k"], depth: int
) -> tuple[Int32[np.ndarray, "q depth"], Float32[np.ndarray, "q depth"]]:
    """Return the first so many results that are not among items to be left out.

    Args:
        had: Items to be left out of each ranking, -1 for none.
        items: Rankings, at least ``depth + l`` long, or of all items.
        scores: Their scores.
        depth: Results a ranking at most.

    Returns:
        The results, -1 behind the last where fewer are left, and their scores.
    """
    out = np.zeros(items.shape, bool)
    for column in had.T:
        out |= items == column[:, None]
    order = np.argsort(out, axis=1, kind="stable")[:, :depth]
    left = np.take_along_axis(np.where(out, np.int32(-1), items), order, axis=1)
    return left, np.take_along_axis(scores, order, axis=1)


def measure(recommender: Recommender, interactions: Interactions, split: str) -> dict[str, float]:
    """Return Recall and NDCG at :data:`RECOMMENDATION_KS`, as :func:`genret_jax.evaluation.metrics.evaluate` does.

    Positions are compared instead of ids, which is quick enough for validation during training.
    """
    items, _ = recommender.rank(interactions.histories(split, recommender.history_length), max(RECOMMENDATION_KS))
    found = items == interactions.item[interactions.targets(split)][:, None]
    ideal = np.zeros(found.shape, bool)
    ideal[:, :1] = True
    names = [f"{family}@{k}" for k in RECOMMENDATION_KS for family in ("recall", "ndcg")]
    values = rank_metrics(found, ideal, np.ones(len(found), int), names)
    return {name: float(value.mean()) for name, value in values.items()}
