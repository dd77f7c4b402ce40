"""A run on documents: text in, docids of documents out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.lsa import lsa
from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.vocabulary import Vocabulary
from genret_jax.docids import DocidCodec, EncodedDocids, load_quantiser
from genret_jax.errors import InputError
from genret_jax.experiment import PretrainedStart
from genret_jax.models.config import T5Config
from genret_jax.models.initialize import LsaStart, start_from_vectors
from genret_jax.run.base import DOCUMENTS, QUANTISER, Run, from_json
from genret_jax.tokeniser import Tokeniser


class DocumentRun(Run):
    """An opened run on documents."""

    kind = DOCUMENTS

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
        )
        # Docids that were learned are gone on with by the network that learned them.
        return params if self.tokeniser is None else self.tokeniser.grown(params)

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
            InputError: If the run's docids were not learned, a document is there already, or there is no room left for
                the code that separates a document from those with equal codes.
        """
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
) -> dict[str, Any]:
    """Return the parameters before the first step.

    Args:
        params: At random.
        model: The network.
        start: What it starts from; None for the random parameters.
        store: The tokens of the documents, for a start from them.
        seed: Of such a start.
        encoded: The docids; None where they are text, or not yet there.
        unseen_split: A qrels split whose documents the start is not to know either.
    """
    if isinstance(start, PretrainedStart):
        from genret_jax.models.pretrained import load_into

        return load_into(params, model, start.path)
    if start is None:
        return jax.tree.map(np.asarray, params)
    # Tokens and nodes get the leading dimensions of one analysis, as many as each kind of vector has.
    width, wide = model.d_model, model.lexical_width
    found = lsa(store.token_counts(), max(width, wide), seed)
    tokens = np.zeros((model.vocab_size, found.terms.shape[1]), np.float32)
    tokens[: len(found.terms)] = found.terms * found.idf[:, None]
    documents = np.zeros_like(found.documents)
    shown = store.shown_documents(unseen_split)
    documents[shown] = found.documents[shown]

    nodes = edges = lexical = None
    if encoded is not None:
        nodes = encoded.node_vectors(documents[:, :width])
        if model.head == "vocabulary":
            edges = encoded.tree.node_token, encoded.tree.parents
        if wide:
            lexical = tokens[:, :wide], encoded.node_vectors(documents[:, :wide])
    return start_from_vectors(
        params,
        model,
        start,
        token_vectors=tokens[:, :width],
        node_vectors=nodes,
        edges=edges,
        lexical=lexical,
        seed=seed,
    )


def model_of(run: str | os.PathLike[str]) -> T5Config:
    """Return the network of a run, for gin files that train it with t5x."""
    return DocumentRun.open(run).model


def sampler_of(run: str | os.PathLike[str]) -> SamplerConfig:
    """Return how a run's examples are drawn, for such gin files."""
    return DocumentRun.open(run).sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(DocumentRun.open(run).store.folder)
