"""Files and folders that are either whole or absent.

Everything is written beside its destination under a hidden temporary name and renamed when complete, so a killed
process or a full disk never leaves something that a later command takes for finished. Temporary names begin with
``.`` and hold ``.partial-``; they are safe to delete.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from genret_jax.errors import InputError

MANIFEST = "manifest.json"


def _partial_name(path: Path) -> Path:
    return path.parent / f".{path.name}.partial-{os.getpid()}-{secrets.token_hex(4)}"


@contextlib.contextmanager
def _explain_full_disk(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise InputError(
                "no space left on the disk", file=path, fix="free some space or choose another folder, then run again"
            ) from error
        raise


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
        InputError: If the disk is full.
    """
    path = Path(path)
    with _explain_full_disk(path):
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
        folder: It is to be a folder, and may be there if it is empty.

    Raises:
        InputError: If something is there.
    """
    path = Path(path)
    if path.exists() and not (folder and path.is_dir() and not any(path.iterdir())):
        raise InputError("the output already exists", file=path, fix="remove it or choose another name")


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, replace: bool = False) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes ``path`` only when the block ends without an error.

    Args:
        path: Destination; must not exist or be empty, unless ``replace``.
        replace: Remove what is at ``path`` just before the new folder takes its name.

    Raises:
        InputError: If something is already there, or the disk is full.
    """
    path = Path(path)
    if not replace:
        require_free(path)
    with _explain_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = _partial_name(path)
        partial.mkdir()
        try:
            yield partial
            for file in partial.rglob("*"):
                if file.is_file():
                    with open(file, "rb") as handle:
                        os.fsync(handle.fileno())
            old = _partial_name(path)
            if path.exists():
                os.rename(path, old)
            os.rename(partial, path)
            _sync_folder(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_partial(folder: str | os.PathLike[str]) -> None:
    """Remove what killed processes left unfinished in a folder; the caller holds it, so nobody is at work there."""
    for path in Path(folder).glob(".*.partial-*"):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Write indented UTF-8 JSON atomically."""
    with atomic_file(path) as handle:
        json.dump(value, handle, indent=2, ensure_ascii=False)
        handle.write("\n")


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Raises:
        InputError: If it is missing or is not JSON.
    """
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"not valid JSON ({error})", file=path, fix="restore or rebuild it") from None


def save_arrays(
    path: str | os.PathLike[str],
    arrays: Mapping[str, np.ndarray],
    *,
    kind: str,
    version: int,
    details: Mapping[str, Any] | None = None,
    replace: bool = False,
) -> None:
    """Write a folder of ``NAME.npy`` files with a manifest that names their shapes and dtypes.

    Args:
        path: Destination folder.
        arrays: Arrays by name.
        kind: What the folder is, e.g. ``"docid_table"``; checked by :func:`load_arrays`.
        version: Layout version of this kind.
        details: Further JSON values for the manifest.
        replace: Replace an existing folder.
    """
    with atomic_folder(path, replace=replace) as folder:
        for name, array in arrays.items():
            _save(folder / f"{name}.npy", array)
        manifest = {
            "kind": kind,
            "version": version,
            "arrays": {name: {"shape": list(a.shape), "dtype": str(a.dtype)} for name, a in arrays.items()},
            **(details or {}),
        }
        write_json(folder / MANIFEST, manifest)


def _save(path: Path, array: np.ndarray) -> None:
    try:
        np.save(path, array, allow_pickle=False)
    except OSError as error:
        # NumPy reports that fewer bytes were written than there are, and not why.
        if error.errno is None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path)) from error
        raise


def load_arrays(
    path: str | os.PathLike[str], *, kind: str, version: int
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Open a folder written by :func:`save_arrays`; arrays are memory-mapped read-only.

    Returns:
        The arrays by name, and the manifest.

    Raises:
        InputError: If it is missing, of another kind or version, or damaged.
    """
    path = Path(path)
    if not (path / MANIFEST).is_file():
        raise InputError(f"no {kind} here ({MANIFEST} is missing)", file=path, fix="check the path or build it first")
    manifest = read_json(path / MANIFEST)
    if manifest.get("kind") != kind or manifest.get("version") != version:
        raise InputError(
            f"a {manifest.get('kind')} of version {manifest.get('version')}",
            file=path,
            expected=f"a {kind} of version {version}",
            fix="rebuild it with this version of genret_jax or give the right folder",
        )
    arrays = {}
    for name, described in manifest["arrays"].items():
        file = path / f"{name}.npy"
        try:
            # An empty array cannot be memory-mapped.
            mapped = np.load(file, mmap_mode="r" if np.prod(described["shape"]) else None, allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise InputError(f"damaged or missing ({error})", file=file, fix="rebuild the folder") from None
        if list(mapped.shape) != described["shape"] or str(mapped.dtype) != described["dtype"]:
            raise InputError(
                f"{mapped.dtype}{list(mapped.shape)}",
                file=file,
                expected=f"{described['dtype']}{described['shape']} as its manifest says",
                fix="rebuild the folder",
            )
        arrays[name] = mapped
    return arrays, manifest


def read_npy(path: str | os.PathLike[str], *, kinds: str, expected: str) -> np.ndarray:
    """Map a file with an array of two dimensions into memory.

    Args:
        path: A ``.npy`` file.
        kinds: NumPy's letters for the types that it may have.
        expected: What it should hold, for the message.

    Raises:
        InputError: If it is missing or damaged, or of another type or shape.
    """
    path = Path(path)
    try:
        stored = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="check the path") from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"not a readable .npy file ({error})", file=path, fix="write it with numpy.save") from None
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


@contextlib.contextmanager
def folder_lock(folder: str | os.PathLike[str], *, doing: str) -> Iterator[None]:
    """Hold a folder for one process; the operating system frees it when the process dies.

    Args:
        folder: The folder, made if missing.
        doing: What holds it, for the other process's error: ``"training"``.

    Raises:
        InputError: If another process holds it.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "a+", encoding="utf-8") as handle:
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
        yield
