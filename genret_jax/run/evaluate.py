"""Evaluate trained runs beside what a user would pick instead, on the same data and requests."""

import dataclasses
import itertools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from jax.sharding import Mesh

from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun, compare, require_unique, timed_search
from genret_jax.evaluation.environment import environment
from genret_jax.evaluation.external import external_answers
from genret_jax.evaluation.plot import plot_run
from genret_jax.evaluation.reference import require_row
from genret_jax.evaluation.render import markdown
from genret_jax.evaluation.report import Dataset, Report, System, file_names
from genret_jax.evaluation.trec import rankings_by_id, write_qrels, write_run
from genret_jax.inference import Ranker
from genret_jax.models.start import source_of
from genret_jax.problems import Measured, Problem, Requests, say
from genret_jax.run.description import budget, description, details
from genret_jax.run.rows import Opened, Row, common, names_of, only, open_all, require_same, rows_of
from genret_jax.storage import atomic_folder
from genret_jax.training import read_metrics

_MEMORISATION_BEAM = 10

Ranking = dict[str, list[tuple[str, float]]]


def evaluate_runs(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str] | None = None,
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    beam: int | None = None,
    mesh: Mesh | None = None,
    measured: Measured | None = None,
    external: Mapping[str, str | os.PathLike[str]] | None = None,
    baseline: str | None = None,
    allow_imports: Sequence[str] = (),
) -> Report:
    """Measure runs on the same data and write a folder with the report.

    The report compares every row with one of them, query by query. By default that is the best baseline: neither a run
    nor its untrained network. It is chosen on the queries of the report, where luck favours it, which makes the
    comparison harder for the runs, not easier.

    Args:
        runs: Run folders, or folders of seeds. The report calls each by its folder's name.
        out: Folder to write, or an earlier report to replace: ``report.json``, ``report.md``, ``qrels.txt``, a TREC
            run file per system, and a picture of each run's training. By default ``reports/SPLIT`` in the first run.
        split: Split of the judgements; by default the run's own.
        checkpoint: Checkpoint of each run.
        beam: Beams of the search; by default the run's own.
        mesh: Devices to search on, as for :meth:`genret_jax.Retriever.load`; None for one.
        measured: Systems to measure beside the runs.
        external: Rankings of other systems, TREC run files by the names that the report calls them by. They count as
            baselines.
        baseline: Name of the row to compare the others with; the best baseline by default.
        allow_imports: Modules outside genret_jax that the runs' configurations may import.

    Returns:
        The report.

    Raises:
        InputError: If the runs cannot be compared, the split is missing, ``measured`` asks for something that has no
            meaning for this kind of data, a ranking cannot be used, a name is taken or unknown, or ``out`` holds
            something else.
    """
    if beam is not None and beam < 1:
        raise InputError(f"a beam of {beam}", expected="at least 1", fix="give another beam")
    opened = open_all(runs, allow_imports)
    measured = measured or Measured()
    first = _comparable(opened, measured)
    split = split or first.evaluation.split
    folder = report_folder(runs[0], split) if out is None else Path(out)
    _check_out(folder, external or {})
    requests = {each.name: each.run.requests(split, measured) for each in opened}  # every run has its own tokens
    asked = next(iter(requests.values()))
    for each in opened:
        require_same(asked, requests[each.name], each, first)
        each.run.require_checkpoint(checkpoint)
    remembered = common({each.name: each.run.memorisation() for each in opened})
    rows = {each.name: rows_of(each, checkpoint, measured, remembers=each.name in remembered) for each in opened}
    beside, notes = _external(external or {}, asked, first, [row.name for part in rows.values() for row in part])
    found, memory = first.baselines(asked, beam or first.evaluation.beam, measured) + beside, list[SystemRun]()
    own = {each.name: _own_baselines(each, requests[each.name], beam, measured) for each in opened}
    baselines = [answered.system.name for answered in (*found, *itertools.chain(*own.values()))]
    names = [*baselines, *names_of(itertools.chain(*rows.values()))]
    require_unique(names, "rows of the report")
    if baseline is not None:
        require_row(baseline, names)
    for each in opened:
        answers, remembers = _answers(each, rows[each.name], requests[each.name], remembered.get(each.name), beam, mesh)
        found += own[each.name] + answers
        memory += remembers
    report = compare(
        _dataset(first),
        [(asked.split, found), *[(both.split, memory) for both in itertools.islice(remembered.values(), 1)]],
        reference=baseline,
        baselines=baselines,
        primary=first.primary_metric,
        budget={each.name: budget(each.run) for each in opened},
        environment=environment(),
        notes=[*notes, *_starts(opened, measured)],
    )
    _write(folder, report, asked, found, opened)
    return report


def report_folder(run: str | os.PathLike[str], split: str) -> Path:
    """Return where a report lies by default."""
    return Path(run) / "reports" / split


def _comparable(opened: Sequence[Opened], measured: Measured) -> Problem:
    """Return the first run, with which all others can be compared."""
    first = opened[0].run
    for each in opened:
        first.require_comparable(each.run)
        each.run.require_ranks()
    _require_meaning(first, measured)
    require_unique([each.name for each in opened], "runs", first.baseline_names)
    return first


def _dataset(run: Problem) -> Dataset:
    return Dataset(
        name=run.corpus.name, documents=len(run.corpus), fingerprint=run.fingerprints["corpus"], kind=run.kind
    )


def _require_meaning(first: Problem, measured: Measured) -> None:
    for field in dataclasses.fields(Measured):
        asked = getattr(measured, field.name) != field.default
        if asked and field.name not in first.measures:
            raise InputError(
                f"{field.name} has no meaning for a run of {first.kind}",
                file=first.folder,
                expected=f"some of {', '.join(sorted(first.measures))}",
                fix="leave it out",
            )


def _external(
    files: Mapping[str, str | os.PathLike[str]], requests: Requests, first: Problem, rows: Sequence[str]
) -> tuple[list[SystemRun], list[str]]:
    """Read the rankings of other systems, and return them with sentences about them."""
    taken = {name.casefold() for name in (*rows, *first.baseline_names)}
    found, notes = [], list[str]()
    for name, path in files.items():
        if name.casefold() in taken:
            raise InputError(
                f"the name '{name}' is taken by another row of the report",
                file=path,
                fix="give the ranking another name",
            )
        taken.add(name.casefold())
        known = first.corpus.document_index
        answers, about = external_answers(name, path, requests.split, known, requests.without)
        found.append(answers)
        notes += about
    return found, notes


def _own_baselines(opened: Opened, requests: Requests, beam: int | None, measured: Measured) -> list[SystemRun]:
    """Return the answers of what is measured beside a run, once for all its seeds."""
    if not opened.leads:
        return []
    return opened.run.baselines_of_run(opened.name, requests, beam or opened.run.evaluation.beam, measured)


def _answers(
    opened: Opened,
    rows: Sequence[Row],
    requests: Requests,
    remembered: Requests | None,
    beam: int | None,
    mesh: Mesh | None,
) -> tuple[list[SystemRun], list[SystemRun]]:
    """Search with a run: the split, and documents for themselves."""
    run, depth = opened.run, beam or opened.run.evaluation.beam
    found, memory = [], []
    for checkpoint, together in itertools.groupby(rows, key=lambda row: row.checkpoint):
        ranker = Ranker(run.model, run.encoded, run.params(checkpoint, mesh), run.plan_tables)
        about, facts = description(run, checkpoint), details(run, ranker, requests, depth)
        for row in together:
            system = System(name=row.name, description=about, details=facts)
            found.append(_searched(ranker, run, system, requests, depth, share=row.share, seed_of=row.seed_of))
            if remembered is not None and row.remembers:
                beams = min(depth, _MEMORISATION_BEAM)
                answers = _ranked(ranker, run, remembered, beams, None)
                memory.append(SystemRun(system=system, run=answers, depth=beams, seed_of=row.seed_of))
    return found, memory


def _searched(
    ranker: Ranker,
    run: Problem,
    system: System,
    requests: Requests,
    depth: int,
    *,
    share: float | None = None,
    seed_of: str | None = None,
) -> SystemRun:

    def search(asked: Mapping[str, str], depth: int) -> Ranking:
        return _ranked(ranker, run, only(requests, asked), depth, share)

    # Of inputs with several widths, the timed part is searched in batches of other sizes.
    asked = dict.fromkeys(requests.split.qrels, "")
    say(f"searching {len(asked):,} requests: {system.name}")
    answers, milliseconds = timed_search(search, asked, depth, compiles_anew=bool(requests.widths))
    return SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds, seed_of=seed_of)


def _ranked(ranker: Ranker, run: Problem, requests: Requests, depth: int, share: float | None) -> Ranking:
    ranked = ranker.rank_with_share(
        requests.tokens,
        share,
        None if share is None else run.later,
        limit=depth,
        beam=depth,
        batch_size=run.evaluation.batch_size,
        without=requests.without,
        widths=requests.widths,
        progress=True,
    )
    scores = ranked.scores
    if share is not None:  # the order is not that of the scores, by which a run file is read
        scores = np.broadcast_to(-np.arange(scores.shape[1], dtype=np.float32), scores.shape)
    return rankings_by_id(requests.split.qrels, run.corpus.doc_ids, ranked.documents.tolist(), scores.tolist())


def _starts(opened: Sequence[Opened], measured: Measured) -> list[str]:
    """Explain the rows of untrained networks."""
    starts = {source_of(each.run.experiment.start): None for each in opened if each.run.experiment.start is not None}
    return [
        f"'untrained' is the network as it is initialised from {source}: the difference to it is what training adds."
        for source in (starts if measured.untrained else ())
    ]


def _check_out(out: Path, external: Mapping[str, str | os.PathLike[str]]) -> None:
    """Refuse to replace anything but a report, before any search is made for it."""
    for path in external.values():
        if out.resolve() in Path(path).resolve().parents:
            raise InputError(
                "a ranking inside the folder of the report, which is replaced",
                file=path,
                fix="move the ranking, or choose another folder for the report",
            )
    if out.exists() and not (out.is_dir() and ((out / "report.json").is_file() or not any(out.iterdir()))):
        raise InputError(
            "there is something else than a report",
            file=out,
            expected="a new folder, or that of an earlier report",
            fix="choose another folder for the report",
        )


def _write(out: Path, report: Report, requests: Requests, found: Sequence[SystemRun], opened: Sequence[Opened]) -> None:
    with atomic_folder(out, replace=True) as folder:
        report.save(folder / "report.json")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        write_qrels(folder / "qrels.txt", requests.split.qrels)
        names = file_names([*(system.system.name for system in found), *(each.name for each in opened)])
        for system in found:
            name = names[system.system.name]
            write_run(folder / f"{name}.run", system.run, tag=name)
        for each in opened:
            picture = folder / f"{names[each.name]}.png"
            try:
                plot_run(read_metrics(each.run.folder), picture, title=f"{report.dataset.name}: {each.name}")
            except InputError as error:
                say(f"no picture of {each.name}: {error}")
