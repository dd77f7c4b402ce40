"""Compile a program and count: bytes, operations, and what devices send each other; all figures of one device."""

from typing import Any

import jax

from genret_jax.errors import InputError
from genret_jax.planning.collectives import KINDS, collectives_of
from genret_jax.planning.devices import Device

#: Flat, so that counts of programs with some layers and with some more can be subtracted.
Counts = dict[str, float]

_MEMORY = ("argument", "output", "alias", "temp", "generated_code")


class OutOfMemoryError(Exception):
    """The compiler finds that a program does not fit into a device's memory; the message is its first line."""


def count(lowered: Any, device: Device, devices: int) -> Counts:
    """Compile what jax has lowered, and return what the compiler says of it.

    Args:
        lowered: From ``jax.jit(...).lower(...)``.
        device: Its links decide which collective operations are local.
        devices: How many.

    Returns:
        ``bytes/KIND`` of memory, ``flops``, ``bytes_accessed``, ``collective/KIND`` (bytes of the arrays), and
        ``sent/link`` and ``sent/network`` (bytes that a device sends).

    Raises:
        InputError: If what was compiled cannot be read.
        OutOfMemoryError: If the compiler of a TPU refuses a program that its memory does not hold.
    """
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(str(error).splitlines()[0]) from None
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    found: Counts = {f"bytes/{kind}": float(getattr(memory, f"{kind}_size_in_bytes")) for kind in _MEMORY}
    found |= {"flops": float(cost["flops"]), "bytes_accessed": float(cost["bytes accessed"])}
    found |= {f"collective/{kind}": 0.0 for kind in KINDS} | {"sent/link": 0.0, "sent/network": 0.0}
    for operation in collectives_of(_text(compiled), devices):
        found[f"collective/{operation.kind}"] += operation.size * operation.times
        way = "network" if operation.leaves(device.linked) else "link"
        found[f"sent/{way}"] += operation.sent * operation.times
    return found


def _text(compiled: Any) -> str:
    try:
        text: str = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # seen of operations that libtpu has and this jaxlib does not know
        raise InputError(
            f"the program was compiled, but cannot be read for its communication ({str(error).splitlines()[0][:200]})",
            fix="plan for another --device, or install versions of jax and libtpu that belong together",
        ) from None
    return text


def total_bytes(counts: Counts) -> float:
    """Return the memory that a program holds on a device at its fullest: what is handed over lies once."""
    held = sum(counts[f"bytes/{kind}"] for kind in ("argument", "output", "temp", "generated_code"))
    return held - counts["bytes/alias"]
