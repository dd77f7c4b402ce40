"""Measure recommenders: users are the queries, the item that each took next is what is relevant.

Every item is ranked for every user; those in the user's own history too, unless they are to be left out, which raises
scores where nobody takes an item twice. Metrics over sampled items order systems differently (Krichene & Rendle 2020,
KDD, "On sampled metrics for item recommendation") and are not offered.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32

from genret_jax.data.interactions import Interactions
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, timed_search
from genret_jax.evaluation.report import System
from genret_jax.evaluation.trec import Run

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
    interactions: Interactions, split: str, *, cold: Bool[np.ndarray, " n"] | None = None
) -> EvaluationSplit:
    """Return the evaluated users with the one item that each took next.

    Args:
        interactions: Users and items.
        split: ``"validation"`` or ``"test"``.
        cold: Items that training was not shown; the users who took one next are a part of their own.

    Raises:
        InputError: If it is another split.
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
    return EvaluationSplit(name=split, qrels=qrels, parts=parts, description="users, each with the item taken next")


def recommendation_run(
    users: Sequence[str],
    item_ids: Sequence[str],
    items: Int32[np.ndarray, "q k"],
    scores: Float32[np.ndarray, "q k"],
) -> Run:
    """Return the rankings of users by external ids.

    Args:
        users: Whose rankings they are.
        item_ids: Of all items.
        items: Positions of items, best first, -1 behind the last.
        scores: Their scores.
    """
    rows = zip(users, items.tolist(), scores.tolist(), strict=True)
    return {
        user: [(item_ids[item], score) for item, score in zip(found, of_user, strict=True) if item >= 0]
        for user, found, of_user in rows
    }


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
        return recommendation_run(list(asking), interactions.items.doc_ids, items, scores)

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


def rank_metrics(
    items: Int[np.ndarray, "q k"], target: Int[np.ndarray, " q"], ks: Sequence[int] = RECOMMENDATION_KS
) -> dict[str, float]:
    """Return the mean Recall@k and NDCG@k of rankings with one relevant item each; ir-measures' figures, at once.

    Args:
        items: Ranked positions of items, best first, each once.
        target: The relevant item.
        ks: Cutoffs. A ranking that is shorter has all items in it.
    """
    found = items == target[:, None]
    gain = found / np.log2(np.arange(items.shape[1]) + 2)
    metrics = {}
    for k in ks:
        metrics[f"recall@{k}"] = float(found[:, :k].any(axis=1).mean())
        metrics[f"ndcg@{k}"] = float(gain[:, :k].sum(axis=1).mean())
    return metrics


def measure(recommender: Recommender, interactions: Interactions, split: str) -> dict[str, float]:
    """Return :func:`rank_metrics` of a recommender on a split of ``interactions``."""
    items, _ = recommender.rank(interactions.histories(split, recommender.history_length), max(RECOMMENDATION_KS))
    return rank_metrics(items, interactions.item[interactions.targets(split)])
