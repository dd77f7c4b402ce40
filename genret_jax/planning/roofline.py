"""The least time that a program can take: each of its parts at the device's peak (Williams et al. 2009)."""

import dataclasses

from genret_jax.planning.counting import Counts
from genret_jax.planning.devices import Device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Roofline:
    """Seconds of each part of a program at peak speed; an estimate that nothing real reaches.

    Attributes:
        arithmetic: Operations.
        memory: Reading and writing the device's memory.
        communication: Sending to other devices.
    """

    arithmetic: float
    memory: float
    communication: float

    @property
    def overlapped(self) -> float:
        """Seconds if everything happens at once."""
        return max(self.arithmetic, self.memory, self.communication)

    @property
    def one_after_another(self) -> float:
        """Seconds if sending waits for computing and computing for sending."""
        return max(self.arithmetic, self.memory) + self.communication

    @property
    def bound_by(self) -> str:
        """The part that takes longest."""
        return max(("arithmetic", "memory", "communication"), key=lambda part: getattr(self, part))


def roofline(counts: Counts, device: Device) -> Roofline:
    """Return the seconds of a program's parts."""
    network = counts["sent/network"] / device.network_bandwidth if counts["sent/network"] else 0.0
    return Roofline(
        arithmetic=counts["flops"] / device.flops,
        memory=counts["bytes_accessed"] / device.memory_bandwidth,
        communication=counts["sent/link"] / device.link_bandwidth + network,
    )
