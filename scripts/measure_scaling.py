#!/usr/bin/env python
"""Plan DSI from Base to XXL, and the index of 100M documents, without a TPU: the rows of docs/scaling.md.

Example:
    pip install libtpu          # the compiler alone; it needs no TPU
    python scripts/measure_scaling.py --out benchmarks/results/scaling.json

Every row is one `genret plan --json`, run as users run it, and kept in the result as soon as it is there: a run that
was stopped goes on with the first row that is missing. A row takes minutes on two cores.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from genret_jax.config.gin_files import planned_experiment
from genret_jax.evaluation.environment import environment
from genret_jax.planning.docids import index_shapes, planned_docids
from genret_jax.storage import read_json, write_json

SIZES = ("base", "large", "xl", "xxl")
CORPORA = {"NQ320K": 320_000, "MS MARCO": 8_841_823}
DOCIDS = {"semantic": (), "atomic": ("--gin.Experiment.docids=@AtomicDocids()",)}
# bf16, a batch of 1,024 and layers computed again in the backward pass: how one would train at this size.
COMMON = ("--gin.T5Config.dtype='bfloat16'", "--gin.T5Config.remat=True", "--gin.TrainerConfig.batch_size=1024")
SLICE = ("--device", "tpu-v5p", "--devices", "256", "--mesh", "64x4")
MANY = 100_000_000


def command(size: str, documents: int, kind: str) -> list[str]:
    """Return the options of a row's plan."""
    files = ["--gin_file", "runs/dsi_t5.gin", "--gin_file", f"models/t5_1_1_{size}.gin"]
    return ["plan", *SLICE, *files, *COMMON, *DOCIDS[kind], "--documents", str(documents), "--parts", "training"]


def row(options: list[str]) -> dict[str, Any]:
    """Run a plan and return it with the command and its seconds."""
    with tempfile.TemporaryDirectory() as folder:
        path, start = Path(folder) / "plan.json", time.perf_counter()
        subprocess.run([sys.executable, "-m", "genret_jax", *options, "--json", str(path)], check=True, stdout=2)
        seconds = round(time.perf_counter() - start)
        return {"command": " ".join(["genret", *options]), "seconds_to_plan": seconds, "plan": read_json(path)}


def many_documents() -> dict[str, Any]:
    """Return the size of an index of 100M documents with docids of the published strategy."""
    docids = planned_docids(planned_experiment(["runs/dsi_t5.gin"]), MANY)
    return {
        "documents": MANY,
        "built": docids.built,
        "tokens_of_the_longest": docids.length,
        "index_bytes": index_shapes(docids).num_bytes,
    }


def main() -> None:
    """Plan every row that is missing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/scaling.json"))
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="networks to plan now")
    options = parser.parse_args()
    found = read_json(options.out) if options.out.is_file() else {"rows": {}}
    found |= {"many": many_documents(), "environment": environment()}
    for kind in DOCIDS:
        for corpus, documents in CORPORA.items():
            for size in options.sizes:
                name = f"{size}, {corpus}, {kind}"
                if name not in found["rows"]:
                    print(f"planning {name}", file=sys.stderr, flush=True)
                    found["rows"][name] = row(command(size, documents, kind))
                write_json(options.out, found)


if __name__ == "__main__":
    main()
