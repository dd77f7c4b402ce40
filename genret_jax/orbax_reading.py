"""Read through Orbax, and tell failures that prove damage from those that may pass, such as too many open files."""

import contextlib
import errno
import gc
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from genret_jax.errors import InputError

_Result = TypeVar("_Result")

# TensorStore's codes for bytes that are missing, cut or cannot be decoded.
_DAMAGE_CODES = ("NOT_FOUND: ", "OUT_OF_RANGE: ", "DATA_LOSS: ", "INVALID_ARGUMENT: ", "FAILED_PRECONDITION: ")
_MISSING = (errno.ENOENT, errno.ENOTDIR)
_TRANSIENT_REASONS = tuple(os.strerror(number) for number in errno.errorcode if number not in _MISSING)

_SECONDS_TO_END = 0.2


class DamagedError(Exception):
    """A checkpoint that a checksum, a parser or a missing file proves to be damaged."""


class UnreadableError(InputError):
    """A checkpoint that could not be read for another reason, such as too many open files; it may be whole."""


def read_through_orbax(path: Path, read: Callable[[], _Result]) -> _Result:
    """Call ``read``, which reads the checkpoint at ``path``, and convert its failures.

    Raises:
        DamagedError: If the failure proves that files are missing, cut or changed.
        UnreadableError: If it has another reason.
    """
    with _without_orbax_noise():
        try:
            return read()
        except Exception as error:  # Orbax and TensorStore raise many kinds
            if "Unable to initialize backend" in str(error):  # jax finds no devices: nothing was read
                raise
            reason = _short_reason(error)
            is_proof = _proves_damage(error)
        # Orbax's unfinished reads complain when they end, in threads of TensorStore, and when they are collected.
        time.sleep(_SECONDS_TO_END)
        gc.collect()
    if is_proof:
        _require_readable(path)
        raise DamagedError(reason)
    raise _unreadable(path, reason)


def _unreadable(path: Path, reason: str) -> UnreadableError:
    return UnreadableError(
        f"the checkpoint could not be read ({reason})",
        file=path,
        fix="remove the cause and run again; nothing was changed",
    )


def _short_reason(error: Exception) -> str:
    """Return the operating system's reason if the error has one, which may come late in a long text, or its start."""
    text = " ".join(str(error).split())
    reason = next((reason for reason in _TRANSIENT_REASONS if reason in text), text[:160])
    return f"{type(error).__name__}: {reason}"


def _proves_damage(error: BaseException | None) -> bool:
    """Return whether an error, or one that led to it, says that bytes are missing or cannot be decoded."""
    proven = False
    while error is not None:
        text = str(error)
        if isinstance(error, OSError) and error.errno not in (None, *_MISSING):
            return False
        if isinstance(error, MemoryError) or any(reason in text for reason in _TRANSIENT_REASONS):
            return False
        proven |= isinstance(error, (FileNotFoundError, KeyError, json.JSONDecodeError, UnicodeDecodeError))
        proven |= any(code in text for code in _DAMAGE_CODES)
        error = error.__cause__ or error.__context__
    return proven


def _require_readable(path: Path) -> None:
    """Read all files of a checkpoint: libraries may report a file that they could not open as one that is missing."""

    def refuse(error: OSError) -> None:
        if error.errno not in _MISSING:
            raise _unreadable(path, f"{error.filename}: {error.strerror}") from None

    for folder, _, names in os.walk(path, onerror=refuse):
        for name in names:
            try:
                with open(os.path.join(folder, name), "rb", buffering=0) as handle:
                    while handle.read(1 << 24):
                        pass
            except OSError as error:
                refuse(error)


@contextlib.contextmanager
def _without_orbax_noise() -> Iterator[None]:
    """Silence what Orbax's event loop prints about reads that it dropped after one of them failed."""
    before = sys.unraisablehook
    sys.unraisablehook = lambda unraisable: None
    try:
        yield
    finally:
        sys.unraisablehook = before
