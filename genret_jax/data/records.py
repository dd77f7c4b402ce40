"""Reading of files and folders in which every error names the file and the line, and the one rule for ids.

An id is any Unicode string with at least one character (:func:`check_ids`). Text files whose columns are separated by
tabs or spaces hold it as it is, or as a JSON string in double quotes where it could not be told from its neighbours
(:func:`write_id`, :func:`read_id`).
"""

import contextlib
import csv
import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tqdm import tqdm

from genret_jax.errors import InputError, nearest
from genret_jax.storage import read_json

_SHOW_PROGRESS_FROM_BYTES = 64 * 2**20
_JSON_NAMES = {
    type(None): "null",
    list: "an array",
    dict: "an object",
    str: "a string",
    bool: "a boolean",
    int: "a number",
    float: "a number",
}


class Place(NamedTuple):
    """A line of a file, which errors name.

    Attributes:
        path: The file.
        line: Number of the line, from 1.
    """

    path: Path
    line: int

    def error(self, found: str, *, expected: str | None = None, fix: str | None = None) -> InputError:
        """Return an error about this line; the arguments are those of :class:`InputError`."""
        return InputError(found, file=self.path, line=self.line, expected=expected, fix=fix)


def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield line numbers from 1, and the lines of a text file without line ends; empty lines are left out.

    Lines end at LF only (CR LF is accepted): the other separators of Unicode may occur inside a JSON string. A file
    that begins like a gzip file is unpacked, whatever its name. Files of 64 MiB and more show a progress bar on a
    terminal.

    Args:
        path: The file.
        encoding: Its encoding.

    Raises:
        InputError: If the file is missing, cannot be read, is a damaged gzip file, or has bytes of another encoding.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115 (closed below; the error message belongs to the opening alone)
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="check the path") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    with handle:
        size = path.stat().st_size
        packed = handle.peek(2)[:2] == b"\x1f\x8b"
        lines = _unpacked_lines(handle, path) if packed else handle
        # disable=None: tqdm shows itself on a terminal only.
        disable = True if size < _SHOW_PROGRESS_FROM_BYTES else None
        with tqdm(total=size, unit="B", unit_scale=True, desc=f"reading {path.name}", disable=disable) as progress:
            for number, raw in enumerate(lines, start=1):
                progress.update(handle.tell() - progress.n if packed else len(raw))
                line = _decode(raw, path, number, encoding).rstrip("\r\n")
                if line.strip():
                    yield number, line


def _unpacked_lines(handle: BinaryIO, path: Path) -> Iterator[bytes]:
    """Yield the lines of a gzip file; damage is found only where its bytes are read."""
    number = 0
    try:
        with gzip.open(handle) as unpacked:
            for number, line in enumerate(unpacked, start=1):  # noqa: B007 (the error needs the last number)
                yield line
    except (EOFError, OSError, zlib.error) as error:
        raise Place(path, number + 1).error(
            "the gzip file ends early" if isinstance(error, EOFError) else f"damaged gzip data ({error})",
            expected="a whole gzip file",
            fix="download or copy it again, and check it with 'gzip -t'",
        ) from None


def _decode(raw: bytes, path: Path, number: int, encoding: str) -> str:
    try:
        # Some editors write a byte order mark at the start of a file; it is no content.
        return raw.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise Place(path, number).error(
            f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line is not {encoding.upper()}",
            expected=f"{encoding.upper()} text",
            fix="convert the file, e.g. with 'iconv -f LATIN1 -t UTF-8'",
        ) from None


def is_present(path: Path) -> bool:
    """Return whether a path exists; a link counts even where its target is missing.

    Raises:
        InputError: If the folder that would hold it cannot be searched, so that nobody can tell.
    """
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _unreadable(path, error) from None
    return True


def list_folder(folder: Path) -> list[Path]:
    """Return the entries of a folder in the order of their names, without hidden ones such as ``._test.tsv``.

    Raises:
        InputError: If the folder is missing, is no folder, or cannot be read.
    """
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise _unreadable(folder, error) from None
    return [folder / name for name in sorted(names) if not name.startswith(".")]


def require_folder(folder: Path, *, expected: str, fix: str) -> None:
    """Check that a path is a folder that can be read.

    Args:
        folder: The path.
        expected: Contents that the folder should have, for the message.
        fix: The next step, for the message.

    Raises:
        InputError: If it is missing, is no folder, or cannot be read.
    """
    try:
        os.scandir(folder).close()
    except FileNotFoundError:
        raise InputError("the folder is missing", file=folder, expected=expected, fix=fix) from None
    except NotADirectoryError:
        raise InputError("this is not a folder", file=folder, expected=expected, fix=fix) from None
    except OSError as error:
        raise _unreadable(folder, error) from None


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot be read ({error.strerror})", file=path, fix="check the path and its permissions")


def read_table(
    path: Path, separator: str = "\t", *, names: Sequence[str] = (), encoding: str = "utf-8"
) -> Iterator[tuple[Place, list[str]]]:
    """Yield the header of a table and then its rows, each with its place; all have the same number of cells.

    Args:
        path: A text file with one row a line.
        separator: Text between two cells. In a file with commas, a cell with a comma is in double quotes.
        names: Names of the columns of a file without a header.
        encoding: Encoding of the file.

    Raises:
        InputError: If the file cannot be read, has neither header nor rows, or a row has more or fewer cells.
    """
    width = len(names)
    if names:
        yield Place(path, 1), list(names)
    for line, text in read_lines(path, encoding=encoding):
        row = next(csv.reader([text])) if separator == "," and '"' in text else text.split(separator)
        width = width or len(row)
        if len(row) != width:
            separated = "tabs" if separator == "\t" else repr(separator)
            raise Place(path, line).error(
                f"{len(row)} column{'s' * (len(row) != 1)} in {text[:60]!r}",
                expected=f"{width} separated by {separated}"
                + (f": {', '.join(names[:5])}{' …' * (width > 5)}" if names else ", as in the header"),
                fix="repair this line",
            )
        yield Place(path, line), row
    if not width:
        raise InputError("the file is empty", file=path, expected="a header and rows", fix="check how it was made")


def select_columns(rows: Iterator[tuple[Place, list[str]]], names: Sequence[str]) -> Iterator[tuple[Place, list[str]]]:
    """Yield the cells of some columns for each row of a table.

    Args:
        rows: The header and the rows, from :func:`read_table`.
        names: Names of the wanted columns, in the order in which their cells are wanted.

    Raises:
        InputError: If the header lacks a name, or has it twice.
    """
    place, header = next(rows)
    numbers = column_numbers(header, names, place)
    for place, row in rows:
        yield place, [row[number] for number in numbers]


def column_numbers(header: Sequence[str], names: Sequence[str], place: Place) -> list[int]:
    """Return the positions of some columns in a header.

    Args:
        header: Names of all columns of the file; a type after a colon (``user_id:token``) is no part of the name.
        names: Names of the wanted columns.
        place: Place of the header, for errors.

    Raises:
        InputError: If the header lacks a name, or has it twice.
    """
    header = [column.split(":")[0].strip() for column in header]
    for name in names:
        if header.count(name) != 1:
            hint = nearest(name, header) if name not in header else ""
            raise place.error(
                f"{'two columns' if name in header else 'no column'} '{name}' in the header {' '.join(header)[:80]!r}",
                expected=f"a header with {', '.join(names)}, each once, in any order",
                fix=f"rename the column ({hint})" if hint else "correct the header",
            )
    return [header.index(name) for name in names]


def read_json_object(path: Path, fields: Mapping[str, type]) -> dict[str, Any]:
    """Read a JSON file that holds one object.

    Args:
        path: The file.
        fields: Names and types of the fields that it must have; others are allowed.

    Raises:
        InputError: If the file is missing or broken, is no object, or lacks a field of that type.
    """
    return require_fields(read_json(path), fields, path)


def require_fields(record: Any, fields: Mapping[str, type], path: Path) -> dict[str, Any]:
    """Check the shape of a JSON value.

    Args:
        record: The value.
        fields: Names and types of the fields that it must have; others are allowed.
        path: Its file, for errors.

    Raises:
        InputError: If it is no object, or lacks a field of that type.
    """
    if not isinstance(record, dict):
        raise InputError(_json_name(record), file=path, expected="a JSON object", fix="restore the file, or remake it")
    for name, kind in fields.items():
        if type(record.get(name)) is not kind:
            found = f"'{name}' is {_json_name(record[name])}" if name in record else f"no field '{name}'"
            expected = f"{_JSON_NAMES[kind]} as '{name}'"
            raise InputError(found, file=path, expected=expected, fix="restore the file, or remake it")
    return record


def read_json_lines(path: Path) -> Iterator[tuple[Place, dict[str, Any]]]:
    """Yield the JSON objects of a JSON Lines file, each with its place.

    Raises:
        InputError: If the file cannot be read (:func:`read_lines`), or a line is not a JSON object.
    """
    for line, text in read_lines(path):
        yield (place := Place(path, line)), json_object(text, place)


def read_identified(path: Path) -> Iterator[tuple[str, Place, dict[str, Any]]]:
    """Yield the ids, places and JSON objects of a JSON Lines file whose field ``_id`` is different on every line.

    Raises:
        InputError: Naming file and line, if an id is missing, empty, not a string or there twice.
    """
    lines: dict[str, int] = {}
    for place, record in read_json_lines(path):
        identifier = id_field(record, "_id", place)
        first = lines.setdefault(identifier, place.line)
        if first != place.line:
            raise place.error(
                f"'_id' {identifier!r} again, first on line {first}",
                expected="every id once",
                fix="remove or rename one of the two",
            )
        yield identifier, place, record


def json_object(text: str, place: Place) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        text: The line.
        place: Its place, for errors.

    Raises:
        InputError: If it is not a JSON object, or escapes half of a surrogate pair.
    """
    try:
        record = json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at column {error.colno}" if isinstance(error, json.JSONDecodeError) else error
        raise place.error(
            f"broken JSON ({reason})",
            expected="one JSON object a line",
            fix="repair this line; the file may have been cut off while it was written or downloaded",
        ) from None
    if not isinstance(record, dict):
        expected = 'a JSON object such as {"_id": "d1", "text": "..."}'
        raise place.error(_json_name(record), expected=expected, fix="repair this line")
    # JSON can escape half of a surrogate pair, which UTF-8 cannot hold.
    if "\\ud" in text.lower() and not _is_unicode(json.dumps(record, ensure_ascii=False)):
        found = "an escaped half of a surrogate pair (\\ud800 to \\udfff), which is no character"
        raise place.error(found, expected="Unicode text", fix="remove or replace it")
    return record


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(map(json_line, records))


def json_line(record: Mapping[str, Any]) -> str:
    """Return a JSON object as a line of text."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def _json_name(value: Any) -> str:
    return _JSON_NAMES[type(value)]


def text_field(record: dict[str, Any], name: str, place: Place, *, default: str | None = None) -> str:
    """Return a string field of a record.

    Args:
        record: The JSON object.
        name: The field's name.
        place: Its place, for errors.
        default: Value of a missing or null field; None requires the field.

    Raises:
        InputError: If it is missing without a default, or is not a string.
    """
    value = record.get(name)
    if value is None and default is not None:
        return default
    if name not in record:
        raise place.error(
            f"a record without '{name}' (it has {', '.join(map(repr, record)) or 'no fields'})",
            expected=f"a string field '{name}'",
            fix=f"add or rename the field to '{name}'",
        )
    if not isinstance(value, str):
        found = f"'{name}' is {_json_name(value)}"
        raise place.error(found, expected="a string", fix=f"put the value of '{name}' in quotes")
    return value


def id_field(record: dict[str, Any], name: str, place: Place) -> str:
    """Return an id from a record.

    Raises:
        InputError: If it is missing, not a string, or empty.
    """
    return require_id(text_field(record, name, place), f"'{name}'", place)


def require_id(value: str, name: str, place: Place) -> str:
    """Return a string from a file if it can be an id.

    Args:
        value: The string.
        name: Its name in the file, for errors.
        place: Its place, for errors.

    Raises:
        InputError: If it is empty.
    """
    if not value:
        raise place.error(f"{name} is ''", expected="an id with at least one character", fix="give it an id")
    return value


def check_ids(ids: Collection[str], kind: str) -> None:
    """Check ids that did not come from a file.

    Args:
        ids: The ids, e.g. of all documents of a corpus.
        kind: Kind of the things that they name, e.g. ``"document"``.

    Raises:
        InputError: If one is no string, is empty, holds half of a surrogate pair, or is there twice.
    """
    strings = all(isinstance(one, str) for one in ids)
    if strings and all(ids) and _is_unicode("".join(ids)) and len(set(ids)) == len(ids):
        return
    seen: set[str] = set()
    for place, one in enumerate(ids):
        if not isinstance(one, str) or not one or not _is_unicode(one):
            found, expected = f"{kind} id {one!r} at position {place}", "a Unicode string with at least one character"
            raise InputError(found, expected=expected, fix="choose another id")
        if one in seen:
            raise InputError(
                f"{kind} id {one!r} twice", expected="every id once", fix="remove or rename one of the two"
            )
        seen.add(one)


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def write_id(identifier: str) -> str:
    """Return an id for a file of columns, as a JSON string if it holds white space or begins with a double quote."""
    plain = identifier.isprintable() and " " not in identifier and not identifier.startswith('"')
    return identifier if plain else json.dumps(identifier, ensure_ascii=False)


def read_id(field: str) -> str:
    """Return the id that :func:`write_id` wrote."""
    if len(field) > 1 and field[0] == field[-1] == '"':
        with contextlib.suppress(ValueError):
            return str(json.loads(field))
    return field


def require_known(identifier: str, kind: str, source: str, known: Collection[str], place: Place) -> None:
    """Reject an id that nothing defines.

    Args:
        identifier: The id.
        kind: Kind of the thing that it should name, e.g. ``"document"``.
        source: The file that defines ids of this kind.
        known: The ids that are defined.
        place: The place that holds the id, for errors.

    Raises:
        InputError: If it is unknown, with the nearest known id.
    """
    if identifier in known:
        return
    # To look for a similar one among millions of ids would take longer than reading them.
    hint = nearest(identifier, known) if len(known) <= 20_000 else ""
    raise place.error(
        f"unknown {kind} {identifier!r}{f' ({hint})' if hint else ''}",
        expected=f"an '_id' of {source}",
        fix=f"remove this line or add the {kind}",
    )
