"""A problem: one kind of data that gets docids, with everything in which it differs from other kinds.

:class:`Problem` is opened on a run folder. Preparing, training, evaluating and searching know this class alone;
:mod:`genret_jax.problems.documents` and :mod:`genret_jax.problems.items` implement it. A third problem is a subclass of
:class:`~genret_jax.config.experiment.BaseExperiment` and one of :class:`Problem` in a module of its own, see
docs/extending.md.
"""

import abc
import dataclasses
import functools
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeGuard, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Bool, Int

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.gin_text import from_bindings
from genret_jax.config.record import CONFIGURABLES
from genret_jax.data.corpus import Corpus
from genret_jax.docids import DocidCodec, DocidTable, EncodedDocids, Quantiser, append_documents, load_quantiser
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun
from genret_jax.inference import node_tree
from genret_jax.models.config import T5Config, divisible
from genret_jax.models.heads import NodeTree
from genret_jax.models.plan import PlanTables
from genret_jax.parallel.mesh import logical_axes, param_shardings
from genret_jax.problems.parts import QUANTISER, make, make_docids
from genret_jax.problems.requests import Measured, Requests
from genret_jax.training import TrainingTask, restore_params
from genret_jax.training.checkpoint_format import require_params
from genret_jax.training.initial import initial_params, jitted_variables, random_params

_P = TypeVar("_P", bound="Problem")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Sizes and fingerprints of a prepared run, from :meth:`Problem.prepare`.

    Attributes:
        name: Name of the data, for reports.
        codec: How codes become decoder tokens.
        model: The network, sized for the data.
        fingerprints: Fingerprint of each part that a checkpoint depends on, ``corpus`` and ``docids`` among them.
    """

    name: str
    codec: DocidCodec
    model: T5Config
    fingerprints: Mapping[str, str]


class Problem(abc.ABC):
    """Data of one kind in a run folder; the parts are read when first asked for.

    Args:
        folder: The run folder.
        experiment: Every choice that made it.
        settings: Content of the prepared run's ``run.json``; empty before that.
    """

    #: Configuration class of an experiment on this problem.
    experiment_class: ClassVar[type[BaseExperiment]]
    #: What gets docids, in the plural: "documents".
    kind: ClassVar[str]
    #: Type of a request, what to call it, and the command and method that take it.
    request: ClassVar[tuple[type, str, str]] = (str, "query", "search")
    #: Metric by which a report chooses the best baseline, with which it compares the other systems.
    primary_metric: ClassVar[str] = "mrr@10"
    #: Names of the baselines in a report, which no run may have.
    baseline_names: ClassVar[frozenset[str]] = frozenset()
    #: Fields of :class:`Measured` that have a meaning for this problem.
    measures: ClassVar[frozenset[str]] = frozenset({"untrained"})
    #: Share of a report's results that are new documents, by suffix of the system's name; None ranks all by score.
    rankings: ClassVar[Mapping[str, float | None]] = {"": None}

    _by_experiment: ClassVar[dict[type, "type[Problem]"]] = {}

    def __init__(self, folder: str | os.PathLike[str], experiment: Any, settings: Mapping[str, Any]):
        self.folder = Path(folder)
        self.experiment = experiment
        self.settings = settings

    def __init_subclass__(cls) -> None:
        """Register the problem under its experiment class."""
        if "experiment_class" in vars(cls):
            Problem._by_experiment[cls.experiment_class] = cls

    @staticmethod
    def of(experiment: BaseExperiment) -> "type[Problem]":
        """Return the problem of an experiment.

        Raises:
            InputError: If no problem has this experiment class.
        """
        if type(experiment).__name__ in CONFIGURABLES:
            for own in ("documents", "items"):
                importlib.import_module(f"genret_jax.problems.{own}")
        known = Problem._by_experiment
        if type(experiment) not in known:
            raise InputError(
                f"no problem for an experiment of class {type(experiment).__name__}",
                expected=f"one of {', '.join(cls.__name__ for cls in known)}",
                fix="define a subclass of genret_jax.problems.Problem with this experiment_class",
            )
        return known[type(experiment)]

    # --- What every problem must say ---

    @staticmethod
    @abc.abstractmethod
    def read(folder: str | os.PathLike[str]) -> Any:
        """Read the data of a folder; the result has a ``fingerprint``.

        Raises:
            InputError: If it cannot be used.
        """

    def given(self) -> tuple[Any, dict[str, str]]:
        """Read the experiment's data, and return it with the fingerprints that a run must agree on to be resumed."""
        data = self.read(self.experiment.corpus)
        return data, {"corpus": data.fingerprint}

    @abc.abstractmethod
    def prepare(self, data: Any, log: Callable[[str], None], like: Path | None) -> Setup:
        """Write the parts of the run folder that are missing.

        Args:
            data: From :meth:`given`.
            log: Receives a line for each part.
            like: Prepared run of the same experiment but for the trainer's seed, whose parts are copied.
        """

    @property
    @abc.abstractmethod
    def corpus(self) -> Corpus:
        """The documents that have docids: ids, titles and texts."""

    @abc.abstractmethod
    def task(self) -> TrainingTask:
        """Return the task that is trained."""

    @abc.abstractmethod
    def encode(self, requests: Sequence[Any]) -> Int[np.ndarray, "q l"]:
        """Return requests as encoder inputs, padded with 0.

        Raises:
            InputError: If one of them cannot be used.
        """

    @abc.abstractmethod
    def requests(self, split: str, measured: Measured) -> Requests:
        """Return the requests of a split, for a report.

        Raises:
            InputError: If there is no such split.
        """

    # --- What a problem may say ---

    @staticmethod
    def is_costly(folder: Path) -> bool:
        """Return whether a run folder holds parts that took long to make, and is kept when preparing it fails."""
        return False

    def validation(self) -> Requests | None:
        """Return the requests that are searched during training; None where there are none."""
        return None

    def memorisation(self) -> Requests | None:
        """Return documents as requests for themselves; None where documents cannot be requests."""
        return None

    def baselines(self, requests: Requests, depth: int, measured: Measured) -> list[SystemRun]:
        """Return the answers of systems that are measured once beside all runs."""
        return []

    def baselines_of_run(self, name: str, requests: Requests, depth: int, measured: Measured) -> list[SystemRun]:
        """Return the answers of systems that are measured beside each run."""
        return []

    def require_comparable(self, other: "Problem") -> None:
        """Check that a report can hold both runs.

        Raises:
            InputError: If not.
        """
        if other.fingerprints["corpus"] != self.fingerprints["corpus"]:
            raise InputError("a run of another corpus", file=other.folder, expected=f"the corpus of {self.folder}")

    def require_ranks(self) -> None:  # noqa: B027  most decoders write docids
        """Check that the run's decoder writes docids.

        Raises:
            InputError: If it writes something else.
        """

    @property
    def writes_queries(self) -> bool:
        """Whether the decoder writes queries for documents, not docids."""
        return False

    def unknown_words(self, request: Any) -> bool:
        """Return whether the model knows no word of a request."""
        return False

    @property
    def later(self) -> Bool[np.ndarray, " n"]:
        """Documents that training is not shown, as if they came later."""
        return np.zeros(len(self.corpus), bool)

    @property
    def input_widths(self) -> Sequence[int]:
        """Columns that short inputs may be cut to, so that they cost less."""
        return ()

    @property
    def start_changes(self) -> bool:
        """Whether :meth:`extended` documents change the start of the parameters that others have."""
        return False

    @property
    def plan_tables(self) -> PlanTables | None:
        """The facts of the network's plan about the docids; None without a plan."""
        return None

    @property
    def sampler(self) -> Any:
        """How examples are drawn, where t5x can draw them too.

        Raises:
            InputError: If it cannot.
        """
        raise InputError(
            f"a run on {self.kind} for t5x",
            file=self.folder,
            expected="a run on documents",
            fix="train it with 'genret train'",
        )

    def planned_task(self) -> TrainingTask | None:
        """Return the task of a network with a plan, without examples; None without a plan."""
        return None

    def facts(self) -> Any:
        """Return what a start may ask about the data (:class:`genret_jax.models.start.Start`)."""
        return None

    def extended(
        self: _P,
        doc_ids: Sequence[str],
        *,
        titles: Sequence[str] = (),
        texts: Sequence[str] = (),
        vectors: np.ndarray | None = None,
    ) -> _P:
        """Return the run with further documents, whose docids come from their content; the folder stays as it is.

        Args:
            doc_ids: Their ids.
            titles: Their titles; none by default.
            texts: Their texts; none by default.
            vectors: One for each of them [n, d], made as those of the run's documents were.

        Raises:
            InputError: If the run's docids or its head do not allow it, an id is taken, or there is no room left.
        """
        raise InputError(f"{self.kind} cannot be added to this run", file=self.folder, fix="train again with them")

    # --- What all problems share ---

    def start_params(self) -> dict[str, Any]:
        """Return the parameters before the first step; the same every time."""
        random = random_params(self.model, self.seed, self.tree)
        return initial_params(random, self.model, self.experiment.start, self.facts())

    def params(self, checkpoint: str | int = "best", mesh: Mesh | None = None) -> dict[str, Any]:
        """Return the parameters of a checkpoint, or those of the untrained network for ``"start"``.

        Args:
            checkpoint: ``"best"``, ``"last"``, a step, ``"start"``, or the path of a checkpoint or ``MODEL_DIR`` that
                t5x wrote. Such a checkpoint does not say which corpus and docids it was trained on.
            mesh: Devices to spread them over as in training; None for one device.

        Raises:
            InputError: If there is no such checkpoint, or it is of another network, corpus or docids.
        """
        from genret_jax.training.t5x.checkpoint import read_t5x_params

        like = self.param_shapes(mesh)
        if checkpoint == "start":
            start = self.start_params()
            return start if mesh is None else jax.device_put(start, jax.tree.map(lambda shape: shape.sharding, like))
        if _is_of_t5x(checkpoint):
            return read_t5x_params(checkpoint, like)
        return restore_params(self.folder, checkpoint, mesh, like=like, fingerprint=self.fingerprints)

    def require_checkpoint(self, checkpoint: str | int = "best") -> None:
        """Check that :meth:`params` finds a checkpoint that fits, without reading its arrays.

        Args:
            checkpoint: As for :meth:`params`.

        Raises:
            InputError: As :meth:`params`, but not for damaged arrays.
        """
        from genret_jax.training.t5x.checkpoint import require_t5x_params

        if checkpoint == "start":
            return
        like = self.param_shapes()
        if _is_of_t5x(checkpoint):
            require_t5x_params(checkpoint, like)
        else:
            require_params(self.folder, checkpoint, like=like, fingerprint=self.fingerprints)

    def param_shapes(self, mesh: Mesh | None = None) -> dict[str, Any]:
        """Return the shapes of the parameters, and their shardings on a mesh."""
        variables = jax.eval_shape(lambda: jitted_variables(self.model, jax.random.key(self.seed), self.tree))
        shapes: dict[str, Any] = variables["params"]
        if mesh is None:
            return shapes
        places = param_shardings(mesh, shapes, logical_axes(variables))
        return jax.tree.map(lambda s, place: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=place), shapes, places)

    @functools.cached_property
    def table(self) -> DocidTable:
        """The docids of every document."""
        table = DocidTable.load(self.folder / "docids")
        self._require("docids", table.fingerprint, self.folder / "docids")
        return table

    @property
    def codec(self) -> DocidCodec:
        """How codes become decoder tokens."""
        return DocidCodec.from_json(self.settings["codec"])

    @functools.cached_property
    def encoded(self) -> EncodedDocids:
        """Docids as the decoder's tokens."""
        return self.codec.encode(self.table)

    @functools.cached_property
    def quantiser(self) -> Quantiser | None:
        """The quantiser that gives later documents their docids; None where the strategy fits none."""
        return load_quantiser(self.folder / QUANTISER) if (self.folder / QUANTISER).is_dir() else None

    @functools.cached_property
    def row_of_document(self) -> Int[np.ndarray, " n"]:
        """First row of the docid table for every document."""
        rows = np.zeros(self.table.num_documents, np.int64)
        rows[self.table.document[::-1]] = np.arange(self.table.num_rows)[::-1]
        return rows

    @functools.cached_property
    def model(self) -> T5Config:
        """The network, sized for the data."""
        return from_bindings("model", self.settings["model"])

    @property
    def tree(self) -> NodeTree | None:
        """The docid tree, for networks whose head has a row per node."""
        return node_tree(self.encoded) if self.model.head == "prefix" else None

    @property
    def training_tree(self) -> NodeTree | None:
        """The docid tree of the documents that training shows; others in it would be learned as never coming."""
        needed = self.model.head == "prefix" or self.model.plan is not None
        return node_tree(self.encoded, ~self.later) if needed else None

    @property
    def evaluation(self) -> Any:
        """Settings of the report."""
        return self.experiment.evaluation

    @property
    def seed(self) -> int:
        """Seed of the run."""
        return int(self.experiment.seed)

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the parts that a checkpoint depends on."""
        return dict(self.settings["fingerprints"])

    def require_request(self, kind: type) -> None:
        """Check that this problem takes requests of a type.

        Raises:
            InputError: If it takes another.
        """
        wanted, name, verb = self.request
        if kind is not wanted:
            raise InputError(
                f"this run is of {self.kind}",
                file=self.folder,
                expected=f"a {name}",
                fix=f"use 'genret {verb}' or Retriever.{verb}",
            )

    def _make(self, part: str, write: Callable[[Path], object], like: Path | None) -> None:
        make(self.folder / part, write, like)

    def _make_docids(
        self,
        corpus: Corpus,
        vectors: Callable[[], np.ndarray],
        log: Callable[[str], None],
        like: Path | None,
        unseen: Bool[np.ndarray, " n"] | None = None,
    ) -> DocidTable:
        """Make docids and, where a quantiser is fitted, keep it for later documents.

        Args:
            corpus: The documents.
            vectors: Returns a vector of each; called only by a strategy that needs them.
            log: Receives a line about the docids.
            like: Run folder with the same parts, which are copied.
            unseen: Documents that a quantiser is not fitted to; they get docids as if they had come later.
        """
        make_docids(self.experiment, corpus, vectors, lambda part, write: self._make(part, write, like), unseen)
        table = DocidTable.load(self.folder / "docids")
        name, longest = table.strategy.get("name", ""), table.lengths.max()
        log(f"docids      {name}: {table.num_nodes:,} nodes, at most {longest} codes")
        return table

    def _read_quietly(self, read: Callable[[Path], Any]) -> Any:
        """Read the data in the run folder, without the warnings given when it was prepared; reject changed data."""
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

    def _appended(
        self, quantiser: Quantiser, doc_ids: Sequence[str], content: np.ndarray, corpus_fingerprint: str
    ) -> DocidTable:
        """Return the docid table with further documents, for which the network has room."""
        table = append_documents(self.table, quantiser, doc_ids, content, corpus_fingerprint=corpus_fingerprint)
        room = self.codec.level_sizes[-1]
        if table.level_sizes[-1] > room:
            raise InputError(
                f"{table.level_sizes[-1]} {self.kind} with the same codes but for the last",
                file=self.folder,
                expected=f"at most {room}, as the network has last codes",
                fix=f"train again with the new {self.kind}, or with more codes",
            )
        return table

    def _with_room_for(self, encoded: EncodedDocids) -> T5Config:
        """Return the network with rows for all nodes of a grown docid tree."""
        nodes = max(self.model.num_nodes, divisible(encoded.tree.num_nodes))
        return dataclasses.replace(self.model, num_nodes=nodes)


def _is_of_t5x(checkpoint: str | int) -> TypeGuard[str]:
    from genret_jax.training.t5x.checkpoint import find_checkpoint

    return isinstance(checkpoint, str) and checkpoint not in ("best", "last") and bool(find_checkpoint(checkpoint))


def say(line: str) -> None:
    """Print a line of progress to stderr, apart from results."""
    print(line, file=sys.stderr, flush=True)
