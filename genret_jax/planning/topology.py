"""Devices to compile for that are not here: a TPU's by its own compiler, any others' by CPU devices in their place."""

import importlib.util
import os
import sys
from typing import Any

from genret_jax.errors import InputError
from genret_jax.planning.devices import Device

_FORCED = "--xla_force_host_platform_device_count"


def before_jax(device: Device, count: int) -> None:
    """Set what jax and libtpu read once, when they are loaded; call it before jax is imported.

    Args:
        device: To plan for.
        count: Devices.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if device.generation is not None:
        # Otherwise libtpu asks a network for the TPU that is not there, logs what it hears, and refuses to serve
        # two processes, as if they shared a TPU.
        quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_MIN_LOG_LEVEL": "4"}
        quiet |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1"} | {"TPU_STDERR_LOG_LEVEL": "4", "TF_CPP_MIN_LOG_LEVEL": "3"}
        for name, value in quiet.items():
            os.environ.setdefault(name, value)
    elif "jax" not in sys.modules:
        kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_FORCED)]
        # What is compiled is never run, so its machine code need not be good.
        os.environ["XLA_FLAGS"] = " ".join([*kept, f"{_FORCED}={count}", "--xla_backend_optimization_level=0"])


def planned_devices(device: Device, count: int, shape: str | None = None) -> list[Any]:
    """Return devices to compile for.

    Args:
        device: What they are.
        count: How many.
        shape: Grid of a TPU slice, ``"4x4x4"``; by default the most cubic one that TPUs come in.

    Raises:
        InputError: If there is no such slice, libtpu is missing, or jax was started with too few CPU devices.
    """
    if device.generation is not None:
        return _tpu_devices(device, count, shape or slice_shape(device, count))
    import jax

    if shape is not None:
        raise InputError(f"--slice {shape} with --device {device.name}", expected="a TPU", fix="leave --slice out")
    found = jax.devices("cpu")
    if len(found) < count:
        raise InputError(
            f"jax was started with {len(found)} CPU devices, and the plan takes {count}", fix="plan in a new process"
        )
    return found[:count]


def slice_shape(device: Device, count: int) -> str:
    """Return the grid of a slice of so many devices, a power of two along each side, no side over twice another.

    Raises:
        InputError: If the number is no power of two.
    """
    per_chip = 2 if device.generation == "v4" else 1
    chips = count // per_chip
    if count < per_chip or chips & (chips - 1) or count % per_chip:
        raise InputError(
            f"{count} devices of {device.name}",
            expected=f"a power of two{', at least 2: a chip has two' if per_chip > 1 else ''}",
            fix="change --devices, or name the slice by --slice, such as 4x4x12",
        )
    doublings = chips.bit_length() - 1
    sides = [1 << (doublings + place) // device.dimensions for place in range(device.dimensions)]
    if device.dimensions == 3 and chips == 4:
        sides = [2, 2, 1]  # four chips share a board
    return "x".join(map(str, sides))


def _tpu_devices(device: Device, count: int, shape: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu, which has the TPU compiler, is not installed", fix="pip install libtpu (it needs no TPU for this)"
        )
    from jax.experimental import topologies

    name = f"{device.generation}:{shape}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # jaxlib raises kinds of its own
        raise InputError(
            f"libtpu knows no slice {name} ({str(error).splitlines()[0]})", fix="change --devices or --slice"
        ) from None
    if len(found) != count:
        raise InputError(f"slice {name} has {len(found)} devices", expected=f"--devices {count}")
    return list(found)
