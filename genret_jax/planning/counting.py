"""Compile a program and count memory, operations and communication; all figures are for one device.

Deep networks are counted from shallow ones, and the counts give the least time that the program can take.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
from jax.extend.core import jaxprs_in_params

from genret_jax.errors import InputError
from genret_jax.models.config import T5Config
from genret_jax.planning.collectives import KINDS, collectives_of
from genret_jax.planning.devices import Device

#: Counts by name. A flat dictionary, so that the counts of two programs can be subtracted.
Counts = dict[str, float]

_MEMORY = ("argument", "output", "alias", "temp", "generated_code")
# Networks with more layers than this, encoder and decoder together, are counted from shallow ones.
_MOST_COMPILED = 4


class OutOfMemoryError(Exception):
    """The compiler refuses a program that does not fit into a device's memory; the message is its first line."""


def count(traced: Any, device: Device, devices: int) -> Counts:
    """Compile a traced program and return the compiler's counts beside those of its matrix products.

    Args:
        traced: Program from ``jax.jit(...).trace(...)``.
        device: Device whose links decide which communication stays within a machine.
        devices: Number of devices.

    Returns:
        ``bytes/KIND`` of memory, ``flops``, ``products`` (a device's share of :func:`product_operations`),
        ``bytes_accessed``, ``collective/KIND`` (bytes of the arrays), and ``sent/link`` and ``sent/network`` (bytes
        that a device sends).

    Raises:
        InputError: If the compiled program cannot be read.
        OutOfMemoryError: If a TPU's compiler refuses the program because it does not fit into the memory.
    """
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemoryError(str(error).splitlines()[0]) from None
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
    found: Counts = {f"bytes/{kind}": float(getattr(memory, f"{kind}_size_in_bytes")) for kind in _MEMORY}
    found |= {"flops": float(cost["flops"]), "bytes_accessed": float(cost["bytes accessed"])}
    found["products"] = product_operations(traced.jaxpr.jaxpr) / devices
    found |= {f"collective/{kind}": 0.0 for kind in KINDS} | {"sent/link": 0.0, "sent/network": 0.0}
    for operation in collectives_of(_text(compiled), devices):
        found[f"collective/{operation.kind}"] += operation.size * operation.times
        way = "network" if operation.leaves(device.linked) else "link"
        found[f"sent/{way}"] += operation.sent * operation.times
    return found


def product_operations(jaxpr: Any) -> int:
    """Return the operations of all matrix products of a program, two for each multiplication, on all devices together.

    They are counted before compilation, to check the compiler's counts. A loop over a known number of turns counts in
    full, any other loop once; of the branches of a condition the largest counts.
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (summed, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in summed)
        inner = [product_operations(part) for part in jaxprs_in_params(equation.params)]
        total += equation.params.get("length", 1) * (max if equation.primitive.name == "cond" else sum)(inner or [0])
    return total


def _text(compiled: Any) -> str:
    try:
        text: str = compiled.as_text()
    except jax.errors.JaxRuntimeError as error:  # seen with operations that libtpu has and this jaxlib does not
        raise InputError(
            f"the communication of the compiled program cannot be read ({str(error).splitlines()[0][:200]})",
            fix="plan for another device, or install matching versions of jax and libtpu",
        ) from None
    return text


def total_bytes(counts: Counts) -> float:
    """Return the largest memory that a program holds on a device; donated arguments count once."""
    held = sum(counts[f"bytes/{kind}"] for kind in ("argument", "output", "temp", "generated_code"))
    return held - counts["bytes/alias"]


def count_by_layers(
    config: T5Config, count_model: Callable[[T5Config], Counts], *, whole: bool = False
) -> tuple[Counts, str]:
    """Count a network's program, and extrapolate the counts from shallow networks if it is deep.

    All layers of a stack are alike, so each adds the same to the counts.

    Args:
        config: The network.
        count_model: Compiles the program of a network and counts it.
        whole: Compile all layers, however many there are.

    Returns:
        The counts, and a text that says how they were obtained.
    """
    layers = depths(config)
    if whole or sum(layers) <= _MOST_COMPILED:
        return count_model(config), f"all {layers[0]} + {layers[1]} layers compiled"

    def counted(encoder: int, decoder: int) -> Counts:
        return count_model(_with_depths(config, encoder, decoder))

    shallow = (1, min(1, layers[1]))  # a network with a plan may have no decoder
    # Two equally deep stacks grow together, with one compilation less.
    probes = [(2, 2)] if layers[0] == layers[1] else [(2, shallow[1]), (1, 2)][: 1 + shallow[1]]
    first = counted(*shallow)
    total = dict(first)
    for probe in probes:
        further = (layers[0] if probe[0] == 2 else layers[1]) - 1
        deeper = counted(*probe)
        for name in total:
            total[name] += further * (deeper[name] - first[name])
    compiled = ", ".join(f"{encoder} + {decoder}" for encoder, decoder in [shallow, *probes])
    how = f"{compiled} layers compiled, {layers[0]} + {layers[1]} extrapolated linearly"
    return {name: max(value, 0.0) for name, value in total.items()}, how


def depths(config: T5Config) -> tuple[int, int]:
    """Return the number of layers of a network's encoder and of its decoder."""
    encoder = config.num_encoder_layers if config.encoder is None else config.encoder.num_layers
    return encoder, config.num_decoder_layers


def _with_depths(config: T5Config, encoder: int, decoder: int) -> T5Config:
    bert = config.encoder and dataclasses.replace(config.encoder, num_layers=encoder)
    return dataclasses.replace(config, num_encoder_layers=encoder, num_decoder_layers=decoder, encoder=bert)


def roofline(counts: Counts, device: Device) -> dict[str, Any]:
    """Return the least time that a program can take, with every part at the device's peak (Williams et al. 2009).

    Returns:
        Seconds of ``arithmetic``, ``memory`` and ``communication``; ``overlapped`` if all three happen at once;
        ``one_after_another`` if communication overlaps with nothing; and ``bound_by``, the name of the longest part.
    """
    network = counts["sent/network"] / device.network_bandwidth if counts["sent/network"] else 0.0
    parts = {
        "arithmetic": counts["flops"] / device.flops,
        "memory": counts["bytes_accessed"] / device.memory_bandwidth,
        "communication": counts["sent/link"] / device.link_bandwidth + network,
    }
    return {
        **parts,
        "overlapped": max(parts.values()),
        "one_after_another": max(parts["arithmetic"], parts["memory"]) + parts["communication"],
        "bound_by": max(parts, key=parts.__getitem__),
    }
