"""What vendors publish of one device: operations a second, memory, bandwidths."""

import dataclasses

from genret_jax.errors import InputError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class Device:
    """One device as JAX counts them.

    Attributes:
        name: As ``--device`` has it.
        flops: Peak operations a second in bfloat16, without sparsity.
        memory: Bytes; None where it is not the device's own.
        memory_bandwidth: Bytes a second.
        link_bandwidth: Bytes a second and device to the devices beside it.
        linked: Devices that are linked so; None for all.
        network_bandwidth: Bytes a second and device to devices beyond.
        generation: As libtpu names it; None for what is no TPU.
        dimensions: Of the topology's grid, for TPUs.
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
# inter-chip interconnect bandwidth per chip, 8 bits a byte. Without a TPU libtpu counts a v4 chip as two devices, its
# two TensorCores, so that row has half of a chip.
# NVIDIA: data sheets of A100 80GB SXM, H100 SXM and H200 SXM; tensor core bf16 without sparsity; NVLink counted in one
# direction. Eight devices a DGX machine, beyond it one InfiniBand port a device: 200 Gb/s in DGX A100, 400 Gb/s in
# DGX H100 and H200 (their data sheets).
# cpu: no vendor's figure but a nominal core: 2.5 GHz, two 8-wide fused multiply-adds a cycle, float32.
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
    """Return the device of a name.

    Raises:
        InputError: If the table has none; the nearest name is suggested.
    """
    if name not in DEVICES:
        raise InputError(
            f"no device {name!r}", expected=f"one of {', '.join(DEVICES)}", fix=nearest(name, DEVICES) or None
        )
    return DEVICES[name]
