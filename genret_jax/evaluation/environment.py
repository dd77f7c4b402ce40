"""Versions and hardware that a figure was measured with."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

PACKAGES = ("genret_jax", "jax", "jaxlib", "flax", "optax", "numpy", "bm25s", "faiss-cpu")


def environment() -> dict[str, object]:
    """Return package versions, processor, cores, memory and JAX devices, as JSON values."""
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := installed_version(name))},
        "processor": _processor(),
        "cores": _cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        if package == "genret_jax":  # run from a clone that is not installed
            from genret_jax import __version__

            return __version__
        return None


def _cores() -> int:
    """Return the number of cores that this process may use; in a container it is smaller than the machine's."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        return os.cpu_count() or 1


def _processor() -> str:
    try:
        model = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        model = None
    return model.group(1) if model else platform.processor() or platform.machine()
