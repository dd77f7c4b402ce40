"""Write queries for documents, to train on them (doc2query, Nogueira et al. 2019, arXiv 1904.08375)."""

import dataclasses
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.vocabulary import Vocabulary, from_model_file
from genret_jax.data.text.words import normalized_words
from genret_jax.errors import InputError
from genret_jax.inference import sample_texts
from genret_jax.models.config import T5Config
from genret_jax.run.folder import open_run

_BATCH = 32  # documents read together
_PUBLIC_INPUT, _PUBLIC_QUERY = 512, 64  # tokens of documents and queries that docT5query was trained with
_PUBLIC_EXTRA_IDS = 100


@dataclasses.dataclass(frozen=True, kw_only=True)
class QueryWriter:
    """A T5 that reads a document and writes a query.

    Attributes:
        vocabulary: Vocabulary of documents and queries.
        params: Parameters of the network.
        config: Configuration of the network.
        input_length: Number of tokens that it reads of a document.
        query_length: Most tokens of a query.
        append_eos: Whether documents end with EOS.
    """

    vocabulary: Vocabulary
    params: Mapping[str, Any]
    config: T5Config
    input_length: int
    query_length: int
    append_eos: bool

    @classmethod
    def load(
        cls, run: str | os.PathLike[str], *, checkpoint: str | int = "best", allow_imports: Collection[str] = ()
    ) -> "QueryWriter":
        """Open a run that was trained to write queries (``runs/queries_from_scratch.gin``).

        Args:
            run: The run folder.
            checkpoint: ``"best"``, ``"last"``, or a step.
            allow_imports: Modules outside genret_jax that the run's configuration may import, which runs their code.

        Raises:
            InputError: If the folder is no run, or its decoder writes docids.
        """
        opened: Any = open_run(run, allow_imports=allow_imports)
        if not opened.writes_queries:
            raise InputError(
                f"a run that writes docids of {opened.kind}, not queries",
                file=opened.folder,
                expected="a run with SamplerConfig.objective = 'documents_to_queries'",
                fix="train one with 'genret train --recipe queries'",
            )
        sampler = opened.experiment.sampler
        return cls(
            vocabulary=opened.vocabulary,
            params=opened.params(checkpoint),
            config=opened.model,
            input_length=sampler.input_length,
            query_length=sampler.target_length or sampler.input_length,
            append_eos=sampler.append_eos,
        )

    @classmethod
    def from_public(cls, path: str | os.PathLike[str]) -> "QueryWriter":
        """Open a public checkpoint that was trained to write queries, such as castorini/doc2query-t5-base-msmarco.

        Args:
            path: Its folder, with ``spiece.model`` in it.

        Raises:
            InputError: If it cannot be read, or is not a T5.
        """
        from genret_jax.models.convert.public_checkpoint import open_checkpoint

        checkpoint = open_checkpoint(os.fspath(path))
        return cls(
            vocabulary=from_model_file(path, normalization="none", extra_ids=_PUBLIC_EXTRA_IDS),
            params=jax.device_put(checkpoint.load()),
            config=checkpoint.config,
            input_length=_PUBLIC_INPUT,
            query_length=_PUBLIC_QUERY,
            append_eos=True,
        )

    def write(
        self, texts: Sequence[str], number: int, *, top_k: int = 10, temperature: float = 1.0, seed: int = 0
    ) -> Iterator[list[str]]:
        """Yield the queries of each text, in order; the same seed gives the same queries.

        Args:
            texts: Texts of documents.
            number: Queries per document.
            top_k: Number of next tokens to draw from; 10 as for docT5query.
            temperature: Logits are divided by it.
            seed: Seed of the random numbers.

        Raises:
            InputError: If there is nothing to draw, or nothing to draw from.
        """
        for start in range(0, len(texts), _BATCH):
            # Always as many rows, so that nothing is compiled again.
            tokens = self.vocabulary.encode_rows(
                texts[start : start + _BATCH], self.input_length, append_eos=self.append_eos, rows=_BATCH
            )
            found = sample_texts(
                self.params,
                tokens,
                jax.random.fold_in(jax.random.key(seed), start),
                config=self.config,
                written=self.vocabulary.size - self.vocabulary.extra_ids,
                samples=number,
                length=self.query_length,
                top_k=top_k,
                temperature=temperature,
            )
            for queries in np.asarray(found)[: len(texts) - start].tolist():
                yield [self.vocabulary.decode(query) for query in queries]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generated:
    """Queries that were written for a corpus, and counts of those that were left out.

    Attributes:
        queries: Maps each document id to its queries; documents without queries are missing.
        counts: ``documents``, ``written``, ``kept``, ``empty``, ``repeated`` (in the same document, left out),
            ``shared`` (also written for another document; kept), and ``evaluation/SPLIT``: queries of a split other
            than train, left out.
    """

    queries: dict[str, tuple[str, ...]]
    counts: dict[str, int]


def generate_queries(
    writer: QueryWriter,
    corpus: Corpus,
    number: int,
    *,
    top_k: int = 10,
    temperature: float = 1.0,
    seed: int = 0,
    progress: bool = False,
) -> Generated:
    """Write queries for all documents with text, without useless ones and without leaks of evaluation queries.

    Queries are compared by their normalised words. A written query that equals one of an evaluation split is left out:
    it would show training the test, although the writer never saw that query.

    Args:
        writer: The model that writes.
        corpus: Documents, and the queries of its splits.
        number: Queries to write per document.
        top_k: Number of next tokens to draw from.
        temperature: Logits are divided by it.
        seed: Seed of the random numbers.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: If there is nothing to draw, or nothing to draw from.
    """
    from tqdm import tqdm

    if number < 1:
        raise InputError(f"{number} queries of each document", expected="at least 1")
    splits: dict[tuple[str, ...], str] = {}
    for split, qrels in corpus.qrels.items():
        if split != "train":
            splits |= {_words(corpus.queries[query]): split for query in qrels}
    counts = {"documents": 0, "written": 0, "kept": 0, "empty": 0, "repeated": 0, "shared": 0}
    counts |= {f"evaluation/{split}": 0 for split in corpus.qrels if split != "train"}
    texts = [corpus.document_text(index) for index in range(len(corpus))]
    readable = [index for index, text in enumerate(texts) if text.strip()]
    written = writer.write(
        [texts[index] for index in readable], number, top_k=top_k, temperature=temperature, seed=seed
    )
    kept: dict[str, tuple[str, ...]] = {}
    first_of: dict[tuple[str, ...], int] = {}
    bar = tqdm(zip(readable, written, strict=True), total=len(readable), unit="document", disable=not progress)
    for document, queries in bar:
        own: dict[tuple[str, ...], str] = {}
        for query in queries:
            words = _words(query)
            if not words:
                counts["empty"] += 1
            elif words in own:
                counts["repeated"] += 1
            elif words in splits:
                counts[f"evaluation/{splits[words]}"] += 1
            else:
                own[words] = query
                counts["shared"] += first_of.setdefault(words, document) != document
        counts["documents"] += 1
        counts["written"] += len(queries)
        counts["kept"] += len(own)
        if own:
            kept[corpus.doc_ids[document]] = tuple(own.values())
    return Generated(queries=kept, counts=counts)


def _words(text: str) -> tuple[str, ...]:
    return tuple(normalized_words(text))
