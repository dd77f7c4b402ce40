"""Evaluate trained runs beside what a user would pick instead, on the same corpus and queries."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from genret_jax.errors import InputError
from genret_jax.evaluate import documents, items
from genret_jax.evaluate.documents import DEFAULT_BASELINES, Baselines
from genret_jax.evaluation.compare import EvaluationSplit, SystemRun, compare
from genret_jax.evaluation.environment import environment
from genret_jax.evaluation.plot import plot_run
from genret_jax.evaluation.render import markdown
from genret_jax.evaluation.report import Dataset, Report, file_names
from genret_jax.evaluation.trec import write_qrels, write_run
from genret_jax.run import Run, run_folders, stderr
from genret_jax.run.documents import DocumentRun
from genret_jax.storage import atomic_folder
from genret_jax.training import read_metrics

# What a network of such a start is initialised from.
_STARTS = {
    "LsaStart": "the words of the corpus (latent semantic analysis, and BM25 in lexical vectors)",
    "ItemStart": "vectors of the items and of who had them",
}


def evaluate_runs(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    beam: int | None = None,
    mesh: Mesh | None = None,
    baselines: Baselines = DEFAULT_BASELINES,
    exclude_history: bool = False,
) -> Report:
    """Measure runs of one corpus and write a folder with the report.

    Args:
        runs: Run folders, or folders of seeds; in the report each goes by its folder's name.
        out: Folder to write, or an earlier report to replace: ``report.json``, ``report.md``, ``qrels.txt``, a TREC
            run file a system, and a picture of each run's training.
        split: Split of the qrels; by default the run's own.
        checkpoint: Which checkpoint of each run.
        beam: Beams of the search; by default the run's own.
        mesh: Devices to search on, as of :meth:`genret_jax.Retriever.load`; None for one.
        baselines: What is measured beside.
        exclude_history: Leave out of every ranking of items what the user has had.

    Returns:
        The report.

    Raises:
        InputError: If the runs are of different corpora, the split is missing, or ``out`` holds something else.
    """
    _check_out(Path(out))
    if beam is not None and beam < 1:
        raise InputError(f"a beam of {beam}", expected="at least 1", fix="give another --beam")
    opened, seeds_of = _open_all(runs)
    first = next(iter(opened.values()))
    for run in opened.values():
        if run.fingerprints["corpus"] != first.fingerprints["corpus"]:
            raise InputError("a run of another corpus", file=run.folder, expected=f"the corpus of {first.folder}")
    asked: dict[str, Any] = {
        "split": split or first.evaluation.split,
        "checkpoint": checkpoint,
        "beam": beam,
        "mesh": mesh,
        "baselines": baselines,
        "seeds_of": seeds_of,
    }
    if isinstance(first, DocumentRun):
        answers = documents.search_documents(opened, **asked)  # type: ignore[arg-type]
    else:
        answers = items.recommend_items(opened, exclude_history=exclude_history, **asked)  # type: ignore[arg-type]
    report = compare(
        Dataset(
            name=first.corpus.name,
            documents=len(first.corpus),
            fingerprint=first.fingerprints["corpus"],
            kind=str(first.kind),
        ),
        answers,
        reference=documents.REFERENCE if isinstance(first, DocumentRun) else items.REFERENCE,
        budget={name: _budget(run) for name, run in opened.items()},
        environment=environment(),
        notes=_notes(opened, baselines),
    )
    _write(Path(out), report, *answers[0], opened)
    return report


def _open_all(runs: Sequence[str | os.PathLike[str]]) -> tuple[dict[str, Run], dict[str, str]]:
    """Return runs by their name in the report, and for each that is a seed what it is one of."""
    opened: dict[str, Run] = {}
    seeds_of: dict[str, str] = {}
    for given in runs:
        name = Path(given).resolve().name
        folders = run_folders(given)
        for folder in folders:
            run = Run.open(folder)
            named = name if len(folders) == 1 else f"{name}, seed {run.seed}"
            if named in opened:
                raise InputError("two runs have the same folder name", fix="rename one: the report calls runs by it")
            opened[named] = run
            if len(folders) > 1:
                seeds_of[named] = name
    return opened, seeds_of


def _budget(run: Run) -> dict[str, Any]:
    """Return what training was given, as its log tells."""
    records = read_metrics(run.folder)
    steps = max((record["step"] for record in records), default=0)
    rates = [record["steps_per_second"] for record in records if record.get("steps_per_second")]
    seconds = {"training seconds": round(steps / float(np.median(rates)))} if rates else {}
    return {"steps": steps, "seed": run.seed, **seconds}


def _notes(runs: Mapping[str, Run], baselines: Baselines) -> list[str]:
    notes = []
    starts = {(run.settings.get("start") or {}).get("class") for run in runs.values()}
    for start in sorted(_STARTS.keys() & starts) if baselines.untrained else ():
        notes.append(
            f"'untrained' is the network as it is initialised from {_STARTS[start]}: what training adds is the "
            "difference to it."
        )
    return notes


def _check_out(out: Path) -> None:
    """Refuse to replace what is not a report, before any search is made for it."""
    if out.exists() and not (out.is_dir() and ((out / "report.json").is_file() or not any(out.iterdir()))):
        raise InputError(
            "there is something else than a report",
            file=out,
            expected="a new folder, or that of an earlier report",
            fix="choose another --out folder",
        )


def _write(
    out: Path, report: Report, test: EvaluationSplit, found: Sequence[SystemRun], runs: Mapping[str, Run]
) -> None:
    with atomic_folder(out, replace=True) as folder:
        report.save(folder / "report.json")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        write_qrels(folder / "qrels.txt", test.qrels)
        names = file_names([system.system.name for system in found])
        for system in found:
            name = names[system.system.name]
            write_run(folder / f"{name}.run", system.run, tag=name)
        for name, run in runs.items():
            try:
                plot_run(
                    read_metrics(run.folder), folder / f"{names[name]}.png", title=f"{report.dataset.name}: {name}"
                )
            except InputError as error:
                stderr(f"no picture of {name}: {error}")
