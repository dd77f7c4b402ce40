"""A run folder: everything that belongs to one trained retriever, complete by itself.

    config.gin      the configuration as run            corpus/       the documents, queries and judgements (BEIR)
    run.json        settings, fingerprints, versions    docids/       the docid table
    identity.json   what it must agree on to go on      examples/     tokenised sources of the examples, vocabulary
    metrics.jsonl   losses and validation               checkpoints/  parameters and optimiser states
                                                        reports/      evaluations

:func:`genret_jax.prepare.prepare` makes it, :func:`genret_jax.train.train` trains what is in it.
"""

import dataclasses
import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.sparse
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from genret_jax.data.corpus import Corpus, read_beir
from genret_jax.data.example_store import ExampleStore
from genret_jax.data.lsa import lsa
from genret_jax.data.pseudo_queries import PseudoQueries
from genret_jax.data.sampler import SamplerConfig
from genret_jax.data.span_corruption import SpanCorruption
from genret_jax.data.vocabulary import EOS, Vocabulary
from genret_jax.docids import DocidCodec, DocidTable, EncodedDocids
from genret_jax.errors import InputError
from genret_jax.experiment import EvaluationConfig, PretrainedStart
from genret_jax.models.config import T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.initialize import LsaStart, start_from_vectors
from genret_jax.models.network import T5
from genret_jax.storage import read_json

SETTINGS, CONFIGURATION, IDENTITY = "run.json", "config.gin", "identity.json"
LOCK = ".in-use"  # its own folder, so that training can lock the run's itself
VERSION = 1
_CONFIGS = (T5Config, SamplerConfig, PseudoQueries, SpanCorruption, EvaluationConfig, LsaStart, PretrainedStart)
_SAVED = {cls.__name__: cls for cls in _CONFIGS}


class Run:
    """An opened run folder; its parts are read when first asked for.

    Attributes:
        folder: Where it is.
        settings: The content of ``run.json``.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "Run":
        """Open a prepared run.

        Raises:
            InputError: If the folder is missing or is no run.
        """
        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            raise InputError(
                f"no run here ({SETTINGS} is missing)",
                file=folder,
                fix="give the folder that 'genret train --run' wrote",
            )
        settings = read_json(folder / SETTINGS)
        if settings.get("version") != VERSION:
            raise InputError(f"a run of version {settings.get('version')}", file=folder, expected=f"version {VERSION}")
        return cls(folder, settings)

    @functools.cached_property
    def corpus(self) -> Corpus:
        """Documents, queries and judgements."""
        with warnings.catch_warnings():  # they were told when the run was prepared
            warnings.simplefilter("ignore", UserWarning)
            corpus = read_beir(self.folder / "corpus")
        self._require("corpus", corpus.fingerprint, self.folder / "corpus")
        return dataclasses.replace(corpus, name=self.settings["corpus"])

    @functools.cached_property
    def table(self) -> DocidTable:
        """The docids of every document."""
        table = DocidTable.load(self.folder / "docids")
        self._require("docids", table.fingerprint, self.folder / "docids")
        return table

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

    @functools.cached_property
    def encoded(self) -> EncodedDocids:
        """Docids as the decoder's tokens."""
        return DocidCodec.from_json(self.settings["codec"], self._docid_text()).encode(self.table)

    @functools.cached_property
    def row_of_document(self) -> Int[np.ndarray, " n"]:
        """First row of the docid table for every document."""
        rows = np.zeros(self.table.num_documents, np.int64)
        rows[self.table.document[::-1]] = np.arange(self.table.num_rows)[::-1]
        return rows

    @functools.cached_property
    def model(self) -> T5Config:
        """The network."""
        return _from_json(self.settings["model"])

    @functools.cached_property
    def sampler(self) -> SamplerConfig:
        """How examples are drawn, and how long inputs are."""
        return _from_json(self.settings["sampler"])

    @functools.cached_property
    def evaluation(self) -> EvaluationConfig:
        """What the report measures."""
        return _from_json(self.settings["evaluation"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must agree on to be this run's."""
        return dict(self.settings["fingerprints"])

    def encode_queries(self, queries: Sequence[str]) -> Int[np.ndarray, "q l"]:
        """Tokenise queries as the encoder's input: cut to its length, padded with 0."""
        length, ends = self.sampler.input_length, self.sampler.append_eos
        tokens = np.zeros((len(queries), length), np.int32)
        for row, text in enumerate(queries):
            kept = self.vocabulary.encode(text)[: length - ends] + [EOS] * ends
            tokens[row, : len(kept)] = kept
        return tokens

    def params(self, checkpoint: str | int = "best", mesh: Mesh | None = None) -> dict[str, Any]:
        """Return the parameters of a checkpoint, or those of the untrained network for ``"start"``.

        Args:
            checkpoint: ``"best"``, ``"last"``, a step, ``"start"``, or the path of a checkpoint or ``MODEL_DIR`` that
                t5x wrote. Such a checkpoint does not say what corpus and docids it was trained on.
            mesh: Devices to spread them over as in training; None for one device.

        Raises:
            InputError: If there is no such checkpoint, or it is of another network, corpus or docids.
        """
        from genret_jax.training import restore_params
        from genret_jax.training.t5x_checkpoint import find_checkpoint, read_t5x_params

        like = self._shapes(mesh)
        if checkpoint == "start":
            start = self.start_params()
            return start if mesh is None else jax.device_put(start, jax.tree.map(lambda shape: shape.sharding, like))
        if isinstance(checkpoint, str) and checkpoint not in ("best", "last") and find_checkpoint(checkpoint):
            return read_t5x_params(checkpoint, like)
        return restore_params(self.folder, checkpoint, mesh, like=like, fingerprint=self.fingerprints)  # type: ignore[arg-type]

    def _shapes(self, mesh: Mesh | None) -> dict[str, Any]:
        """Return the shapes of the parameters, and where they lie on a mesh."""
        from genret_jax.training.mesh import logical_axes, param_shardings

        variables = jax.eval_shape(self._random_variables)
        shapes: dict[str, Any] = variables["params"]
        if mesh is None:
            return shapes
        places = param_shardings(mesh, shapes, logical_axes(variables))
        return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        params = self._random_params()
        start = _from_json(self.settings["start"])
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
            return node_vectors(self.encoded, found.documents[:, :dimensions])

        return start_from_vectors(
            params,
            self.model,
            start,
            token_vectors=tokens[:, :width],
            node_vectors=nodes(width) if self.model.head == "prefix" else None,
            lexical=(tokens[:, :wide], nodes(wide)) if wide else None,
            seed=self.seed,
        )

    def _random_params(self) -> dict[str, Any]:
        params: dict[str, Any] = self._random_variables()["params"]
        return params

    def _random_variables(self) -> dict[str, Any]:
        tree = node_tree(self.encoded) if self.model.head == "prefix" else None
        return _random_variables(self.model, jax.random.key(self.seed), tree)

    def _require(self, part: str, found: str, where: Path) -> None:
        """Refuse a part that was changed, or copied here from another run."""
        if found != self.fingerprints[part]:
            raise InputError(
                f"another {part} than this run was made with (fingerprint {found})",
                file=where,
                expected=f"fingerprint {self.fingerprints[part]}",
                fix="restore the run folder from a copy, or train again",
            )

    def _docid_text(self) -> Callable[[str], list[int]] | None:
        return self.vocabulary.encode if self.settings["codec"]["kind"] == "text" else None


@functools.partial(jax.jit, static_argnames="config")
def _random_variables(config: T5Config, key: Array, tree: NodeTree | None) -> dict[str, Any]:
    token = jnp.zeros((1, 1), jnp.int32)
    variables: dict[str, Any] = T5(config).init(key, token, token, token, tree)
    return variables


def model_of(run: str | os.PathLike[str]) -> T5Config:
    """Return the network of a run, for gin files that train it with t5x."""
    return Run.open(run).model


def sampler_of(run: str | os.PathLike[str]) -> SamplerConfig:
    """Return how a run's examples are drawn, for such gin files."""
    return Run.open(run).sampler


def examples_of(run: str | os.PathLike[str]) -> str:
    """Return the folder of a run's example store, for such gin files."""
    return str(Run.open(run).store.folder)


def node_tree(encoded: EncodedDocids) -> NodeTree:
    """Return the docid tree as the prefix head's device arrays."""
    return NodeTree.build(encoded.tree.child_offsets, encoded.tree.child_nodes, encoded.tree.child_tokens)


def node_vectors(encoded: EncodedDocids, documents: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "s d"]:
    """Return for each tree node the mean direction of the documents below it.

    Args:
        encoded: Docids and their tree.
        documents: A vector a document, of any norm.
    """
    tree, rows = encoded.tree, np.arange(len(encoded.lengths))
    norms = np.linalg.norm(documents, axis=1, keepdims=True)
    directions = documents / np.maximum(norms, 1e-9)
    # A row visits the nodes before each of its tokens, and the node that its last token leads to.
    width = int(tree.child_tokens.max()) + 1
    edges = (
        np.repeat(np.arange(tree.num_nodes), np.diff(tree.child_offsets)).astype(np.int64) * width + tree.child_tokens
    )
    last = encoded.lengths - 1
    ends = tree.child_nodes[
        np.searchsorted(edges, encoded.prefix_nodes[rows, last].astype(np.int64) * width + encoded.tokens[rows, last])
    ]
    before = np.arange(encoded.tokens.shape[1]) < encoded.lengths[:, None]
    nodes = np.concatenate([encoded.prefix_nodes[before], ends])
    visitors = np.concatenate([encoded.document[np.nonzero(before)[0]], encoded.document])
    visits = scipy.sparse.csr_matrix(
        (np.ones(len(nodes), np.float32), (nodes, visitors)), shape=(tree.num_nodes, len(documents))
    )
    return np.asarray(visits @ directions)


def stderr(line: str) -> None:
    """Print a line of progress where it does not mix with results."""
    print(line, file=sys.stderr, flush=True)


def as_json(config: Any) -> Any:
    """Return a configuration as JSON values, its class by name."""
    if not dataclasses.is_dataclass(config):
        return config
    return {
        "class": type(config).__name__,
        "fields": {field.name: as_json(getattr(config, field.name)) for field in dataclasses.fields(config)},
    }


def _from_json(saved: Any) -> Any:
    """Return what :func:`as_json` was given."""
    if isinstance(saved, list):
        return tuple(_from_json(value) for value in saved)
    if not isinstance(saved, dict):
        return saved
    return _SAVED[saved["class"]](**{name: _from_json(value) for name, value in saved["fields"].items()})
