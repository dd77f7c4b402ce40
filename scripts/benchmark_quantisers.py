#!/usr/bin/env python
"""Compare quantisers of the same vectors: time to fit, error, usage of codes, collisions, and prefixes of neighbours.

Every quantiser is fitted once for each seed, with what compiles counted: a first use is what a user waits for. Figures
are those of ``genret docids inspect --vectors``. Codes that something else made can stand beside them, cut to as many
levels as the quantisers have, so that a last code that tells items apart is left out.

Example:
    python scripts/benchmark_quantisers.py --vectors beauty=embeddings.npy --out benchmarks/results/quantisers.json
    python scripts/benchmark_quantisers.py --vectors mine=v.npy --epochs 100 500 --codes theirs=ids.npy --out mine.json
"""

import argparse
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from genret_jax.docids import DocidTable, LshDocids, ProductQuantization, RandomDocids, ResidualKMeans, RqVae, describe
from genret_jax.evaluation.environment import environment
from genret_jax.storage import read_npy, write_json


def clustered_vectors(count: int, width: int, seed: int = 0) -> np.ndarray:
    """Unit vectors in a cone, around 400 topics of 40 subjects, as sentence embeddings are."""
    random = np.random.default_rng(seed)
    subjects = random.standard_normal((40, width)) + 2 * random.standard_normal(width)
    topics = subjects[random.integers(0, 40, 400)] + 0.6 * random.standard_normal((400, width))
    vectors = topics[random.integers(0, 400, count)] + 0.5 * random.standard_normal((count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def strategies(args: argparse.Namespace) -> dict[str, Any]:
    """Return the strategies to compare, by name; none adds the code that separates equal docids."""
    shape = {"levels": args.levels, "codebook": args.codebook, "separate": False}
    base = RqVae(**shape, batch_size=args.batch_size)
    if args.learning_rate is not None:
        base = dataclasses.replace(base, learning_rate=args.learning_rate)
    bits = args.codebook.bit_length() - 1
    found: dict[str, Any] = {f"rq-vae, {n} epochs": dataclasses.replace(base, epochs=n) for n in args.epochs}
    for name in args.variants:
        settings = {
            "cumulative": {"commitment": "cumulative"},
            "not standardised": {"standardise": False},
            "not revived": {"revive_after": 0},
            "adagrad .4": {"optimizer": "adagrad", "learning_rate": 0.4},
            "adagrad .4, not standardised, not revived": {
                "optimizer": "adagrad",
                "learning_rate": 0.4,
                "standardise": False,
                "revive_after": 0,
            },
        }[name]
        found[f"rq-vae, {args.epochs[0]} epochs, {name}"] = dataclasses.replace(base, epochs=args.epochs[0], **settings)
    found["residual k-means"] = ResidualKMeans(**shape)
    found["product quantisation"] = ProductQuantization(**shape)
    found["product quantisation without rotation"] = ProductQuantization(**shape, rotation=False)
    found["lsh"] = LshDocids(levels=args.levels, hyperplanes=bits, separate=False)
    found["lsh through the origin"] = LshDocids(levels=args.levels, hyperplanes=bits, centred=False, separate=False)
    found["random"] = RandomDocids(**shape)
    return found


def figures(table: DocidTable, vectors: np.ndarray, quantiser: Any) -> dict[str, Any]:
    """Return the figures of one docid table."""
    described = describe(table, vectors, quantiser)
    levels = described["levels"]
    beside = described["vectors"]
    return {
        "used": [level["used"] for level in levels],
        "perplexity": [round(level["perplexity"], 1) for level in levels],
        "distinct": described["docids"],
        "collision_rate": round(levels[-1]["collision_rate"], 4),
        "largest_collision": described["collisions"]["largest"],
        "relative_errors": [round(error, 4) for error in beside.get("relative_errors", [])],
        **{
            key: [round(prefix[key], 4) for prefix in beside["prefixes"]]
            for key in ("neighbours", "random", "variance_left")
        },
    }


def fitted(strategy: Any, vectors: np.ndarray, seed: int) -> tuple[Any, DocidTable]:
    """Return the quantiser, None if the strategy has none, and the docid table."""
    names = [str(index) for index in range(len(vectors))]
    if hasattr(strategy, "fit_and_assign"):
        return strategy.fit_and_assign(names, vectors, seed, "")
    return None, strategy.assign(names, vectors, seed, "")


def measure(strategy: Any, vectors: np.ndarray, seeds: int) -> dict[str, Any]:
    """Return the times and figures of one strategy for every seed; a failure is recorded as its message."""
    runs = []
    for seed in range(seeds):
        jax.clear_caches()
        began, processor = time.perf_counter(), time.process_time()
        try:
            quantiser, table = fitted(strategy, vectors, seed)
        except ValueError as error:
            runs.append({"error": str(error), "seconds": round(time.perf_counter() - began, 2)})
            continue
        seconds = {
            "seconds": round(time.perf_counter() - began, 2),
            "cpu_seconds": round(time.process_time() - processor, 2),
        }
        runs.append({**seconds, **figures(table, vectors, quantiser)})
    return {"strategy": dataclasses.asdict(strategy), "runs": runs}


def of_file(path: str, levels: int) -> Callable[[np.ndarray], dict[str, Any]]:
    """Figures of codes from a file."""
    codes = np.array(read_npy(path, kinds="iu", expected="codes [n, m]")[:, :levels])

    def look(vectors: np.ndarray) -> dict[str, Any]:
        names = [str(index) for index in range(len(vectors))]
        table = DocidTable.from_codes(names, codes, strategy={}, corpus_fingerprint="")
        return {"runs": [figures(table, vectors, None)]}

    return look


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", metavar="NAME=FILE.npy", help="default: 12,000 generated ones of 384 numbers")
    parser.add_argument("--codes", action="append", default=[], metavar="NAME=FILE.npy", help="more codes to compare")
    parser.add_argument("--levels", type=int, default=3)
    parser.add_argument("--codebook", type=int, default=256, help="a power of two")
    parser.add_argument("--epochs", type=int, nargs="+", default=[RqVae().epochs])
    parser.add_argument("--batch-size", type=int, default=RqVae().batch_size)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--variants", nargs="*", default=[], help="variants of the RQ-VAE to compare too")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", default="benchmarks/results/quantisers.json")
    args = parser.parse_args()
    name, _, path = (args.vectors or "generated=").partition("=")
    stored = read_npy(path, kinds="f", expected="vectors [n, d]") if path else clustered_vectors(12_000, 384)
    vectors = np.asarray(stored, np.float32)
    load, results = os.getloadavg()[0], {}
    for label, strategy in strategies(args).items():
        results[label] = measure(strategy, vectors, args.seeds)
        print(f"{label}: {results[label]['runs']}", flush=True)
    for label, _, file in (given.partition("=") for given in args.codes):
        results[label] = of_file(file, args.levels)(vectors)
        print(f"{label}: {results[label]['runs']}", flush=True)
    write_json(
        args.out,
        {
            "what": "quantisers of the same vectors, without a code that tells equal ones apart",
            "vectors": {
                "name": name,
                "shape": list(vectors.shape),
                "distinct": len(np.unique(vectors, axis=0)),
            },
            "results": results,
            "environment": environment(),
            "load_average": {"start": round(load, 1), "end": round(os.getloadavg()[0], 1)},
        },
    )


if __name__ == "__main__":
    main()
