"""A run folder: everything that belongs to one trained model, complete by itself.

    config.gin      the configuration as run            corpus/       what was given: documents with queries (BEIR),
    run.json        settings, fingerprints, versions                  or items with users' histories
    identity.json   what it must agree on to go on      docids/       the docid table
    metrics.jsonl   losses and validation               quantiser/    what gives later items their docids
                                                        examples/     tokenised sources of the examples, vocabulary
                                                        checkpoints/  parameters and optimiser states
                                                        reports/      evaluations

:func:`genret_jax.prepare.prepare` makes it, :func:`genret_jax.train.train` trains what is in it. What documents and
items have in common is here, the rest in :mod:`genret_jax.run.documents` and :mod:`genret_jax.run.items`.
"""

import dataclasses
import functools
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from genret_jax.config.experiment import EvaluationConfig, PretrainedStart
from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.examples.pseudo_queries import PseudoQueries
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.examples.span_corruption import SpanCorruption
from genret_jax.decoding import DocidIndex
from genret_jax.docids import DocidCodec, DocidTable, EncodedDocids, Quantiser, append_documents
from genret_jax.errors import InputError
from genret_jax.models.config import ItemInput, T5Config
from genret_jax.models.heads import NodeTree
from genret_jax.models.initialize import ItemStart, LsaStart
from genret_jax.models.network import random_variables
from genret_jax.storage import read_json

SETTINGS, CONFIGURATION, IDENTITY = "run.json", "config.gin", "identity.json"
SEED_FOLDER = "seed_"  # and the seed; below the folder of several
LOCK = ".in-use"  # its own folder, so that training can lock the run's itself
VERSION = 1
DOCUMENTS, ITEMS = "documents", "items"
QUANTISER = "quantiser"
LEARNING = "learning"  # what is only there while docids are learned
START_VECTORS = "start_vectors"
_CONFIGS = (
    T5Config,
    ItemInput,
    SamplerConfig,
    PseudoQueries,
    SpanCorruption,
    EvaluationConfig,
    ItemStart,
    LsaStart,
    PretrainedStart,
    HistoryConfig,
)
_SAVED = {cls.__name__: cls for cls in _CONFIGS}

_R = TypeVar("_R", bound="Run")


class Run:
    """An opened run folder; its parts are read when first asked for.

    Attributes:
        folder: Where it is.
        settings: The content of ``run.json``.
    """

    #: What a run of this class writes the docids of; None for the class that stands for both.
    kind: str | None = None

    def __init__(self, folder: Path, settings: Mapping[str, Any]):
        self.folder = folder
        self.settings = settings

    @classmethod
    def open(cls: type[_R], folder: str | os.PathLike[str]) -> _R:
        """Open a prepared run.

        Raises:
            InputError: If the folder is missing, is no run, or a run of another kind than this class is for.
        """
        from genret_jax.run.documents import DocumentRun
        from genret_jax.run.items import ItemRun

        folder = Path(folder)
        if not (folder / SETTINGS).is_file():
            seeds = [path.name for path in run_folders(folder) if path != folder]
            raise InputError(
                f"no run here ({SETTINGS} is missing)",
                file=folder,
                fix=f"give one of its seeds, such as {folder / seeds[0]}"
                if seeds
                else "give the folder that 'genret train --run' wrote",
            )
        settings = read_json(folder / SETTINGS)
        if settings.get("version") != VERSION:
            raise InputError(f"a run of version {settings.get('version')}", file=folder, expected=f"version {VERSION}")
        kind = settings.get("kind", DOCUMENTS)
        if cls.kind not in (None, kind):
            raise InputError(f"this run is of {kind}", file=folder, expected=f"a run of {cls.kind}")
        opened: Any = (ItemRun if kind == ITEMS else DocumentRun)(folder, settings)
        return opened

    @property
    def corpus(self) -> Corpus:
        """What has docids: documents, with their queries and judgements, or items."""
        raise NotImplementedError

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        raise NotImplementedError

    @functools.cached_property
    def table(self) -> DocidTable:
        """The docids of every document."""
        table = DocidTable.load(self.folder / "docids")
        self._require("docids", table.fingerprint, self.folder / "docids")
        return table

    @property
    def _codec(self) -> DocidCodec:
        return DocidCodec.from_json(self.settings["codec"])

    def _appended(
        self, quantiser: Quantiser, doc_ids: Sequence[str], vectors: np.ndarray, corpus_fingerprint: str
    ) -> DocidTable:
        """Return the docids with those of further documents, for which the network has room."""
        table = append_documents(self.table, quantiser, doc_ids, vectors, corpus_fingerprint=corpus_fingerprint)
        room = self._codec.level_sizes[-1]
        if table.level_sizes[-1] > room:
            raise InputError(
                f"{table.level_sizes[-1]} {self.kind} with the same codes but for the last",
                file=self.folder,
                expected=f"at most {room}, as the network has last codes",
                fix=f"train again with the new {self.kind}, or with more codes",
            )
        return table

    @functools.cached_property
    def encoded(self) -> EncodedDocids:
        """Docids as the decoder's tokens."""
        return self._codec.encode(self.table)

    @functools.cached_property
    def row_of_document(self) -> Int[np.ndarray, " n"]:
        """First row of the docid table for every document."""
        rows = np.zeros(self.table.num_documents, np.int64)
        rows[self.table.document[::-1]] = np.arange(self.table.num_rows)[::-1]
        return rows

    @functools.cached_property
    def model(self) -> T5Config:
        """The network."""
        return from_json(self.settings["model"])

    @functools.cached_property
    def evaluation(self) -> EvaluationConfig:
        """What the report measures."""
        return from_json(self.settings["evaluation"])

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.settings["seed"])

    @property
    def fingerprints(self) -> dict[str, str]:
        """What a checkpoint must agree on to be this run's."""
        return dict(self.settings["fingerprints"])

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
        from genret_jax.training.t5x.checkpoint import find_checkpoint, read_t5x_params

        like = self._shapes(mesh)
        if checkpoint == "start":
            start = self.start_params()
            return start if mesh is None else jax.device_put(start, jax.tree.map(lambda shape: shape.sharding, like))
        if isinstance(checkpoint, str) and checkpoint not in ("best", "last") and find_checkpoint(checkpoint):
            return read_t5x_params(checkpoint, like)
        return restore_params(self.folder, checkpoint, mesh, like=like, fingerprint=self.fingerprints)

    def _shapes(self, mesh: Mesh | None) -> dict[str, Any]:
        """Return the shapes of the parameters, and where they lie on a mesh."""
        from genret_jax.parallel.mesh import logical_axes, param_shardings

        variables = jax.eval_shape(self._random_variables)
        shapes: dict[str, Any] = variables["params"]
        if mesh is None:
            return shapes
        places = param_shardings(mesh, shapes, logical_axes(variables))
        return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)

    def _random_params(self) -> dict[str, Any]:
        return random_params(self.model, self.seed, self._tree)

    def _random_variables(self) -> dict[str, Any]:
        return _random_variables(self.model, jax.random.key(self.seed), self._tree)

    @property
    def _tree(self) -> NodeTree | None:
        return node_tree(self.encoded) if self.model.head == "prefix" else None

    def _read(self, read: Callable[[Path], Any]) -> Any:
        """Read what the run was given, whose oddities were told when it was prepared; reject another."""
        folder = self.folder / "corpus"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            found = read(folder)
        self._require("corpus", found.fingerprint, folder)
        return found

    def _require(self, part: str, found: str, where: Path) -> None:
        """Refuse a part that was changed, or copied here from another run."""
        if found != self.fingerprints[part]:
            raise InputError(
                f"another {part} than this run was made with (fingerprint {found})",
                file=where,
                expected=f"fingerprint {self.fingerprints[part]}",
                fix="restore the run folder from a copy, or train again",
            )


def run_folders(folder: str | os.PathLike[str]) -> list[Path]:
    """Return the run folders of the seeds below a folder, by seed; the folder itself where there are none."""
    folder = Path(folder)
    seeds = [path.parent for path in folder.glob(f"{SEED_FOLDER}*/{SETTINGS}")]
    if (folder / SETTINGS).is_file() or not seeds:
        return [folder]
    return sorted(seeds, key=lambda path: (len(path.name), path.name))


_random_variables = jax.jit(random_variables, static_argnames="config")


def random_params(config: T5Config, seed: int, tree: NodeTree | None = None) -> dict[str, Any]:
    """Return a network's parameters at random."""
    params: dict[str, Any] = _random_variables(config, jax.random.key(seed), tree)["params"]
    return params


def node_tree(encoded: EncodedDocids, documents: Bool[np.ndarray, " n"] | None = None) -> NodeTree:
    """Return the docid tree, or that of some documents, as the prefix head's device arrays."""
    tree = encoded.tree if documents is None else encoded.tree_of(documents)
    return NodeTree.build(tree.child_offsets, tree.child_nodes, tree.child_tokens)


def docid_index(encoded: EncodedDocids, vocab_size: int) -> DocidIndex:
    """Return the index to search, whose documents and nodes are those of the docids."""
    return DocidIndex.build(
        encoded.tokens, encoded.lengths, encoded.document, encoded.prefix_nodes, vocab_size=vocab_size
    )


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


def from_json(saved: Any) -> Any:
    """Return what :func:`as_json` was given."""
    if isinstance(saved, list):
        return tuple(from_json(value) for value in saved)
    if not isinstance(saved, dict):
        return saved
    return _SAVED[saved["class"]](**{name: from_json(value) for name, value in saved["fields"].items()})
