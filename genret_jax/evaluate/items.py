"""What is measured of runs on items: the runs, popularity, item neighbours, and SASRec."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh

from genret_jax.baselines.recommenders import ItemNeighbours, Popularity
from genret_jax.evaluate.documents import Baselines
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, timed_search
from genret_jax.evaluation.recommendation import answers_of, recommendation_split
from genret_jax.evaluation.report import System
from genret_jax.retriever import Retriever
from genret_jax.run import ItemRun, stderr

REFERENCE = "item neighbours"
# Where some items are new to training, reports also have what comes out if they are at most this share of the results.
_MOST_NEW = 0.1

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
        baselines: What is measured beside; of these, SASRec.
    """
    first = next(iter(runs.values()))
    test = recommendation_split(first.interactions, split, cold=first.cold)
    found = _simple(first, split, beam or first.evaluation.beam)
    if baselines.sasrec:
        from genret_jax.baselines.sasrec import answers_of_run

        for loss in ("bce", "cross_entropy"):
            stderr(f"training SASRec, {loss}")
            found.append(answers_of_run(first, loss, split, beam or first.evaluation.beam))
    for name, run in runs.items():
        retriever = Retriever(run, run.params(checkpoint, mesh))
        about = f"{run.table.strategy['name']} docids, checkpoint '{checkpoint}'"
        found.append(_recommend(retriever, name, about, test, beam or run.evaluation.beam))
        if run.cold.any():
            named = f"{name}, at most {_MOST_NEW:.0%} new"
            found.append(_recommend(retriever, named, about, test, beam or run.evaluation.beam, _MOST_NEW))
    return [(test, found)]


def _simple(run: ItemRun, split: str, depth: int) -> list[SystemRun]:
    data, cold = run.interactions, run.cold
    popularity, neighbours = Popularity(data, cold=cold), ItemNeighbours(data, cold=cold)
    return [
        answers_of(popularity, data, split, System(name="popularity", description=popularity.description), depth),
        answers_of(neighbours, data, split, System(name=REFERENCE, description=neighbours.config.describe()), depth),
    ]


def _recommend(
    retriever: Retriever, name: str, about: str, test: EvaluationSplit, depth: int, new_items: float | None = None
) -> SystemRun:
    run = retriever.run_of(ItemRun)
    data = run.interactions
    users = [data.user_ids[user] for user in data.evaluated_users]
    tokens = run.encode_histories(data.histories(test.name, run.histories.items), users)
    row = {user: number for number, user in enumerate(users)}

    def recommend(asking: Mapping[str, Any], depth: int) -> Ranking:
        ranked = retriever.rank_items(
            tokens[[row[user] for user in asking]],
            beam=depth,
            limit=depth,
            batch_size=run.evaluation.batch_size,
            new_items=new_items,
            progress=True,
        )
        ids = run.corpus.doc_ids
        return {user: [(ids[d], score) for d, score in ranked.of(place)] for place, user in enumerate(asking)}

    stderr(f"recommending to {len(users):,} users: {name}")
    answers, milliseconds = timed_search(recommend, dict.fromkeys(users, ""), depth)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(retriever.params))
    system = System(name=name, description=about, details={"parameters": parameters, "beams": depth})
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)
