#!/usr/bin/env python
"""Compare hierarchical k-means with scikit-learn: time to leaves, and inertia.

Time: our docids against MiniBatchKMeans applied to every cluster in turn, until all leaves are small enough. The
sides take turns; ours starts without compiled code every time, as a first use does. Beside seconds by the clock stands
processor time of all threads, which other programs on the machine change less.

Inertia: k-means of all documents against scikit-learn's full KMeans with as many starts, over several seeds; then,
depth by depth, the parts of our own clusters against its full KMeans of the same clusters, over the rounds' seeds.

Example:
    python scripts/benchmark_kmeans.py --out benchmarks/results/kmeans.json
    python scripts/benchmark_kmeans.py --documents 20000 --vectors mine=vectors.npy --out mine.json
"""

import argparse
import os
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import jax
import numpy as np
from sklearn.cluster import KMeans as SklearnKMeans
from sklearn.cluster import MiniBatchKMeans

from genret_jax.docids import DocidTable, HierarchicalKMeans, KMeans
from genret_jax.evaluation.environment import environment
from genret_jax.storage import write_json

CLUSTERS_TO_COMPARE = 12  # of a depth, the inertia of scikit-learn's KMeans is computed for this many


def clustered_vectors(documents: int, width: int, seed: int = 0) -> np.ndarray:
    """Gaussian vectors around 2,000 topics around 40 subjects."""
    random = np.random.default_rng(seed)
    subjects = random.standard_normal((40, width))
    topics = subjects[random.integers(0, 40, 2000)] + 0.6 * random.standard_normal((2000, width))
    return (topics[random.integers(0, 2000, documents)] + 0.5 * random.standard_normal((documents, width))).astype(
        np.float32
    )


def ours(vectors: np.ndarray, branching: int, leaf_size: int, seed: int) -> DocidTable:
    """Semantic docids, compilation included."""
    jax.clear_caches()
    names = [str(index) for index in range(len(vectors))]
    return HierarchicalKMeans(branching=branching, leaf_size=leaf_size).assign(names, vectors, seed, "")


def mini_batch(vectors: np.ndarray, branching: int, leaf_size: int, seed: int) -> None:
    """MiniBatchKMeans used the same way, with scikit-learn's defaults."""
    waiting = [np.arange(len(vectors))]
    while waiting:
        members = waiting.pop()
        if len(members) > leaf_size:
            labels = MiniBatchKMeans(branching, random_state=seed, n_init="auto").fit_predict(vectors[members])
            parts = [members[labels == code] for code in range(branching)]
            if max(map(len, parts)) < len(members):
                waiting.extend(parts)


def timed(action: Callable[[], Any]) -> tuple[dict[str, float], Any]:
    """Call a function, and return its wall-clock and processor seconds with its result."""
    wall, processor = time.perf_counter(), time.process_time()
    result = action()
    return {"seconds": time.perf_counter() - wall, "cpu_seconds": time.process_time() - processor}, result


def spread(values: list[float]) -> dict[str, Any]:
    """Median and range."""
    return {"median": round(float(np.median(values)), 4), "range": [round(min(values), 4), round(max(values), 4)]}


def inertia(vectors: np.ndarray, labels: np.ndarray) -> float:
    """Sum of squared distances to the means of the clusters, in double precision."""
    total = float((vectors.astype(np.float64) ** 2).sum())
    for label in np.unique(labels):
        members = vectors[labels == label].astype(np.float64)
        total -= len(members) * float((members.mean(0) ** 2).sum())
    return total


def top_inertia(vectors: np.ndarray, branching: int, seeds: int) -> dict[str, Any]:
    """All documents in ``branching`` clusters: ours to scikit-learn's, seed for seed and by medians."""
    found = [inertia(vectors, KMeans(clusters=branching).fit(vectors, seed).labels) for seed in range(seeds)]
    theirs = [
        inertia(vectors, SklearnKMeans(branching, n_init=1, random_state=seed).fit(vectors).labels_)
        for seed in range(seeds)
    ]
    return {
        "seeds": seeds,
        "ratio_of_medians": float(np.median(found) / np.median(theirs)),
        "best": min(found) / min(theirs),
    }


def deeper_inertia(
    vectors: np.ndarray, tables: list[DocidTable], branching: int, leaf_size: int
) -> list[dict[str, Any]]:
    """Depth by depth, how our clusters are divided, against scikit-learn's division of the same clusters.

    The ratio is of sums over the clusters of all tables; beside it stands that of each table.
    """
    pairs: dict[int, list[list[tuple[float, float]]]] = {}
    for seed, table in enumerate(tables):
        codes = table.padded()
        for depth in range(1, codes.shape[1] - 1):
            clusters, group = np.unique(codes[:, :depth], axis=0, return_inverse=True)
            group = group.reshape(-1)
            sizes = np.bincount(group)
            divided = [c for c in range(len(clusters)) if sizes[c] > leaf_size]
            of_table = pairs.setdefault(depth, [])
            of_table.append([])
            for cluster in np.random.default_rng(depth).permutation(divided)[:CLUSTERS_TO_COMPARE]:
                members, code = vectors[group == cluster], codes[group == cluster, depth]
                theirs = SklearnKMeans(branching, n_init=1, random_state=seed).fit(members).labels_
                of_table[-1].append((inertia(members, code), inertia(members, theirs)))
    results = []
    for depth, of_tables in pairs.items():
        sums = np.array([np.sum(found, 0) for found in of_tables if found])  # --> [tables, 2]
        if len(sums):
            ratio, by_seed = sums[:, 0].sum() / sums[:, 1].sum(), (sums[:, 0] / sums[:, 1]).tolist()
            compared = sum(map(len, of_tables))
            results.append({"depth": depth, "compared": compared, "ratio": ratio, "by_seed": by_seed})
    return results


def measure(vectors: np.ndarray, args: argparse.Namespace) -> dict[str, Any]:
    """Every comparison on one set of vectors."""
    sizes = args.branching, args.leaf_size
    rounds: dict[str, list[dict[str, float]]] = {"ours": [], "mini_batch": []}
    tables: list[DocidTable] = []
    for seed in range(args.repeats):
        of_ours, table = timed(lambda s=seed: ours(vectors, *sizes, s))
        rounds["ours"].append(of_ours)
        tables.append(table)
        rounds["mini_batch"].append(timed(lambda s=seed: mini_batch(vectors, *sizes, s))[0])
        print(f"  round {seed}: {of_ours} ours, {rounds['mini_batch'][-1]} MiniBatchKMeans", flush=True)
    kinds = ("seconds", "cpu_seconds")
    pairs = list(zip(*rounds.values(), strict=True))
    return {
        "shape": list(vectors.shape),
        **{side: {kind: spread([run[kind] for run in runs]) for kind in kinds} for side, runs in rounds.items()},
        "ours_to_mini_batch": {kind: spread([mine[kind] / theirs[kind] for mine, theirs in pairs]) for kind in kinds},
        "levels": [list(table.level_sizes) for table in tables],
        "inertia_to_full_kmeans": {
            "top": top_inertia(vectors, args.branching, args.seeds),
            "deeper": deeper_inertia(vectors, tables, *sizes),
        },
    }


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000, help="generated vectors; 0 for none")
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--vectors", action="append", default=[], metavar="NAME=FILE.npy", help="further vectors")
    parser.add_argument("--branching", type=int, default=10)
    parser.add_argument("--leaf-size", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=3, help="rounds of timing")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the inertia of all documents")
    parser.add_argument("--out", default="benchmarks/results/kmeans.json")
    args = parser.parse_args()
    warnings.filterwarnings("ignore", module="sklearn")
    sets = {"clustered gaussian": clustered_vectors(args.documents, args.width)} if args.documents else {}
    for name, _, path in (given.partition("=") for given in args.vectors):
        sets[name] = np.load(path).astype(np.float32)
    load, results = os.getloadavg()[0], {}
    for name, vectors in sets.items():
        print(f"{name}: {vectors.shape}", flush=True)
        results[name] = measure(vectors, args)
    described = environment()
    described["versions"] |= {"scikit-learn": version("scikit-learn")}  # type: ignore[operator]
    write_json(
        args.out,
        {
            "what": f"documents to leaves of at most {args.leaf_size}, {args.branching} clusters each; "
            "clustered gaussian: 2,000 topics (spread 0.5) around 40 subjects (spread 0.6)",
            "targets": {"seconds": 60, "ours_to_mini_batch": 1.0, "inertia_to_full_kmeans": 1.02},
            "sets": results,
            "environment": described,
            "load_average": {"start": round(load, 1), "end": round(os.getloadavg()[0], 1)},
        },
    )


if __name__ == "__main__":
    main()
