#!/usr/bin/env python
"""Measure the docid index and the beam search over it, beside STATIC and beside beam search without a constraint.

Four parts, each over sets of random docids of several sizes:

memory     bytes a docid: our index, STATIC's arrays, a trie of Python dicts (of a sample)
build      seconds from unsorted codes to an index, sorting included, and the peak memory that this takes; seconds of
           an update that removes 1,000 documents and adds as many
selection  time a step of a whole search, all sides in turn, with a model that looks its logits up in a table: what is
           not the model's. "unconstrained" is our search without a constraint; "top_k" is the least that any beam
           search does, log-softmax and top-k, without keeping tokens; "model" is the looking up alone
decode     time of a whole search with the decoder of T5 small, with and without the constraint, in pairs

STATIC (youtube/static-constraint-decoding) runs from a checkout that --static names; without it, its columns are left
out. Its search is the exact one, and the benchmark fails if its results are not ours. All times are medians; ranges are
quartiles, and ratios have a 95% bootstrap interval over rounds. The report is written after every cell; cells that it
already has are kept unless they are measured anew.

Example:
    python scripts/benchmark_decoding.py --static ../static-constraint-decoding --plot docs/decoding.png
    python scripts/benchmark_decoding.py --parts memory selection --documents 100000 --vocabularies 256 --out mine.json
"""

import argparse
import functools
import gc
import itertools
import os
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmark_searches import (
    FEWEST_ROUNDS,
    INPUT_LENGTH,
    Limits,
    Row,
    compared,
    measure_decode,
    measure_selection,
    spread,
)
from benchmark_static import REPOSITORY, StaticIndex, build_static, commit, import_static

from genret_jax.decoding import DocidIndex, TrieConstraint
from genret_jax.errors import InputError
from genret_jax.evaluation.environment import environment
from genret_jax.storage import folder_lock, read_json, write_json

PARTS = ("memory", "build", "selection", "decode")
SETTING = ("documents", "vocabulary", "length", "docids")
LINES = {  # as they are drawn: title, colour, and which docids, where it matters to the side
    "ours": ("genret_jax", "tab:blue", ("uniform", "zipf")),
    "static": ("STATIC", "tab:red", ("uniform", "zipf")),
    "unconstrained": ("unconstrained", "tab:green", None),
    "top_k": ("top-k alone", "0.5", None),
    "model": ("looking logits up", "0.8", None),
}
DICT_SAMPLE = 100_000


# --- docids ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A set of random docids."""

    documents: int
    vocabulary: int
    length: int
    docids: str  # "uniform" or "zipf": how codes are distributed, at every level


def random_codes(setting: Setting) -> np.ndarray:
    """Distinct docids as they are drawn, int32 ``[documents, length]``, in no order."""
    if setting.documents > setting.vocabulary**setting.length:
        raise InputError(f"{setting}", expected="at most vocabulary to the power of length documents")
    random = np.random.default_rng(0)
    multipliers = random.integers(0, 2**63, setting.length, np.uint64) * np.uint64(2) + np.uint64(1)
    columns = [np.empty(0, np.uint16)] * setting.length
    chosen = np.empty(0, np.int64)
    while len(chosen) < setting.documents:
        more = max(setting.documents, len(columns[0]))
        columns = [np.append(column, _draw(random, setting, more)) for column in columns]
        # A hash of 64 bits stands for the row: the few rows that share one by chance are dropped with the repetitions.
        hashes = sum(column * factor for column, factor in zip(columns, multipliers, strict=True))
        chosen = np.sort(np.unique(hashes, return_index=True)[1])[: setting.documents]
    return np.stack([column[chosen] for column in columns], axis=1).astype(np.int32)


def _draw(random: np.random.Generator, setting: Setting, count: int) -> np.ndarray:
    if setting.docids == "uniform":
        return random.integers(0, setting.vocabulary, count, np.uint16)
    weights = 1 / np.arange(1, setting.vocabulary + 1)
    cumulative = np.cumsum(weights) / weights.sum()
    return np.minimum(np.searchsorted(cumulative, random.random(count)), setting.vocabulary - 1).astype(np.uint16)


class Docids:
    """The docids of a setting and both sides' indexes, each made when first used."""

    def __init__(self, setting: Setting, *, with_static: bool):
        self.setting, self.with_static = setting, with_static

    @functools.cached_property
    def codes(self) -> np.ndarray:
        """The docids that both sides build an index from."""
        return random_codes(self.setting)

    @functools.cached_property
    def index(self) -> DocidIndex:
        """Ours."""
        return our_builder(self.codes, self.setting.vocabulary)()

    @functools.cached_property
    def constraint(self) -> TrieConstraint:
        """Ours, on the device."""
        return TrieConstraint(jax.device_put(self.index))

    @functools.cached_property
    def static(self) -> StaticIndex | None:
        """STATIC's, if it takes part."""
        return static_builder(self.codes, self.setting.vocabulary)()[0] if self.with_static else None


def our_builder(codes: np.ndarray, vocabulary: int) -> Callable[[], DocidIndex]:
    """A call that builds our index; its other arguments are made here, where nothing is measured."""
    lengths, document = np.full(len(codes), codes.shape[1], np.int32), np.arange(len(codes), dtype=np.int32)
    return lambda: DocidIndex.build(codes, lengths, document, vocab_size=vocabulary)


def static_builder(codes: np.ndarray, vocabulary: int) -> Callable[[], tuple[StaticIndex, float]]:
    """A call that sorts and builds STATIC's."""
    return lambda: build_static(codes, vocabulary)


# --- memory and building --------------------------------------------------------------------------------------------


def measure_memory(docids: Docids) -> Row:
    """Bytes a docid of each side; STATIC does not say which row a docid was, so ours is counted without that too."""
    count, index = docids.setting.documents, docids.index
    sample = docids.codes[:DICT_SAMPLE]
    row_numbers = 0 if index.rows is None else index.rows.nbytes
    sizes = {"ours": (index.num_bytes - row_numbers) / count, "dict": dict_trie_bytes(sample) / len(sample)}
    if docids.static:
        sizes["static"] = docids.static.num_bytes / count
    return {
        "bytes_per_docid": {side: round(size, 2) for side, size in sizes.items()},
        "row_numbers_bytes_per_docid": round(row_numbers / count, 2),
        "ratio": {side: round(sizes["ours"] / size, 4) for side, size in sizes.items() if side != "ours"},
        "dict_docids": len(sample),
    }


def dict_trie_bytes(codes: np.ndarray) -> int:
    """Return the bytes of a trie of Python dicts with shared keys."""
    rows = codes.tolist()
    tracemalloc.start()
    root: dict[int, dict] = {}
    for row in rows:
        node = root
        for code in row:
            node = node.setdefault(code, {})
    size = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    return size


def measure_build(docids: Docids, limits: Limits, checkout: Path | None) -> Row:
    """Seconds of each side in turn, and peak memory in processes of their own."""
    codes, vocabulary = docids.codes, docids.setting.vocabulary
    ours, static = our_builder(codes, vocabulary), static_builder(codes, vocabulary)
    times: dict[str, list[float]] = {"ours": []} | ({"static": [], "static_given_sorted": []} if checkout else {})
    rounds, start = limits.repeats, time.perf_counter()
    while len(times["ours"]) < rounds:
        times["ours"].append(_seconds(ours)[0])
        if checkout:
            seconds, built = _seconds(static)
            times["static"].append(seconds)
            times["static_given_sorted"].append(seconds - built[1])
            del built
        rounds = limits.rounds((time.perf_counter() - start) / len(times["ours"]))
    measured = {side: np.array(seconds) for side, seconds in times.items()}
    row = {"seconds": {side: spread(seconds) for side, seconds in measured.items()}, **compared(measured)}
    return {**row, "update_seconds": update_seconds(codes, vocabulary), "peak": peak_memory(docids, checkout)}


def update_seconds(codes: np.ndarray, vocabulary: int) -> Row:
    """Time an update that removes 1,000 documents (a tenth of a small set) and adds as many, in an index with room."""
    count, length = codes.shape
    changed = max(1, min(1000, count // 10))
    lengths, document = np.full(count, length, np.int32), np.arange(count, dtype=np.int32)
    old, new = slice(0, count - changed), slice(count - changed, count)
    index = DocidIndex.build(codes[old], lengths[old], document[old], vocab_size=vocabulary, room=0.1)

    def update() -> DocidIndex:
        return index.updated(codes[new], lengths[new], document[new], remove=range(changed))

    seconds, updated = zip(*(_seconds(update) for _ in range(4)), strict=True)
    fitted = all(other.layout == index.layout for other in updated)
    return {**spread(np.array(seconds[1:])), "fitted": fitted}  # the first compiles


def _seconds(action: Callable[[], Any]) -> tuple[float, Any]:
    gc.collect()
    gc.freeze()  # STATIC collects garbage while it builds: it should not have to look at what JAX holds here
    start = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - start
    gc.unfreeze()
    return seconds, result


def peak_memory(docids: Docids, checkout: Path | None) -> Row:
    """Bytes that building needs at most beyond its input, and with it, relative to index and input."""
    codes, found = docids.codes, {}
    inputs = {"ours": codes.nbytes + 8 * len(codes), "static": codes.nbytes}  # ours with lengths and documents, int32
    indexes = {"ours": docids.index.num_bytes}
    if docids.static:
        indexes["static"] = docids.static.num_bytes
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "codes.npy"
        np.save(file, codes)
        for side, size in indexes.items():
            command = [sys.executable, __file__, "--peak-of", side, str(file), str(docids.setting.vocabulary)]
            command += ["--static", str(checkout)] if checkout else []
            finished = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            beyond, kept = int(finished.stdout), size + inputs[side]
            found[side] = {
                "bytes_beyond_input": beyond,
                "beyond_input_to_index_and_input": round(beyond / kept, 3),
                "with_input_to_index_and_input": round((beyond + inputs[side]) / kept, 3),
            }
    return found


def print_peak(side: str, file: str, vocabulary: str) -> None:
    """Build once, in this process, and print by how many bytes its memory grew at most."""
    codes = np.load(file)
    build = {"ours": our_builder, "static": static_builder}[side](codes, int(vocabulary))
    gc.collect()
    before = _resident_bytes(peak=False)
    index = build()  # kept alive until the peak has been read
    print(_resident_bytes(peak=True) - before)
    del index


def _resident_bytes(*, peak: bool) -> int:
    """Return the memory of this process, now or at its peak. Asking for the present memory resets the peak if possible.

    Linux hands ru_maxrss of a parent on to its children, so it says nothing here unless there is nothing better.
    """
    try:
        if not peak:
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    field = "VmHWM:" if peak else "VmRSS:"
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(field))


# --- the report -----------------------------------------------------------------------------------------------------


class Results:
    """The report on disk, with a row for each cell."""

    def __init__(self, path: Path, static: Path | None):
        self.path, self.environment = path, environment()
        earlier = read_json(path) if path.is_file() else {"environment": self.environment, "static": None, "rows": []}
        for name in ("processor", "cores", "devices"):
            if earlier["environment"][name] != self.environment[name]:
                raise InputError(
                    f"results of another machine ({name}: {earlier['environment'][name]})",
                    file=path,
                    expected=str(self.environment[name]),
                    fix="name another file with --out",
                )
        self.rows: dict[tuple, Row] = {_key(row): row for row in earlier["rows"]}
        self.static = {"repository": REPOSITORY, "commit": commit(static)} if static else earlier["static"]

    def keep(self, row: Row) -> None:
        """Replace the row of this cell and write everything."""
        self.rows[_key(row)] = row
        content = {
            "what": f"random docids; decode: the decoder of T5 small and {INPUT_LENGTH} encoder tokens, no encoder",
            "environment": self.environment,
            "static": self.static,
            "rows": [self.rows[key] for key in sorted(self.rows)],
        }
        write_json(self.path, content)


def _key(row: Row) -> tuple:
    place = PARTS.index(row["part"])
    return place, *(row[name] for name in SETTING), *(row.get(name, 0) for name in ("batch", "beams"))


def plot(rows: Sequence[Row], file: Path, vocabulary: int, length: int) -> None:
    """Draw time a step against the number of documents, a panel for each batch and beam."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    rows = [row for row in rows if (row["part"], row["vocabulary"], row["length"]) == ("selection", vocabulary, length)]
    searches = sorted({(row["batch"], row["beams"]) for row in rows})
    if not searches:
        raise InputError("nothing to plot", expected=f"selection of {length} codes of {vocabulary} among the results")
    figure, axes = pyplot.subplots(1, len(searches), figsize=(3.4 * len(searches), 3.4), squeeze=False)
    for panel, search in zip(axes[0], searches, strict=True):
        of_search = [row for row in rows if (row["batch"], row["beams"]) == search]
        for side, (title, colour, kinds) in LINES.items():
            for kind, style in zip(kinds or [None], ("-", "--"), strict=False):
                points = _points(of_search, side, kind)
                label = f"{title}, {kind}" if kind else title
                panel.plot(list(points), list(points.values()), style, color=colour, marker=".", label=label)
        panel.set(title=f"batch {search[0]}, beam {search[1]}", xscale="log", xlabel="documents", ylim=(0, None))
    axes[0, 0].set_ylabel("milliseconds a step")
    legend = axes[0, 0].get_legend_handles_labels()
    figure.legend(*legend, loc="lower center", ncols=max(2, len(searches)), frameon=False, fontsize="small")
    figure.suptitle(f"Selection from docids of {length} codes of {vocabulary}", fontsize="medium")
    figure.tight_layout(rect=(0, 0.14, 1, 1))
    figure.savefig(file, dpi=120)


def _points(rows: Sequence[Row], side: str, docids: str | None) -> dict[int, float]:
    """Milliseconds of a side by number of documents, of one kind of docids or the mean of all."""
    found: dict[int, list[float]] = {}
    for row in sorted(rows, key=lambda row: row["documents"]):
        if docids in (None, row["docids"]) and side in row["milliseconds_per_step"]:
            found.setdefault(row["documents"], []).append(row["milliseconds_per_step"][side]["median"])
    return {documents: float(np.mean(times)) for documents, times in found.items()}


# --- the command ----------------------------------------------------------------------------------------------------


def cells(docids: Docids, options: argparse.Namespace) -> Iterator[tuple[Row, Callable[[], Row]]]:
    """Yield the cells to measure on a set of docids: the settings of the row, and a call that measures it."""
    limits = Limits(options.repeats, options.limit_seconds)
    for part in options.parts:
        key = {"part": part, **asdict(docids.setting)}
        if part == "memory":
            yield key, lambda: measure_memory(docids)
        elif part == "build":
            yield key, lambda: measure_build(docids, limits, options.static)
        else:
            for batch, beams in options.searches if part == "selection" else options.decode_searches:
                search = {"batch": batch, "beams": beams}
                if part == "selection":
                    run = functools.partial(measure_selection, static=docids.static, **search)
                else:
                    run = functools.partial(measure_decode, **search)
                yield {**key, **search}, functools.partial(run, docids.constraint, limits=limits)


def measure(options: argparse.Namespace) -> None:
    """Measure every cell, and write and tell each as it is done."""
    results = Results(options.out, options.static)
    grid = itertools.product(options.documents, options.vocabularies, options.lengths, options.docids)
    settings = [Setting(*values) for values in grid]
    for number, setting in enumerate(settings, 1):
        docids = Docids(setting, with_static=bool(options.static))
        for key, run in cells(docids, options):
            start = time.perf_counter()
            row = {**key, **run(), "load_average": round(os.getloadavg()[0], 1)}
            results.keep(row)
            seconds = time.perf_counter() - start
            name = " ".join(f"{value}" for value in key.values())
            print(f"[{number}/{len(settings)}, {seconds:.0f} s] {name}: {told(row)}", file=sys.stderr, flush=True)


def told(row: Row) -> str:
    """Our ratios to the other sides, in short."""
    ratios = {side: found["median"] if isinstance(found, dict) else found for side, found in row["ratio"].items()}
    said = [f"{ratio:.3g} of {side}" for side, ratio in ratios.items()]
    return ", ".join([*said, *([row["static_raised"]] if "static_raised" in row else [])])


def _search(text: str) -> tuple[int, int]:
    batch, beams = map(int, text.split("x"))
    return batch, beams


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", type=Path, metavar="FOLDER", help=f"checkout of {REPOSITORY}")
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=PARTS, help="none: only plot")
    parser.add_argument("--documents", nargs="+", type=int, default=[100_000, 1_000_000, 10_000_000])
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[256, 2048])
    parser.add_argument("--lengths", nargs="+", type=int, default=[4, 8])
    parser.add_argument("--docids", nargs="+", choices=("uniform", "zipf"), default=["uniform", "zipf"])
    searches = {"nargs": "+", "type": _search, "metavar": "BATCHxBEAMS"}
    parser.add_argument("--searches", default=[(1, 10), (1, 100), (32, 10), (32, 100)], **searches)
    parser.add_argument("--decode-searches", default=[(1, 10), (1, 100), (32, 10)], **searches)
    parser.add_argument("--repeats", type=int, default=40, help="rounds in a cell")
    parser.add_argument("--limit-seconds", type=float, default=60, help=f"of a cell; {FEWEST_ROUNDS} rounds at least")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/decoding.json"))
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="time of selection against documents, from --out")
    parser.add_argument("--peak-of", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and draw the parts that the options name."""
    options = parse(arguments)
    if options.static:
        import_static(options.static)
    if options.peak_of:
        print_peak(*options.peak_of)
        return
    with folder_lock(options.out.parent, doing="measuring"):  # two at once would measure each other
        measure(options)
    if options.plot:
        plot(read_json(options.out)["rows"], options.plot, options.vocabularies[0], options.lengths[-1])


if __name__ == "__main__":
    main()
