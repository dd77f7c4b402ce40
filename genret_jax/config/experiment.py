"""One experiment as one value: everything that turns a folder of data into a trained model.

The classes here are what gin files name; they hold choices and check them, and do no work. :mod:`genret_jax.run` does.
"""

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.vectors import LsaVectors, NpyVectors, SentenceTransformerVectors
from genret_jax.docids import (
    AtomicDocids,
    HierarchicalKMeans,
    LearnedDocids,
    LshDocids,
    NaiveStringDocids,
    NpyDocids,
    QuantisedDocids,
    RandomDocids,
    ResidualKMeans,
    RqVae,
)
from genret_jax.losses import check_consistency
from genret_jax.models.config import T5Config
from genret_jax.models.initialize import ItemStart, LsaStart
from genret_jax.training import TrainerConfig
from genret_jax.validation import check_fields, reject, require

DocidStrategy = (
    AtomicDocids
    | NaiveStringDocids
    | HierarchicalKMeans
    | ResidualKMeans
    | RqVae
    | LearnedDocids
    | LshDocids
    | RandomDocids
    | NpyDocids
)
VectorSource = LsaVectors | NpyVectors | SentenceTransformerVectors


def needs_vectors(docids: DocidStrategy) -> bool:
    """Whether a strategy makes docids of the documents' vectors."""
    return isinstance(docids, (HierarchicalKMeans, QuantisedDocids))


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """Where text tokens come from.

    Args:
        kind: ``"sentencepiece"`` trains a unigram model on the corpus and its training queries, ``"file"`` opens an
            existing ``.model``, ``"bytes"`` needs nothing (ByT5's layout).
        size: Pieces to train; a small corpus gets fewer.
        normalization: ``"words"`` lower-cases and splits camelCase and snake_case; ``"none"`` keeps the text as it is,
            which is what public T5 weights expect.
        path: The ``.model`` of ``kind="file"``.
        extra_ids: Sentinel tokens at the end, needed by span corruption (T5: 100).
    """

    kind: Literal["sentencepiece", "file", "bytes"] = "sentencepiece"
    size: int = 8000
    normalization: Literal["words", "none"] = "words"
    path: str | None = None
    extra_ids: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        require(self, "size", self.size >= 16, "at least 16")
        require(self, "extra_ids", self.extra_ids >= 0, "0 or more")
        require(self, "path", (self.path is not None) == (self.kind == "file"), "a path exactly when kind is 'file'")


@dataclass(frozen=True, kw_only=True)
class PretrainedStart:
    """Start from public T5 weights.

    Args:
        path: A T5, T5 1.1, mT5 or ByT5 checkpoint in the Hugging Face layout (``config.json`` and
            ``model.safetensors``) or in t5x's. Rows of docid tokens, which the public vocabulary does not have, start
            at random, at the scale of the checkpoint's rows.
    """

    path: str

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def source(self) -> str:
        """What the network starts from, in a few words."""
        return f"public weights, {self.path}"


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """What is measured, and how widely the search looks.

    Args:
        split: The qrels split that the report is about.
        beam: Beams of the report's search; metrics at k > beam are left out.
        validation_beam: Beams of the searches during training.
        validation_queries: At most so many validation queries are searched during training.
        batch_size: Queries searched together.
    """

    split: str = "test"
    beam: int = 100
    validation_beam: int = 20
    validation_queries: int = 512
    batch_size: int = 64

    def __post_init__(self) -> None:
        check_fields(self)
        for field in ("beam", "validation_beam", "validation_queries", "batch_size"):
            require(self, field, getattr(self, field) >= 1, "at least 1")


@dataclass(frozen=True, kw_only=True)
class _Choices:
    """What experiments of every kind have in common."""

    if TYPE_CHECKING:
        trainer: TrainerConfig
        docid_seed: int
        model: T5Config
        z_loss: float
        label_smoothing: float
        consistency: float

    @property
    def losses(self) -> dict[str, float]:
        """Weights of what the loss consists of, as training tasks take them."""
        return {name: getattr(self, name) for name in ("z_loss", "label_smoothing", "consistency")}

    @property
    def seed(self) -> int:
        """The trainer's seed, which also seeds the examples."""
        return self.trainer.seed

    def identity(self) -> dict[str, str]:
        """Return what a run folder must agree on to be continued, by gin's names.

        That is everything but the place of the corpus, the length of training and what is reported.
        """
        training = ("batch_size", "optimizer", "clip_norm", "average_decay", "seed")
        found: dict[str, str] = {}
        for field in dataclasses.fields(self):
            if field.name not in ("corpus", "trainer", "evaluation"):
                _describe(type(self).__name__, field.name, getattr(self, field.name), found)
        for name in training:
            _describe("TrainerConfig", name, getattr(self.trainer, name), found)
        return found


@dataclass(frozen=True, kw_only=True)
class Experiment(_Choices):
    """A corpus, and every choice between it and ranked documents.

    Args:
        corpus: BEIR folder.
        docids: Strategy that gives documents their docids, or the folder of a saved docid table.
        docid_seed: Seed of the strategy; of its own, so that runs of several seeds have the same docids.
        vectors: Document vectors for strategies that cluster.
        codec: How codes become decoder tokens (:class:`genret_jax.docids.DocidCodec`).
        vocabulary: Text tokens.
        sampler: Training examples: representation, objective, mixture rates, pseudo-queries, noise.
        model: Network; vocabulary sizes and node counts are filled in from the corpus.
        start: ``LsaStart`` (from the corpus alone), ``PretrainedStart`` (from public weights), or None for random
            weights.
        trainer: Optimiser, steps, batch, mesh, checkpoints.
        evaluation: Report and validation.
        hold_out: Share of the training queries set aside as split ``validation`` where the corpus has none.
        z_loss: Weight of the penalty on the squared log-normaliser of the logits (T5: 1e-4).
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
        consistency: Weight of the divergence between two passes over a batch with different dropout masks
            (:class:`genret_jax.training.docid_task.DocidTask`); 0 makes one pass. NCI has 0.15.
    """

    corpus: str
    docids: DocidStrategy | str = HierarchicalKMeans()
    docid_seed: int = 0
    vectors: VectorSource = LsaVectors()
    codec: Literal["per_level", "shared", "text"] = "per_level"
    vocabulary: VocabularyConfig = VocabularyConfig()
    sampler: SamplerConfig = SamplerConfig()
    model: T5Config
    start: LsaStart | PretrainedStart | None = None
    trainer: TrainerConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    hold_out: float = 0.1
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_docid_seed(self)
        require(self, "hold_out", 0 <= self.hold_out < 1, "a share from 0 to below 1")
        _check_loss(self)
        if self.model.head == "prefix":
            if self.codec != "per_level":
                reject(self, "codec", "'per_level' with the prefix head, which has a row per docid node")
            if self.sampler.objective != "inputs_to_targets":
                _reject_objective(self.sampler)
        if isinstance(self.docids, LearnedDocids):
            needed = "another strategy, or "
            require(self, "docids", self.codec == "per_level", needed + "Experiment.codec = 'per_level'")
            direct = self.sampler.objective == "inputs_to_targets"
            require(self, "docids", direct, needed + "SamplerConfig.objective = 'inputs_to_targets'")


@dataclass(frozen=True, kw_only=True)
class Recommendation(_Choices):
    """Items with users' histories, and every choice between them and recommended items.

    Args:
        corpus: Folder of items and histories (:mod:`genret_jax.data.interactions`).
        docids: Strategy that gives items their docids, or the folder of a saved docid table.
        docid_seed: Seed of the strategy; of its own, so that runs of several seeds have the same docids.
        vectors: Item vectors for strategies that quantise; None takes the folder's ``embeddings.npy``, and latent
            semantic analysis of the items' texts where there is none.
        histories: How a user's history is shown.
        model: Network; vocabulary sizes and node counts are filled in from the items.
        start: ``ItemStart`` (from vectors of the items and who had them, for whole items and shared codes), or None for
            random weights.
        trainer: Optimiser, steps, batch, mesh, checkpoints.
        evaluation: Report and validation.
        cold_items: Share of the items that training is not shown, to see how new ones are recommended.
        z_loss: Weight of the penalty on the squared log-normaliser of the logits (T5: 1e-4).
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
        consistency: Weight of the divergence between two passes over a batch with different dropout masks
            (:class:`genret_jax.training.docid_task.DocidTask`); 0 makes one pass. NCI has 0.15.
    """

    corpus: str
    docids: DocidStrategy | str = ResidualKMeans(levels=3, codebook=256)
    docid_seed: int = 0
    vectors: VectorSource | None = None
    histories: HistoryConfig = HistoryConfig()
    model: T5Config
    start: ItemStart | None = None
    trainer: TrainerConfig
    evaluation: EvaluationConfig = EvaluationConfig(beam=20)
    cold_items: float = 0.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        _check_docid_seed(self)
        require(self, "cold_items", 0 <= self.cold_items < 1, "a share from 0 to below 1")
        learned = isinstance(self.docids, LearnedDocids)
        require(self, "docids", not learned, "another strategy: LearnedDocids reads documents")
        fits = self.histories.whole_items and self.model.shared_codes
        needed = "None without HistoryConfig.whole_items and T5Config.shared_codes"
        require(self, "start", self.start is None or fits, needed)
        _check_loss(self)


AnyExperiment = Experiment | Recommendation


def _check_docid_seed(experiment: _Choices) -> None:
    require(experiment, "docid_seed", 0 <= experiment.docid_seed < 2**32, "a seed from 0 to 2**32 - 1")


def _check_loss(experiment: Experiment | Recommendation) -> None:
    require(experiment, "z_loss", experiment.z_loss >= 0, "0 or more")
    check_consistency(experiment, experiment.model.dropout_rate)
    smoothing = experiment.label_smoothing
    require(experiment, "label_smoothing", 0 <= smoothing < 1, "a share from 0 to below 1")
    # Spread over all tokens, it would ask for those whose logits the prefix head holds at the lowest value.
    smooth = smoothing == 0 or experiment.model.head == "vocabulary"
    require(experiment, "label_smoothing", smooth, "0 with the prefix head, which cannot write other tokens")


def _describe(owner: str, field: str, value: object, found: dict[str, str]) -> None:
    if not dataclasses.is_dataclass(value):
        found[f"{owner}.{field}"] = repr(value)
        return
    name = type(value).__name__
    found[f"{owner}.{field}"] = f"@{name}()"
    for part in dataclasses.fields(value):
        _describe(name, part.name, getattr(value, part.name), found)


def _reject_objective(sampler: SamplerConfig) -> None:
    """Reject an objective that writes text, for a head that can only write docids."""
    reject(
        sampler,
        "objective",
        "'inputs_to_targets' with T5Config.head='prefix'; the others write text and need 'vocabulary'",
    )
