"""Sequences of S3-Rec, P5 and their successors: lines of ``user item item …``, oldest item first, without times.

They are histories already, filtered and in order, so nothing is changed. Texts may come from two other files: S3-Rec's
``item2attributes.json``, whose attributes are numbers, and a list of titles.
"""

from pathlib import Path
from typing import Any

from genret_jax.data.interactions import read_sequences
from genret_jax.data.records import Place, read_json_object, read_lines, require_id
from genret_jax.data.sources.events import Event, collect_events
from genret_jax.data.sources.importing import Imported, build_histories, item_text
from genret_jax.errors import InputError


def s3rec(sequences: Path, *, titles: Path | None = None, attributes: Path | None = None) -> Imported:
    """Read sequences without changes.

    Args:
        sequences: File of lines ``user item item …``.
        titles: File of lines ``item<TAB>title``.
        attributes: File of a JSON object that maps item ids to lists of attributes, names or numbers.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    given = ((user, item) for _, user, items in read_sequences(sequences) for item in items)
    # Ascending times keep the order, and no event is a duplicate.
    events = collect_events(Event(user, item, number) for number, (user, item) in enumerate(given))
    histories = build_histories(events, source=sequences, core=1)
    named = _read_titles(titles) if titles else {}
    attributed = _read_attributes(attributes) if attributes else {}
    for path, known in ((titles, named), (attributes, attributed)):
        if path and known.keys().isdisjoint(histories.item_ids):
            raise InputError(
                f"none of its ids, such as {next(iter(known), '')!r}, is an item of {sequences.name}",
                file=path,
                expected="the item first, then what belongs to it",
                fix="check the order of the columns, and that the files belong together",
            )
    texts = {
        item: item_text(named.get(item, ""), {"Attributes": attributed.get(item, [])}) for item in histories.item_ids
    }
    files = [file for file in (titles, attributes) if file]
    return histories.with_texts(texts, name=sequences.stem, files=files)


def _read_titles(path: Path) -> dict[str, str]:
    titles: dict[str, str] = {}
    for line, text in read_lines(path):
        item, tab, title = text.partition("\t")
        place = Place(path, line)
        if not tab:
            raise place.error(f"no tab in {text[:60]!r}", expected="item<TAB>title", fix="put a tab after the id")
        titles.setdefault(require_id(item, "the item", place), title)
    return titles


def _read_attributes(path: Path) -> dict[str, list[str]]:
    return {item: _attributes_of(item, values, path) for item, values in read_json_object(path, {}).items()}


def _attributes_of(item: str, values: Any, path: Path) -> list[str]:
    if not isinstance(values, list) or not all(isinstance(value, (str, int)) for value in values):
        raise InputError(
            f"the attributes of item {item!r} are {str(values)[:60]!r}",
            file=path,
            expected="a list of names or numbers",
            fix='write them as {"item": ["one", "two"]}',
        )
    return [str(value) for value in values]
