"""The parts of a run folder that runs with an encoder or a plan have: the encoder, its vectors, and the plan's words.

    encoder/         the encoder's own files, so that the run is complete without the folder they came from
    latent/          or, without a pretrained encoder, the vectors of tokens from latent semantic analysis
    vectors/         its vectors of the documents
    query_vectors/   its vectors of the training queries
    lexical/         the weights of terms in documents, with the settings that were chosen, also of words alone
    pool/            encoder states of training examples, where they are computed once

Each is made when it is first asked for, unless it is there.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
from jaxtyping import Float, Int

from genret_jax.baselines.plan_kinds import EncodedQueries, Words, sum_of_both, vectors_alone, words_alone
from genret_jax.config.experiment import Experiment
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.sampler import Sampler
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.latent import LatentEncoder
from genret_jax.data.text.lexical import QueryMeans, Settings, later_documents, lexical_documents
from genret_jax.data.text.lexical_choice import choose_beside_vectors, choose_settings
from genret_jax.data.text.lsa import lsa
from genret_jax.evaluation.compare import SystemRun
from genret_jax.models.config import T5Config
from genret_jax.models.encoders.getting import copy_encoder
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.parallel.coordination import from_first
from genret_jax.problems.parts import make
from genret_jax.storage import load_arrays, save_arrays
from genret_jax.training.encoded_pool import EncodedPool, is_current, pool_fingerprint, write_pool
from genret_jax.training.left_out import LeftOutQueries
from genret_jax.training.planned_docids import PlanDocuments

ENCODER, LATENT, VECTORS, QUERY_VECTORS = "encoder", "latent", "vectors", "query_vectors"
LEXICAL, POOL = "lexical", "pool"


class EncoderParts:
    """These parts of one run folder.

    Args:
        folder: The run folder.
        experiment: Every choice that made it; its ``encoder`` may be None, and then only terms are weighed.
    """

    def __init__(self, folder: Path, experiment: Experiment):
        self._folder, self._experiment = folder, experiment

    def prepare_encoder(self, corpus: Corpus, like: Path | None) -> None:
        """Copy the encoder into the run folder and encode the documents, if the experiment has one.

        Args:
            corpus: The documents.
            like: Run folder with the same parts, which are copied.
        """
        name = self._experiment.encoder
        if name is None:
            return
        make(self._folder / ENCODER, lambda path: copy_encoder(name, path), like)

        def vectors() -> np.ndarray:
            texts = [corpus.document_text(index) for index in range(len(corpus))]
            return self.encoder.vectors(texts, "passage", progress=True)

        self._write_vectors(VECTORS, vectors, like)

    def prepare_plan(self, store: ExampleStore, corpus: Corpus, log: Callable[[str], None], like: Path | None) -> None:
        """Write the weights of terms in documents, chosen on training queries that are left out, and missing vectors.

        Args:
            store: The example store.
            corpus: Has the texts of the queries.
            log: Receives a line about the settings.
            like: Run folder with the same parts, which are copied.
        """
        plan = self._experiment.model.plan
        if self.is_latent:
            make(self._folder / LATENT, lambda path: self._write_latent(path, store), like)
            self._write_vectors(VECTORS, lambda: self._latent.of_documents(store.token_counts()), like)
        if plan is None or not plan.terms:
            return

        def queries() -> np.ndarray:
            texts = [corpus.queries[store.query_ids[int(number)]] for number in self._queries(store)]
            return self.encoder.vectors(texts, "query", progress=True)

        def lexical(path: Path) -> None:
            given, seed = self._counts(store), self._experiment.docid_seed
            alone = settings = choose_settings(*given, seed=seed)
            if plan.dense:
                settings = choose_beside_vectors(alone, *given, seed=seed, vectors=self._means(store))
            found = lexical_documents(*given, settings)
            arrays = {name: getattr(found.weights, name) for name in ("data", "indices", "indptr")}
            details = {"settings": dataclasses.asdict(settings), "alone": dataclasses.asdict(alone)}
            save_arrays(path, arrays | {"bias": found.bias}, kind=LEXICAL, version=2, details=details)

        if plan.dense:
            self._write_vectors(QUERY_VECTORS, queries, like)
        make(self._folder / LEXICAL, lexical, like)
        log(f"plan        {self.settings.describe(vectors=plan.dense)}")

    def _write_latent(self, path: Path, store: ExampleStore) -> None:
        found = lsa(store.token_counts(), self._experiment.model.d_model, self._experiment.docid_seed)
        save_arrays(path, {"terms": found.terms * found.idf[:, None]}, kind=LATENT, version=1)

    @property
    def is_latent(self) -> bool:
        """Whether vectors of texts are those of latent semantic analysis."""
        plan = self._experiment.model.plan
        return self._experiment.encoder is None and plan is not None and plan.reads_vectors

    @property
    def has_vectors(self) -> bool:
        """Whether texts have vectors, from a pretrained encoder or from latent semantic analysis."""
        return self._experiment.encoder is not None or self.is_latent

    @functools.cached_property
    def encoder(self) -> SentenceEncoder | LatentEncoder:
        """The encoder of texts, pretrained or latent."""
        return self._latent if self.is_latent else self.pretrained

    @functools.cached_property
    def pretrained(self) -> SentenceEncoder:
        """The pretrained encoder."""
        return SentenceEncoder.load(self._folder / ENCODER)

    @functools.cached_property
    def _latent(self) -> LatentEncoder:
        terms = load_arrays(self._folder / LATENT, kind=LATENT, version=1)[0]["terms"]
        vocabulary = ExampleStore.open(self._folder / "examples").vocabulary
        return LatentEncoder(terms=terms, vocabulary=vocabulary, length=self._experiment.sampler.input_length)

    @property
    def document_vectors(self) -> Float[np.ndarray, "n d"]:
        """The encoder's vectors of the documents, float16."""
        return self._read_vectors(VECTORS)

    def _write_vectors(self, part: str, compute: Callable[[], np.ndarray], like: Path | None) -> None:
        def write(path: Path) -> None:
            save_arrays(path, {part: compute().astype(np.float16)}, kind=part, version=1)

        make(self._folder / part, write, like)

    def _read_vectors(self, part: str) -> np.ndarray:
        return load_arrays(self._folder / part, kind=part, version=1)[0][part]

    def plan_documents(self, kinds: Any, store: ExampleStore, added: Any = None) -> PlanDocuments:
        """Return what a plan knows about the documents.

        Args:
            kinds: ``T5Config.plan``.
            store: The example store.
            added: Further documents, with ``texts`` and ``vectors``; None for none.
        """
        fields: dict[str, Any] = {}
        if kinds.dense:
            weight = self.settings.vector_weight
            fields["vectors"] = self._means(store).rows(weight) if weight else self.document_vectors
        if kinds.terms:
            arrays = self._lexical[0]
            csr = tuple(arrays[name] for name in ("data", "indices", "indptr"))
            fields["weights"] = scipy.sparse.csr_matrix(csr, shape=(store.num_documents, kinds.vocabulary))
            fields["bias"] = arrays["bias"]
        if added is not None:
            self._append(fields, store, added)
        return PlanDocuments(**fields)

    def _append(self, fields: dict[str, Any], store: ExampleStore, added: Any) -> None:
        """Append documents that have no training queries to the fields of :class:`PlanDocuments`."""
        if "vectors" in fields:
            fields["vectors"] = np.concatenate([fields["vectors"], added.vectors])
        if "weights" in fields:
            found = later_documents(store.count_terms(added.texts), *self._counts(store), self.settings)
            fields["weights"] = scipy.sparse.vstack([fields["weights"], found.weights], format="csr")
            fields["bias"] = np.concatenate([fields["bias"], found.bias])

    def left_out(self, kinds: Any, store: ExampleStore) -> LeftOutQueries | None:
        """Return what documents know from training queries; None where they know nothing."""
        if kinds is None or not kinds.terms or not len(self._queries(store)):
            return None
        return LeftOutQueries(
            *self._counts(store),
            numbers=self._queries(store),
            settings=self.settings,
            means=self._means(store) if kinds.dense else None,
        )

    def alone(
        self,
        name: str,
        kinds: Any,
        store: ExampleStore,
        corpus: Corpus,
        queries: Mapping[str, str],
        depth: int,
        stop_terms: Int[np.ndarray, " s"],
    ) -> list[SystemRun]:
        """Return the answers of words and vectors, each by itself and added up, without a plan's network.

        Args:
            name: Name of the run in a report.
            kinds: ``T5Config.plan``.
            store: The example store.
            corpus: The documents.
            queries: Query id to text; empty for no answers.
            depth: Results per query.
            stop_terms: Terms that the start gives a weight of their own.
        """
        if not queries:
            return []
        ids, settings, of_vectors = corpus.doc_ids, self.settings, list[SystemRun]()
        if self.has_vectors:
            vectors, encoder = self.document_vectors, self.encoder
            encoded = EncodedQueries(
                queries, lambda texts: encoder.vectors(texts, "query"), encoder.params, encoder.name
            )
            of_vectors = vectors_alone(f"{name}, encoder alone", encoded, vectors, ids, depth)
        if not kinds.terms:
            return of_vectors
        given = self._counts(store)
        factors = np.ones(store.num_terms, np.float32)
        factors[stop_terms] = getattr(self._experiment.start, "stop_word_weight", 1.0)
        alone, whole = (
            Words(
                terms=functools.partial(store.term_rows, width=kinds.terms),
                documents=lexical_documents(*given, chosen),
                factors=factors,
            )
            for chosen in (self._settings_alone(store), settings)
        )
        of_words = words_alone(f"{name}, words alone", alone, ids, queries, depth)
        if not self.has_vectors:
            return [of_words]
        rows = self._means(store).rows(settings.vector_weight) if settings.vector_weight else vectors
        return [of_words, *of_vectors, sum_of_both(f"{name}, sum of both", whole, encoded, rows, ids, depth)]

    def pool(self, sampler: Sampler, model: T5Config) -> EncodedPool:
        """Return the pool of encoded examples, made anew where what it is made of has changed."""
        folder = self._folder / POOL

        def write() -> None:
            given = (sampler, self._experiment.pool, {"encoder": self.encoder.params}, model)
            made_of = pool_fingerprint(*given)
            if not is_current(folder, made_of):
                write_pool(folder, *given, made_of=made_of)

        from_first(write)
        return EncodedPool(folder, seed=sampler.seed, batch_size=sampler.batch_size)

    @functools.cached_property
    def _lexical(self) -> tuple[Mapping[str, np.ndarray], Mapping[str, Settings]]:
        arrays, manifest = load_arrays(self._folder / LEXICAL, kind=LEXICAL, version=2)
        return arrays, {name: Settings(**manifest[name]) for name in ("settings", "alone") if name in manifest}

    @property
    def settings(self) -> Settings:
        """The settings of the plan's sum of words and vectors; the usual ones without words."""
        plan = self._experiment.model.plan
        return self._lexical[1]["settings"] if plan is not None and plan.terms else Settings()

    def _settings_alone(self, store: ExampleStore) -> Settings:
        """Return the settings of words by themselves; folders of before they were kept need them chosen again."""
        kept = self._lexical[1].get("alone")
        return kept or choose_settings(*self._counts(store), seed=self._experiment.docid_seed)

    def _counts(self, store: ExampleStore) -> tuple[Any, Any, Any]:
        """Return the terms of documents and of training queries, and which documents answer these."""
        return store.term_counts(), *store.training_queries(self._unseen, terms=True)

    def _means(self, store: ExampleStore) -> QueryMeans:
        return QueryMeans(self._counts(store)[2], self.document_vectors, self._read_vectors(QUERY_VECTORS))

    def _queries(self, store: ExampleStore) -> Int[np.ndarray, " q"]:
        """Return the numbers of the training queries, in the order of the rows of the store's counts."""
        query, document, _ = store.pairs("train")
        return np.unique(query[np.isin(document, store.hidden_documents(self._unseen), invert=True)])

    @property
    def _unseen(self) -> str | None:
        return self._experiment.sampler.unseen_split
