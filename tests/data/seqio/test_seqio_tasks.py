"""seqio tasks give the sampler's examples, in a form that seqio and t5x can use."""

import dataclasses
import importlib
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.tiny_store import LetterVocabulary, tiny_store

from genret_jax.data.examples.pseudo_queries import PseudoQueries
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.seqio.tasks import docid_metrics, register_tasks
from genret_jax.data.text.vocabulary import ByteVocabulary
from genret_jax.errors import InputError

VOCABULARY = LetterVocabulary(["cat", "dog"], extra_ids=20)
CONFIG = SamplerConfig(input_length=12, append_eos=True, indexing_rate=3.0, pseudo_query_rate=2.0, retrieval_rate=1.0)
LENGTHS = {"inputs": 12, "targets": 4}
BATCH = 8


@pytest.fixture(scope="module")
def seqio() -> Any:
    return pytest.importorskip("seqio", reason="seqio, of the extra with that name, is not installed")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    return tiny_store(tmp_path_factory.mktemp("store") / "examples")


@pytest.fixture(scope="module")
def registered(seqio: Any, store: ExampleStore) -> Any:
    return register_tasks(str(store.folder), "tiny", CONFIG, seed=5, batch_size=BATCH)


def only(field: str) -> SamplerConfig:
    rates = {"indexing_rate": 0.0, "pseudo_query_rate": 0.0, "retrieval_rate": 0.0, field: 1.0}
    return dataclasses.replace(CONFIG, **rates)


def sampled(sampler: Sampler, count: int) -> Iterator[dict[str, Any]]:
    """The sampler's examples as seqio should give them."""
    for number in range(count):
        step, row = divmod(number, BATCH)
        batch = sampler.batch(step, np.array([row]))
        inputs, targets = batch["encoder_input_tokens"][0], batch["decoder_target_tokens"][0]
        yield {"inputs": inputs[inputs > 0], "targets": targets[targets > 0], "split": -1, "index": number}


@pytest.mark.parametrize(
    ("task", "field"),
    [
        ("tiny_indexing", "indexing_rate"),
        ("tiny_pseudo_queries", "pseudo_query_rate"),
        ("tiny_retrieval", "retrieval_rate"),
    ],
)
def test_tasks_give_exactly_the_samplers_examples(
    seqio: Any, registered: Any, store: ExampleStore, task: str, field: str
) -> None:
    dataset = seqio.TaskRegistry.get(task).get_dataset(LENGTHS, split="train", shuffle=False).take(3 * BATCH + 3)
    sampler = Sampler(store, only(field), seed=5, batch_size=BATCH)
    from seqio import test_utils

    test_utils.assert_dataset(dataset, list(sampled(sampler, 3 * BATCH + 3)))


def test_shards_divide_the_steps(seqio: Any, registered: Any, store: ExampleStore) -> None:
    task = seqio.TaskRegistry.get("tiny_indexing")
    found = []
    for shard in range(2):
        part = task.get_dataset(
            LENGTHS,
            split="train",
            shuffle=False,
            shard_info=seqio.ShardInfo(index=shard, num_shards=2),
            num_epochs=None,
        )
        found.append([int(e["index"]) for e in part.take(2 * BATCH).as_numpy_iterator()])
    assert found == [[*range(8), *range(16, 24)], [*range(8, 16), *range(24, 32)]]


def test_mixture_draws_tasks_at_their_rates(seqio: Any, registered: Any, store: ExampleStore) -> None:
    assert dict(registered.tasks) == {"tiny_indexing": 3.0, "tiny_pseudo_queries": 2.0, "tiny_retrieval": 1.0}
    mixture = seqio.MixtureRegistry.get(registered.mixture)
    assert {task.name: mixture.get_rate(task) for task in mixture.tasks} == dict(registered.tasks)
    plain = dataclasses.replace(
        only("indexing_rate"), retrieval_rate=0.5, draw="query", word_drop=0.0, query_word_drop=0.0, resegmentation=0.0
    )
    register_tasks(str(store.folder), "plain", plain)
    dataset = seqio.MixtureRegistry.get("plain").get_dataset(
        LENGTHS, split="train", shuffle=False, num_epochs=None, seed=0
    )
    documents = {tuple(t for t in row if t) for row in store.document_inputs(12, append_eos=True).tolist()}
    queries = {tuple(t for t in row if t) for row in store.queries("train", 12, append_eos=True)[1].tolist()}
    found = [tuple(e["inputs"].tolist()) for e in dataset.take(900).as_numpy_iterator()]
    assert set(found) <= documents | queries
    assert abs(sum(inputs in documents for inputs in found) / 900 - 2 / 3) < 0.05


def test_test_queries_come_once_with_all_their_docids_as_targets(
    seqio: Any, registered: Any, store: ExampleStore
) -> None:
    task = seqio.TaskRegistry.get("tiny_retrieval")
    assert set(task.splits) == {"train", "test"}
    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    inputs, targets = task.output_features["inputs"].vocabulary, task.output_features["targets"].vocabulary
    # q4 "sea animal" is answered by fish (grade 2) and cat (1), q5 "who swims" by fish.
    assert [inputs.decode(e["inputs"]) for e in examples] == ["s e a a n i m a l", "w h o s w i m s"]
    assert [targets.decode(e["targets"]) for e in examples] == ["<2-0>", "<2-0>"]
    right = [task.postprocess_fn("<2-0>", example=e, is_target=True) for e in examples]
    assert right == [["<2-0>", "<0>"], ["<2-0>"]]
    assert task.postprocess_fn("<1-1>", example=examples[0], is_target=False) == "<1-1>"


def test_seqio_measures_beams(seqio: Any, registered: Any) -> None:
    task = seqio.TaskRegistry.get("tiny_retrieval")
    examples = list(task.get_dataset(LENGTHS, split="test", shuffle=False).as_numpy_iterator())
    encode = task.output_features["targets"].vocabulary.encode
    width = 3
    beams = [["<1-0>", "<0>"], ["<1-1>", "<1-0>"]]  # worst first
    output = np.array([[[*encode(docid), 1, 0, 0][:width] for docid in docids] for docids in beams])
    metric = seqio.metrics.LegacyMetric.empty(task.predict_metric_fns[0], task.postprocess_fn)
    metric = metric.from_model_output(examples, output, task.output_features)
    assert metric.compute() == {"hits@1": 50.0}


def test_documents_split_shows_every_document_once(seqio: Any, registered: Any, store: ExampleStore) -> None:
    task = seqio.TaskRegistry.get("tiny_indexing")
    examples = list(task.get_dataset(LENGTHS, split="documents", shuffle=False).as_numpy_iterator())
    inputs = [e["inputs"].tolist() for e in examples]
    expected = store.document_inputs(12, append_eos=True)[store.documents_with_text]
    assert inputs == [[token for token in row if token] for row in expected.tolist()]
    right = [task.postprocess_fn("", example=e, is_target=True) for e in examples]
    assert right == [["<0>"], ["<1-0>"], ["<2-0>"], ["<2-1>", "<0-1>"]]


@pytest.mark.parametrize("pack", [False, True])
def test_encoder_decoder_features_for_t5x(seqio: Any, registered: Any, store: ExampleStore, pack: bool) -> None:
    converter = seqio.EncDecFeatureConverter(pack=pack)
    task = seqio.TaskRegistry.get("tiny_indexing")
    dataset = converter(task.get_dataset(LENGTHS, split="train", shuffle=False), LENGTHS)
    examples = list(itertools.islice(dataset.as_numpy_iterator(), BATCH))
    batch = Sampler(store, only("indexing_rate"), seed=5, batch_size=BATCH).batch(0)
    for example in examples:
        assert example["encoder_input_tokens"].shape == (12,)
        assert example["decoder_target_tokens"].shape == (4,)
    if not pack:
        width = store.docid_length
        np.testing.assert_array_equal([e["encoder_input_tokens"] for e in examples], batch["encoder_input_tokens"])
        for name in ("decoder_target_tokens", "decoder_input_tokens", "decoder_loss_weights"):
            np.testing.assert_array_equal([e[name][:width] for e in examples], batch[name], err_msg=name)


def test_vocabularies_round_trip_text_docids_and_sentinels(seqio: Any, registered: Any) -> None:
    import tensorflow as tf

    vocabulary = seqio.TaskRegistry.get("tiny_indexing").output_features["targets"].vocabulary
    text = "cat a b <2-1> dog <extra_id_3> <0>"
    tokens = vocabulary.encode(text)
    first = VOCABULARY.size
    assert tokens == [*VOCABULARY.encode("cat ab"), first + 2, first + 4, VOCABULARY.token("dog"), first - 4, first]
    assert vocabulary.decode([*tokens, 1, 5, 0]) == text
    assert vocabulary.encode_tf(tf.constant(text)).numpy().tolist() == tokens
    both = vocabulary.decode_tf(tf.constant([tokens, [first + 1, first + 3] + [0] * (len(tokens) - 2)]))
    assert [value.decode() for value in both.numpy()] == [text, "<1-0>"]
    assert vocabulary.vocab_size == first + 5
    assert (vocabulary.pad_id, vocabulary.eos_id, vocabulary.unk_id) == (0, 1, 2)
    other = seqio.TaskRegistry.get("tiny_retrieval").output_features["targets"].vocabulary
    assert vocabulary == other
    assert vocabulary != seqio.TaskRegistry.get("tiny_retrieval").output_features["inputs"].vocabulary


def test_docids_of_their_own_vocabulary(seqio: Any, tmp_path: Path) -> None:
    apart = tiny_store(tmp_path / "apart", first_token=2)
    register_tasks(str(apart.folder), "apart", only("indexing_rate"))
    task = seqio.TaskRegistry.get("apart_indexing")
    targets = task.output_features["targets"].vocabulary
    assert targets.vocab_size == 7
    assert task.output_features["inputs"].vocabulary.vocab_size == VOCABULARY.size
    examples = list(task.get_dataset(LENGTHS, split="documents", shuffle=False).as_numpy_iterator())
    assert [targets.decode(e["targets"]) for e in examples] == ["<0>", "<1-0>", "<2-0>", "<2-1>"]
    with pytest.raises(InputError, match="docids only"):
        targets.encode("a cat")


def test_a_mixture_has_the_same_rates_always(store: ExampleStore) -> None:
    with pytest.raises(InputError, match="indexing_first = 5 for tasks of a mixture"):
        register_tasks(str(store.folder), "first", dataclasses.replace(CONFIG, indexing_first=5))


def test_names_are_taken_once(seqio: Any, registered: Any, store: ExampleStore) -> None:
    again = register_tasks(str(store.folder), "tiny", CONFIG, seed=5, batch_size=BATCH)
    assert again == registered
    with pytest.raises(InputError, match="seqio already has a task or mixture 'tiny'"):
        register_tasks(str(store.folder), "tiny", CONFIG, seed=6, batch_size=BATCH)


def test_metrics_count_distinct_docids_and_only_what_the_beams_can_tell() -> None:
    assert docid_metrics([{"a"}, {"b"}], ["a", "c"]) == {"hits@1": 50.0}
    beams = [["e", "d", "a", "c", "c"], ["b", "d", "e", "f", "g"]]  # worst first
    assert docid_metrics([{"a"}, {"x", "b"}], beams) == {"hits@1": 0.0, "hits@5": 100.0}
    ten = [[*"jihgfedcba"]]
    assert docid_metrics([{"d"}], ten) == {"hits@1": 0.0, "hits@5": 100.0, "hits@10": 100.0, "mrr@10": 25.0}


def test_sampling_needs_neither_seqio_nor_tensorflow(store: ExampleStore) -> None:
    code = f"""
import sys
sys.modules["seqio"] = sys.modules["tensorflow"] = sys.modules["tensorflow_datasets"] = None
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.examples.sampler import Sampler, SamplerConfig
import support.tiny_store
store = ExampleStore.open({str(store.folder)!r})
batch = Sampler(store, SamplerConfig(objective="span_corruption"), seed=0, batch_size=16).batch(0)
assert batch["encoder_input_tokens"].any()
store.vocabulary, store.queries("test", 8), store.token_counts()
from genret_jax.data.seqio.tasks import register_tasks
from genret_jax.errors import InputError
try:
    register_tasks({str(store.folder)!r}, "x", SamplerConfig())
except InputError as error:
    assert "pip install 'genret_jax[seqio]'" in str(error), error
else:
    raise SystemExit("no error without seqio")
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_importing_the_dsi_tasks_registers_them(
    seqio: Any, store: ExampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GENRET_EXAMPLES", str(store.folder))
    dsi = importlib.import_module("genret_jax.tasks.dsi")
    mixture = seqio.get_mixture_or_task("dsi")
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    assert rates == {"dsi_indexing": 32.0, "dsi_retrieval": 1.0}
    assert dsi.mixture(str(store.folder)) is mixture


def test_gin_files_get_names_and_lengths(seqio: Any, store: ExampleStore) -> None:
    from genret_jax.tasks import dsi

    config = dataclasses.replace(CONFIG, pseudo_query_rate=0.0)
    known = {"name": "named", "config": config, "batch_size": BATCH}
    assert dsi.task_name(str(store.folder), **known) == "named"
    assert dsi.task_name(str(store.folder), task="retrieval", **known) == "named_retrieval"
    assert {"named", "named_retrieval"} <= seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    with pytest.raises(InputError, match="no task 'pseudo_queries'; expected one of indexing, retrieval"):
        dsi.task_name(str(store.folder), task="pseudo_queries", **known)
    lengths = dsi.feature_lengths(str(store.folder), config=config)
    assert lengths == {"inputs": 12, "targets": store.docid_length}
    writes_text = dataclasses.replace(config, objective="targets_to_inputs")
    assert dsi.feature_lengths(str(store.folder), config=writes_text) == {"inputs": 12, "targets": 12}


def test_pseudo_queries_of_the_mixture_are_configurable(seqio: Any, store: ExampleStore) -> None:
    sentences = PseudoQueries(span_weight=0.0, window_weight=0.0, terms_weight=0.0, sentence_weight=1.0)
    config = dataclasses.replace(
        only("pseudo_query_rate"), pseudo_queries=sentences, word_drop=0.0, resegmentation=0.0, generated_query_rate=0.0
    )
    register_tasks(str(store.folder), "sentences", config)
    task = seqio.TaskRegistry.get("sentences_pseudo_queries")
    dataset = task.get_dataset({"inputs": 40, "targets": 4}, split="train", shuffle=False).take(50)
    decode = task.output_features["inputs"].vocabulary.decode
    shown = {decode(example["inputs"]) for example in dataset.as_numpy_iterator()}
    assert VOCABULARY.decode(VOCABULARY.encode("the cat ran")) in shown


def test_an_ending_task_can_be_read_in_shards(seqio: Any, store: ExampleStore) -> None:
    registered = register_tasks(str(store.folder), "ending", CONFIG, seed=5, batch_size=BATCH, steps=6)
    assert not seqio.TaskRegistry.get("tiny_indexing").supports_caching
    for name in registered.tasks:
        task = seqio.TaskRegistry.get(name)
        assert task.supports_caching
        assert task.num_input_examples("train") == 6
        shards = task.source.list_shards("train")
        assert len(shards) == len(set(shards)) == 6
        found = [
            example["index"]
            for shard in range(3)
            for example in task.get_dataset(
                LENGTHS, split="train", shuffle=False, shard_info=seqio.ShardInfo(shard, 3)
            ).as_numpy_iterator()
        ]
        assert sorted(found) == list(range(6 * BATCH))


def test_seqios_beam_job_caches_the_samplers_examples(seqio: Any, tmp_path: Path) -> None:
    pytest.importorskip("apache_beam", reason="apache-beam is not installed: see docs/t5x.md")
    store = tiny_store(tmp_path / "examples", vocabulary=ByteVocabulary(normalization="words"))
    command = [sys.executable, "-m", "seqio.scripts.cache_tasks_main", "--module_import=genret_jax.tasks.dsi"]
    command += ["--tasks=dsi_indexing,dsi_retrieval", f"--output_cache_dir={tmp_path}", "--alsologtostderr"]
    environment = os.environ | {"GENRET_EXAMPLES": str(store.folder), "GENRET_STEPS": "3"}
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr[-4000:]
    from genret_jax.tasks import dsi

    dsi.mixture(str(store.folder), name="cached", steps=3)
    for kind in ("indexing", "retrieval"):
        (tmp_path / f"dsi_{kind}").rename(tmp_path / f"cached_{kind}")
    seqio.add_global_cache_dirs([str(tmp_path)])
    for kind, splits in (("indexing", ("train", "documents")), ("retrieval", ("train", "test"))):
        task = seqio.TaskRegistry.get(f"cached_{kind}")
        for split in splits:
            cached, fresh = (
                sorted(
                    (int(e["index"]), e["inputs"].tolist(), e["targets"].tolist())
                    for e in task.get_dataset(
                        LENGTHS, split=split, shuffle=False, use_cached=use_cached
                    ).as_numpy_iterator()
                )
                for use_cached in (True, False)
            )
            assert cached == fresh
            assert len(cached) == (3 * 128 if split == "train" else len(fresh)) > 0
