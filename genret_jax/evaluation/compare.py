"""Measure several systems on the same queries, with intervals and paired differences."""

import dataclasses
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from genret_jax.data.corpus import Corpus, seen_and_unseen
from genret_jax.errors import InputError, nearest
from genret_jax.evaluation.bootstrap import bootstrap_intervals, paired_bootstraps
from genret_jax.evaluation.metrics import DEFAULT_KS, QueryMetrics, evaluate_queries
from genret_jax.evaluation.report import Dataset, Measurement, Report, Split, System
from genret_jax.evaluation.trec import Qrels, Run

CONFIDENCE = 0.95
MEMORISATION = "memorisation"
_TIMED_QUERIES = 256  # enough for a steady time, few enough to search twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """Judged queries, and parts of them that are reported beside the whole.

    Attributes:
        name: Name of the whole.
        qrels: Query id to document id to grade.
        parts: Name of a part to its query ids.
        description: What the queries are, as a phrase.
    """

    name: str
    qrels: Qrels
    parts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    description: str = ""


def evaluation_split(corpus: Corpus, split: str) -> EvaluationSplit:
    """Return a split of a corpus, in parts by whether training had queries for its documents, where both exist.

    Raises:
        InputError: If the corpus has no such split or it is empty.
    """
    if not corpus.qrels.get(split):
        similar = nearest(split, corpus.qrels)
        raise InputError(
            f"no judgements for split '{split}'{f' ({similar})' if similar else ''}",
            file=corpus.source or corpus.name,
            expected=f"one of {', '.join(sorted(corpus.qrels))}" if corpus.qrels else f"qrels/{split}.tsv",
            fix=f"give qrels/{split}.tsv{' or another split' if corpus.qrels else ''}",
        )
    seen, unseen = seen_and_unseen(corpus, split)
    parts = {f"{split}, seen": seen, f"{split}, unseen": unseen} if seen and unseen else {}
    return EvaluationSplit(name=split, qrels=corpus.qrels[split], parts=parts)


def memorisation_split(doc_ids: Iterable[str]) -> EvaluationSplit:
    """Return the split in which every document asks for itself: a query's id is the document's."""
    return EvaluationSplit(
        name=MEMORISATION,
        qrels={doc_id: {doc_id: 1} for doc_id in doc_ids},
        description="each document as the query for its own docid",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemRun:
    """What a system answered on a split.

    Attributes:
        system: Its name, description and details.
        run: A ranking for each query, or a TREC run file.
        depth: Results asked for a query (beam size); metrics at larger k are left out.
        milliseconds_per_query: Time of a query within a batch, after compilation.
        seed_of: What this is one seed of; the report then also has the mean over all seeds of it.
    """

    system: System
    run: Run | str | os.PathLike[str]
    depth: int
    milliseconds_per_query: float | None = None
    seed_of: str | None = None


def timed_search(
    search: Callable[[Mapping[str, str], int], Run],
    queries: Mapping[str, str],
    depth: int,
    *,
    compiles_anew: bool = False,
) -> tuple[Run, float]:
    """Search all queries, then some of them again for the time, when everything is compiled.

    Args:
        search: Takes queries (id to text) and the number of results.
        queries: Query id to text, at least one.
        depth: Number of results.
        compiles_anew: For another number of queries something is compiled, which is then done before.

    Returns:
        The run, and milliseconds a query.
    """
    run = search(queries, depth)
    again = dict(list(queries.items())[:_TIMED_QUERIES])
    if compiles_anew:
        search(again, depth)
    started = time.perf_counter()
    search(again, depth)
    return run, (time.perf_counter() - started) * 1e3 / len(again)


def compare(
    dataset: Dataset,
    answers: Sequence[tuple[EvaluationSplit, Sequence[SystemRun]]],
    *,
    ks: Sequence[int] = DEFAULT_KS,
    reference: str | None = None,
    budget: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Measure systems on splits and their parts.

    Args:
        dataset: What was searched.
        answers: Splits with what each system answered on them.
        ks: Cutoffs.
        reference: Name of the system that the others are compared with, on the splits that it answered.
        budget: What training was given, for the report.
        environment: Versions and hardware, for the report.
        notes: Sentences for the reader.
    """
    splits: list[Split] = []
    measurements: list[Measurement] = []
    systems: dict[str, System] = {}
    for split, runs in answers:
        described = {split.name: _describe(split, split.qrels)}
        described |= {name: _describe(split, ids, name) for name, ids in split.parts.items()}
        splits += described.values()
        by_query = {run.system.name: evaluate_queries(split.qrels, run.run, ks, run.depth) for run in runs}
        means = _means_over_seeds(runs, by_query)
        systems |= {run.system.name: run.system for run in (*runs, *means)}
        for name in described:
            for run in (*runs, *means):
                measurements.append(_measure(name, run, by_query, split.parts.get(name), reference))
    return Report(
        dataset=dataset,
        splits=tuple(splits),
        systems=tuple(systems.values()),
        measurements=tuple(measurements),
        reference=reference if reference in systems else None,
        confidence=CONFIDENCE,
        budget=dict(budget or {}),
        environment=dict(environment or {}),
        notes=tuple(notes),
    )


def _means_over_seeds(runs: Sequence[SystemRun], by_query: dict[str, QueryMetrics]) -> list[SystemRun]:
    """Return what stands for the seeds of each system that has several, and add the mean of their metrics."""
    found = []
    for name in dict.fromkeys(run.seed_of for run in runs if run.seed_of is not None):
        seeds = [run for run in runs if run.seed_of == name]
        if len(seeds) < 2:
            continue
        depth, times = min(run.depth for run in seeds), [run.milliseconds_per_query for run in seeds]
        of_each = [by_query[run.system.name] for run in seeds]
        common = [metric for metric in of_each[0].values if all(metric in other.values for other in of_each)]
        system = System(
            name=f"{name}, mean of {len(seeds)} seeds",
            description=f"mean of {', '.join(run.system.name for run in seeds)}; the interval is that of the mean",
        )
        by_query[system.name] = QueryMetrics(
            query_ids=of_each[0].query_ids,
            values={metric: np.mean([other.values[metric] for other in of_each], axis=0) for metric in common},
        )
        timed = None if None in times else float(np.mean(times))  # type: ignore[arg-type]
        found.append(SystemRun(system=system, run={}, depth=depth, milliseconds_per_query=timed))
    return found


def _describe(split: EvaluationSplit, query_ids: Iterable[str], name: str | None = None) -> Split:
    relevant = [sum(grade > 0 for grade in split.qrels[query].values()) for query in query_ids]
    return Split(
        name=name or split.name,
        queries=len(relevant),
        relevant=float(np.mean(relevant)),
        one_relevant=set(relevant) == {1},
        description="" if name else split.description,
    )


def _measure(
    name: str,
    run: SystemRun,
    by_query: Mapping[str, QueryMetrics],
    part: Sequence[str] | None,
    reference: str | None,
) -> Measurement:
    ours = _part(by_query[run.system.name], part)
    intervals = bootstrap_intervals(_columns(ours, tuple(ours.values)), level=CONFIDENCE)
    versus = {}
    if reference is not None and reference in by_query and reference != run.system.name:
        theirs = _part(by_query[reference], part)
        common = tuple(metric for metric in ours.values if metric in theirs.values)
        differences = paired_bootstraps(_columns(ours, common), _columns(theirs, common), level=CONFIDENCE)
        versus = dict(zip(common, differences, strict=True))
    return Measurement(
        system=run.system.name,
        split=name,
        metrics=dict(zip(ours.values, intervals, strict=True)),
        depth=run.depth,
        milliseconds_per_query=run.milliseconds_per_query,
        versus_reference=versus,
    )


def _part(metrics: QueryMetrics, query_ids: Sequence[str] | None) -> QueryMetrics:
    return metrics if query_ids is None else metrics.only(query_ids)


def _columns(metrics: QueryMetrics, names: Sequence[str]) -> np.ndarray:
    return np.stack([metrics.values[name] for name in names], axis=1)
