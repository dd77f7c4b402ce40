"""What is measured of runs on items: the runs, popularity, item neighbours, and SASRec."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genret_jax.baselines.recommenders import ItemNeighbours, Popularity
from genret_jax.errors import InputError
from genret_jax.evaluate.documents import Baselines, leads_its_seeds
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, timed_search
from genret_jax.evaluation.recommendation import Recommender, answers_of, recommendation_split
from genret_jax.evaluation.report import System
from genret_jax.retriever import Retriever
from genret_jax.run import ItemRun, stderr

REFERENCE = "item neighbours"
# Where some items are new to training, reports also have what comes out if this share of the results is theirs.
_NEW = 0.1

Ranking = dict[str, list[tuple[str, float]]]


def recommend_items(
    runs: Mapping[str, ItemRun],
    *,
    split: str,
    checkpoint: str | int,
    beam: int | None,
    mesh: Mesh | None,
    baselines: Baselines,
    seeds_of: Mapping[str, str],
    exclude_history: bool,
) -> list[tuple[EvaluationSplit, list[SystemRun]]]:
    """Let runs on the same items, and what is measured beside them, recommend to the users of a split.

    Args:
        runs: By the names that they have in the report.
        split: ``"validation"`` or ``"test"``.
        checkpoint: Which checkpoint of each run.
        beam: Beams of the search; None for each run's own.
        mesh: Devices to search on; None for one.
        baselines: What is measured beside; of these, SASRec and untrained networks that start from vectors, of several
            seeds that of the first.
        seeds_of: Of runs that are a seed, what of.
        exclude_history: Leave out of every ranking what the user has had.

    Raises:
        InputError: If there is no such split, or different items were held out of the runs' training.
    """
    first = next(iter(runs.values()))
    for run in runs.values():
        if not np.array_equal(run.cold, first.cold):
            raise InputError(
                "runs of which different items were held out of training",
                file=run.folder,
                expected=f"those of {first.folder}",
                fix="evaluate them one by one",
            )
    test = recommendation_split(first.interactions, split, cold=first.cold, exclude_history=exclude_history)
    depth = beam or first.evaluation.beam
    found = _simple(first, split, depth, exclude_history)
    if baselines.sasrec:
        from genret_jax.baselines.sasrec import train_and_answer

        for loss in ("bce", "cross_entropy"):
            stderr(f"training SASRec, {loss}")
            found.append(
                train_and_answer(
                    first.interactions,
                    loss,
                    split,
                    depth,
                    folder=first.folder / "sasrec" / loss,
                    seed=first.seed,
                    cold=first.cold,
                    exclude_history=exclude_history,
                )
            )
    for name, run in runs.items():
        retriever = Retriever(run, run.params(checkpoint, mesh))
        about = f"{run.table.strategy['name']} docids"
        depth = beam or run.evaluation.beam
        if baselines.untrained and run.settings.get("start") and leads_its_seeds(name, seeds_of):
            untrained = Retriever(run, run.params("start", mesh))
            described = f"{about}, before the first step"
            found.append(_recommend(untrained, f"{name}, untrained", described, test, depth, exclude_history, None))
        shares = {"": None, f", {_NEW:.0%} new": _NEW} if run.cold.any() else {"": None}
        for kind, share in shares.items():
            described = f"{about}, checkpoint '{checkpoint}'"
            seed_of = f"{seeds_of[name]}{kind}" if name in seeds_of else None
            found.append(
                _recommend(retriever, f"{name}{kind}", described, test, depth, exclude_history, share, seed_of)
            )
    return [(test, found)]


def _simple(run: ItemRun, split: str, depth: int, exclude_history: bool) -> list[SystemRun]:
    data, cold = run.interactions, run.cold
    popularity, neighbours = Popularity(data, cold=cold), ItemNeighbours(data, cold=cold)
    simple: list[tuple[Recommender, System]] = [
        (popularity, System(name="popularity", description=popularity.description)),
        (neighbours, System(name=REFERENCE, description=neighbours.config.describe())),
    ]
    return [answers_of(ranks, data, split, named, depth, exclude_history=exclude_history) for ranks, named in simple]


def _recommend(
    retriever: Retriever,
    name: str,
    about: str,
    test: EvaluationSplit,
    depth: int,
    exclude_history: bool,
    new_items: float | None,
    seed_of: str | None = None,
) -> SystemRun:
    run = retriever.run_of(ItemRun)
    data = run.interactions
    users = data.evaluated_ids
    tokens = run.encode_histories(data.histories(test.name, run.histories.items), users)
    had = data.histories(test.name, int(data.lengths.max())) if exclude_history else None
    row = {user: number for number, user in enumerate(users)}

    def recommend(asking: Mapping[str, Any], depth: int) -> Ranking:
        rows = [row[user] for user in asking]
        ranked = retriever.rank_items(
            tokens[rows],
            beam=depth,
            limit=depth,
            batch_size=run.evaluation.batch_size,
            without=None if had is None else had[rows],
            new_items=new_items,
            progress=True,
        )
        ids, answers = run.corpus.doc_ids, [ranked.of(place) for place in range(len(rows))]
        if new_items is not None:  # their order is not that of the scores, by which a ranking is read
            answers = [[(d, -float(rank)) for rank, (d, _) in enumerate(found)] for found in answers]
        return {user: [(ids[d], score) for d, score in found] for user, found in zip(asking, answers, strict=True)}

    stderr(f"recommending to {len(users):,} users: {name}")
    # Those timed are fewer of each length, in batches of other sizes.
    answers, milliseconds = timed_search(recommend, dict.fromkeys(users, ""), depth, compiles_anew=True)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(retriever.params))
    system = System(name=name, description=about, details={"parameters": parameters, "beams": depth})
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds, seed_of=seed_of)
