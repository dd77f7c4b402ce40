#!/usr/bin/env python
"""Make the tables of README.md and of docs/ from benchmarks/results/*.json.

    python scripts/update_readme.py             write them
    python scripts/update_readme.py --check     exit 1 if a page says something else than the results

A table stands between `<!-- table: NAME -->` and `<!-- end -->`, and NAME is that of the result.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from readme_markdown import MISSING
from readme_quantisers import quantisers
from readme_scores import codes, cold_start, evaluation, pretrained, recipe, startup
from readme_speed import (
    decoding,
    examples,
    generate,
    genret,
    history_step,
    kmeans,
    nci,
    scaling,
    search_latency,
    streaming,
    t5x_speed,
    tpu_compile,
    train_step,
)

from genret_jax.claims.running import table as claims
from genret_jax.errors import InputError, nearest
from genret_jax.storage import atomic_file, read_json

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "scaling",
            "large_corpora",
            "t5x",
            "semantic_ids",
            "recommendation",
            "nci",
            "genret",
            "claims",
            "plans",
        )
    ),
)
_SECTION = re.compile(r"(<!-- table: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def updated(readme: str, results: Path) -> str:
    """Return the README with new tables.

    Args:
        readme: The text, with markers.
        results: The folder with the results.

    Raises:
        InputError: If a marker names no table, or a result cannot be read.
    """

    def section(match: re.Match[str]) -> str:
        begin, name, _, end = match.groups()
        if name not in TABLES:
            raise InputError(
                f"unknown table '{name}'", expected=f"one of {', '.join(TABLES)}", fix=nearest(name, TABLES)
            )
        path = results / f"{name}.json"
        content = TABLES[name](read_json(path)) if path.is_file() else MISSING
        return f"{begin}{content}\n{end}"

    return _SECTION.sub(section, readme)


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "pretrained": pretrained,
    "codes": codes,
    "recipe": recipe,
    "xquad": evaluation,
    "cranfield": evaluation,
    "scifact": evaluation,
    "beauty": evaluation,
    "beauty_history_kept": evaluation,
    "beauty_ids": evaluation,
    "beauty_users": evaluation,
    "beauty_new_items": cold_start,
    "history_step": history_step,
    "train_step": train_step,
    "nci": nci,
    "genret": genret,
    "claims": claims,
    "kmeans": kmeans,
    "quantisers": quantisers,
    "decoding": decoding,
    "generate": generate,
    "search_latency": search_latency,
    "tpu_compile": tpu_compile,
    "examples": examples,
    "scaling": scaling,
    "streaming": streaming,
    "t5x_speed": t5x_speed,
    "startup": startup,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables, or check them; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if a page is out of date")
    parser.add_argument("--readme", type=Path, nargs="+", default=PAGES, help="pages with tables")
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    options = parser.parse_args(arguments)
    stale = [page for page in options.readme if _update(page, options.results, change=not options.check)]
    for page in stale if options.check else ():
        print(f"{page} is out of date: run python scripts/update_readme.py", file=sys.stderr)
    return int(options.check and bool(stale))


def _update(page: Path, results: Path, *, change: bool) -> bool:
    """Tell whether a page says something else than the results, and change it where wanted."""
    before = page.read_text(encoding="utf-8")
    after = updated(before, results)
    if change and before != after:
        with atomic_file(page) as handle:
            handle.write(after)
    return before != after


if __name__ == "__main__":
    sys.exit(main())
