"""Files and folders that are either whole or absent, and arrays whose damage is noticed.

Everything is written under a hidden temporary name beside its destination and renamed when it is complete, so a killed
process or a full disk never leaves something that a later command takes for finished. Temporary names begin with
``.`` and hold ``.partial-``; they are safe to delete.
"""

import collections
import contextlib
import errno
import fcntl
import hashlib
import json
import math
import os
import secrets
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from genret_jax.errors import NEXT_STEPS, InputError, os_failure

MANIFEST = "manifest.json"


@contextlib.contextmanager
def explain_os_errors(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn failures of the operating system that a user can end (a full disk, a limit, permissions) into InputError."""
    try:
        yield
    except OSError as error:
        if error.errno not in NEXT_STEPS:
            raise
        raise os_failure(error, path) from error


def user_cache(part: str) -> Path:
    """Return ``genret/PART`` in the user's cache: ``XDG_CACHE_HOME`` if it is absolute, or else ``~/.cache``.

    Raises:
        InputError: If the user has no home folder.
    """
    given = os.environ.get("XDG_CACHE_HOME", "")
    base = Path(given if os.path.isabs(given) else os.path.expanduser("~/.cache"))  # a relative one is to be ignored
    if not base.is_absolute():
        raise InputError("you have no home folder", fix="set HOME or XDG_CACHE_HOME, or give the folder by its path")
    return base / "genret" / part


def list_folder(path: str | os.PathLike[str]) -> list[str]:
    """Return the names in a folder in order; none for a folder that is missing.

    Unlike ``Path.glob``, it does not take a folder that cannot be read for an empty one.

    Raises:
        InputError: If it cannot be read or is not a folder.
    """
    try:
        return sorted(os.listdir(path))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise os_failure(error, path) from None


def _partial_name(path: Path) -> Path:
    return path.parent / f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """Open a file for writing that appears under its name only when the block ends without an error.

    Args:
        path: Destination; missing parent folders are made.
        mode: ``"w"`` (UTF-8, LF line ends) or ``"wb"``.

    Raises:
        InputError: If the disk is full, or the operating system refuses the write for another reason.
    """
    path = Path(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial_name(path)
        try:
            text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
            with open(partial, mode, **text) as handle:  # type: ignore[call-overload]
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
            os.replace(partial, path)
            _sync_folder(path.parent)
        finally:
            partial.unlink(missing_ok=True)


def require_free(path: str | os.PathLike[str], *, folder: bool = True) -> None:
    """Refuse an output that exists, before the work for it rather than after.

    Args:
        path: The output.
        folder: Whether it will be a folder, which may exist if it is empty.

    Raises:
        InputError: If something is there, or it cannot be read.
    """
    path = _followed(path)
    if path.exists() and not (folder and path.is_dir() and not list_folder(path)):
        raise InputError("the output already exists", file=path, fix="remove it or choose another name")


def _followed(path: str | os.PathLike[str]) -> Path:
    """Return the path to which links lead; refuse a link to something that is missing."""
    for part in (Path(path), *Path(path).parents):
        if part.is_symlink() and not part.exists():
            raise InputError(
                "a link to something that is missing", file=part, fix="remove the link, or make its target"
            )
    return Path(os.path.realpath(path)) if os.path.islink(path) else Path(path)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes ``path`` only when the block ends without an error.

    Args:
        path: Destination; must not exist or be empty, unless ``replace``.
        replace: Replace what is at ``path`` when the block begins. What appears or changes there later is left alone.

    Raises:
        InputError: If something is already there, or appears there meanwhile, or the disk is full.
    """
    path = _followed(path)
    if not replace:
        require_free(path)
    with explain_os_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        replaced = _identity(path) if replace else None
        partial = _partial_name(path)
        partial.mkdir()
        try:
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            _rename_to_free(partial, path, replaced)
            _sync_folder(path.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def _identity(path: Path) -> tuple[int, int, int] | None:
    """Return values that differ after a folder is replaced or its entries change; None for a missing folder."""
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


def _rename_to_free(partial: Path, path: Path, replaced: tuple[int, int, int] | None) -> None:
    """Give a finished folder its name, after removing the folder ``replaced`` from there and nothing else."""
    taken = InputError(
        "something else was written here in the meantime; it is left as it is",
        file=path,
        fix="remove it or choose another name, then run again",
    )
    old = _partial_name(path)
    if replaced is not None and path.exists():
        os.rename(path, old)
        if _identity(old) != replaced:
            os.rename(old, path)
            raise taken
    try:
        os.rename(partial, path)  # the kernel refuses unless the target is missing or an empty folder
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise taken from None
        raise
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left unfinished in a folder that the caller holds with :func:`folder_lock`."""
    for name in list_folder(folder):
        if name.startswith(".") and ".partial-" in name:
            _remove(Path(folder) / name)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    with atomic_file(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


_JSON_NAMES = {dict: "an object", list: "an array", str: "a string", int: "a number", float: "a number"}


def read_json(path: str | os.PathLike[str], *, expect: type | None = None) -> Any:
    """Read a JSON file.

    Args:
        path: The file.
        expect: Python type that the value must have, such as ``dict``; None accepts any.

    Raises:
        InputError: If it is missing, cannot be read, is not JSON, or has another type than expected.
    """
    try:
        value = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="check the path") from None
    except OSError as error:
        raise os_failure(error, path) from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"not valid JSON ({error})", file=path, fix="restore or rebuild it") from None
    if expect is not None and not isinstance(value, expect):
        raise InputError(
            f"the JSON value is {_JSON_NAMES.get(type(value), repr(value))}",
            file=path,
            expected=_JSON_NAMES.get(expect, expect.__name__),
            fix="restore or rebuild it",
        )
    return value


def save_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    version: int,
    details: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Write a folder of ``NAME.npy`` files with a manifest of their shapes, dtypes and checksums.

    Args:
        path: Destination folder.
        arrays: Arrays by name.
        kind: Name of this kind of folder, e.g. ``"docid_table"``; checked by :func:`load_arrays`.
        version: Layout version of this kind.
        details: Further JSON values for the manifest.
        replace: Replace an existing folder.

    Raises:
        InputError: If the folder exists and is not to be replaced, or the disk is full.
    """
    with atomic_folder(path, replace=replace) as folder:
        described = {name: _write_npy(folder / f"{name}.npy", array) for name, array in arrays.items()}
        write_json(folder / MANIFEST, {"kind": kind, "version": version, "arrays": described, **(details or {})})


def _write_npy(path: Path, array: np.ndarray) -> dict[str, Any]:
    """Write an array as ``numpy.save`` does, and return its shape, dtype and checksum.

    ``numpy.save`` reports a short write without its cause; ``handle.write`` names it.
    """
    array = np.asarray(array, order="C")
    if array.dtype.hasobject:
        raise ValueError(f"{path.name}: arrays of Python objects cannot be saved")
    with open(path, "wb") as handle:
        np.lib.format.write_array_header_1_0(handle, np.lib.format.header_data_from_array_1_0(array))
        handle.write(_bytes_of(array))
    return {"shape": list(array.shape), "dtype": str(array.dtype), "crc32": _checksum(array)}


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _checksum(array: np.ndarray) -> str:
    return f"{zlib.crc32(_bytes_of(array)):08x}"


class CheckedArrays(collections.UserDict[str, np.ndarray]):
    """Memory-mapped arrays by name; each is compared with its checksum when it is first asked for.

    Reading an array for its checksum brings it into the system's page cache, where the caller then finds it. CRC-32
    runs at 3.8 GB a second on one core (BLAKE2b at 0.9, SHA-256 at 1.7), so what counts is the disk.
    """

    def __init__(self, arrays: Mapping[str, np.ndarray], checksums: Mapping[str, str], folder: Path):
        super().__init__(arrays)
        self._unchecked, self._folder = dict(checksums), folder

    def __getitem__(self, name: str) -> np.ndarray:
        array: np.ndarray = self.data[name]
        written = self._unchecked.get(name)
        if written is not None:
            if (found := _checksum(array)) != written:
                raise InputError(
                    f"damaged: its bytes have the checksum {found}",
                    file=self._folder / f"{name}.npy",
                    expected=f"{written}, as when it was written",
                    fix="restore the file from a copy, or rebuild the folder",
                )
            self._unchecked.pop(name, None)
        return array


def load_arrays(path: str | os.PathLike[str], *, kind: str, version: int) -> tuple[CheckedArrays, dict[str, Any]]:
    """Open a folder written by :func:`save_arrays`; arrays are memory-mapped read-only.

    Headers are checked at once. The bytes of an array are checked when it is first taken from the mapping, so a caller
    that keeps the mapping reads only the arrays it uses. Folders from before there were checksums are not checked.

    Returns:
        The arrays by name, and the manifest. Taking an array raises InputError if its bytes were changed.

    Raises:
        InputError: If it is missing, of another kind or version, or damaged.
    """
    path = Path(path)
    file = path / MANIFEST
    if not file.is_file():
        raise InputError(f"no {kind} here ({MANIFEST} is missing)", file=path, fix="check the path or build it first")
    manifest = read_json(file, expect=dict)
    if manifest.get("kind") != kind or manifest.get("version") != version:
        raise InputError(
            f"a {manifest.get('kind')} of version {manifest.get('version')}",
            file=path,
            expected=f"a {kind} of version {version}",
            fix="rebuild it with this version of genret_jax or give the right folder",
        )
    described = manifest.get("arrays")
    if not isinstance(described, dict) or not all(map(_is_description, described, described.values())):
        raise InputError("the entry 'arrays' does not describe arrays", file=file, fix="restore or rebuild the folder")
    arrays = {name: _map_described(path / f"{name}.npy", one) for name, one in described.items()}
    checksums = {name: one["crc32"] for name, one in described.items() if "crc32" in one}
    return CheckedArrays(arrays, checksums, path), manifest


def _is_description(name: str, described: Any) -> bool:
    """Return whether an entry of a manifest names a file of its own folder and its shape and dtype."""
    if not isinstance(described, dict) or os.path.basename(name) != name:
        return False
    shape = described.get("shape")
    return isinstance(shape, list) and all(isinstance(n, int) for n in shape) and isinstance(described["dtype"], str)


def _map_described(file: Path, described: Mapping[str, Any]) -> np.ndarray:
    array = _map_npy(file, fix="rebuild the folder", is_empty=not math.prod(described["shape"]))
    if list(array.shape) != described["shape"] or str(array.dtype) != described["dtype"]:
        raise InputError(
            f"{array.dtype}{list(array.shape)}",
            file=file,
            expected=f"{described['dtype']}{described['shape']} as its manifest says",
            fix="rebuild the folder",
        )
    return array


def _map_npy(path: Path, *, fix: str, is_empty: bool = False) -> Any:
    """Map a ``.npy`` file into memory; an array without elements cannot be mapped and is read."""
    try:
        return np.load(path, mmap_mode=None if is_empty else "r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix=fix) from None
    except OSError as error:
        raise os_failure(error, path) from None
    except Exception as error:  # NumPy raises a dozen kinds for a broken header, and documents none
        raise InputError(f"not a readable .npy file ({error})", file=path, fix=fix) from None


def read_npy(path: str | os.PathLike[str], *, kinds: str, expected: str) -> np.ndarray:
    """Map a file with an array of two dimensions into memory.

    Args:
        path: A ``.npy`` file.
        kinds: NumPy's letters for the types that it may have.
        expected: Description of the right content, for the message.

    Raises:
        InputError: If it is missing, cannot be read, or has another type or shape.
    """
    path = Path(path)
    stored = _map_npy(path, fix="check the path, or write it with numpy.save")
    if not isinstance(stored, np.ndarray) or stored.ndim != 2 or stored.dtype.kind not in kinds or not stored.size:
        found = f"{stored.dtype}{list(stored.shape)}" if isinstance(stored, np.ndarray) else "an archive of arrays"
        raise InputError(found, file=path, expected=expected, fix="save it anew")
    return stored


def fingerprint(*parts: Any) -> str:
    """Return 16 hexadecimal digits that change when any part changes.

    Args:
        *parts: Bytes, strings, arrays (dtype and shape count), or JSON values.
    """
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            header, body = f"array:{part.dtype}:{part.shape}", np.ascontiguousarray(part).tobytes()
        elif isinstance(part, bytes):
            header, body = "bytes", part
        else:
            header, body = "json", json.dumps(part, sort_keys=True, ensure_ascii=False).encode()
        digest.update(f"{header}:{len(body)}:".encode())
        digest.update(body)
    return digest.hexdigest()[:16]


def sha256_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file in hexadecimal digits.

    Raises:
        InputError: If it cannot be read.
    """
    try:
        with open(path, "rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise os_failure(error, path) from None


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], *, doing: str) -> Iterator[Callable[[], None]]:
    """Hold a folder for one process; the operating system frees it when the process dies.

    Args:
        folder: The folder, made if missing.
        doing: The activity, such as ``"training"``, which the error of another process names.

    Yields:
        A function that raises :class:`InputError` if the folder was removed or replaced since.

    Raises:
        InputError: If another process holds it, or it cannot be made.
    """
    folder = _followed(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError("a file", file=folder, expected="a folder", fix="choose another name")
    with explain_os_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.seek(0)
            raise InputError(
                f"another process is using this folder ({handle.read().strip() or 'unknown'})",
                file=folder,
                fix="wait for it, stop it, or choose another folder",
            ) from None
        handle.seek(0)
        handle.truncate()
        handle.write(f"{doing}, process {os.getpid()}\n")
        handle.flush()
        yield lambda: _require_held(folder, handle)


def _require_held(folder: Path, lock: IO[str]) -> None:
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        if os.path.samestat(os.stat(folder / ".lock"), os.fstat(lock.fileno())):
            return
    raise InputError("the folder was removed or replaced while it was in use", file=folder, fix="run again")
