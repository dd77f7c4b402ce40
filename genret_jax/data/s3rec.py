"""Sequences as S3-Rec, P5 and their successors publish them: ``user item item …`` a line, oldest first, without times.

They are histories already, filtered and in order, so nothing is changed. Texts come from files beside them, if at all:
S3-Rec's ``item2attributes.json``, whose attributes are numbers, and a list of titles.
"""

import dataclasses
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.data.events import Event, collect_events
from genret_jax.data.importing import Histories, Imported, report_of
from genret_jax.data.item_text import ItemText, item_text
from genret_jax.data.records import read_lines, require_id
from genret_jax.errors import InputError
from genret_jax.storage import read_json


def s3rec(sequences: Path, *, titles: Path | None = None, attributes: Path | None = None, name: str = "") -> Imported:
    """Read sequences as they are.

    Args:
        sequences: ``user item item …`` on each line.
        titles: ``item<TAB>title`` on each line.
        attributes: A JSON object of item ids to lists of attributes, names or numbers.
        name: What reports call the set; the name of the file of sequences by default.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    events = collect_events(_read_sequences(sequences))
    if not len(events):
        raise InputError("no users", file=sequences, expected="user item item … on each line", fix="check the file")
    # The file's order is the order of time: each event gets its place as its time.
    events = dataclasses.replace(events, time=np.arange(len(events), dtype=np.float64))
    named = _read_titles(titles) if titles else {}
    attributed = _read_attributes(attributes) if attributes else {}
    texts = {item: _text_of(named.get(item, ""), attributed.get(item, [])) for item in events.item_ids}
    imported = Histories(events=events, report=report_of(events, sequences)).with_texts(
        texts, name=name or sequences.stem
    )
    _warn_of_missing_texts(imported, titles, attributes)
    return imported


def _read_sequences(path: Path) -> Iterator[Event]:
    lines: dict[str, int] = {}
    for line, text in read_lines(path):
        user, *items = text.split()
        if not items:
            raise InputError(
                f"user {user!r} without items", file=path, line=line, expected="user item item …", fix="remove the line"
            )
        first = lines.setdefault(user, line)
        if first != line:
            raise InputError(
                f"user {user!r} again, first on line {first}",
                file=path,
                line=line,
                expected="one line a user, oldest item first",
                fix="check that the first column is the user, not an item",
            )
        yield from (Event(user, item, 0.0) for item in items)


def _read_titles(path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    for line, text in read_lines(path):
        item, tab, title = text.partition("\t")
        if not tab:
            raise InputError(
                f"no tab in {text[:60]!r}",
                file=path,
                line=line,
                expected="item<TAB>title",
                fix="put a tab behind the id",
            )
        titles.setdefault(require_id(item, "the item", path, line), title)
    return titles


def _read_attributes(path: Path) -> dict[str, list[str]]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise InputError(
            "no JSON object", file=path, expected='{"item": [attribute, …], …}', fix="check that it is the right file"
        )
    return {item: _attributes_of(item, values, path) for item, values in found.items()}


def _attributes_of(item: str, values: Any, path: Path) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, (str, int)) for value in values):
        raise InputError(
            f"the attributes of item {item!r} are {str(values)[:60]!r}",
            file=path,
            expected="a list of names or numbers",
            fix='write them as {"item": ["one", "two"]}',
        )
    return [str(value) for value in values]


def _text_of(title: str, attributes: list[str]) -> ItemText:
    return item_text(title, {"Attributes": attributes})


def _warn_of_missing_texts(imported: Imported, titles: Path | None, attributes: Path | None) -> None:
    report = imported.report
    if report.items_without_text < report.items:
        return
    if titles or attributes:
        given = " and ".join(str(path) for path in (titles, attributes) if path)
        raise InputError(
            f"nothing about any of the {report.items:,} items of {report.source}",
            file=given,
            expected="the item ids of the sequences",
            fix="check that the files belong together",
        )
    warnings.warn(
        f"{report.source}: no texts of items: semantic ids need them (next: --titles or --attributes), or vectors in "
        "embeddings.npy beside the items; atomic ids and baselines that know ids alone do without",
        stacklevel=3,
    )
