"""Evaluate trained runs beside what a user would pick instead, on the same corpus and queries."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genret_jax.data.corpus import Corpus
from genret_jax.data.words import normalized_words
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import (
    EvaluationSplit,
    SystemRun,
    compare,
    evaluation_split,
    memorisation_split,
    timed_search,
)
from genret_jax.evaluation.environment import environment
from genret_jax.evaluation.plot import plot_run
from genret_jax.evaluation.render import markdown
from genret_jax.evaluation.report import Dataset, Report, System
from genret_jax.evaluation.trec import write_qrels, write_run
from genret_jax.retriever import Retriever
from genret_jax.run import Run, stderr
from genret_jax.storage import atomic_folder
from genret_jax.training import read_metrics

REFERENCE = "BM25"
# Every document is a memorisation query; a sample of so many says it to within a point.
_MEMORISED = 2048
_BM25_DEPTH = 100
# The beam search is compared with the exhaustive one on so many queries, where there are not more docids than this.
_EXHAUSTIVE_QUERIES, _EXHAUSTIVE_DOCIDS = 32, 10_000

Ranking = dict[str, list[tuple[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What is measured beside the trained runs.

    Attributes:
        bm25: BM25 by bm25s, the reference of the paired differences.
        untrained: Each run's network before its first step, which for a start from the corpus is worth knowing.
        dual_encoder: A dual encoder with each run's encoder, trained for as many steps, searched exactly and by HNSW.
    """

    bm25: bool = True
    untrained: bool = True
    dual_encoder: bool = False


def evaluate_runs(
    runs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    split: str | None = None,
    checkpoint: str | int = "best",
    beam: int | None = None,
    mesh: Mesh | None = None,
    baselines: Baselines = Baselines(),
) -> Report:
    """Measure runs of one corpus and write a folder with the report.

    Args:
        runs: Run folders; in the report each goes by its folder's name.
        out: Folder to write, or an earlier report to replace: ``report.json``, ``report.md``, ``qrels.txt``, a TREC
            run file a system, and a picture of each run's training.
        split: Split of the qrels; by default the run's own.
        checkpoint: Which checkpoint of each run.
        beam: Beams of the search; by default the run's own.
        mesh: Devices to search on, as of :meth:`genret_jax.Retriever.load`; None for one.
        baselines: What is measured beside.

    Returns:
        The report.

    Raises:
        InputError: If the runs are of different corpora, the split is missing, or ``out`` holds something else.
    """
    _check_out(Path(out))
    if beam is not None and beam < 1:
        raise InputError(f"a beam of {beam}", expected="at least 1", fix="give another --beam")
    opened = {Path(folder).resolve().name: Run.open(folder) for folder in runs}
    if len(opened) != len(runs):
        raise InputError("two runs have the same folder name", fix="rename one: the report calls runs by it")
    first = next(iter(opened.values()))
    corpus = first.corpus
    for run in opened.values():
        if run.fingerprints["corpus"] != first.fingerprints["corpus"]:
            raise InputError("a run of another corpus", file=run.folder, expected=f"the corpus of {first.folder}")
    split = split or first.evaluation.split
    test = evaluation_split(corpus, split)
    remembered = memorisation_split(corpus.doc_ids[d] for d in _spread(first.store.documents_with_text, _MEMORISED))
    found, memory = [], []
    if baselines.bm25:
        found += _bm25(first, test)
    for name, run in opened.items():
        depth = beam or run.evaluation.beam
        if baselines.untrained:
            found.append(_search(run, f"{name}, untrained", "start", mesh, test, depth)[0])
        answers, remembers = _search(run, name, checkpoint, mesh, test, depth, remembered)
        found.append(answers)
        memory += [remembers] if remembers else []
        if baselines.dual_encoder:
            from genret_jax.baselines.dual_encoder import answers_of_run

            found += answers_of_run(run, name, test, depth)
    report = compare(
        Dataset(name=corpus.name, documents=len(corpus), fingerprint=corpus.fingerprint),
        [(test, found), (remembered, memory)],
        reference=REFERENCE if baselines.bm25 else None,
        budget={name: _budget(run) for name, run in opened.items()},
        environment=environment(),
        notes=_notes(opened, baselines),
    )
    _write(Path(out), report, test, found, opened)
    return report


def _search(
    run: Run,
    name: str,
    checkpoint: str | int,
    mesh: Mesh | None,
    test: EvaluationSplit,
    depth: int,
    remembered: EvaluationSplit | None = None,
) -> tuple[SystemRun, SystemRun | None]:
    """Search with one checkpoint: the split, and where asked also documents for themselves."""
    params = run.params(checkpoint, mesh)
    retriever = Retriever(run, params)
    length, ends = run.sampler.input_length, run.sampler.append_eos
    ids, tokens = run.store.queries(test.name, length, append_eos=ends)
    row = {query: number for number, query in enumerate(ids)}

    def search(queries: Mapping[str, str], depth: int) -> Ranking:
        chosen = tokens[[row[query] for query in queries]]
        return _ranking(
            run, retriever.rank(chosen, beam=depth, batch_size=run.evaluation.batch_size, progress=True), queries
        )

    stderr(f"searching {len(test.qrels):,} queries: {name}")
    answers, milliseconds = timed_search(search, _texts(run.corpus, test), depth)
    numbers = sum(leaf.size for leaf in jax.tree.leaves(params))
    kind = "before its first step" if checkpoint == "start" else f"checkpoint '{checkpoint}'"
    system = System(
        name=name,
        description=f"{run.table.strategy['name']} docids, {kind}",
        details={"parameters": numbers, "beams": depth, **_beside_exhaustive(retriever, tokens, depth)},
    )
    answered = SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds)
    if remembered is None:
        return answered, None
    documents = np.array([run.corpus.document_index[doc_id] for doc_id in remembered.qrels])
    inputs = run.store.document_inputs(length, documents=documents, append_eos=ends)
    beam = min(depth, 10)
    ranked = retriever.rank(inputs, beam=beam, batch_size=run.evaluation.batch_size, progress=True)
    return answered, SystemRun(system=system, run=_ranking(run, ranked, remembered.qrels), depth=beam)


def _beside_exhaustive(retriever: Retriever, tokens: np.ndarray, depth: int) -> dict[str, str]:
    """Say how far the beam search is from scoring every docid."""
    if retriever.index.num_docids > _EXHAUSTIVE_DOCIDS:
        return {}
    chosen = tokens[_spread(np.arange(len(tokens)), _EXHAUSTIVE_QUERIES)]
    shares = retriever.beside_exhaustive(chosen, beam=depth)
    told = f"{shares['found']:.1%} of the true best 10 found, {shares['certified']:.0%} of queries certified"
    return {f"beside exhaustive search ({len(chosen)} queries)": told}


def _ranking(run: Run, ranked: Any, queries: Mapping[str, Any]) -> Ranking:
    ids = run.corpus.doc_ids
    return {query: [(ids[d], score) for d, score in ranked.of(row)] for row, query in enumerate(queries)}


def _bm25(run: Run, test: EvaluationSplit) -> list[SystemRun]:
    """Search by BM25 over the run's own words, so that both sides split identifiers alike, and by bm25s as it comes."""
    from genret_jax.baselines.bm25 import Bm25

    corpus, found = run.corpus, []
    if run.vocabulary.normalization == "words":
        same = dataclasses.replace(
            corpus,
            titles=tuple(map(_normalized, corpus.titles)),
            texts=tuple(map(_normalized, corpus.texts)),
            queries={query: _normalized(text) for query, text in corpus.queries.items()},
        )
        found = [
            (REFERENCE, same, "over the words that the runs see"),
            (f"{REFERENCE}, raw text", corpus, "over the text"),
        ]
    else:
        found = [(REFERENCE, corpus, "over the text")]
    systems = []
    for name, searched, over in found:
        bm25 = Bm25(searched)
        answers, milliseconds = timed_search(bm25.search, _texts(searched, test), _BM25_DEPTH)
        system = System(name=name, description=f"{bm25.config.describe()}, {over}")
        systems.append(SystemRun(system=system, run=answers, depth=_BM25_DEPTH, milliseconds_per_query=milliseconds))
    return systems


def _normalized(text: str) -> str:
    return " ".join(normalized_words(text))


def _texts(corpus: Corpus, test: EvaluationSplit) -> dict[str, str]:
    return {query: corpus.queries[query] for query in test.qrels}


def _spread(indices: np.ndarray, most: int) -> np.ndarray:
    """Return at most so many of the indices, evenly spread."""
    return indices[np.unique(np.linspace(0, len(indices) - 1, min(most, len(indices))).astype(int))]


def _budget(run: Run) -> dict[str, Any]:
    """Return what training was given, as its log tells."""
    records = read_metrics(run.folder)
    steps = max((record["step"] for record in records), default=0)
    rates = [record["steps_per_second"] for record in records if record.get("steps_per_second")]
    seconds = {"training seconds": round(steps / float(np.median(rates)))} if rates else {}
    return {"steps": steps, "seed": run.seed, **seconds}


def _notes(runs: Mapping[str, Run], baselines: Baselines) -> list[str]:
    notes = []
    from_corpus = any((run.settings["start"] or {}).get("class") == "LsaStart" for run in runs.values())
    if from_corpus and baselines.untrained:
        notes.append(
            "'untrained' is the network as it is initialised from latent semantic analysis of the corpus: what "
            "training adds is the difference to it."
        )
    return notes


def _check_out(out: Path) -> None:
    """Refuse to replace what is not a report, before any search is made for it."""
    if out.exists() and not (out.is_dir() and ((out / "report.json").is_file() or not any(out.iterdir()))):
        raise InputError(
            "there is something else than a report",
            file=out,
            expected="a new folder, or that of an earlier report",
            fix="choose another --out folder",
        )


def _write(
    out: Path, report: Report, test: EvaluationSplit, found: Sequence[SystemRun], runs: Mapping[str, Run]
) -> None:
    with atomic_folder(out, replace=True) as folder:
        report.save(folder / "report.json")
        (folder / "report.md").write_text(markdown(report), encoding="utf-8")
        write_qrels(folder / "qrels.txt", test.qrels)
        for system in found:
            slug = "-".join(system.system.name.lower().replace(",", "").split())
            write_run(folder / f"{slug}.run", system.run, tag=slug)  # type: ignore[arg-type]
        for name, run in runs.items():
            try:
                plot_run(run.folder, folder / f"{name}.png", title=f"{report.dataset.name}: {name}")
            except InputError as error:
                stderr(f"no picture of {name}: {error}")
