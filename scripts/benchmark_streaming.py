#!/usr/bin/env python
"""Compare docids of vectors streamed from a file with those of the same vectors in memory: time, memory, tightness.

Each side runs in a process of its own, whose anonymous memory (what is not the file's own pages) is sampled. Tightness
is the mean squared distance of vectors to the mean of those that share their first codes, streamed to in memory.

Example:
    python scripts/benchmark_streaming.py --out benchmarks/results/streaming.json
    python scripts/benchmark_streaming.py --documents 4000000 --memory-gib 0.25 --folder /data --out mine.json
"""

import argparse
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.docids import HierarchicalKMeans, ResidualKMeans
from genret_jax.evaluation.environment import environment
from genret_jax.storage import read_json, write_json

STRATEGIES: dict[str, Any] = {
    "semantic": lambda memory_gib: HierarchicalKMeans(branching=10, leaf_size=100, memory_gib=memory_gib),
    "residual": lambda memory_gib: ResidualKMeans(levels=3, codebook=256, separate=False, memory_gib=memory_gib),
}
DEPTHS = (1, 2, 3)
_PIECE = 1 << 16


def write_vectors(path: Path, documents: int, width: int) -> None:
    """Write Gaussian vectors in float16 around 2,000 topics around 40 subjects."""
    random = np.random.default_rng(0)
    subjects = random.standard_normal((40, width), np.float32)
    topics = subjects[random.integers(0, 40, 2000)] + 0.6 * random.standard_normal((2000, width), np.float32)
    stored = np.lib.format.open_memmap(path, "w+", np.float16, (documents, width))
    for start in range(0, documents, _PIECE):
        rows = min(_PIECE, documents - start)
        noise = 0.5 * random.standard_normal((rows, width), np.float32)
        stored[start : start + rows] = topics[random.integers(0, 2000, rows)] + noise
    stored.flush()


def anonymous_bytes() -> int:
    """Return the memory of this process that is no file's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def build(strategy: str, path: Path, memory_gib: float, out: Path) -> None:
    """Make docids in this process; write the codes, the seconds, and the peak memory beyond that at the start."""
    vectors = np.load(path, mmap_mode="r")
    names = [str(number) for number in range(len(vectors))]
    STRATEGIES[strategy](4.0).assign(names[:1000], np.array(vectors[:1000], np.float32), 0, "")  # starts the backend
    before, highest, done = anonymous_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal highest
        while not done.wait(0.02):
            highest = max(highest, anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.perf_counter()
    codes = STRATEGIES[strategy](memory_gib).assign(names, vectors, 0, "").padded()
    seconds = time.perf_counter() - start
    done.set()
    watcher.join()
    np.save(out.with_suffix(".npy"), codes[:, : max(DEPTHS)])
    write_json(out, {"seconds": round(seconds, 1), "bytes": highest - before})


def scatter(vectors: np.ndarray, codes: np.ndarray) -> float:
    """Return the mean squared distance to the mean of the vectors with the same codes."""
    group = np.unique(codes, axis=0, return_inverse=True)[1].reshape(-1)
    sums, squares = np.zeros((group.max() + 1, vectors.shape[1])), 0.0
    for start in range(0, len(vectors), _PIECE):
        piece = np.asarray(vectors[start : start + _PIECE], np.float64)
        np.add.at(sums, group[start : start + _PIECE], piece)
        squares += float(np.sum(piece**2))
    return (squares - float(np.sum(sums**2 / np.bincount(group)[:, None]))) / len(vectors)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=1_000_000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument(
        "--memory-gib", type=float, default=0.125, help="memory limit of the streamed side (default: 0.125)"
    )
    parser.add_argument("--folder", help="folder for the file of vectors (default: a temporary one)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/streaming.json"))
    parser.add_argument("--build", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.build:
        strategy, path, memory_gib, out = options.build
        build(strategy, Path(path), float(memory_gib), Path(out))
        return
    result: dict[str, Any] = {"shape": [options.documents, options.width], "memory_gib": options.memory_gib}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "vectors.npy"
        write_vectors(path, options.documents, options.width)
        vectors = np.load(path, mmap_mode="r")
        for strategy in STRATEGIES:
            found, codes = {}, {}
            for side, memory_gib in (("in_memory", 1000.0), ("streamed", options.memory_gib)):
                out = Path(folder) / f"{strategy}-{side}.json"
                command = [sys.executable, __file__, "--build", strategy, str(path), str(memory_gib), str(out)]
                subprocess.run(command, check=True)
                found[side], codes[side] = read_json(out), np.load(out.with_suffix(".npy"))
                print(f"{strategy}, {side}: {found[side]}", flush=True)
            tightness = [
                scatter(vectors, codes["streamed"][:, :depth]) / scatter(vectors, codes["in_memory"][:, :depth])
                for depth in DEPTHS
            ]
            result[strategy] = {**found, "scatter_to_in_memory": [round(ratio, 4) for ratio in tightness]}
            write_json(options.out, result | {"environment": environment()})


if __name__ == "__main__":
    main()
