"""Reading of files and folders in which every error names the file and the line."""

import gzip
import json
import os
import zlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from tqdm import tqdm

from genret_jax.errors import InputError, nearest

_SHOW_PROGRESS_FROM_BYTES = 64 * 2**20


def read_lines(path: Path, *, encoding: str = "utf-8") -> Iterator[tuple[int, str]]:
    """Yield one-based line numbers and the lines of a text file, without line ends and empty lines.

    Lines end at LF only (CR LF is accepted): the further separators of Unicode may stand inside a JSON string. A file
    that begins as gzip does is unpacked on the way, whatever its name. Files of 64 MiB and more show a progress bar on
    a terminal.

    Args:
        path: The file.
        encoding: How its characters are written.

    Raises:
        InputError: If the file is missing, cannot be read, is a damaged gzip file, or holds bytes of another encoding.
    """
    try:
        handle = open(path, "rb")  # noqa: SIM115 (closed below; the error message belongs to the opening alone)
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="check the path") from None
    except OSError as error:
        raise InputError(f"the file cannot be read ({error.strerror})", file=path, fix="check it") from None
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
    """Yield the lines of a gzip file; what is wrong with it shows only where its bytes are read."""
    number = 0
    try:
        with gzip.open(handle) as unpacked:
            for number, line in enumerate(unpacked, start=1):  # noqa: B007 (the error needs the last number)
                yield line
    except (EOFError, OSError, zlib.error) as error:
        ended = isinstance(error, EOFError)
        raise InputError(
            "the gzip file ends early" if ended else f"damaged gzip data ({error})",
            file=path,
            line=number + 1,
            expected="a whole gzip file",
            fix="download or copy it again, and check it with 'gzip -t'",
        ) from None


def _decode(raw: bytes, path: Path, number: int, encoding: str) -> str:
    try:
        # A byte order mark at the start of a file is an editor's habit, not content.
        return raw.decode("utf-8-sig" if number == 1 and encoding == "utf-8" else encoding)
    except UnicodeDecodeError as error:
        raise InputError(
            f"byte 0x{raw[error.start]:02x} at position {error.start + 1} of the line is not {encoding.upper()}",
            file=path,
            line=number,
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


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f"cannot be read ({error.strerror})", file=path, fix="check the path and its permissions")


def require_folder(folder: Path, *, expected: str, fix: str) -> None:
    """Check that a path is a folder.

    Args:
        folder: The path.
        expected: What should be there, for the message.
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


def column_numbers(header: Sequence[str], names: Sequence[str], path: Path, line: int) -> list[int]:
    """Return where in a header each of some names stands.

    Args:
        header: Names of all columns of the file.
        names: Names of the wanted columns.
        path: The file, for errors.
        line: The line of the header, for errors.

    Raises:
        InputError: If the header lacks a name, or has it twice.
    """
    for name in names:
        if header.count(name) != 1:
            hint = nearest(name, header) if name not in header else ""
            raise InputError(
                f"{'two columns' if name in header else 'no column'} '{name}' in the header {' '.join(header)[:80]!r}",
                file=path,
                line=line,
                expected=f"a header with {', '.join(names)}, each once, in any order",
                fix=f"rename the column ({hint})" if hint else "correct the header",
            )
    return [header.index(name) for name in names]


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield one-based line numbers and the JSON objects of a JSON Lines file.

    Raises:
        InputError: As :func:`read_lines`, or if a line is not a JSON object.
    """
    for number, line in read_lines(path):
        yield number, json_object(line, path, number)


def json_object(line: str, path: Path, number: int) -> dict[str, Any]:
    """Return the JSON object of a line.

    Args:
        line: The line.
        path: Its file, for errors.
        number: Its number, for errors.

    Raises:
        InputError: If it is not a JSON object, or holds what is no character.
    """
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        place = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(
            f"broken JSON ({reason}{place})",
            file=path,
            line=number,
            expected="one JSON object a line",
            fix="repair this line; the file may have been cut off while it was written or downloaded",
        ) from None
    if not isinstance(record, dict):
        raise InputError(
            _json_name(record),
            file=path,
            line=number,
            expected='a JSON object such as {"_id": "d1", "text": "..."}',
            fix="repair this line",
        )
    if "\\ud" in line.lower():
        _reject_lone_surrogates(record, path, number)
    return record


def write_json_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object a line."""
    with open(path, "w", encoding="utf-8", newline="\n") as handle:
        handle.writelines(json_line(record) for record in records)


def json_line(record: Mapping[str, Any]) -> str:
    """Return a JSON object as a line of text."""
    return json.dumps(record, ensure_ascii=False) + "\n"


def _reject_lone_surrogates(record: dict[str, Any], path: Path, number: int) -> None:
    """JSON can escape half a surrogate pair, which no UTF-8 file that we write later could hold."""
    try:
        json.dumps(record, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise InputError(
            "an escaped half of a surrogate pair (\\ud800 to \\udfff), which is no character",
            file=path,
            line=number,
            expected="Unicode text",
            fix="remove or replace it",
        ) from None


def _json_name(value: Any) -> str:
    names = {
        list: "an array",
        dict: "an object",
        str: "a string",
        bool: "a boolean",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else names[type(value)]


def text_field(record: dict[str, Any], name: str, path: Path, line: int, *, default: str | None = None) -> str:
    """Return a string field of a record.

    Args:
        record: The JSON object.
        name: The field's name.
        path: Its file, for errors.
        line: Its line, for errors.
        default: What stands for a missing or null field; None means that it must be there.

    Raises:
        InputError: If it is missing without a default, or is not a string.
    """
    value = record.get(name)
    if value is None and default is not None:
        return default
    if name not in record:
        raise InputError(
            f"a record without '{name}' (it has {', '.join(map(repr, record)) or 'no fields'})",
            file=path,
            line=line,
            expected=f"a string field '{name}'",
            fix=f"add or rename the field to '{name}'",
        )
    if not isinstance(value, str):
        raise InputError(
            f"'{name}' is {_json_name(value)}",
            file=path,
            line=line,
            expected="a string",
            fix=f"put the value of '{name}' in quotes",
        )
    return value


def id_field(record: dict[str, Any], name: str, path: Path, line: int) -> str:
    """Return an identifier: a string that survives tab-separated judgements and TREC run files.

    Raises:
        InputError: If it is missing, not a string, empty, or holds white space.
    """
    return require_id(text_field(record, name, path, line), f"'{name}'", path, line)


def require_id(value: str, name: str, path: Path, line: int) -> str:
    """Return a string that can be an identifier.

    Args:
        value: What was found.
        name: What it is called in the file.
        path: The file.
        line: The line.

    Raises:
        InputError: If it is empty, or holds white space.
    """
    if not value or value.split() != [value] or not value.isprintable():
        raise InputError(
            f"{name} is {value!r}",
            file=path,
            line=line,
            expected="an id with at least one character and no white space (run files are separated by it)",
            fix="rename it, e.g. with '_' for spaces, wherever it is used",
        )
    return value


def claim_id(identifier: str, lines: dict[str, int], path: Path, line: int) -> None:
    """Note the line of an id in ``lines``, or reject it if an earlier line has it.

    Raises:
        InputError: Naming both lines.
    """
    first = lines.setdefault(identifier, line)
    if first != line:
        raise InputError(
            f"'_id' {identifier!r} again, first on line {first}",
            file=path,
            line=line,
            expected="every id once",
            fix="remove or rename one of the two",
        )


def require_known(identifier: str, what: str, where: str, known: Collection[str], path: Path, line: int) -> None:
    """Reject an identifier that nothing defines.

    Args:
        identifier: What was found.
        what: What it should name, e.g. ``"document"``.
        where: The file whose ids it should be one of.
        known: Those ids.
        path: The file it was found in.
        line: Its line.

    Raises:
        InputError: If it is unknown, with the nearest known id.
    """
    if identifier in known:
        return
    # Looking for a near miss in millions of ids would take longer than reading them.
    hint = nearest(identifier, known) if len(known) <= 20_000 else ""
    raise InputError(
        f"unknown {what} {identifier!r}{f' ({hint})' if hint else ''}",
        file=path,
        line=line,
        expected=f"an '_id' of {where}",
        fix=f"remove this line or add the {what}",
    )
