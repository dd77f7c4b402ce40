"""``genret doctor``: show installed versions and devices, and how to install what is missing."""

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
from pathlib import Path
from typing import Any

import genret_jax
from genret_jax.evaluation.environment import installed_version

HELP = "show versions, devices, memory and missing packages"

CORE = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "gin-config",
    "jaxtyping",
    "numpy",
    "scipy",
    "scikit-learn",
    "sentencepiece",
    "joblib",
    "safetensors",
    "snowballstemmer",
    "tokenizers",
    "tensorstore",
    "tqdm",
    "tensorboardX",
)
OLDEST_JAX = (0, 10)
GIB = 2**30


#: Optional parts of the installation: their packages and their purpose.
EXTRAS = {
    "seqio": (
        ("seqio", "tensorflow", "tensorflow-datasets"),
        "seqio tasks for t5x and other seqio users; Natural Questions by TFDS",
    ),
    "baselines": (("bm25s", "PyStemmer", "faiss-cpu"), "BM25 and FAISS baselines"),
    "viz": (("matplotlib",), "plots of loss and Hits@k"),
    "embed": (("sentence-transformers",), "document vectors from sentence-transformers"),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--json", action="store_true", help="print as JSON, for a bug report or a script")
    parser.epilog = (
        "example:\n  genret doctor\n\nThe exit code is 1 if something is missing that every command needs. "
        "A missing extra is not an error."
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; return 1 if something is missing that every command needs."""
    found = examine()
    print(json.dumps(found, indent=2) if args.json else describe(found))
    return 1 if found["problems"] else 0


def examine() -> dict[str, Any]:
    """Examine this installation and this machine.

    Returns:
        JSON values: ``python``, ``packages`` (version or None by name), ``extras``, ``files``, ``devices``, ``memory``
        (in bytes), ``problems`` and ``hints`` (lines of text).
    """
    packages = {name: installed_version(name) for name in CORE}
    problems = [f"{name} is missing; next: pip install {name}" for name, found in packages.items() if found is None]
    if packages["jax"] and tuple(map(int, packages["jax"].split(".")[:2])) < OLDEST_JAX:
        wanted = ".".join(map(str, OLDEST_JAX))
        problems.append(f"jax {packages['jax']} is too old; next: pip install 'jax>={wanted}'")
    devices, trouble = _devices() if packages["jax"] else ([], None)
    files = {name: _package_folder(name) for name in ("gin_configs", "tasks")}
    problems += [trouble] if trouble else []
    problems += [
        f"{name}/ is not found beside or inside the package; next: reinstall genret-jax"
        for name, folder in files.items()
        if folder is None
    ]
    return {
        "genret_jax": genret_jax.__version__,
        "installed_at": str(Path(genret_jax.__file__).parent),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "packages": packages,
        "extras": {name: _examine_extra(*extra) for name, extra in EXTRAS.items()},
        "files": files,
        "devices": devices,
        "memory": _host_memory(),
        "problems": problems,
        "hints": _hints(devices),
    }


def describe(found: dict[str, Any]) -> str:
    """Format the result of :func:`examine` as text."""
    lines = [
        f"genret_jax {found['genret_jax']} at {found['installed_at']}",
        f"Python {found['python']} ({found['executable']}) on {found['platform']}",
        "",
        "packages: " + ", ".join(f"{name} {version or 'MISSING'}" for name, version in found["packages"].items()),
        "files:    " + ", ".join(f"{name}/ {'found' if at else 'MISSING'}" for name, at in found["files"].items()),
        "",
        "devices:",
    ]
    lines += [f"  {_device_line(device)}" for device in found["devices"]] or ["  none"]
    memory = found["memory"]
    lines += [
        f"host:     {memory['cores']} cores, {memory['total'] / GIB:.1f} GiB of memory, "
        f"{memory['available'] / GIB:.1f} GiB free",
        "",
        "optional extras:",
    ]
    for name, extra in found["extras"].items():
        state = "present" if not extra["missing"] else f"missing {', '.join(extra['missing'])}"
        lines.append(f"  {name:<10} {state}: {extra['purpose']}")
        lines += [f"  {'':<10} next: {extra['install']}"] if extra["missing"] else []
    lines += ["", *(f"hint: {hint}" for hint in found["hints"])] if found["hints"] else []
    lines += ["", *(f"problem: {problem}" for problem in found["problems"] or ["none"])]
    return "\n".join(lines)


def _examine_extra(packages: tuple[str, ...], purpose: str) -> dict[str, Any]:
    versions = {package: installed_version(package) for package in packages}
    return {
        "packages": versions,
        "purpose": purpose,
        "missing": [package for package, version in versions.items() if version is None],
        "install": f"pip install {' '.join(packages)}",
    }


def _package_folder(name: str) -> str | None:
    spec = importlib.util.find_spec(f"genret_jax.{name}")
    places = list(spec.submodule_search_locations or []) if spec else []
    return next((place for place in places if Path(place).is_dir()), None)


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    try:
        import jax

        devices = jax.devices()
    except Exception as error:  # a broken driver or plugin may raise anything; it is reported
        return [], f"jax finds no device ({' '.join(str(error).split())}); next: try JAX_PLATFORMS=cpu"
    return [
        {
            "id": device.id,
            "platform": device.platform,
            "kind": device.device_kind,
            "memory": (device.memory_stats() or {}).get("bytes_limit"),
        }
        for device in devices
    ], None


def _device_line(device: dict[str, Any]) -> str:
    size = f", {device['memory'] / GIB:.1f} GiB" if device["memory"] else ""
    return f"{device['platform']}:{device['id']} {device['kind']}{size}"


def _host_memory() -> dict[str, int]:
    page = os.sysconf("SC_PAGE_SIZE")
    return {
        "cores": os.cpu_count() or 1,
        "total": page * os.sysconf("SC_PHYS_PAGES"),
        "available": page * os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in os.sysconf_names else 0,
    }


def _hints(devices: list[dict[str, Any]]) -> list[str]:
    if shutil.which("nvidia-smi") and {device["platform"] for device in devices} == {"cpu"}:
        return ["this machine has an NVIDIA driver but jax runs on the CPU; next: pip install 'jax[cuda13]'"]
    return []
