"""Comparison of systems on the same queries, with intervals and paired differences."""

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from genret_jax.data.corpus import Corpus, seen_and_unseen
from genret_jax.data.text.words import normalized_words
from genret_jax.errors import InputError, nearest
from genret_jax.evaluation.metrics import (
    CONFIDENCE,
    DEFAULT_KS,
    QueryMetrics,
    bootstrap_intervals,
    evaluate_queries,
    paired_bootstraps,
)
from genret_jax.evaluation.reference import chosen_reference
from genret_jax.evaluation.report import Dataset, Measurement, Report, Split, System
from genret_jax.evaluation.trec import Qrels, Run

MEMORISATION = "memorisation"
_Found = TypeVar("_Found")
_TIMED_QUERIES = 256  # enough for a steady time, few enough to search twice


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationSplit:
    """Judged queries, with parts that get rows of their own in a report.

    Attributes:
        name: Name of the split.
        qrels: Query id to document id to grade.
        parts: Name of a part to its query ids.
        description: A phrase that describes the queries.
        notes: Sentences about these queries for the reader of a report.
    """

    name: str
    qrels: Qrels
    parts: Mapping[str, Sequence[str]] = dataclasses.field(default_factory=dict)
    description: str = ""
    notes: tuple[str, ...] = ()


def evaluation_split(corpus: Corpus, split: str) -> EvaluationSplit:
    """Return a split of a corpus; if only some queries ask for documents of training queries, both groups are parts.

    A note counts the queries that are documents of the corpus (:func:`self_matches`).

    Raises:
        InputError: If the corpus has no such split, or the split is empty.
    """
    if not corpus.qrels.get(split):
        similar, add = nearest(split, corpus.qrels), f"add qrels/{split}.tsv to the corpus and train again"
        raise InputError(
            f"no judgements for split '{split}'{f' ({similar})' if similar else ''}",
            file=corpus.source or corpus.name,
            expected=f"one of {', '.join(sorted(corpus.qrels))}" if corpus.qrels else "queries.jsonl and qrels/*.tsv",
            fix=f"choose another split, or {add}" if corpus.qrels else add,
        )
    seen, unseen = seen_and_unseen(corpus, split)
    parts = {f"{split}, seen": seen, f"{split}, unseen": unseen} if seen and unseen else {}
    qrels = corpus.qrels[split]
    notes: tuple[str, ...] = ()
    if own := self_matches(corpus, qrels):
        notes = (
            f"{len(own):,} of the {len(qrels):,} queries of split '{split}' are documents of the corpus under the same "
            f"id (one is '{own[0]}'). Such a query finds itself first, which is a miss unless it is judged relevant.",
        )
    return EvaluationSplit(name=split, qrels=qrels, parts=parts, notes=notes)


def self_matches(corpus: Corpus, qrels: Qrels) -> list[str]:
    """Return the queries that are documents of the corpus: those with the id and the words of a document.

    Args:
        corpus: Documents and queries.
        qrels: Judgements of the queries to look at.
    """
    found = []
    for query in qrels:
        if (place := corpus.document_index.get(query)) is not None:
            words = normalized_words(corpus.queries[query])
            texts = (corpus.texts[place], corpus.titles[place], corpus.document_text(place))
            found += [query] if any(words == normalized_words(text) for text in texts) else []
    return found


def memorisation_split(doc_ids: Iterable[str]) -> EvaluationSplit:
    """Return a split in which every document is the query for itself, under its own id."""
    return EvaluationSplit(
        name=MEMORISATION,
        qrels={doc_id: {doc_id: 1} for doc_id in doc_ids},
        description="each document as the query for its own docid",
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class SystemRun:
    """The answers of a system on a split.

    Attributes:
        system: Name, description and details of the system.
        run: A ranking for each query.
        depth: Results asked for per query (beam size); metrics at larger k are left out.
        milliseconds_per_query: Time per query within a batch, after compilation.
        seed_of: Name that the seeds of one system share; the report has a row with their mean.
    """

    system: System
    run: Run
    depth: int
    milliseconds_per_query: float | None = None
    seed_of: str | None = None


def timed_search(
    search: Callable[[Mapping[str, str], int], _Found],
    queries: Mapping[str, str],
    depth: int,
    *,
    compiles_anew: bool = False,
) -> tuple[_Found, float]:
    """Search all queries, then search some of them again to measure the time without compilation.

    Args:
        search: Function of queries (id to text) and the number of results.
        queries: Query id to text, at least one.
        depth: Results per query.
        compiles_anew: ``search`` compiles for each number of queries, so it is called once more before the timing.

    Returns:
        The run, or what else ``search`` returns, and milliseconds per query.
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
    baselines: Collection[str] = (),
    primary: str = "mrr@10",
    budget: Mapping[str, Any] | None = None,
    environment: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Measure systems on splits and their parts, and compare them with one of them.

    Args:
        dataset: The documents or items that were searched.
        answers: Splits, each with the answers of the systems. The first one chooses the reference.
        ks: Cutoffs.
        reference: Name of the system to compare the others with, on the splits that it answered. By default it is the
            best of ``baselines``. That one is chosen on the queries of the comparison itself, where luck favours it:
            this makes the comparison harder for the other systems, not easier.
        baselines: Names of the systems that may be the reference by default.
        primary: Metric that chooses the best baseline. If one of them has too few results for it, the largest smaller
            cutoff that all of them have.
        budget: Training steps, seconds and the like, for the report.
        environment: Versions and hardware, for the report.
        notes: Sentences for the reader; a sentence about the reference and the notes of the splits come before them.

    Raises:
        InputError: If two systems on a split have one name, one name is given to different systems, two splits or parts
            of them have one name, or there is no system with the name of the reference.
    """
    splits: list[Split] = []
    measurements: list[Measurement] = []
    systems: dict[str, System] = {}
    about_reference: list[str] = []
    for number, (split, runs) in enumerate(answers):
        metrics = {run.system.name: evaluate_queries(split.qrels, run.run, ks, run.depth) for run in runs}
        means, metrics_of_means = _means_over_seeds(runs, metrics)
        metrics |= metrics_of_means
        rows = [*runs, *means]
        require_unique((run.system.name for run in rows), f"systems on '{split.name}'")
        for run in rows:
            if systems.setdefault(run.system.name, run.system) != run.system:
                raise InputError(f"two different systems are called '{run.system.name}'", fix="rename one")
        if number == 0:
            reference, about_reference = chosen_reference(reference, metrics, baselines, primary, split.name)
        for part in (None, *split.parts):
            queries = split.qrels if part is None else split.parts[part]
            described = _describe(split, queries, part)
            splits.append(described)
            of_part = {name: every if part is None else every.only(queries) for name, every in metrics.items()}
            measurements += [_measure(described.name, run, of_part, reference) for run in rows]
    require_unique((split.name for split in splits), "splits")
    split_notes = dict.fromkeys(note for split, _ in answers for note in split.notes)
    return Report(
        dataset=dataset,
        splits=tuple(splits),
        systems=tuple(systems.values()),
        measurements=tuple(measurements),
        reference=reference,
        confidence=CONFIDENCE,
        budget=dict(budget or {}),
        environment=dict(environment or {}),
        notes=(*about_reference, *split_notes, *notes),
    )


def mean_name(name: str, seeds: int) -> str:
    """Return the name of the row with the mean over some seeds of a system."""
    return f"{name}, mean of {seeds} seeds"


def require_unique(names: Iterable[str], kind: str, reserved: Iterable[str] = ()) -> None:
    """Check names that a report calls things by.

    Args:
        names: The names.
        kind: Kind of the things, in the plural, for the message.
        reserved: Names that no thing may have in any mixture of upper and lower case, such as those of baselines.

    Raises:
        InputError: If a name occurs twice, or is reserved.
    """
    taken, seen = {name.casefold() for name in reserved}, set[str]()
    for name in names:
        if name in seen or name.casefold() in taken:
            raise InputError(
                f"two {kind} are called '{name}'" if name in seen else f"the name '{name}' is reserved",
                expected="a name of its own for each",
                fix="rename one: a run is called by the name of its folder",
            )
        seen.add(name)


def _means_over_seeds(
    runs: Sequence[SystemRun], metrics: Mapping[str, QueryMetrics]
) -> tuple[list[SystemRun], dict[str, QueryMetrics]]:
    """Return a row with the mean over its seeds for each system that has several, and the metrics of these rows."""
    rows, means = [], {}
    for name in dict.fromkeys(run.seed_of for run in runs if run.seed_of is not None):
        seeds = [run for run in runs if run.seed_of == name]
        if len(seeds) < 2:
            continue
        found = [metrics[run.system.name] for run in seeds]
        common = [metric for metric in found[0].values if all(metric in other.values for other in found)]
        details = [run.system.details for run in seeds]
        system = System(
            name=mean_name(name, len(seeds)),
            description=f"mean of {', '.join(run.system.name for run in seeds)}; the interval is that of the mean",
            details={
                key: value for key, value in details[0].items() if all(other.get(key) == value for other in details)
            },
        )
        means[system.name] = QueryMetrics(
            query_ids=found[0].query_ids,
            values={metric: np.mean([other.values[metric] for other in found], axis=0) for metric in common},
        )
        times = [run.milliseconds_per_query for run in seeds]
        time = None if None in times else float(np.mean(times))  # type: ignore[arg-type]
        depth = min(run.depth for run in seeds)
        rows.append(SystemRun(system=system, run={}, depth=depth, milliseconds_per_query=time))
    return rows, means


def _describe(split: EvaluationSplit, query_ids: Iterable[str], part: str | None) -> Split:
    relevant = [sum(grade > 0 for grade in split.qrels[query].values()) for query in query_ids]
    return Split(
        name=part or split.name,
        queries=len(relevant),
        relevant=float(np.mean(relevant)),
        one_relevant=set(relevant) == {1},
        description="" if part else split.description,
    )


def _measure(split: str, run: SystemRun, metrics: Mapping[str, QueryMetrics], reference: str | None) -> Measurement:
    """Return one cell of the report, with the difference to the reference if that has answered the split."""
    ours = metrics[run.system.name].values
    versus = {}
    if reference is not None and reference in metrics and reference != run.system.name:
        versus = paired_bootstraps(ours, metrics[reference].values)
    return Measurement(
        system=run.system.name,
        split=split,
        metrics=bootstrap_intervals(ours),
        depth=run.depth,
        milliseconds_per_query=run.milliseconds_per_query,
        versus_reference=versus,
    )
