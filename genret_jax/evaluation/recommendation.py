"""Evaluation of recommenders: users are the queries, and the one relevant item is the one that the user took next.

All items are ranked for every user. Items of the user's own history can be left out of the ranking, which raises scores
where nobody takes an item twice. Metrics over sampled items are not offered, because they order systems differently
(Krichene & Rendle 2020, KDD, "On sampled metrics for item recommendation").
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
    """Ranks all items for a user, given the user's history."""

    @property
    def history_length(self) -> int:
        """Number of last items of a history that count."""
        ...

    def rank(
        self, histories: Int32[np.ndarray, "q l"], k: int
    ) -> tuple[Int32[np.ndarray, "q k"], Float32[np.ndarray, "q k"]]:
        """Return the k best items for each history, best first, with their scores.

        Args:
            histories: Positions of items, oldest first, -1 behind the last.
            k: Results per history; fewer if there are fewer items.

        Returns:
            Positions of items, and scores; items with equal scores are in the order of their positions.
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
        cold: Items that training did not see. If some users took one of them next and others did not, both groups
            become parts of the split.
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
    if cold is not None and 0 < (new := cold[targets]).sum() < len(new):
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
    """Rank items for every evaluated user, and measure the time (:func:`genret_jax.evaluation.compare.timed_search`).

    Args:
        recommender: The system.
        interactions: Users and items.
        split: ``"validation"`` or ``"test"``.
        system: Name and description of the system in the report.
        depth: Results per user.
        exclude_history: Leave out the items that the user has had.
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
    """Return the first ``depth`` results of each ranking without the items that a user has had.

    Args:
        had: Items to leave out of each ranking; -1 is padding.
        items: Rankings of at least ``depth + l`` items, or of all items.
        scores: Scores of ``items``.
        depth: Most results per ranking.

    Returns:
        The results, with -1 behind the last if fewer are left, and their scores.
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
