"""Compiled programs, kept in the user's cache from one process to the next."""

import contextlib
import hashlib
import os
import platform
import time
from pathlib import Path

from genret_jax.errors import InputError
from genret_jax.storage import user_cache

_VARIABLE = "JAX_COMPILATION_CACHE_DIR"
_LEAST_SECONDS = 0.1  # a program that compiles faster is not kept
_DAYS = 60  # an older program is removed


def keep_compiled() -> None:
    """Let JAX keep compiled programs, so that the next process of the same run begins at once.

    They lie in the user's cache and not in run folders: a program is machine code, and a run folder may come from
    somebody else. Nothing is done where ``JAX_COMPILATION_CACHE_DIR`` chooses a place, or the cache cannot be written.
    """
    if _VARIABLE in os.environ:
        return
    try:
        folder = user_cache("compiled") / _machine()
        folder.mkdir(parents=True, exist_ok=True)
        _remove_old(folder)
    except (InputError, OSError):
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LEAST_SECONDS)


def _machine() -> str:
    """Return a name for this kind of processor; a home folder may be shared by several kinds."""
    features = platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return hashlib.sha256(features.encode()).hexdigest()[:12]


def _remove_old(folder: Path) -> None:
    before = time.time() - _DAYS * 24 * 3600
    for file in folder.iterdir():
        with contextlib.suppress(OSError):  # another process may have removed it
            if file.stat().st_mtime < before:
                file.unlink()
