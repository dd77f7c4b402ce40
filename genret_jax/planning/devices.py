"""The devices to plan for: the vendors' published figures, and stand-ins to compile for without the hardware.

A TPU is represented by its own compiler, any other device by CPU devices.
"""

import dataclasses
import importlib.util
import os
import sys
from typing import Any

from genret_jax.errors import InputError, nearest

_FORCED = "--xla_force_host_platform_device_count"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """One device, as JAX counts devices.

    Attributes:
        name: Name of the device for ``genret plan``.
        flops: Peak operations per second in bfloat16, without sparsity.
        memory: Bytes of memory; None if the device has no memory of its own.
        memory_bandwidth: Bytes per second between the device and its memory.
        link_bandwidth: Bytes per second that a device sends to linked devices.
        linked: Number of devices that are linked to each other; None if all are.
        network_bandwidth: Bytes per second that a device sends to devices that are not linked.
        generation: Name of a TPU generation in libtpu; None for other devices.
        dimensions: Number of dimensions of a TPU topology's grid.
    """

    name: str
    flops: float
    memory: int | None
    memory_bandwidth: float
    link_bandwidth: float
    linked: int | None = None
    network_bandwidth: float = 0.0
    generation: str | None = None
    dimensions: int = 2


_GB, _GIB = 1e9, 2**30

# TPUs: "System architecture" and the page of each version in Google Cloud's TPU documentation
# (cloud.google.com/tpu/docs/v4, /v5e, /v5p, /v6e): peak compute per chip in bf16, HBM capacity and bandwidth,
# inter-chip interconnect bandwidth per chip, 8 bits a byte. libtpu counts the two TensorCores of a v4 chip as two
# devices, so that row has half of a chip.
# NVIDIA: data sheets of A100 80GB SXM, H100 SXM and H200 SXM; tensor core bf16 without sparsity; NVLink counted in one
# direction. A DGX machine links eight devices; each has one InfiniBand port to other machines, of 200 Gb/s in DGX A100
# and 400 Gb/s in DGX H100 and H200 (their data sheets).
# cpu: not a vendor's figure but a nominal core: 2.5 GHz, two 8-wide fused multiply-adds a cycle, float32.
DEVICES = {
    device.name: device
    for device in (
        Device(
            name="tpu-v4", flops=275e12 / 2, memory=16 * _GIB, memory_bandwidth=614 * _GB, link_bandwidth=150 * _GB,
            generation="v4", dimensions=3,
        ),
        Device(
            name="tpu-v5e", flops=197e12, memory=16 * _GIB, memory_bandwidth=819 * _GB, link_bandwidth=200 * _GB,
            generation="v5e",
        ),
        Device(
            name="tpu-v5p", flops=459e12, memory=95 * _GIB, memory_bandwidth=2765 * _GB, link_bandwidth=600 * _GB,
            generation="v5p", dimensions=3,
        ),
        Device(
            name="tpu-v6e", flops=918e12, memory=32 * _GIB, memory_bandwidth=1640 * _GB, link_bandwidth=448 * _GB,
            generation="v6e",
        ),
        Device(
            name="a100", flops=312e12, memory=80 * 10**9, memory_bandwidth=2039 * _GB, link_bandwidth=300 * _GB,
            linked=8, network_bandwidth=25 * _GB,
        ),
        Device(
            name="h100", flops=989e12, memory=80 * 10**9, memory_bandwidth=3350 * _GB, link_bandwidth=450 * _GB,
            linked=8, network_bandwidth=50 * _GB,
        ),
        Device(
            name="h200", flops=989e12, memory=141 * 10**9, memory_bandwidth=4800 * _GB, link_bandwidth=450 * _GB,
            linked=8, network_bandwidth=50 * _GB,
        ),
        Device(name="cpu", flops=80e9, memory=None, memory_bandwidth=10 * _GB, link_bandwidth=10 * _GB),
    )
}  # fmt: skip


def device_named(name: str) -> Device:
    """Return the device of this name.

    Raises:
        InputError: If the table has no such device; the message suggests the nearest name.
    """
    if name not in DEVICES:
        raise InputError(
            f"no device {name!r}", expected=f"one of {', '.join(DEVICES)}", fix=nearest(name, DEVICES) or None
        )
    return DEVICES[name]


def before_jax(device: Device, count: int) -> None:
    """Set the environment variables that jax and libtpu read when they are loaded; call this before importing jax.

    Args:
        device: Device to plan for.
        count: Number of devices.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if device.generation is not None:
        # Without these, libtpu searches the network for a TPU, logs the failure, and refuses to serve two processes.
        quiet = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_MIN_LOG_LEVEL": "4"}
        quiet |= {"ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "4", "TF_CPP_MIN_LOG_LEVEL": "3"}
        for name, value in quiet.items():
            os.environ.setdefault(name, value)
    elif "jax" not in sys.modules:
        kept = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if not flag.startswith(_FORCED)]
        # The compiled program is never run, so its machine code need not be optimised.
        os.environ["XLA_FLAGS"] = " ".join([*kept, f"{_FORCED}={count}", "--xla_backend_optimization_level=0"])


def planned_devices(device: Device, count: int, shape: str | None = None) -> list[Any]:
    """Return JAX devices to compile for.

    Args:
        device: Device to plan for.
        count: Number of devices.
        shape: Grid of a TPU slice, such as ``"4x4x4"``; by default the most cubic grid of that size.

    Raises:
        InputError: If there is no such slice, libtpu is missing, or jax was started with too few CPU devices.
    """
    if device.generation is not None:
        return _tpu_devices(device, count, shape or slice_shape(device, count))
    import jax

    if shape is not None:
        raise InputError(
            f"a slice {shape} of {device.name}", expected="a TPU, which has slices", fix="leave the slice out"
        )
    found = jax.devices("cpu")
    if len(found) < count:
        raise InputError(
            f"jax was started with {len(found)} CPU devices, and the plan needs {count}", fix="plan in a new process"
        )
    return found[:count]


def slice_shape(device: Device, count: int) -> str:
    """Return the most cubic grid of a TPU slice: each side is a power of two, and at most twice another side.

    Raises:
        InputError: If the number of chips is not a power of two.
    """
    per_chip = 2 if device.generation == "v4" else 1
    chips = count // per_chip
    if count < per_chip or chips & (chips - 1) or count % per_chip:
        raise InputError(
            f"{count} devices of {device.name}",
            expected=f"a power of two{', at least 2: a chip has two devices' if per_chip > 1 else ''}",
            fix="change the number of devices, or name the slice, such as 4x4x12",
        )
    doublings = chips.bit_length() - 1
    sides = [1 << (doublings + place) // device.dimensions for place in range(device.dimensions)]
    if device.dimensions == 3 and chips == 4:
        sides = [2, 2, 1]  # four chips share a board
    return "x".join(map(str, sides))


def _tpu_devices(device: Device, count: int, shape: str) -> list[Any]:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            "libtpu, which contains the TPU compiler, is not installed",
            fix="pip install libtpu (it needs no TPU for this)",
        )
    from jax.experimental import topologies

    name = f"{device.generation}:{shape}"
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except Exception as error:  # jaxlib raises types of its own
        raise InputError(
            f"libtpu has no slice {name} ({str(error).splitlines()[0]})",
            fix="change the number of devices or the slice",
        ) from None
    if len(found) != count:
        raise InputError(
            f"slice {name} has {len(found)} devices", expected=str(count), fix="change the number of devices"
        )
    return list(found)
