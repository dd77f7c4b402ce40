"""seqio tasks and a mixture on an example store, for t5x and other programs that read seqio.

The source of a task counts steps; its preprocessor takes the examples of a step from the sampler
(:class:`~genret_jax.data.examples.sampler.Sampler`). So seqio's example number ``step * batch_size + row`` is row
``row`` of the sampler's step ``step``, even if the split is repeated or divided over hosts.

seqio and TensorFlow are imported when tasks are registered, not with this module.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.examples.token_text import TokenText
from genret_jax.data.seqio.vocabulary import import_seqio, seqio_vocabulary
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint

DOCUMENTS = "documents"  # the split of the indexing task that has each document once
_RATES = {"indexing": "indexing_rate", "pseudo_queries": "pseudo_query_rate", "retrieval": "retrieval_rate"}
_ENDLESS = 1 << 62
# Parts of a split that a caching job can make in parallel.
_SHARDS = 64
_HITS_AT, _MRR_AT = (1, 5, 10, 100), (10, 100)
_registered: dict[str, str] = {}

Rows = dict[str, np.ndarray]


@runtime_checkable
class PlannedTask(Protocol):
    """A task whose loss reads more of an example than its tokens."""

    def facts(self, batch: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return arrays ``[b]`` or ``[b, n]`` for a batch with the sampler's arrays."""
        ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class RegisteredTasks:
    """Names of registered tasks and their mixture.

    Attributes:
        mixture: The mixture of all tasks, at the configured rates.
        tasks: Names of the tasks with a rate above 0, and their rates.
    """

    mixture: str
    tasks: Mapping[str, float]


def register_tasks(
    store_folder: str,
    name: str,
    config: SamplerConfig,
    *,
    seed: int = 0,
    batch_size: int = 128,
    steps: int | None = None,
    planned: PlannedTask | None = None,
) -> RegisteredTasks:
    """Register ``{name}_indexing``, ``{name}_pseudo_queries``, ``{name}_retrieval`` and the mixture ``{name}``.

    Each task has a split ``train``, which is endless unless ``steps`` is given. The retrieval task also has the other
    qrels splits, one example for each query, with metrics Hits@k and MRR@k. The indexing task also has ``documents``,
    one example for each document. Tasks with rate 0 are not registered. To register the same tasks again does nothing.

    Args:
        store_folder: Folder of an example store.
        name: Prefix of the tasks and name of the mixture.
        config: Rates, representation, objective and noise of the examples.
        seed: Seed of all random choices.
        batch_size: Rows of a step, by which examples are numbered.
        steps: Number of steps of split ``train``. Only a finite split can be cached by ``seqio_cache_tasks``, whose
            workers make different steps in parallel.
        planned: Gives the examples further features; None for tokens alone.

    Raises:
        InputError: If seqio is missing, the store cannot be used, or other tasks have the name.
    """
    seqio, _ = import_seqio()
    store = ExampleStore.open(store_folder)
    if config.indexing_first:
        raise InputError(
            f"SamplerConfig.indexing_first = {config.indexing_first} for tasks of a mixture, whose rates are constant",
            expected="0",
            fix="register two mixtures, one with indexing alone, and train on one after the other",
        )
    rates = {f"{name}_{kind}": float(getattr(config, field)) for kind, field in _RATES.items()}
    registered = RegisteredTasks(mixture=name, tasks={task: rate for task, rate in rates.items() if rate > 0})
    facts = fact_features(planned, config.terms)
    identity = fingerprint(store.fingerprint, dataclasses.asdict(config), seed, batch_size, steps, sorted(facts))
    if _registered.get(name) == identity:
        return registered
    taken = [n for n in (name, *registered.tasks) if n in seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()]
    if taken:
        raise InputError(f"seqio already has a task or mixture {taken[0]!r}", fix="register under another name")
    features = store_features(store) | facts
    for kind, field in _RATES.items():
        if rates[f"{name}_{kind}"] > 0:
            only: dict[str, Any] = dict.fromkeys(_RATES.values(), 0.0) | {field: 1.0}
            sampler = Sampler(store, dataclasses.replace(config, **only), seed=seed, batch_size=batch_size)
            _add_task(f"{name}_{kind}", sampler, _evaluation_splits(store, config, kind), features, steps, planned)
    seqio.MixtureRegistry.add(name, list(registered.tasks.items()))
    _registered[name] = identity
    return registered


def store_features(store: ExampleStore) -> dict[str, Any]:
    """Return the features ``inputs`` and ``targets`` of the tasks of a store, with their vocabularies."""
    seqio, _ = import_seqio()
    shared = store.shares_vocabulary
    sizes = {"inputs": store.decoder_vocabulary_size if shared else store.vocabulary_size}
    sizes["targets"] = store.decoder_vocabulary_size
    texts = {"inputs": TokenText.of_inputs(store), "targets": TokenText.of_targets(store)}
    return {
        side: seqio.Feature(
            # The sampler adds EOS where the configuration asks for it.
            seqio_vocabulary(
                texts[side],
                size=sizes[side],
                has_unknown=shared or side == "inputs",
                fingerprint=f"{store.manifest['vocabulary_fingerprint']} {store.manifest['codec']} {side} {shared}",
            ),
            add_eos=False,
        )
        for side in ("inputs", "targets")
    }


def fact_features(planned: PlannedTask | None, terms: int) -> dict[str, Any]:
    """Return the features that a planned task adds, as vectors; empty for None.

    Args:
        planned: The task.
        terms: Terms of its inputs (``SamplerConfig.terms``).
    """
    if planned is None:
        return {}
    seqio, tf = import_seqio()
    return {
        name: seqio.ContinuousFeature(dtype=tf.as_dtype(array.dtype), rank=1)
        for name, array in _facts_of_one(planned, terms).items()
    }


def fact_lengths(planned: PlannedTask | None, terms: int) -> dict[str, int]:
    """Return the lengths of :func:`fact_features`."""
    return {} if planned is None else {name: array.size for name, array in _facts_of_one(planned, terms).items()}


def feature_converter(planned: PlannedTask, terms: int) -> Callable[..., Any]:
    """Return a feature converter like ``seqio.EncDecFeatureConverter`` that keeps :func:`fact_features`."""
    seqio, _ = import_seqio()
    spec = seqio.FeatureConverter.FeatureSpec
    kept = {name: spec(dtype=feature.dtype) for name, feature in fact_features(planned, terms).items()}
    return functools.partial(seqio.EncDecFeatureConverter, passthrough_features=kept)


def _facts_of_one(planned: PlannedTask, terms: int) -> Mapping[str, np.ndarray]:
    """Return the facts of an example that is no training query."""
    inputs, zero = np.zeros((1, max(terms, 1)), np.int32), np.zeros(1, np.int32)
    return planned.facts({"encoder_input_tokens": inputs, "document": zero, "query": zero - 1, "docid_row": zero})


class _Evaluation:
    """The examples of a finite split, one for each query or document."""

    def __init__(self, store: ExampleStore, inputs: np.ndarray, documents: list[np.ndarray]):
        self._inputs = inputs
        docids, self._first_row = store.array("docid_tokens"), store.array("docid_offsets")
        self._documents = documents
        self._docids = [
            docids[np.concatenate([np.arange(*self._first_row[document : document + 2]) for document in relevant])]
            for relevant in documents
        ]

    def __len__(self) -> int:
        return len(self._inputs)

    def batch(self, index: int) -> Rows:
        """Return an example as a batch of one row, with the first right docid, named as in the sampler's batches."""
        document = np.asarray(self._documents[index][:1], np.int32)
        return {
            "encoder_input_tokens": self._inputs[index : index + 1],
            "decoder_target_tokens": self._docids[index][:1],
            "document": document,
            "query": np.full(1, -1, np.int32),  # no training query
            "docid_row": self._first_row[document].astype(np.int32),
        }

    def right_docids(self, index: int, text: TokenText) -> list[str]:
        """Return all right docids as text, those of the best document first."""
        return [text.decode(tokens) for tokens in self._docids[index]]


def _evaluation_splits(store: ExampleStore, config: SamplerConfig, kind: str) -> dict[str, _Evaluation]:
    if config.writes_queries:  # these splits ask for docids
        return {}
    if kind == "indexing":
        with_text = store.documents_with_text
        inputs = store.document_inputs(documents=with_text, **config.input_form)
        return {DOCUMENTS: _Evaluation(store, inputs, list(with_text[:, None]))}
    splits = {}
    for split in store.splits if kind == "retrieval" else ():
        if split != "train":
            query, document, grade = store.pairs(split)
            order = np.lexsort((document, -grade, query))  # the best document of each query first
            _, begins = np.unique(query[order], return_index=True)
            _, inputs = store.queries(split, **config.input_form)
            splits[split] = _Evaluation(store, inputs, np.split(document[order], begins[1:]))
    return splits


def _add_task(
    name: str,
    sampler: Sampler,
    evaluations: dict[str, _Evaluation],
    features: dict[str, Any],
    steps: int | None,
    planned: PlannedTask | None,
) -> None:
    seqio, _ = import_seqio()
    text = TokenText.of_targets(sampler.store)
    numbered = list(evaluations.values())
    types = {side: feature.dtype for side, feature in features.items()}
    trimmed = ("targets",) if sampler.config.terms else ("inputs", "targets")  # terms follow the inputs' padding

    def right_docids(decoded: Any, example: Mapping[str, Any], is_target: bool) -> Any:
        if not is_target:
            return decoded
        if example["split"] < 0:
            return [decoded]  # not a set, which seqio's JSON logger cannot write
        return numbered[int(example["split"])].right_docids(int(example["index"]), text)

    seqio.TaskRegistry.add(
        name,
        source=_numbers({"train": steps or _ENDLESS} | {split: len(e) for split, e in evaluations.items()}),
        preprocessors=[
            _examples_of_steps(lambda index, split: _rows(sampler, evaluations, index, split, planned), types, trimmed),
            *([seqio.CacheDatasetPlaceholder()] if steps else []),
        ],
        output_features=features,
        postprocess_fn=right_docids,
        metric_fns=[docid_metrics] if evaluations else [],
        # The examples of the sampler are in random order already.
        shuffle_buffer_size=2 * sampler.batch_size,
    )


def _numbers(counts: Mapping[str, int]) -> Any:
    """Return a seqio source of the numbers of steps, or of evaluation examples, of each split."""
    seqio, tf = import_seqio()

    class Numbers(seqio.DataSource):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__(tuple(counts), dict(counts), caching_permitted=counts["train"] < _ENDLESS)

        def __repr__(self) -> str:
            return f"Numbers({dict(counts)})"

        @property
        def supports_arbitrary_sharding(self) -> bool:
            """Return False: beyond the listed shards, seqio divides the examples in their order."""
            return False

        def list_shards(self, split: str) -> list[str]:
            """Return the names of the parts that can be read separately."""
            shards = min(_SHARDS, counts[split]) if self.caching_permitted else 1
            return [f"{split}-{shard:05d}-of-{shards:05d}" for shard in range(shards)]

        def get_dataset(
            self, split: str = "train", shuffle: bool = True, seed: Any = None, shard_info: Any = None, **_: Any
        ) -> Any:
            """Return the numbers of a shard in order; the sampler does the shuffling."""
            numbers = tf.data.Dataset.range(counts[split])
            if shard_info is not None:
                numbers = numbers.shard(shard_info.num_shards, shard_info.index)
            return numbers.map(lambda index: {"index": index, "split": split})

    return Numbers()


def _rows(
    sampler: Sampler, evaluations: Mapping[str, _Evaluation], index: int, split: str, planned: PlannedTask | None
) -> Rows:
    """Return the features of each row, and the number of its split (-1 for training) and its number there."""
    if split == "train":
        batch = sampler.batch(index)
        split_number, first = -1, index * sampler.batch_size
    else:
        batch = evaluations[split].batch(index)
        split_number, first = list(evaluations).index(split), index
    inputs, targets = batch["encoder_input_tokens"], batch["decoder_target_tokens"]
    count = len(inputs)
    facts = {} if planned is None else planned.facts(batch)
    return {
        "inputs": inputs,
        "targets": targets,
        **{name: array.reshape(count, -1) for name, array in facts.items()},
        "split": np.full(count, split_number, np.int64),
        "index": first + np.arange(count),
    }


def _examples_of_steps(
    rows: Callable[[int, str], Rows], types: Mapping[str, Any], trimmed: Sequence[str]
) -> Callable[[Any], Any]:
    """Return a seqio preprocessor that turns numbers into examples.

    Args:
        rows: Returns the rows of a number.
        types: Types of the features.
        trimmed: Features without the padding at their end.
    """
    _, tf = import_seqio()
    of_rows = {**types, "split": tf.int64, "index": tf.int64}

    def call(index: Any, split: Any) -> list[np.ndarray]:
        found = rows(int(index), split.decode())
        return [found[name] for name in of_rows]

    def batch(element: Mapping[str, Any]) -> dict[str, Any]:
        found = tf.numpy_function(call, [element["index"], element["split"]], list(of_rows.values()), stateful=False)
        for name, tensor in zip(of_rows, found, strict=True):
            tensor.set_shape([None, None] if name in types else [None])
        return dict(zip(of_rows, found, strict=True))

    def trim(example: Mapping[str, Any]) -> dict[str, Any]:
        without_padding = {name: example[name][: tf.math.count_nonzero(example[name])] for name in trimmed}
        return {**example, **without_padding}

    def preprocess(dataset: Any) -> Any:
        parallel = tf.data.experimental.AUTOTUNE
        return dataset.map(batch, num_parallel_calls=parallel).unbatch().map(trim, num_parallel_calls=parallel)

    return preprocess


def docid_metrics(targets: Sequence[Collection[str]], predictions: Sequence[Any]) -> dict[str, float]:
    """Return Hits@k and MRR@k in percent.

    Args:
        targets: For each query the right docids, as text.
        predictions: For each query the predicted docid, or the docids of all beams from worst to best, as t5x returns
            them with ``return_all_decodes``. A repeated docid counts at its best rank.

    Returns:
        ``hits@k`` and ``mrr@k`` for each k up to the number of beams.
    """
    ranked = [[prediction] if isinstance(prediction, str) else list(prediction)[::-1] for prediction in predictions]
    beams = min(map(len, ranked), default=0)
    ranks = [_rank(right, docids) for right, docids in zip(targets, ranked, strict=True)]
    count = max(len(ranks), 1)
    metrics = {f"hits@{k}": 100 * sum(rank <= k for rank in ranks) / count for k in _HITS_AT if k <= beams}
    for k in (k for k in _MRR_AT if k <= beams):
        metrics[f"mrr@{k}"] = 100 * sum(1 / rank for rank in ranks if rank <= k) / count
    return metrics


def _rank(right: Collection[str], docids: Sequence[str]) -> float:
    """Return the rank of the first right docid, counting each docid once; infinity without one."""
    distinct = dict.fromkeys(docids)
    return next((float(rank) for rank, docid in enumerate(distinct, 1) if docid in right), math.inf)
