"""The runs of a report: their rows, and the requests that all of them are asked."""

import collections
import dataclasses
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from genret_jax.errors import InputError
from genret_jax.evaluation.compare import mean_name
from genret_jax.problems import Measured, Problem, Requests
from genret_jax.run.folder import open_run, run_folders


@dataclasses.dataclass(frozen=True)
class Opened:
    """A run in a report.

    Attributes:
        name: Name in the report.
        run: The run.
        seed_of: Name of the folder of seeds that it is one of, or None.
        leads: Whether it is no seed, or the first: systems beside it stand for all seeds.
    """

    name: str
    run: Problem
    seed_of: str | None
    leads: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Row:
    """A row that a run has in a report.

    Attributes:
        name: Its name.
        checkpoint: The checkpoint that is searched with.
        share: Share of results that are new documents; None ranks all by their scores.
        seed_of: Name that the seeds of one system share, or None.
        remembers: Whether it is also asked for documents by their own texts.
    """

    name: str
    checkpoint: str | int
    share: float | None = None
    seed_of: str | None = None
    remembers: bool = False


def open_all(runs: Sequence[str | os.PathLike[str]], allow_imports: Sequence[str]) -> list[Opened]:
    """Open run folders and folders of seeds; every run is called by the name of its folder.

    Raises:
        InputError: If two have the same name, or a folder holds no run.
    """
    opened: dict[str, Opened] = {}
    for given in runs:
        name = Path(given).resolve().name
        folders = run_folders(given)
        for number, folder in enumerate(folders):
            run = open_run(folder, allow_imports=allow_imports)
            seed_of = name if len(folders) > 1 else None
            named = name if seed_of is None else f"{name}, seed {run.seed}"
            if named in opened:
                raise InputError("two runs have the same folder name", fix="rename one: the report calls runs by it")
            opened[named] = Opened(name=named, run=run, seed_of=seed_of, leads=number == 0)
    return list(opened.values())


def require_same(asked: Requests, own: Requests, opened: Opened, first: Problem) -> None:
    """Refuse a run whose split has other judgements than that of the first run, such as another held-out share."""
    if own.split.qrels != asked.split.qrels:
        raise InputError(
            f"other requests in the split '{asked.split.name}'",
            file=opened.run.folder,
            expected=f"those of {first.folder}",
            fix="evaluate the runs one by one",
        )


def common(remembered: Mapping[str, Requests | None]) -> dict[str, Requests]:
    """Return for each run the documents as requests for themselves that all runs can be asked for.

    Runs with another vocabulary may have words for other documents.
    """
    found = {name: requests for name, requests in remembered.items() if requests is not None}
    if not found:
        return {}
    in_all = functools.reduce(lambda a, b: a & b, (set(requests.split.qrels) for requests in found.values()))
    if not in_all:
        return {}
    return {name: only(requests, [d for d in requests.split.qrels if d in in_all]) for name, requests in found.items()}


def only(requests: Requests, names: Iterable[str]) -> Requests:
    """Return some of the requests."""
    row, names = {name: number for number, name in enumerate(requests.split.qrels)}, list(names)
    rows = [row[name] for name in names]
    return dataclasses.replace(
        requests,
        split=dataclasses.replace(requests.split, qrels={name: requests.split.qrels[name] for name in names}),
        tokens=requests.tokens[rows],
        without=None if requests.without is None else requests.without[rows],
    )


def rows_of(opened: Opened, checkpoint: str | int, measured: Measured, *, remembers: bool) -> list[Row]:
    """Return the rows of a run, before anything is searched."""
    name, run, rows = opened.name, opened.run, []
    if measured.untrained and opened.leads and (run.experiment.start is not None or remembers):
        rows = [Row(name=f"{name}, untrained", checkpoint="start")]
    for suffix, share in run.rankings.items():
        seed_of = f"{opened.seed_of}{suffix}" if opened.seed_of else None
        remembers_too = remembers and share is None
        row = Row(name=f"{name}{suffix}", checkpoint=checkpoint, share=share, seed_of=seed_of, remembers=remembers_too)
        rows.append(row)
    return rows


def names_of(rows: Iterable[Row]) -> list[str]:
    """Return the names of rows, and of the means over seeds among them."""
    rows = list(rows)
    seeds = collections.Counter(row.seed_of for row in rows if row.seed_of is not None)
    return [*(row.name for row in rows), *(mean_name(name, count) for name, count in seeds.items() if count > 1)]
