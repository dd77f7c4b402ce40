"""Parts of the pages' tables: Markdown, the machine, and the text for what is not measured."""

from collections.abc import Mapping, Sequence
from typing import Any

MISSING = "*Not yet measured.*"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table, its first column to the left and the others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine(environment: Mapping[str, Any]) -> str:
    """Return the cores and the processor that something was measured on."""
    cores = environment["cores"]
    return f"{cores} core{'' if cores == 1 else 's'} ({environment['processor']})"
