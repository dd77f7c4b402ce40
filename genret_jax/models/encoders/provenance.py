"""Where an encoder's folder comes from: ``encoder.json``, the licence and the hash of the weights."""

import datetime
import re
from pathlib import Path
from typing import Any

from genret_jax.errors import InputError
from genret_jax.models.convert.stored_arrays import path_within
from genret_jax.models.encoders.known import KNOWN, KnownEncoder
from genret_jax.storage import read_json, sha256_of, write_json

RECORD = "encoder.json"
WEIGHTS = "model.safetensors"
_LISTED = "the list of genret_jax"
_FIELDS = ("name", "source", "revision", "licence", "sha256", "checked_against", "date")


def provenance(folder: Path) -> dict[str, Any]:
    """Return the source, licence and hash of an encoder's folder, as JSON values.

    Returns:
        ``name``, ``source``, ``revision``, ``licence``, ``date``, ``sha256`` (of ``model.safetensors``) and
        ``checked_against`` (the origin of an equal hash), each None where the folder does not tell.

    Raises:
        InputError: If the weights are not those that were downloaded.
    """
    record = dict.fromkeys(_FIELDS) | _record(folder)
    weights = folder / f"{body(folder)}{WEIGHTS}"
    if weights.is_file():
        found = sha256_of(weights)
        _require_equal(found, record["sha256"], weights, folder)
        listed = next((encoder.name for encoder in KNOWN.values() if encoder.sha256 == found), None)
        record |= {"sha256": found} | ({"name": listed, "checked_against": _LISTED} if listed else {})
    return record | {"licence": record["licence"] or _licence(folder)}


def is_there(folder: Path, encoder: KnownEncoder) -> bool:
    """Return whether a folder has an encoder.

    Raises:
        InputError: If its weights have another hash than they should have.
    """
    record = _record(folder)
    weights = folder / f"{body(folder)}{WEIGHTS}"
    if not weights.is_file() or record.get("name", encoder.name) != encoder.name:
        return False
    _require_equal(sha256_of(weights), encoder.sha256 or record.get("sha256"), weights, folder)
    return True


def write_record(folder: Path, encoder: KnownEncoder, *, source: str, revision: str | None, given: str | None) -> None:
    """Write ``encoder.json`` into a folder whose hashes have been checked.

    Args:
        folder: The folder, complete but for this file.
        encoder: The encoder in it.
        source: The place that the files come from.
        revision: Their version there; None if ``source`` has it.
        given: Hash of the weights that the place gave, if it gives any.
    """
    values = {
        "name": encoder.name,
        "source": source,
        "revision": revision,
        "licence": encoder.licence or _licence(folder),
        "sha256": sha256_of(folder / f"{body(folder)}{WEIGHTS}"),
        "checked_against": _LISTED if encoder.sha256 else source if given else None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(folder / RECORD, values)


def write_trained_record(folder: Path, *, source: Path, step: int) -> None:
    """Write ``encoder.json`` into the folder of an encoder that was trained further.

    Args:
        folder: The folder, complete but for this file.
        source: Folder of the encoder that training began with.
        step: Training steps since then.
    """
    record = dict.fromkeys(_FIELDS) | _record(source)
    began = ", ".join(filter(None, [record["name"], record["source"]])) or "an unrecorded source"
    values = {
        "name": None,
        "source": f"{step:,} steps of genret_jax, begun with {began}",
        "revision": record["revision"],
        "licence": record["licence"],
        "sha256": sha256_of(folder / f"{body(folder)}{WEIGHTS}"),
        "checked_against": None,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }
    write_json(folder / RECORD, values)


def modules(folder: Path) -> dict[str, str]:
    """Return kind -> path of the modules of a folder; none without ``modules.json``.

    Raises:
        InputError: If a path leads out of the folder.
    """
    file, found = folder / "modules.json", dict[str, str]()
    for module in read_json(file, expect=list) if file.is_file() else []:
        described = module if isinstance(module, dict) else {"path": module}
        path = described.get("path", "")
        if path != "":
            path_within(folder, path, named_in=file)
        found[str(described.get("type")).rpartition(".")[2]] = path
    return found


def body(folder: Path) -> str:
    """Return the prefix of the names of the network's files: empty, or that of a folder of their own."""
    path = modules(folder).get("Transformer")
    return f"{path}/" if path else ""


def _record(folder: Path) -> dict[str, Any]:
    file = folder / RECORD
    return dict(read_json(file, expect=dict)) if file.is_file() else {}


def _require_equal(found: str, expected: str | None, file: Path, folder: Path) -> None:
    if expected not in (None, found):
        raise InputError(
            f"damaged, or another encoder: its sha256 is {found}",
            file=file,
            expected=expected,
            fix=f"remove {folder}, then run 'genret encoder get'",
        )


def _licence(folder: Path) -> str | None:
    """Return the licence that the header of the folder's README names."""
    file = folder / "README.md"
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else ""
    header = re.match(r"---\r?\n(.*?)\n---", text, re.DOTALL)
    found = re.search(r"^license:\s*[\"']?([\w.+-]+)", header[1], re.MULTILINE) if header else None
    return found[1] if found else None
