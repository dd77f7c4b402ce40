"""What is measured of runs on items: how often a user's next item is among those recommended."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genret_jax.evaluate.documents import Baselines
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, timed_search
from genret_jax.evaluation.report import System
from genret_jax.retriever import Retriever
from genret_jax.run import stderr
from genret_jax.run.items import ItemRun

Ranking = dict[str, list[tuple[str, float]]]


def recommend_items(
    runs: Mapping[str, ItemRun],
    *,
    split: str,
    checkpoint: str | int,
    beam: int | None,
    mesh: Mesh | None,
    baselines: Baselines,
) -> list[tuple[EvaluationSplit, list[SystemRun]]]:
    """Let runs on the same items, and what is measured beside them, recommend to the users of a split.

    Args:
        runs: By the names that they have in the report.
        split: ``"validation"`` or ``"test"``.
        checkpoint: Which checkpoint of each run.
        beam: Beams of the search; None for each run's own.
        mesh: Devices to search on; None for one.
        baselines: What is measured beside.
    """
    first = next(iter(runs.values()))
    test = users_split(first, split)
    found = []
    for name, run in runs.items():
        found.append(_recommend(run, name, checkpoint, mesh, test, beam or run.evaluation.beam))
    return [(test, found)]


def users_split(run: ItemRun, split: str) -> EvaluationSplit:
    """Return a split of the users: each is a query with one relevant item; in parts where some items are new."""
    data = run.interactions
    targets = data.item[data.targets(split)]
    users = [data.user_ids[user] for user in data.evaluated_users]
    qrels = {user: {data.items.doc_ids[item]: 1} for user, item in zip(users, targets.tolist(), strict=True)}
    parts = {}
    if (new := run.cold[targets]).any():
        parts = {
            f"{split}, known items": [users[row] for row in np.flatnonzero(~new)],
            f"{split}, new items": [users[row] for row in np.flatnonzero(new)],
        }
    return EvaluationSplit(
        name=split, qrels=qrels, parts=parts, description="the item that follows each user's history, among all"
    )


def _recommend(
    run: ItemRun, name: str, checkpoint: str | int, mesh: Mesh | None, test: EvaluationSplit, depth: int
) -> SystemRun:
    params = run.params(checkpoint, mesh)
    retriever = Retriever(run, params)
    data = run.interactions
    users = [data.user_ids[user] for user in data.evaluated_users]
    tokens = run.encode_histories(data.histories(test.name, run.histories.items), users)
    row = {user: number for number, user in enumerate(users)}

    def recommend(asking: Mapping[str, Any], depth: int) -> Ranking:
        ranked = retriever.rank(
            tokens[[row[user] for user in asking]],
            beam=depth,
            batch_size=run.evaluation.batch_size,
            widths=run.input_widths,
            progress=True,
        )
        ids = run.corpus.doc_ids
        return {user: [(ids[d], score) for d, score in ranked.of(place)] for place, user in enumerate(asking)}

    stderr(f"recommending to {len(users):,} users: {name}")
    answers, milliseconds = timed_search(recommend, dict.fromkeys(users, ""), depth)
    system = System(
        name=name,
        description=f"{run.table.strategy['name']} docids, checkpoint '{checkpoint}'",
        details={"parameters": sum(leaf.size for leaf in jax.tree.leaves(params)), "beams": depth},
    )
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)
