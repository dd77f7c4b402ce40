"""A dual encoder: queries and documents become vectors, and the nearest documents are the answer.

It has the encoder of the generative model, T5's or a pretrained sentence encoder, and is trained on the queries,
pseudo-queries and documents of that model's example store.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Float32, Int, Int32

from genret_jax.baselines.vector_search import ExactIndex, HnswIndex, padded_blocks, ranked_by, recall_of_exact
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.vocabulary import EOS, Vocabulary
from genret_jax.errors import InputError
from genret_jax.evaluation.compare import SystemRun, timed_search
from genret_jax.evaluation.metrics import evaluate
from genret_jax.evaluation.report import System, cost
from genret_jax.losses import in_batch_contrastive
from genret_jax.models.config import T5Config
from genret_jax.models.encoders.bert import BertEncoder
from genret_jax.models.encoders.config import SentenceForm
from genret_jax.models.encoders.t5 import T5Encoder
from genret_jax.models.layers import Embed
from genret_jax.models.query import pooled_states, source_tokens
from genret_jax.training import AdamW, TrainerConfig, read_metrics, restore_params, train
from genret_jax.training.config import LinearWarmupLinearDecay
from genret_jax.validation import at_least, check_fields, more_than

_ROWS_AT_ONCE = 256  # most texts encoded in one call
_COLUMNS = 16  # inputs have a multiple of so many tokens, so that few programs are compiled
_FINE_TUNING = 2e-5  # the peak rate for a pretrained sentence encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class DualEncoderConfig:
    """One encoder for queries and documents, with their lengths and the temperature of the loss.

    Attributes:
        network: Shape of the encoder; fields of the decoder are ignored.
        query_length: Number of tokens of a query that are read.
        document_length: Number of tokens of a document that are read.
        append_eos: End both with EOS, as pretrained T5 expects.
        passage_form: How a document becomes the input of a sentence encoder; ``network.sentence`` says it of queries.
        temperature: Divides cosine similarities in the loss; 0.05 as in SimCSE (Gao et al. 2021, arXiv 2104.08821).
    """

    network: T5Config
    query_length: Annotated[int, at_least(2)] = 24
    document_length: Annotated[int, at_least(2)] = 64
    append_eos: bool = False
    passage_form: SentenceForm | None = None
    temperature: Annotated[float, more_than(0)] = 0.05

    def __post_init__(self) -> None:
        check_fields(self)

    @property
    def of_queries(self) -> T5Config:
        """The encoder of queries; a network must have a decoder layer or a plan, and this has no plan."""
        return dataclasses.replace(self.network, plan=None, query_width=0, num_decoder_layers=1)

    @property
    def of_documents(self) -> T5Config:
        """The encoder of documents, which has the parameters of that of queries."""
        return dataclasses.replace(self.of_queries, sentence=self.passage_form)


class TextEncoder(nn.Module):
    """An encoder and the normalised pool of its states.

    That is a pretrained sentence encoder with its own pooling, or T5's encoder with the mean (Ni et al. 2022,
    Sentence-T5, arXiv 2108.08877). Parameters have the same names as in :class:`genret_jax.models.network.T5`.
    """

    config: T5Config

    def setup(self) -> None:
        """Declare the encoder under the network's names."""
        if self.config.encoder is not None:
            self.encoder = BertEncoder(self.config.encoder)
        else:
            self.token_embedder = Embed(self.config.vocab_size, self.config.d_model, self.config.compute_dtype)
            self.encoder = T5Encoder(self.config, self.token_embedder)

    def __call__(self, tokens: Int[Array, "b l"], *, deterministic: bool = True) -> Float[Array, "b d"]:
        """Return unit vectors in float32; without a sentence encoder, a zero vector for a text without tokens."""
        form, tokens = self.config.sentence, source_tokens(self.config, tokens)
        states = self.encoder(tokens, deterministic=deterministic)
        return pooled_states(states, tokens, "mean" if form is None else form.pooling, normalize=True)


def encoder_params(params: Mapping[str, Any], network: T5Config) -> dict[str, Any]:
    """Return the parameters of a network that :class:`TextEncoder` uses: embeddings and encoder."""
    names = ("token_embedder", "encoder") if network.encoder is None else ("encoder",)
    return {name: params[name] for name in names}


def encode_tokens(
    network: T5Config, params: Mapping[str, Any], tokens: Int32[np.ndarray, "n l"]
) -> Float32[np.ndarray, "n d"]:
    """Return the unit vectors of many texts, encoded in blocks; zero vectors for texts without tokens."""
    vectors = np.zeros((len(tokens), network.d_model), np.float32)
    longest = int(np.count_nonzero(tokens.any(axis=0)))
    tokens = tokens[:, : max(1, -(-longest // _COLUMNS)) * _COLUMNS]  # short texts cost less
    for part, block in padded_blocks(tokens, _ROWS_AT_ONCE):
        vectors[part] = np.asarray(_encode(params, block, network=network))[: len(vectors[part])]
    vectors[~tokens.any(axis=1)] = 0
    return vectors


@functools.partial(jax.jit, static_argnames="network")
def _encode(params: Mapping[str, Any], tokens: Int[Array, "b l"], *, network: T5Config) -> Float[Array, "b d"]:
    vectors: Array = TextEncoder(network).apply({"params": params}, tokens)
    return vectors


class DualEncoderTask:
    """Find the document of each query among those of the batch (Karpukhin et al. 2020, DPR, arXiv 2004.04906).

    Args:
        config: Encoder and lengths.
        store: Texts.
        sampler: How queries and pseudo-queries are drawn; their length and EOS come from ``config``.
        seed: Seed of the sampler.
        batch_size: Pairs in a batch.
    """

    def __init__(
        self, config: DualEncoderConfig, store: ExampleStore, sampler: SamplerConfig, *, seed: int, batch_size: int
    ):
        self.config, self.store = config, store
        self.queries, self.documents = TextEncoder(config.of_queries), TextEncoder(config.of_documents)
        # Other objectives put docids into the encoder's input, which here is the query.
        shown = dataclasses.replace(
            sampler,
            objective="inputs_to_targets",
            input_length=config.query_length,
            target_length=None,
            terms=0,
            append_eos=config.append_eos,
        )
        self.sampler = Sampler(store, shown, seed=seed, batch_size=batch_size)

    def init(self, rng: jax.Array) -> Mapping[str, Any]:
        """Return randomly initialised variables."""
        return self.queries.init(rng, jnp.zeros((1, 1), jnp.int32))

    def batch(self, step: int, rows: Int[np.ndarray, " r"] | None = None) -> dict[str, np.ndarray]:
        """Return queries or pseudo-queries with the first tokens of their documents."""
        examples = self.sampler.batch(step, rows)
        documents = self.store.document_inputs(
            self.config.document_length, documents=examples["document"], append_eos=self.config.append_eos
        )
        return {
            "query_tokens": examples["encoder_input_tokens"],
            "document_tokens": documents,
            "document": examples["document"],
        }

    def loss(
        self, params: Mapping[str, Any], batch: Mapping[str, jax.Array], dropout_rng: jax.Array
    ) -> tuple[jax.Array, jax.Array, dict[str, jax.Array]]:
        """Return the summed loss, the number of queries, and how many of them find their document first."""
        query_rng, document_rng = jax.random.split(dropout_rng)
        queries = _trained_on(self.queries, params, batch["query_tokens"], query_rng)
        documents = _trained_on(self.documents, params, batch["document_tokens"], document_rng)
        loss, weight = in_batch_contrastive(queries, documents, batch["document"], temperature=self.config.temperature)
        nearest = jnp.argmax(queries @ documents.T, axis=-1)
        return loss, weight, {"in_batch_accuracy": jnp.sum(batch["document"][nearest] == batch["document"])}


def _trained_on(encoder: TextEncoder, params: Mapping[str, Any], tokens: jax.Array, rng: jax.Array) -> jax.Array:
    return encoder.apply({"params": params}, tokens, deterministic=False, rngs={"dropout": rng})


def validate(
    store: ExampleStore, config: DualEncoderConfig, split: str, params: Mapping[str, Any], step: int
) -> dict[str, float]:
    """Return Hits, MRR, Recall and NDCG on a split by exact search; the last two arguments are an evaluator's."""
    encoder = DualEncoder.of_store(store, config, params)
    query_ids, tokens = store.queries(split, config.query_length, append_eos=config.append_eos)
    queries = encode_tokens(config.of_queries, encoder.params, tokens)
    qrels: dict[str, dict[str, int]] = {}
    for query, document, grade in zip(*(column.tolist() for column in store.pairs(split)), strict=True):
        qrels.setdefault(store.query_ids[query], {})[store.doc_ids[document]] = grade
    found = ranked_by(encoder.exact_index, query_ids, queries, encoder.doc_ids, 10)
    return evaluate(qrels, found, ks=(1, 10), beam=10)


class DualEncoder:
    """An encoder with the vectors of a corpus; :meth:`train` makes one.

    Args:
        config: Encoder and lengths.
        params: Parameters of the encoder.
        vocabulary: Turns text into tokens.
        doc_ids: External ids of the documents that have a vector.
        vectors: Their unit vectors, [n, d].
    """

    def __init__(
        self,
        config: DualEncoderConfig,
        params: Mapping[str, Any],
        vocabulary: Vocabulary,
        doc_ids: Sequence[str],
        vectors: Float32[np.ndarray, "n d"],
    ):
        self.config, self.vocabulary = config, vocabulary
        self.params = jax.device_put(dict(params))
        self.doc_ids, self.vectors = doc_ids, vectors

    @classmethod
    def train(
        cls,
        store: ExampleStore,
        config: DualEncoderConfig,
        trainer: TrainerConfig,
        folder: str | os.PathLike[str],
        *,
        sampler: SamplerConfig | None = None,
        init_params: Mapping[str, Any] | None = None,
        validation_split: str | None = None,
    ) -> "DualEncoder":
        """Train on the examples of a store, by the loop that trains generative models.

        Args:
            store: Texts, queries and judgements.
            config: Encoder and lengths.
            trainer: Steps, batch size, optimizer and seed. With ``best_metric="validation/mrr@10"`` the checkpoint
                that is best on the validation split is used.
            folder: Keeps checkpoints and metrics; an interrupted training continues from there.
            sampler: How queries and pseudo-queries are drawn.
            init_params: T5 parameters of the same shape to start from (a decoder among them is left out).
            validation_split: Split for the evaluations that ``trainer`` asks for.

        Raises:
            InputError: If ``trainer`` accumulates gradients, which would remove negatives, if the network has fewer
                tokens than the vocabulary, or as :func:`genret_jax.training.train` raises it.
            KeyboardInterrupt: If a signal stopped the training; the same call continues it.
        """
        if trainer.gradient_accumulation != 1:
            raise InputError(
                f"gradient_accumulation {trainer.gradient_accumulation} for a dual encoder",
                expected="1, as the negatives of a query are its whole batch",
                fix="set it to 1; T5Config.remat and a smaller batch save memory too",
            )
        if config.network.vocab_size < store.vocabulary_size:
            raise InputError(
                f"T5Config.vocab_size is {config.network.vocab_size}",
                expected=f"at least the vocabulary's {store.vocabulary_size}",
                fix="change T5Config.vocab_size",
            )
        task = DualEncoderTask(
            config, store, sampler or SamplerConfig(), seed=trainer.seed, batch_size=trainer.batch_size
        )
        evaluators = {}
        if validation_split is not None:
            evaluators["validation"] = functools.partial(validate, store, config, validation_split)
        result = train(
            task,
            trainer,
            folder,
            evaluators=evaluators,
            init_params=None if init_params is None else encoder_params(init_params, config.network),
            # Through JSON, because a tuple would not equal the list that a checkpoint has.
            fingerprint={
                "examples": store.fingerprint,
                "dual_encoder": json.loads(json.dumps(dataclasses.asdict(config))),
            },
        )
        result.require_whole()
        params = result.params if trainer.best_metric is None else restore_params(folder, "best")
        return cls.of_store(store, config, params)

    @classmethod
    def of_store(cls, store: ExampleStore, config: DualEncoderConfig, params: Mapping[str, Any]) -> "DualEncoder":
        """Return an encoder with vectors of the documents of a store; those without text are never found."""
        params = jax.device_put(jax.device_get(encoder_params(params, config.network)))  # from a mesh to one device
        documents = store.documents_with_text
        tokens = store.document_inputs(config.document_length, documents=documents, append_eos=config.append_eos)
        vectors = encode_tokens(config.of_documents, params, tokens)
        return cls(config, params, store.vocabulary, [store.doc_ids[int(index)] for index in documents], vectors)

    def encode_queries(self, texts: Sequence[str]) -> Float32[np.ndarray, "q d"]:
        """Return unit vectors of texts; zero vectors for those without a word."""
        append_eos = self.config.append_eos
        tokens = self.vocabulary.encode_rows(texts, self.config.query_length, append_eos=append_eos)
        tokens[tokens[:, 0] == EOS] = 0
        return encode_tokens(self.config.of_queries, self.params, tokens)

    @functools.cached_property
    def exact_index(self) -> ExactIndex:
        """Exact search over the documents."""
        return ExactIndex(self.vectors)

    def search(
        self, queries: Mapping[str, str], k: int, index: ExactIndex | HnswIndex | None = None
    ) -> dict[str, list[tuple[str, float]]]:
        """Rank documents for queries by cosine similarity.

        Args:
            queries: Query id to text.
            k: Most results per query.
            index: Index over ``self.vectors``, e.g. ``HnswIndex(encoder.vectors)``; exact search by default.

        Returns:
            Query id to (document id, similarity) from best to worst; nothing for a query without a word.
        """
        vectors = self.encode_queries(list(queries.values()))
        return ranked_by(index or self.exact_index, list(queries), vectors, self.doc_ids, k)


def train_and_answer(
    store: ExampleStore,
    queries: Mapping[str, str],
    depth: int,
    *,
    name: str,
    network: T5Config,
    sampler: SamplerConfig,
    trainer: TrainerConfig,
    folder: str | os.PathLike[str],
    init_params: Mapping[str, Any] | None = None,
    passage_form: SentenceForm | None = None,
) -> list[SystemRun]:
    """Train a dual encoder beside a generative model, and search its documents exactly and by HNSW.

    Args:
        store: Tokenised examples. If it has a ``validation`` split, the encoder is validated on it.
        queries: Query id to text, at least one.
        depth: Results per query.
        name: Name of the generative model in the report.
        network: Shape of the encoder.
        sampler: How examples are drawn; also gives the length of queries and whether they end with EOS.
        trainer: Steps, batch size, optimizer and seed; see :func:`trainer_like`.
        folder: Keeps checkpoints and metrics. An encoder that was trained there before is used again.
        init_params: The generative model's parameters, to start from.
        passage_form: How a document becomes the input of the encoder, for a sentence encoder.

    Returns:
        Answers of ``"{name}, dual encoder"`` and ``"{name}, dual encoder, HNSW"``.
    """
    config = DualEncoderConfig(
        network=network,
        query_length=sampler.input_length,
        append_eos=sampler.append_eos,
        passage_form=passage_form,
    )
    if network.encoder is not None and passage_form is not None:
        room = network.encoder.max_length - len(passage_form.first_tokens) - 1
        config = dataclasses.replace(config, document_length=_usual_length(store, room))
    encoder = DualEncoder.train(
        store,
        config,
        trainer,
        folder,
        sampler=sampler,
        init_params=init_params,
        validation_split="validation" if "validation" in store.splits else None,
    )
    hnsw = HnswIndex(encoder.vectors)
    exact, exact_time = timed_search(encoder.search, queries, depth, compiles_anew=True)
    found, hnsw_time = timed_search(lambda asked, k: encoder.search(asked, k, hnsw), queries, depth, compiles_anew=True)
    about = f"the encoder of {name}, in-batch negatives"
    size, graph_size = (
        cost(
            num_bytes=index.num_bytes,
            documents=len(encoder.doc_ids),
            parameters=sum(leaf.size for leaf in jax.tree.leaves(encoder.params)),
        )
        for index in (encoder.exact_index, hnsw)
    )
    effort = {"efSearch": hnsw.config.effort(depth)}
    recall = {"share of the exact 10 best found": recall_of_exact(found, exact, 10)}
    return [
        SystemRun(
            system=System(name=title, description=text, details=details),
            run=answers,
            depth=depth,
            milliseconds_per_query=time,
        )
        for title, text, details, answers, time in (
            (f"{name}, dual encoder", f"{about}, exact search", size, exact, exact_time),
            (
                f"{name}, dual encoder, HNSW",
                f"{about}, {hnsw.describe()}",
                graph_size | effort | recall,
                found,
                hnsw_time,
            ),
        )
    ]


def _usual_length(store: ExampleStore, most: int) -> int:
    """Return a number of tokens that nine of ten documents do not exceed, at most ``most``."""
    tokens = store.document_inputs(most, documents=store.documents_with_text)
    return max(2, int(np.quantile(np.count_nonzero(tokens, axis=1), 0.9, method="higher")))


def trainer_like(
    log_folder: str | os.PathLike[str], *, seed: int, validated: bool, pretrained: bool = False
) -> TrainerConfig:
    """Return a trainer with the number of steps and the batch size of a finished training.

    Args:
        log_folder: Folder with the ``metrics.jsonl`` of that training.
        seed: Seed of the new training.
        validated: Evaluate ten times on the validation split, and keep the best checkpoint.
        pretrained: The encoder is a pretrained sentence encoder. Its start is evaluated too, and the rate is 2e-5, one
            that is usual in fine-tuning (Devlin et al. 2019, arXiv 1810.04805, section 4.1).

    Raises:
        InputError: If the log has no training record with a speed.
    """
    records = [record for record in read_metrics(log_folder) if record.get("steps_per_second")]
    if not records:
        raise InputError(
            "a run that was not trained",
            file=log_folder,
            expected="at least one step, as a dual encoder is trained for as many",
            fix="leave --dual-encoder out, or train the run",
        )
    steps = records[-1]["step"]
    return TrainerConfig(
        steps=steps,
        batch_size=round(records[-1]["examples_per_second"] / records[-1]["steps_per_second"]),
        seed=seed,
        optimizer=AdamW(learning_rate=LinearWarmupLinearDecay(peak=_FINE_TUNING)) if pretrained else AdamW(),
        evaluate_every=max(1, steps // 10) if validated else None,
        evaluate_at_start=validated and pretrained,
        best_metric="validation/mrr@10" if validated else None,
    )
