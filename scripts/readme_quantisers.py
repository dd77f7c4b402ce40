"""The table of quantisers, from what scripts/benchmark_quantisers.py writes."""

from collections.abc import Mapping
from typing import Any

from readme_markdown import machine, table

_HEAD = [
    *("codes", "fit, by the clock and of the processor", "codes used, level by level", "collisions", "variance left"),
    "neighbours that share 1, 2, 3 codes",
]


def quantisers(value: Mapping[str, Any]) -> str:
    """Return a table that compares quantisers of the same vectors, by their first seed."""
    rows = [_row(name, found["runs"][0]) for name, found in value["results"].items()]
    count, width = value["vectors"]["shape"]
    random = next(found["runs"][0]["random"] for found in value["results"].values() if "random" in found["runs"][0])
    note = (
        f"{value['vectors']['name']}, {count:,} × {width}, {value['vectors']['distinct']:,} of them distinct, "
        f"{machine(value['environment'])}, shared with other work (load average "
        f"{value['load_average']['start']} to {value['load_average']['end']}). "
        "Collisions: one minus distinct codes over items. Variance left: the share "
        f"that the codes do not give back. Neighbours: the ten nearest by cosine; of random pairs of items, "
        f"{random[0]:.2%} share the first code in the first row."
    )
    return f"{table(_HEAD, rows)}\n\n{note}"


def _row(name: str, run: Mapping[str, Any]) -> list[str]:
    seconds = f"{run['seconds']:,.0f} s" if "seconds" in run else "–"
    if "cpu_seconds" in run:
        seconds += f", {run['cpu_seconds']:,.0f} s"
    if "error" in run:
        return [name, seconds, run["error"].split(";")[0], "–", "–", "–"]
    errors = run["relative_errors"]
    return [
        name,
        seconds,
        ", ".join(map(str, run["used"])),
        f"{run['collision_rate']:.1%}",
        f"{errors[-1]:.1%}" if errors else "–",
        ", ".join(f"{share:.1%}" for share in run["neighbours"]),
    ]
