#!/usr/bin/env python
"""Time the preparation of examples, and the sampler against a seqio pipeline that tokenises the same documents.

Preparing is everything between a corpus in memory and an example store on disk, from which all tasks are sampled;
training the SentencePiece model is timed apart. All sides run in one process, one after the other in every round.
Rates are given by the clock and by processor time of all threads, which other programs on the machine do not change.

Example:
    python scripts/benchmark_examples.py --out benchmarks/results/examples.json
    python scripts/benchmark_examples.py --corpus my-corpus --out my-corpus.json
"""

import argparse
import os
import platform
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.examples.building import build_store
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.seqio.tasks import register_tasks
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.data.text.vocabulary import train_sentencepiece
from genret_jax.docids.codec import DocidCodec
from genret_jax.docids.table import DocidTable
from genret_jax.storage import write_json

BATCH, STEPS = 64, 40


def docids(corpus: Corpus) -> DocidTable:
    """Two-level docids in the order of the corpus: what a document's docid is does not change the work."""
    numbers = np.arange(len(corpus))
    codes = np.stack([numbers // 100, numbers % 100], axis=1)
    return DocidTable.from_codes(corpus.doc_ids, codes, strategy={}, corpus_fingerprint=corpus.fingerprint)


def rates(count: int, action: Callable[[], Any]) -> dict[str, float]:
    """Run something once: how many of ``count`` things it does a second by the clock, and a second of processor."""
    wall, processor_time = time.perf_counter(), time.process_time()
    action()
    wall, processor_time = time.perf_counter() - wall, time.process_time() - processor_time
    return {"per_second": count / wall, "per_cpu_second": count / processor_time}


def sampling(store: ExampleStore, config: SamplerConfig) -> Callable[[int], None]:
    """A round of sampling: STEPS batches that no other round had."""
    sampler = Sampler(store, config, seed=0, batch_size=BATCH)

    def sample(first: int) -> None:
        for step in range(first, first + STEPS):
            sampler.batch(step)

    return sample


def seqio_sides(store: ExampleStore, corpus: Corpus, config: SamplerConfig, folder: Path) -> dict[str, Any]:
    """Our mixture through seqio, and a seqio task that tokenises the same documents with seqio's own vocabulary."""
    import seqio
    import tensorflow as tf

    register_tasks(str(store.folder), "benchmark", config, batch_size=BATCH)
    model = folder / "vocabulary.model"
    model.write_bytes(store.vocabulary.model)  # type: ignore[attr-defined]
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    vocabulary = seqio.SentencePieceVocabulary(str(model), extra_ids=0)
    seqio.TaskRegistry.add(
        "benchmark_tokenise",
        source=seqio.FunctionDataSource(
            lambda split, shuffle_files, seed=None: tf.data.Dataset.from_tensor_slices(
                {"inputs": texts, "targets": [str(index) for index in range(len(texts))]}
            ).repeat(),
            splits=["train"],
        ),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos_after_trim],
        output_features={side: seqio.Feature(vocabulary) for side in ("inputs", "targets")},
    )
    lengths = {"inputs": config.input_length, "targets": 8}

    def endless(name: str) -> Any:
        task = seqio.get_mixture_or_task(name)
        return iter(task.get_dataset(lengths, split="train", shuffle=False, num_epochs=None).as_numpy_iterator())

    return {"mixture_through_seqio": endless("benchmark"), "seqio_tokenising_documents": endless("benchmark_tokenise")}


def take(examples: Any) -> None:
    """Read the number of examples that a round of sampling makes."""
    for _ in range(BATCH * STEPS):
        next(examples)


def spread(values: list[float]) -> dict[str, float]:
    """Median and quartiles."""
    quartiles = np.percentile(values, [25, 50, 75]).round(1).tolist()
    return dict(zip(("low", "median", "high"), quartiles, strict=True))


def spreads(runs: list[dict[str, float]], times: float = 1.0) -> dict[str, dict[str, float]]:
    """Medians and quartiles of each rate of several runs."""
    return {name: spread([run[name] * times for run in runs]) for name in runs[0]}


def measure(corpus: Corpus, repeats: int, folder: Path) -> dict[str, Any]:
    """Run every side ``repeats`` times, interleaved."""
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    start = time.perf_counter()
    vocabulary = train_sentencepiece(texts, extra_ids=100)
    training, table = time.perf_counter() - start, docids(corpus)
    codec = DocidCodec(first_token=vocabulary.size, level_sizes=table.level_sizes, eos="always")

    def prepare() -> None:
        build_store(folder / "store", corpus, codec.encode(table), vocabulary, codec=codec, replace=True)

    prepared = [rates(len(corpus), prepare) for _ in range(repeats)]
    store = ExampleStore.open(folder / "store")
    recipe = SamplerConfig()
    objectives = ("targets_to_inputs", "bidirectional", "span_corruption")
    configs = {"recipe": recipe} | {name: SamplerConfig(objective=name) for name in objectives}
    samplers = {name: sampling(store, config) for name, config in configs.items()}
    through_seqio = seqio_sides(store, corpus, recipe, folder) if installed("seqio") else {}
    for examples in through_seqio.values():
        take(examples)  # tracing and first buffers
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in (*samplers, *through_seqio)}
    for repeat in range(repeats):
        for name, sample in samplers.items():
            runs[name].append(rates(BATCH * STEPS, lambda s=sample, r=repeat: s(r * STEPS)))
        for name, examples in through_seqio.items():
            runs[name].append(rates(BATCH * STEPS, lambda e=examples: take(e)))
    report: dict[str, Any] = {
        "documents": len(corpus),
        "words": int(store.array("document_offsets")[-1]),
        "distinct_words": int(store.manifest["words"]),
        "vocabulary_size": vocabulary.size,
        "sentencepiece_training_seconds": round(training, 2),
        "prepared_documents_per_minute": {
            name.replace("second", "minute"): value for name, value in spreads(prepared, 60).items()
        },
        "examples": {name: spreads(values) for name, values in runs.items()},
    }
    if through_seqio:
        pairs = zip(runs["recipe"], runs["seqio_tokenising_documents"], strict=True)
        ratios = [{name: ours[name] / theirs[name] for name in ours} for ours, theirs in pairs]
        report["sampler_to_seqio_tokenising"] = spreads(ratios)
    return report


def installed(package: str) -> str | None:
    """Version of an installed package."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def processor() -> str:
    """Name of the processor, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def main() -> None:
    """Measure and write the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", metavar="DIR", help="BEIR folder (default: this Python's documentation)")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", default="benchmarks/results/examples.json")
    arguments = parser.parse_args()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    corpus = read_beir(arguments.corpus) if arguments.corpus else python_docs()
    with tempfile.TemporaryDirectory() as folder:
        report = measure(corpus, arguments.repeats, Path(folder))
    packages = ("numpy", "sentencepiece", "seqio", "tensorflow")
    report = {
        "what": "example store of a corpus in memory, and training examples of 24 tokens in batches of 64",
        "corpus": corpus.name,
        **report,
        "targets": {"prepared_documents_per_minute": 20_000, "examples_per_second": 3_000},
        "hardware": {"processor": processor(), "cores": os.cpu_count(), "load_average": os.getloadavg()[0]},
        "versions": {"python": platform.python_version(), **{name: installed(name) for name in packages}},
    }
    write_json(arguments.out, report)
    print(Path(arguments.out).read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
