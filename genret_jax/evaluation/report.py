"""The results of an evaluation as data; :mod:`genret_jax.evaluation.render` makes tables and pages from them.

:meth:`Report.save` writes JSON with all digits; only the tables are rounded.
"""

import dataclasses
import itertools
import os
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from genret_jax.errors import InputError
from genret_jax.evaluation.metrics import Difference, Interval
from genret_jax.storage import read_json, write_json

KIND, VERSION = "evaluation_report", 1
#: Details of a system that are shown as a table of their own, beside the time of a query.
PARAMETERS, BYTES_PER_DOCUMENT = "parameters", "bytes per document"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dataset:
    """The documents or items that were searched.

    Attributes:
        name: Name of the corpus.
        documents: Number of documents or items.
        source: Folder or program that the corpus came from.
        fingerprint: Fingerprint of the documents.
        kind: ``"documents"``, with queries; ``"items"``, with users who take a next item; or that of another problem.
    """

    name: str
    documents: int
    source: str = ""
    fingerprint: str = ""
    kind: str = "documents"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Split:
    """A set of queries that metrics are averaged over.

    Attributes:
        name: ``"test"``, ``"test, seen"``, ``"memorisation"``, …
        queries: Number of queries.
        relevant: Mean number of relevant documents per query.
        one_relevant: Every query has exactly one relevant document, so that Recall@k = Hits@k.
        description: A phrase that describes the queries.
    """

    name: str
    queries: int
    relevant: float
    one_relevant: bool
    description: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class System:
    """A system that ranks documents or items.

    Attributes:
        name: Its name in the tables.
        description: One line with its kind and settings.
        details: Further JSON values, such as the number of parameters or the efSearch of an index.
    """

    name: str
    description: str = ""
    details: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measurement:
    """The metrics of one system on one split.

    Attributes:
        system: Name of the system.
        split: Name of the split.
        metrics: Metric name to mean with interval, as fractions of 1. Metrics at k above the depth are absent.
        depth: Results asked for per query (beam size).
        milliseconds_per_query: Time per query within a batch, after compilation.
        versus_reference: Metric name to the paired difference from the reference system.
    """

    system: str
    split: str
    metrics: Mapping[str, Interval]
    depth: int
    milliseconds_per_query: float | None = None
    versus_reference: Mapping[str, Difference] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The results of an evaluation.

    Attributes:
        dataset: The documents or items that were searched.
        splits: Splits in the order of the tables.
        systems: Systems in the order of the rows.
        measurements: Metrics of the systems on the splits.
        reference: Name of the system that others are compared with, query by query.
        confidence: Level of confidence of the intervals.
        budget: Training steps, batch size, seconds and the like.
        environment: Versions and hardware; see :func:`genret_jax.evaluation.environment.environment`.
        notes: Sentences for the reader.
    """

    dataset: Dataset
    splits: tuple[Split, ...]
    systems: tuple[System, ...]
    measurements: tuple[Measurement, ...]
    reference: str | None = None
    confidence: float = 0.95
    budget: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    environment: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def find(self, system: str, split: str) -> Measurement | None:
        """Return the measurement of a system on a split, or None where there is none."""
        matching = (m for m in self.measurements if (m.system, m.split) == (system, split))
        return next(matching, None)

    def ratio(self, system: str, split: str, metric: str) -> float | None:
        """Return a system's metric divided by the reference's; None if one is missing, or the reference's is 0."""
        ours = self.find(system, split)
        theirs = self.find(self.reference, split) if self.reference else None
        if not (ours and theirs and metric in ours.metrics and metric in theirs.metrics):
            return None
        divisor = theirs.metrics[metric].mean
        return ours.metrics[metric].mean / divisor if divisor else None

    def to_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {"kind": KIND, "version": VERSION, **dataclasses.asdict(self)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Report":
        """Return the report from the JSON values of :meth:`to_json`."""
        fields = {name: v for name, v in value.items() if name not in ("kind", "version")}
        fields["dataset"] = Dataset(**fields["dataset"])
        fields["splits"] = tuple(Split(**split) for split in fields["splits"])
        fields["systems"] = tuple(System(**system) for system in fields["systems"])
        fields["measurements"] = tuple(_measurement(measured) for measured in fields["measurements"])
        fields["notes"] = tuple(fields["notes"])
        return cls(**fields)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON, atomically."""
        write_json(path, self.to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Report":
        """Read a report.

        Raises:
            InputError: If it is missing, not JSON, or not a report of this version.
        """
        value = read_json(path)
        found = (value.get("kind"), value.get("version")) if isinstance(value, dict) else (None, None)
        if found != (KIND, VERSION):
            raise InputError(
                f"kind {found[0]}, version {found[1]}",
                file=path,
                expected=f"an {KIND} of version {VERSION}",
                fix="run 'genret evaluate' again",
            )
        try:
            return cls.from_json(value)
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"a damaged report ({error})", file=path, fix="run 'genret evaluate' again") from None


def cost(*, num_bytes: int, documents: int, parameters: int = 0) -> dict[str, Any]:
    """Return the details of a system that tell what its search costs.

    Args:
        num_bytes: Memory that holds what the search knows about documents: postings, vectors, an index, rows of a
            network that are those of single documents.
        documents: Number of documents.
        parameters: Parameters of the network that reads queries; 0 without one.
    """
    return {PARAMETERS: parameters, BYTES_PER_DOCUMENT: round(num_bytes / documents, 1)}


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return a file name without suffix for each system, different for different names on every file system.

    ``BM25, k1 0.9`` becomes ``bm25-k1-0.9``. If another system has that already, a number follows.
    """
    files: dict[str, str] = {}
    for name in dict.fromkeys(names):
        plain = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
        words = re.sub(r"[^\w.%+-]+", "-", plain).strip("-.").encode()[:200].decode(errors="ignore") or "system"
        numbered = itertools.chain([words], (f"{words}-{number}" for number in itertools.count(2)))
        files[name] = next(candidate for candidate in numbered if candidate not in files.values())
    return files


def _measurement(value: Mapping[str, Any]) -> Measurement:
    metrics = {name: Interval(**interval) for name, interval in value["metrics"].items()}
    versus = {name: Difference(**difference) for name, difference in value["versus_reference"].items()}
    return Measurement(**{**value, "metrics": metrics, "versus_reference": versus})
