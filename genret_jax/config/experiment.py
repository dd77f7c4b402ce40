"""One experiment as one value: every choice between a folder of data and a trained model.

The classes here are what gin files name. They hold choices and check them; :mod:`genret_jax.run` does the work.
"""

import dataclasses
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from genret_jax.config.record import to_bindings
from genret_jax.data.examples.histories import HistoryConfig
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.data.vectors import VectorSource
from genret_jax.docids import DocidStrategy, HierarchicalKMeans, LearnedDocids, ResidualKMeans
from genret_jax.losses import TokenLoss, check_consistency
from genret_jax.models.config import T5Config
from genret_jax.models.start import Start
from genret_jax.training import TrainerConfig
from genret_jax.validation import at_least, check_fields, from_to, less_than, reject, require


@dataclass(frozen=True, kw_only=True)
class VocabularyConfig:
    """The text vocabulary.

    Args:
        kind: ``"sentencepiece"`` trains a unigram model on the corpus and its training queries. ``"file"`` opens an
            existing ``.model``. ``"bytes"`` needs no model (ByT5's layout).
        size: Pieces to train; a small corpus gets fewer.
        normalization: ``"words"`` lower-cases and splits camelCase and snake_case. ``"none"`` keeps the text as it is,
            as public T5 weights expect.
        path: The ``.model`` of ``kind="file"``.
        extra_ids: Sentinel tokens at the end, needed by span corruption (T5: 100).
    """

    kind: Literal["sentencepiece", "file", "bytes"] = "sentencepiece"
    size: Annotated[int, at_least(16)] = 8000
    normalization: Literal["words", "none"] = "words"
    path: str | None = None
    extra_ids: Annotated[int, at_least(0)] = 0

    def __post_init__(self) -> None:
        check_fields(self)
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

    #: The network keeps all rows of the public vocabulary.
    keeps_vocabulary: ClassVar[bool] = True

    @property
    def source(self) -> str:
        """The source of the parameters, in a few words."""
        return f"public weights, {self.path}"

    def initial_params(self, random_params: dict[str, Any], config: T5Config, facts: Any) -> dict[str, Any]:
        """Return the checkpoint's parameters, with random rows for docid tokens.

        Raises:
            InputError: If it cannot be read, or is of another network.
        """
        from genret_jax.models.convert.pretrained import load_into

        return load_into(random_params, config, self.path)


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Settings of the report and of validation during training.

    Args:
        split: Qrels split of the report.
        beam: Beams of the report's search. Metrics at k > beam are left out.
        validation_beam: Beams of the searches during training.
        validation_queries: Largest number of validation queries searched during training.
        batch_size: Queries searched together.
    """

    split: str = "test"
    beam: Annotated[int, at_least(1)] = 100
    validation_beam: Annotated[int, at_least(1)] = 20
    validation_queries: Annotated[int, at_least(1)] = 512
    batch_size: Annotated[int, at_least(1)] = 64

    def __post_init__(self) -> None:
        check_fields(self)


@dataclass(frozen=True, kw_only=True)
class BaseExperiment:
    """The choices of every experiment, whatever its problem.

    An experiment on a new problem is a subclass; :class:`genret_jax.problems.Problem` says what goes with it.

    Args:
        corpus: Folder with the data.
        docids: Strategy that assigns the docids, or the folder of a saved docid table.
        docid_seed: Seed of the strategy. It is separate from the trainer's, so that runs of several seeds share their
            docids.
        model: Network. Vocabulary sizes and node counts are filled in from the data.
        start: What the parameters start from; None for random values.
        trainer: Optimiser, steps, batch, mesh, checkpoints.
        evaluation: Settings of the report and of validation.
        loss: Loss of the target tokens; None takes cross-entropy, which has the next two settings.
        z_loss: Weight of the penalty on the squared log-normaliser of the logits (T5: 1e-4).
        label_smoothing: Share of a target's probability that is spread over the vocabulary.
        consistency: Weight of the divergence between two passes over a batch with different dropout masks
            (:class:`genret_jax.training.docid_task.DocidTask`). 0 makes one pass. NCI uses 0.15.
    """

    corpus: str
    docids: DocidStrategy | LearnedDocids | str
    docid_seed: Annotated[int, from_to(0, 2**32 - 1)] = 0
    model: T5Config
    start: Start | None = None
    trainer: TrainerConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    loss: TokenLoss | None = None
    z_loss: Annotated[float, at_least(0)] = 0.0
    label_smoothing: Annotated[float, at_least(0), less_than(1)] = 0.0
    consistency: float = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        check_consistency(self, self.model.dropout_rate)
        plain = self.loss is None or not (self.z_loss or self.label_smoothing)
        require(self, "loss", plain, "None with z_loss or label_smoothing, which are settings of cross-entropy")
        # Label smoothing would ask for tokens whose logits the prefix head holds at the lowest value.
        smooth = self.label_smoothing == 0 or self.model.head == "vocabulary"
        require(self, "label_smoothing", smooth, "0 with the prefix head, which cannot write other tokens")

    @property
    def losses(self) -> dict[str, Any]:
        """The settings of the loss, as training tasks take them."""
        return {name: getattr(self, name) for name in ("loss", "z_loss", "label_smoothing", "consistency")}

    @property
    def seed(self) -> int:
        """The trainer's seed, which also seeds the examples."""
        return self.trainer.seed

    def identity(self) -> dict[str, str]:
        """Return the gin bindings that a run folder must agree on to be resumed.

        The place of the corpus, the length of training and the settings of reports may change.
        """
        decisive = ("batch_size", "optimizer", "learning_rates", "clip_norm", "average_decay", "seed")
        free = {f"{type(self).__name__}.{name}" for name in ("corpus", "evaluation")}
        free |= {f"TrainerConfig.{field.name}" for field in dataclasses.fields(TrainerConfig)}
        free -= {f"TrainerConfig.{name}" for name in decisive}
        found = to_bindings("train.experiment", self)
        return {
            name: value
            for name, value in found.items()
            if name not in free and not name.startswith("EvaluationConfig.")
        }


def needs_vectors(docids: DocidStrategy | LearnedDocids | str) -> bool:
    """Return whether a strategy clusters or quantises vectors of the documents."""
    return bool(getattr(docids, "needs_vectors", False))


@dataclass(frozen=True, kw_only=True)
class Experiment(BaseExperiment):
    """An experiment on documents: text in, docids of documents out.

    Args:
        encoder: Folder or name of a pretrained sentence encoder (``genret encoder get``), which becomes the network's
            encoder; None for an encoder from scratch or from ``PretrainedStart``. The run folder gets a copy.
        vectors: Document vectors, for strategies that cluster. None takes those of the encoder, or latent semantic
            analysis where there is none.
        codec: How codes become decoder tokens (:class:`genret_jax.docids.DocidCodec`).
        vocabulary: Text tokens; None with an encoder, which has its own.
        sampler: Training examples: representation, objective, mixture rates, pseudo-queries, noise.
        pool: Number of training examples whose encoder states are computed once, before training, and drawn again and
            again. 0 draws and encodes new examples at every step. Needs ``("encoder", 0.0)`` among the trainer's
            ``learning_rates``. The states take 2 bytes for each number, at most 4 GiB.
        start: ``LsaStart`` (from the corpus alone), ``EncoderStart`` (from the encoder), ``PretrainedStart`` (from
            public T5 weights), or None.
        hold_out: Share of the training queries set aside as split ``validation`` where the corpus has none.
    """

    docids: DocidStrategy | LearnedDocids | str = HierarchicalKMeans()
    encoder: str | None = None
    vectors: VectorSource | None = None
    codec: Literal["per_level", "shared", "text"] = "per_level"
    vocabulary: VocabularyConfig | None = VocabularyConfig()
    sampler: SamplerConfig = SamplerConfig()
    pool: Annotated[int, at_least(0)] = 0
    start: Start | None = None
    hold_out: Annotated[float, at_least(0), less_than(1)] = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        has_encoder = self.encoder is not None
        require(self, "vocabulary", (self.vocabulary is None) == has_encoder, "None exactly when encoder is set")
        require(self.sampler, "terms", not self.sampler.terms, "0: PlanConfig.terms decides for an experiment")
        frozen = dict(self.trainer.learning_rates).get("encoder") == 0
        require(self, "pool", not self.pool or frozen, "0 unless TrainerConfig.learning_rates keeps the encoder")
        plan = self.model.plan
        vectors = has_encoder or (plan is not None and plan.reads_vectors)
        require(self.model, "query_width", vectors or not self.model.query_width, "0 without a vector to change")
        if plan is not None:
            starts = has_encoder or not plan.reads_vectors or getattr(self.start, "starts_plans", False)
            require(self, "start", starts, "LsaStart with a plan of vectors, unless Experiment.encoder is set")
            direct = not self.sampler.decoder_writes_text
            require(self.sampler, "objective", direct, "'inputs_to_targets' with T5Config.plan, which scores docids")
            require(self, "codec", self.codec == "per_level", "'per_level' with T5Config.plan")
        if self.model.head == "prefix":
            if self.codec != "per_level":
                reject(self, "codec", "'per_level' with the prefix head, which has a row per docid node")
            if self.sampler.objective != "inputs_to_targets":
                needed = "'inputs_to_targets' with T5Config.head='prefix'; the others write text and need 'vocabulary'"
                reject(self.sampler, "objective", needed)
        if isinstance(self.docids, LearnedDocids):
            needed = "another strategy, or "
            require(self, "docids", self.codec == "per_level", needed + "Experiment.codec = 'per_level'")
            direct = self.sampler.objective == "inputs_to_targets"
            require(self, "docids", direct, needed + "SamplerConfig.objective = 'inputs_to_targets'")


@dataclass(frozen=True, kw_only=True)
class Recommendation(BaseExperiment):
    """An experiment on items: a user's history in, docids of items out.

    Args:
        corpus: Folder of items and histories (:mod:`genret_jax.data.interactions`).
        vectors: Item vectors, for strategies that quantise. None takes the folder's ``embeddings.npy``, or latent
            semantic analysis of the items' texts where there is none.
        histories: How a user's history is shown.
        start: ``ItemStart`` (from vectors of the items and their users; for whole items and shared codes), or None.
        cold_items: Share of the items that training is not shown, to measure how new items are recommended.
    """

    docids: DocidStrategy | LearnedDocids | str = ResidualKMeans()
    vectors: VectorSource | None = None
    histories: HistoryConfig = HistoryConfig()
    start: Start | None = None
    evaluation: EvaluationConfig = EvaluationConfig(beam=20)
    cold_items: Annotated[float, at_least(0), less_than(1)] = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        learned = isinstance(self.docids, LearnedDocids)
        require(self, "docids", not learned, "another strategy: LearnedDocids reads documents")
        fits = self.histories.whole_items and self.model.shared_codes
        needed = "None without HistoryConfig.whole_items and T5Config.shared_codes"
        require(self, "start", self.start is None or fits, needed)
