"""Systems that a report on documents measures beside the runs: BM25 in several forms."""

import dataclasses

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.words import normalized_words
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.report import System
from genret_jax.problems.problem import Requests

BM25_DEPTH = 100
_KNOWN = "BM25, k1 0.9, b 0.4"
#: Names of the rows.
BM25_NAMES = frozenset({"BM25", "BM25, raw text", _KNOWN, f"{_KNOWN}, training queries"})


def bm25_answers(corpus: Corpus, normalization: str, requests: Requests) -> list[SystemRun]:
    """Search by BM25: over the words that runs see, so that both sides split identifiers alike, and over the raw text.

    Further rows have Anserini's constants, which suit short documents, and know the training queries as runs do.

    Args:
        corpus: The documents.
        normalization: ``"words"`` or ``"none"``, as of the runs' vocabulary.
        requests: The queries.
    """
    from genret_jax.baselines.bm25 import Bm25, Bm25Config

    usual, anserini = Bm25Config(), Bm25Config(k1=0.9, b=0.4)
    seen, over, rows = corpus, "over the text", []
    if normalization == "words":
        rows = [("BM25, raw text", seen, usual, over)]
        seen, over = _as_words(seen), "over the words that the runs see"
    rows = [("BM25", seen, usual, over), *rows, (_KNOWN, seen, anserini, over)]
    if seen.qrels.get("train"):
        about = f"{over} and of the training queries that each document answers"
        rows.append((f"{_KNOWN}, training queries", with_queries(seen), anserini, about))
    systems = []
    for name, searched, config, about in rows:
        bm25 = Bm25(searched, config)
        queries = {query: searched.queries[query] for query in requests.split.qrels}
        answers, milliseconds = timed_search(bm25.search, queries, BM25_DEPTH)
        system = System(name=name, description=f"{bm25.config.describe()}, {about}")
        systems.append(SystemRun(system=system, run=answers, depth=BM25_DEPTH, milliseconds_per_query=milliseconds))
    return systems


def _as_words(corpus: Corpus) -> Corpus:
    return dataclasses.replace(
        corpus,
        titles=tuple(map(_normalized, corpus.titles)),
        texts=tuple(map(_normalized, corpus.texts)),
        queries={query: _normalized(text) for query, text in corpus.queries.items()},
    )


def _normalized(text: str) -> str:
    return " ".join(normalized_words(text))


def with_queries(corpus: Corpus) -> Corpus:
    """Append to each document the training queries that it answers."""
    texts = list(corpus.texts)
    for query, grades in corpus.qrels["train"].items():
        for doc_id in grades:
            texts[corpus.document_index[doc_id]] += f" {corpus.queries[query]}"
    return dataclasses.replace(corpus, texts=tuple(texts))
