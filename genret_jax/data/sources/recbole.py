"""RecBole's atomic files: ``NAME.inter`` with events, ``NAME.item`` with the fields of the items.

Columns are separated by tabs. The first line names them as ``name:type``, in any order.
"""

import re
from collections.abc import Collection
from pathlib import Path

from genret_jax.data.records import (
    column_numbers,
    is_present,
    list_folder,
    read_table,
    require_folder,
    select_columns,
)
from genret_jax.data.sources.events import Ties, collect_events, events_of_rows
from genret_jax.data.sources.importing import Imported, ItemText, build_histories, item_text
from genret_jax.errors import InputError

USER, ITEM, TIME = "user_id", "item_id", "timestamp"
_TEXT_TYPES = ("token", "token_seq")
_TITLE = re.compile(r"(^|_)(title|name)$")


def recbole(folder: Path, *, core: int = 5, ties: Ties = "auto") -> Imported:
    """Read a folder of atomic files as interactions.

    The text of an item is its title (a column whose name ends in ``title`` or ``name``) and all its further columns of
    type ``token`` and ``token_seq``, and ``price``.

    Args:
        folder: Folder with one ``.inter`` file and, for texts, an ``.item`` file of the same name.
        core: Least number of events of a user and of an item.
        ties: Order of events of one user at one time.

    Raises:
        InputError: Naming file and line, if anything cannot be used.
    """
    events = _events_file(folder)
    rows = select_columns(read_table(events), (USER, ITEM, TIME))
    collected = collect_events(events_of_rows(rows, (USER, ITEM, TIME)))
    histories = build_histories(collected, source=events, core=core, ties=ties)
    files = [file for file in [events.with_suffix(".item")] if is_present(file)]
    texts = _read_items(files[0], set(histories.item_ids)) if files else {}
    return histories.with_texts(texts, name=events.stem, files=files)


def _events_file(folder: Path) -> Path:
    require_folder(folder, expected="a folder with a .inter file", fix="check the path")
    files = [file for file in list_folder(folder) if file.suffix == ".inter"]
    if len(files) != 1:
        raise InputError(
            f"{len(files)} .inter files" + (f" ({', '.join(file.name for file in files[:5])})" if files else ""),
            file=folder,
            expected="one, NAME.inter, and beside it NAME.item",
            fix="put the files of one data set into a folder of their own"
            if files
            else "check that this folder holds RecBole's atomic files, unpacked",
        )
    return files[0]


def _read_items(path: Path, wanted: Collection[str]) -> dict[str, ItemText]:
    rows = read_table(path)
    place, header = next(rows)
    (item,) = column_numbers(header, (ITEM,), place)
    names = [column.split(":")[0].strip() for column in header]
    title = next((i for i, name in enumerate(names) if i != item and _TITLE.search(name)), None)
    used = [i for i, text in enumerate(header) if i not in (item, title) and _is_text(text)]
    texts: dict[str, ItemText] = {}
    for _, row in rows:
        if row[item] in wanted and row[item] not in texts:
            fields = {names[i].replace("_", " ").capitalize(): row[i] for i in used}
            texts[row[item]] = item_text(row[title] if title is not None else "", fields)
    return texts


def _is_text(column: str) -> bool:
    name, _, kind = column.partition(":")
    return kind.strip() in _TEXT_TYPES or name.strip() == "price"
