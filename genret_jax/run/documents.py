"""A run on documents: text in, docids of documents out."""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int

from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.lsa import lsa
from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.vocabulary import Vocabulary
from genret_jax.docids import DocidCodec
from genret_jax.experiment import PretrainedStart
from genret_jax.models.config import T5Config
from genret_jax.models.initialize import LsaStart, start_from_vectors
from genret_jax.run.base import DOCUMENTS, Run, from_json


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
        params = self._random_params()
        start = from_json(self.settings["start"])
        if isinstance(start, LsaStart):
            return self._lsa_start(params, start)
        if isinstance(start, PretrainedStart):
            from genret_jax.models.pretrained import load_into

            return load_into(params, self.model, start.path)
        return jax.tree.map(np.asarray, params)

    def _lsa_start(self, params: dict[str, Any], start: LsaStart) -> dict[str, Any]:
        """Give tokens and nodes the leading dimensions of one analysis, as many as each kind of vector has."""
        width, wide = self.model.d_model, self.model.lexical_width
        found = lsa(self.store.token_counts(), max(width, wide), self.seed)
        tokens = np.zeros((self.model.vocab_size, found.terms.shape[1]), np.float32)
        tokens[: len(found.terms)] = found.terms * found.idf[:, None]

        def nodes(dimensions: int) -> Float[np.ndarray, "s d"]:
            return self.encoded.node_vectors(found.documents[:, :dimensions])

        tree = self.encoded.tree
        return start_from_vectors(
            params,
            self.model,
            start,
            token_vectors=tokens[:, :width],
            node_vectors=None if self.settings["codec"]["kind"] == "text" else nodes(width),
            edges=None if self.model.head == "prefix" else (tree.node_token, tree.parents),
            lexical=(tokens[:, :wide], nodes(wide)) if wide else None,
            seed=self.seed,
        )

    def _docid_text(self) -> Callable[[str], list[int]] | None:
        return self.vocabulary.encode if self.settings["codec"]["kind"] == "text" else None


def model_of(run: str | os.PathLike[str]) -> T5Config:
    """Return the network of a run, for gin files that train it with t5x."""
    return DocumentRun.open(run).model


def sampler_of(run: str | os.PathLike[str]) -> SamplerConfig:
    """Return how a run's examples are drawn, for such gin files."""
    return DocumentRun.open(run).sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(DocumentRun.open(run).store.folder)
