"""Find the communication between devices in a compiled program."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "f16": 2, "bf16": 2, "s16": 2, "u16": 2, "s64": 8, "u64": 8, "f64": 8}
_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_SHAPE = re.compile(r"(\w+)\[([\d,]*)\]")
_CALLS = re.compile(
    r"(?:calls|to_apply|condition|body|true_computation|false_computation)=%?([\w.\-]+)|branch_computations=\{([^}]*)\}"
)
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One communication operation.

    Attributes:
        kind: One of ``KINDS``.
        size: Bytes of the whole array on one device: the input of a reduce-scatter, the result of any other kind.
        groups: Numbers of the devices in each group that communicates, ``[g, n]``.
        times: How often the operation runs.
    """

    kind: str
    size: int
    groups: np.ndarray
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends each time, on a ring (Thakur et al. 2005, table 1); all-to-all sends directly."""
        peers = self.groups.shape[1]
        share = (peers - 1) / peers
        factors = {"all-reduce": 2 * share, "collective-permute": 1.0}
        return self.size * factors.get(self.kind, share)

    def leaves(self, linked: int | None) -> bool:
        """Whether a group has devices of several machines, each of ``linked`` devices; None means one machine."""
        return linked is not None and bool((self.groups // linked != self.groups[:, :1] // linked).any())


def collectives_of(program: str, devices: int) -> list[Collective]:
    """Return the communication operations of a compiled program.

    An operation in a loop counts once per iteration if the number of iterations is known at compile time, else once
    (the loop over training steps). All branches of a condition count.

    Args:
        program: HLO text after compilation.
        devices: Number of devices of the program; an operation that names no groups involves all of them.
    """
    bodies, entry = _computations(program)
    times = _times(bodies, entry)
    return [
        Collective(kind, size, _groups(line, devices), times[name])
        for name, lines in bodies.items()
        if times[name]
        for line in lines
        for kind, size in _collective(line)
    ]


def _computations(program: str) -> tuple[dict[str, list[str]], str]:
    """Return the lines of each computation by name, and the name of the entry computation."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        header = _HEADER.match(line)
        if header:
            name = header[2]
            bodies[name] = []
            entry = name if header[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str) -> Counter[str]:
    """Return how often each computation runs."""
    times: Counter[str] = Counter()

    def visit(name: str, count: int) -> None:
        times[name] += count
        for line in bodies[name]:
            # The later parts of an asynchronous operation name the computation that the first part runs.
            if "async-done(" in line or "async-update(" in line:
                continue
            trips = _TRIPS.search(line)
            turns = int(trips[1]) if trips else 1
            for match in _CALLS.finditer(line):
                for called in re.findall(r"[\w.\-]+", match[1] or match[2]):
                    if called in bodies:
                        visit(called, count * turns)

    visit(entry, 1)
    return times


def _collective(line: str) -> Iterator[tuple[str, int]]:
    found = _OPERATION.search(line)
    if found is None:
        return
    result, kind, start = found.groups()
    sizes = [_BYTES.get(kind_, 4) * math.prod(map(int, filter(None, dims.split(","))))
             for kind_, dims in _SHAPE.findall(result)]  # fmt: skip
    if start and kind != "all-reduce":
        # The start of an asynchronous operation returns both the operand and the result.
        sizes = [max(sizes)]
    size = sum(sizes)
    yield kind, size * _groups(line, 1).shape[1] if kind == "reduce-scatter" and not start else size


def _groups(line: str, devices: int) -> np.ndarray:
    iota, listed = _IOTA.search(line), _LISTED.search(line)
    if iota:
        dims = [int(n) for n in iota[3].split(",")]
        order = [int(n) for n in iota[4].split(",")] if iota[4] else range(len(dims))
        return np.arange(math.prod(dims)).reshape(dims).transpose(order).reshape(int(iota[1]), int(iota[2]))
    if listed:
        groups = [[int(n) for n in group.split(",")] for group in re.findall(r"\{([\d,]+)\}", listed[1])]
        return np.array(groups)
    return np.arange(devices)[None]
