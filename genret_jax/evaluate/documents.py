"""What is measured of runs on documents: the runs, their networks untrained, BM25 and dual encoders."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from genret_jax.data.corpus import Corpus
from genret_jax.data.splits import evenly_spread
from genret_jax.data.text.words import normalized_words
from genret_jax.evaluation.compare import (
    EvaluationSplit,
    SystemRun,
    evaluation_split,
    memorisation_split,
    timed_search,
)
from genret_jax.evaluation.report import System
from genret_jax.retriever import Retriever
from genret_jax.run import stderr
from genret_jax.run.documents import DocumentRun

REFERENCE = "BM25"
# Every document is a memorisation query; a sample of so many says it to within a point.
_MEMORISED = 2048
_BM25_DEPTH = 100
# The beam search is compared with the exhaustive one on so many queries, where there are not more docids than this.
_EXHAUSTIVE_QUERIES, _EXHAUSTIVE_DOCIDS = 32, 10_000

Ranking = dict[str, list[tuple[str, float]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Baselines:
    """What is measured beside the trained runs. On items, popularity and item neighbours always are.

    Attributes:
        bm25: BM25 by bm25s, the reference of the paired differences; on documents.
        untrained: Each run's network before its first step, which for a start from the corpus is worth knowing; on
            items, where a run has such a start.
        dual_encoder: A dual encoder with each run's encoder, trained for as many steps, searched exactly and by HNSW;
            on documents.
        sasrec: SASRec with its paper's loss and with a softmax over all items, trained in the first run's folder; on
            items.
    """

    bm25: bool = True
    untrained: bool = True
    dual_encoder: bool = False
    sasrec: bool = False


DEFAULT_BASELINES = Baselines()


def search_documents(
    runs: Mapping[str, DocumentRun],
    *,
    split: str,
    checkpoint: str | int,
    beam: int | None,
    mesh: Mesh | None,
    baselines: Baselines,
    seeds_of: Mapping[str, str],
) -> list[tuple[EvaluationSplit, list[SystemRun]]]:
    """Let runs of one corpus, and what is measured beside them, answer a split, and the documents themselves.

    Args:
        runs: By the names that they have in the report.
        split: Split of the qrels.
        checkpoint: Which checkpoint of each run.
        beam: Beams of the search; None for each run's own.
        mesh: Devices to search on; None for one.
        baselines: What is measured beside; of several seeds, beside the first.
        seeds_of: Of runs that are a seed, what of.
    """
    first = next(iter(runs.values()))
    test = evaluation_split(first.corpus, split)
    documents = evenly_spread(first.store.documents_with_text, _MEMORISED)
    remembered = memorisation_split(first.corpus.doc_ids[document] for document in documents)
    found, memory = [], []
    if baselines.bm25:
        found += _bm25(first, test)
    for name, run in runs.items():
        depth = beam or run.evaluation.beam
        leads = leads_its_seeds(name, seeds_of)
        if baselines.untrained and leads:
            found.append(_search(run, f"{name}, untrained", "start", mesh, test, depth)[0])
        answers, remembers = _search(run, name, checkpoint, mesh, test, depth, remembered, seeds_of.get(name))
        found.append(answers)
        memory += [remembers] if remembers else []
        if baselines.dual_encoder and leads:
            from genret_jax.baselines.dual_encoder import train_and_answer, trainer_like

            found += train_and_answer(
                run.store,
                _texts(run.corpus, test),
                depth,
                name=name,
                network=run.model,
                sampler=run.sampler,
                trainer=trainer_like(run.folder, seed=run.seed, validated="validation" in run.store.splits),
                folder=run.folder / "dual_encoder",
                init_params=run.start_params(),
            )
    return [(test, found), (remembered, memory)]


def leads_its_seeds(name: str, seeds_of: Mapping[str, str]) -> bool:
    """Tell whether a run is no seed, or the first of them; what stands beside it then stands for all."""
    return name not in seeds_of or name == next(seed for seed in seeds_of if seeds_of[seed] == seeds_of[name])


def _search(
    run: DocumentRun,
    name: str,
    checkpoint: str | int,
    mesh: Mesh | None,
    test: EvaluationSplit,
    depth: int,
    remembered: EvaluationSplit | None = None,
    seed_of: str | None = None,
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
        details={
            "parameters": numbers,
            "beams": depth,
            **_codebooks(run.table.strategy),
            **_beside_exhaustive(retriever, tokens, depth),
        },
    )
    answered = SystemRun(system=system, run=answers, depth=depth, milliseconds_per_query=milliseconds, seed_of=seed_of)
    if remembered is None:
        return answered, None
    documents = np.array([run.corpus.document_index[doc_id] for doc_id in remembered.qrels])
    inputs = run.store.document_inputs(length, documents=documents, append_eos=ends)
    beam = min(depth, 10)
    ranked = retriever.rank(inputs, beam=beam, batch_size=run.evaluation.batch_size, progress=True)
    found = _ranking(run, ranked, remembered.qrels)
    return answered, SystemRun(system=system, run=found, depth=beam, seed_of=seed_of)


def _codebooks(strategy: Mapping[str, Any]) -> dict[str, str]:
    """Say how codebooks were used while docids were learned, where they were."""
    levels: dict[int, list[Mapping[str, Any]]] = {}
    for at in strategy.get("course", []):
        levels.setdefault(at["level"], []).append(at)
    told = {}
    for level, course in levels.items():
        used = ", ".join(f"{at['perplexity']:.1f}" for at in course)
        last = course[-1]
        told[f"codebook {level}"] = (
            f"perplexity {used} of {last['size']} while it was learned, {last['used']} codes used, "
            f"{last['prefixes']:,} docids of {last['rows']:,} documents so far"
        )
    return told


def _beside_exhaustive(retriever: Retriever, tokens: np.ndarray, depth: int) -> dict[str, str]:
    """Say how far the beam search is from scoring every docid."""
    if retriever.index.num_docids > _EXHAUSTIVE_DOCIDS:
        return {}
    chosen = tokens[evenly_spread(np.arange(len(tokens)), _EXHAUSTIVE_QUERIES)]
    shares = retriever.beside_exhaustive(chosen, beam=depth)
    told = f"{shares['found']:.1%} of the true best 10 found, {shares['certified']:.0%} of queries certified"
    return {f"beside exhaustive search ({len(chosen)} queries)": told}


def _ranking(run: DocumentRun, ranked: Any, queries: Mapping[str, Any]) -> Ranking:
    ids = run.corpus.doc_ids
    return {query: [(ids[d], score) for d, score in ranked.of(row)] for row, query in enumerate(queries)}


def _bm25(run: DocumentRun, test: EvaluationSplit) -> list[SystemRun]:
    """Search by BM25 over the run's own words, so that both sides split identifiers alike, and by bm25s as it comes.

    Then with the constants of Anserini, which suit short documents, and knowing the training queries as the run does.
    """
    from genret_jax.baselines.bm25 import Bm25, Bm25Config

    usual, anserini = Bm25Config(), Bm25Config(k1=0.9, b=0.4)
    seen, over, found = run.corpus, "over the text", []
    if run.vocabulary.normalization == "words":
        found = [(f"{REFERENCE}, raw text", seen, usual, over)]
        seen, over = _of_words(seen), "over the words that the runs see"
    named = f"{REFERENCE}, k1 {anserini.k1:g}, b {anserini.b:g}"
    found = [(REFERENCE, seen, usual, over), *found, (named, seen, anserini, over)]
    if seen.qrels.get("train"):
        told = "and of the training queries that each document answers"
        found.append((f"{named}, training queries", with_queries(seen), anserini, f"{over} {told}"))
    systems = []
    for name, searched, config, over in found:
        bm25 = Bm25(searched, config)
        answers, milliseconds = timed_search(bm25.search, _texts(searched, test), _BM25_DEPTH)
        system = System(name=name, description=f"{bm25.config.describe()}, {over}")
        systems.append(SystemRun(system=system, run=answers, depth=_BM25_DEPTH, milliseconds_per_query=milliseconds))
    return systems


def _of_words(corpus: Corpus) -> Corpus:
    return dataclasses.replace(
        corpus,
        titles=tuple(map(_normalized, corpus.titles)),
        texts=tuple(map(_normalized, corpus.texts)),
        queries={query: _normalized(text) for query, text in corpus.queries.items()},
    )


def with_queries(corpus: Corpus) -> Corpus:
    """Append to each document the training queries that it answers."""
    texts = list(corpus.texts)
    for query, grades in corpus.qrels["train"].items():
        for doc_id in grades:
            texts[corpus.document_index[doc_id]] += f" {corpus.queries[query]}"
    return dataclasses.replace(corpus, texts=tuple(texts))


def _normalized(text: str) -> str:
    return " ".join(normalized_words(text))


def _texts(corpus: Corpus, test: EvaluationSplit) -> dict[str, str]:
    return {query: corpus.queries[query] for query in test.qrels}
