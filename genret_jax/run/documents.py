"""A run on documents: text in, docids of documents out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import scipy.sparse
from jaxtyping import Bool, Float, Int

from genret_jax.config.experiment import PretrainedStart
from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.lsa import lexical, lsa
from genret_jax.data.text.vocabulary import Vocabulary
from genret_jax.docid_learning.model import Tokeniser
from genret_jax.docids import DocidCodec, EncodedDocids, load_quantiser
from genret_jax.errors import InputError
from genret_jax.models.config import T5Config, divisible
from genret_jax.models.initialize import LsaStart, start_from_vectors
from genret_jax.run.base import DOCUMENTS, QUANTISER, Run, from_json


class DocumentRun(Run):
    """An opened run on documents."""

    kind = DOCUMENTS
    added: Any = None  # counts of tokens in documents that are not in the folder, scipy CSR

    @functools.cached_property
    def corpus(self) -> Corpus:
        """Documents, queries and judgements."""
        return dataclasses.replace(self._read(read_beir), name=self.settings["corpus"])

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """Text to tokens."""
        return self.store.vocabulary

    @functools.cached_property
    def store(self) -> ExampleStore:
        """Tokenised sources of the training examples."""
        store = ExampleStore.open(self.folder / "examples")
        for name in ("corpus", "docids", "vocabulary"):
            self._require(name, store.manifest[f"{name}_fingerprint"], self.folder / "examples")
        return store

    @property
    def _codec(self) -> DocidCodec:
        return DocidCodec.from_json(self.settings["codec"], self._docid_text())

    @functools.cached_property
    def sampler(self) -> SamplerConfig:
        """How examples are drawn, and how long inputs are."""
        return from_json(self.settings["sampler"])

    def encode_queries(self, queries: Sequence[str]) -> Int[np.ndarray, "q l"]:
        """Tokenise queries as the encoder's input: cut to its length, padded with 0."""
        return self.vocabulary.encode_rows(queries, self.sampler.input_length, append_eos=self.sampler.append_eos)

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        params = begin(
            self._random_params(),
            self.model,
            from_json(self.settings["start"]),
            self.store,
            seed=self.seed,
            encoded=None if self.settings["codec"]["kind"] == "text" else self.encoded,
            unseen_split=self.sampler.unseen_split,
            later=self.added,
        )
        # Docids that were learned are gone on with by the network that learned them, where its codes are tokens too.
        if self.tokeniser is None or self.model.head == "prefix":
            return params
        return self.tokeniser.grown(params)

    @functools.cached_property
    def later(self) -> Bool[np.ndarray, " n"]:
        """Documents that training is not shown, as if they came later."""
        later = np.zeros(len(self.corpus), bool)
        later[self.store.hidden_documents(self.sampler.unseen_split)] = True
        return later

    @functools.cached_property
    def tokeniser(self) -> Tokeniser | None:
        """What gives later documents their docids, where these were learned."""
        if not (self.folder / QUANTISER).is_dir():
            return None
        found = load_quantiser(self.folder / QUANTISER)
        assert isinstance(found, Tokeniser)
        return found

    def with_documents(
        self, doc_ids: Sequence[str], texts: Sequence[str], *, titles: Sequence[str] = ()
    ) -> "DocumentRun":
        """Return the run with further documents, whose docids the tokeniser writes; the folder stays as it is.

        Args:
            doc_ids: Their ids.
            texts: Their texts.
            titles: Their titles; none by default.

        Raises:
            InputError: If the run's docids were not learned, its output layer has vectors of nodes and none for new
                ones, a document is there already, or there is no room left for the code that separates a document from
                those with equal codes.
        """
        if self.model.head == "prefix" and not isinstance(from_json(self.settings["start"]), LsaStart):
            raise InputError(
                "a head that knows each node by itself, and nothing of new ones",
                file=self.folder,
                expected="a head that knows codes, or nodes that start from texts",
                fix="train with T5Config.head = 'vocabulary' or Experiment.start = @LsaStart()",
            )
        if self.tokeniser is None:
            raise InputError(
                f"docids of the strategy {self.table.strategy.get('name', '')!r} for new documents",
                file=self.folder,
                expected="docids that were learned with the model",
                fix="train with Experiment.docids = @LearnedDocids(), as runs/genret_from_scratch.gin does",
            )
        corpus = self.corpus.extended(doc_ids, titles, texts)
        new = [corpus.document_text(index) for index in range(len(self.corpus), len(corpus))]
        tokens = self.vocabulary.encode_rows(new, self.tokeniser.width, append_eos=self.sampler.append_eos)
        grown = DocumentRun(self.folder, self.settings)
        grown.corpus, grown.table = corpus, self._appended(self.tokeniser, doc_ids, tokens, corpus.fingerprint)
        if self.model.head == "prefix":
            nodes = max(self.model.num_nodes, divisible(grown.encoded.tree.num_nodes))
            grown.model = dataclasses.replace(self.model, num_nodes=nodes)
            counts = _counts([self.vocabulary.encode(text) for text in new], self.store.vocabulary_size)
            grown.added = counts if self.added is None else scipy.sparse.vstack([self.added, counts], format="csr")
        return grown

    def _docid_text(self) -> Callable[[str], list[int]] | None:
        return self.vocabulary.encode if self.settings["codec"]["kind"] == "text" else None


def begin(
    params: dict[str, Any],
    model: T5Config,
    start: LsaStart | PretrainedStart | None,
    store: ExampleStore,
    *,
    seed: int,
    encoded: EncodedDocids | None,
    unseen_split: str | None,
    later: Any = None,
) -> dict[str, Any]:
    """Return the parameters before the first step.

    Args:
        params: At random.
        model: The network.
        start: What it starts from; None for the random parameters.
        store: The tokens of the documents, for a start from them.
        seed: Of such a start.
        encoded: The docids; None where they are text, or not yet there.
        unseen_split: A qrels split whose documents the codes are not to know either. The nodes of the prefix head do:
            they have what the texts below them say, but not the training queries of such documents.
        later: Counts of tokens in further documents, behind those of the store: for ``encoded`` with them.
    """
    if isinstance(start, PretrainedStart):
        from genret_jax.models.convert.pretrained import load_into

        return load_into(params, model, start.path)
    if start is None:
        return jax.tree.map(np.asarray, params)
    counts = store.token_counts()
    found = lsa(counts, model.d_model, seed, later=later)
    nodes = edges = words = None
    if encoded is not None and model.head == "vocabulary":
        shown = np.isin(np.arange(len(found.documents)), store.shown_documents(unseen_split))
        nodes = encoded.node_vectors(found.documents * shown[:, None])
        edges = encoded.tree.node_token, encoded.tree.parents
    elif encoded is not None:
        nodes = encoded.node_vectors(found.documents)
        if model.lexical_width:
            queries, answers = store.training_queries(unseen_split)
            asked: dict[str, Any] = {"queries": queries, "answers": answers, "query_weight": start.query_weight}
            exact = lexical(counts, model.lexical_width, seed, later=later, **asked)
            lengths = np.linalg.norm(exact.documents[: store.num_documents], axis=1)
            documents = exact.documents / lengths[lengths > 0].mean()
            words = _of_text(exact.terms, model), encoded.node_means(documents)
    return start_from_vectors(
        params,
        model,
        start,
        token_vectors=_of_text(found.terms * found.idf[:, None], model),
        node_vectors=nodes,
        edges=edges,
        lexical=words,
        seed=seed,
    )


def _counts(texts: Sequence[Sequence[int]], size: int) -> Any:
    """Return how often each token stands in each text: scipy CSR [n, size]."""
    pairs = [(row, token) for row, tokens in enumerate(texts) for token in tokens]
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    ones = np.ones(len(pairs), np.float32)
    return scipy.sparse.coo_matrix((ones, (rows, columns)), shape=(len(texts), size)).tocsr()


def _of_text(vectors: Float[np.ndarray, "v d"], model: T5Config) -> Float[np.ndarray, "t d"]:
    """Add zeros for tokens that are not text."""
    return np.pad(vectors, ((0, model.vocab_size - len(vectors)), (0, 0)))


def model_of(run: str | os.PathLike[str]) -> T5Config:
    """Return the network of a run, for gin files that train it with t5x."""
    return DocumentRun.open(run).model


def sampler_of(run: str | os.PathLike[str]) -> SamplerConfig:
    """Return how a run's examples are drawn, for such gin files."""
    return DocumentRun.open(run).sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(DocumentRun.open(run).store.folder)
