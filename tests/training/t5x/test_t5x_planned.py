"""Networks with a pretrained encoder and a plan under t5x: loss, examples and search are those of ``genret train``."""

import dataclasses
import itertools
import shutil
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.t5x_programs import LIKE_OURS, finished, losses, rankings, searched, t5x
from support.tiny_run import planned_experiment

from genret_jax.data.seqio.tasks import feature_converter
from genret_jax.errors import InputError
from genret_jax.models.config import PlanConfig
from genret_jax.retriever import Retriever
from genret_jax.run import open_run, prepare_only, train_run
from genret_jax.run.folder import learning_rates_of, planned_task_of, sampler_of
from genret_jax.training import read_metrics
from genret_jax.training.t5x import planned as t5x_planned

pytestmark = [
    pytest.mark.t5x,
    pytest.mark.usefixtures("as_t5x_computes"),
    pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning"),
]
WORDS_AND_VECTORS = PlanConfig(terms=8, dense=True)
EVERYTHING = PlanConfig(codes=True, terms=8, dense=True)
STEPS, BEAMS = 20, 10


@pytest.fixture(scope="module")
def run(tiny_corpus, tmp_path_factory):
    """A prepared run of the kind that the recipe 'pretrained' makes: a plan of words and vectors, and no decoder."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    return prepare_only(planned_experiment(tiny_corpus, WORDS_AND_VECTORS), folder)[0]


@pytest.fixture(scope="module")
def with_decoder(tiny_corpus, tmp_path_factory):
    """A prepared run with every kind of plan and a decoder."""
    folder = tmp_path_factory.mktemp("with_decoder") / "run"
    return prepare_only(planned_experiment(tiny_corpus, EVERYTHING, layers=1), folder)[0]


def make(engine: Any, run: Any, **options: Any) -> Any:
    from t5x import adafactor

    given = {"planned": planned_task_of(run.folder), "learning_rates": learning_rates_of(run.folder)}
    return engine.RetrievalModel(str(run.folder / "examples"), run.model, adafactor.Adafactor(), **given | options)


class TellTale:
    """Leaves out of each target what depends on the example's query and document; nothing without a query."""

    def of(self, query: np.ndarray, document: np.ndarray, terms: np.ndarray) -> dict[str, np.ndarray]:
        known = (query >= 0).astype(np.float32)
        bias = (-0.01 * (1 + query + document) * known).astype(np.float32)
        return {"left_out_terms": bias[:, None] * (terms > 0), "left_out_bias": bias}


def as_t5x_has_it(batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """The arrays of a batch that come through seqio, with vectors of length 1 for single numbers."""
    dropped = ("document", "query", "decoder_prefix_nodes")
    return {name: jnp.asarray(x.reshape(len(x), -1)) for name, x in batch.items() if name not in dropped}


@pytest.mark.parametrize("kind", ["run", "with_decoder"])
@pytest.mark.parametrize("divisor", ["NUM_REAL_TARGET_TOKENS", None])
def test_loss_and_gradient_are_those_of_our_own_engine(t5x_engine, kind, divisor, request):
    run = request.getfixturevalue(kind)
    task, rng = run.task(), jax.random.key(1)
    model = make(t5x_engine, run, loss_normalizing_factor=divisor, z_loss=1e-4)
    task.left_out = TellTale()
    params, batch = jax.tree.map(jnp.asarray, run.start_params()), task.batch(0)
    arrays = jax.tree.map(jnp.asarray, batch) | task.arrays

    def of_ours(params):
        total, weight, _ = task.loss(params, arrays, rng)
        return total / (weight if divisor else 1)

    expected, wanted = jax.value_and_grad(of_ours)(params)
    (loss, metrics), found = jax.value_and_grad(model.loss_fn, has_aux=True)(params, as_t5x_has_it(batch), rng)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    assert "accuracy" not in metrics
    assert {"docid_accuracy", "token_accuracy"} & metrics.keys()
    moved = [any(np.any(leaf) for leaf in jax.tree.leaves(tree.pop("encoder"))) for tree in (wanted, found)]
    assert moved == [True, False]  # ours is the gradient before the factors
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5), found, wanted)


@pytest.mark.parametrize("kind", ["run", "with_decoder"])
def test_predictions_are_what_our_retriever_finds(t5x_engine, kind, request):
    run = request.getfixturevalue(kind)
    params, tokens = run.start_params(), run.some_requests("test", 8).tokens
    found = make(t5x_engine, run).search(params, jnp.asarray(tokens), BEAMS)
    ranked = Retriever(run, params).rank(np.asarray(tokens), beam=BEAMS)
    np.testing.assert_allclose(found.scores, ranked.scores, atol=1e-4)


def test_examples_have_what_the_loss_reads(t5x_engine, run):
    import seqio
    from genret_jax.tasks import dsi

    task, planned, config = run.task(), planned_task_of(run.folder), sampler_of(run.folder)
    task.left_out = planned.left_out = TellTale()
    examples = str(run.folder / "examples")
    options = {"config": config, "planned": planned}
    name = dsi.task_name(examples, task="retrieval", name="planned", batch_size=16, **options)
    lengths = dsi.feature_lengths(examples, **options)
    converter = feature_converter(planned, config.terms)(pack=False)
    assert config.terms == 8
    for split, count in (("train", 16), ("test", 3)):
        dataset = converter(seqio.get_mixture_or_task(name).get_dataset(lengths, split=split, shuffle=False), lengths)
        rows = list(itertools.islice(dataset.as_numpy_iterator(), count))
        found = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
        if split == "train":
            batch = as_t5x_has_it(task.batch(0))
            assert found.keys() == batch.keys()
            for key, array in batch.items():
                np.testing.assert_array_equal(found[key], array, err_msg=key)
            assert found["left_out_bias"].all()
        else:
            docids = run.store.array("docid_tokens")[found["docid_row"][:, 0]]
            np.testing.assert_array_equal(found["decoder_target_tokens"], docids)
            _, tokens = run.store.queries("test", **config.input_form)
            np.testing.assert_array_equal(found["encoder_input_tokens"], tokens[:count])
            assert not found["left_out_bias"].any()


def test_evaluation_has_no_dropout(t5x_engine, run):
    model = dataclasses.replace(run.model, query_dropout=0.5)
    engine_model = t5x_engine.RetrievalModel(
        str(run.folder / "examples"), model, None, planned=planned_task_of(run.folder)
    )
    params, batch = jax.tree.map(jnp.asarray, run.start_params()), as_t5x_has_it(run.task().batch(0))
    params["query_vector"]["wo"]["kernel"] += 0.5
    assert engine_model.eval_fn(params, batch)[0] == engine_model.eval_fn(params, batch)[0]
    one, other = (engine_model.loss_fn(params, batch, jax.random.key(seed))[0] for seed in (0, 1))
    assert one != other


def test_adafactor_knows_every_axis_and_scales_its_updates(t5x_engine, with_decoder):
    from t5x import adafactor, train_state

    def changes(**options: Any) -> dict[str, np.ndarray]:
        optimizer = adafactor.Adafactor(logical_factor_rules=t5x_engine.logical_factor_rules())
        model = t5x_engine.RetrievalModel(
            str(with_decoder.folder / "examples"),
            with_decoder.model,
            optimizer,
            planned=planned_task_of(with_decoder.folder),
            **options,
        )
        variables = model.get_initial_variables(jax.random.key(0), {})
        state = train_state.FlaxOptimTrainState.create(model.optimizer_def, variables)
        after = state.apply_gradient(jax.tree.map(jnp.ones_like, state.params), learning_rate=0.1)
        found = jax.tree.map(lambda new, old: np.asarray(new - old), after.params, state.params)
        return flax.traverse_util.flatten_dict(flax.core.unfreeze(found), sep="/")

    plain, scaled = changes(), changes(learning_rates=(("encoder", 0.0), ("plan/term_weights", 4.0)))
    for name, change in plain.items():
        assert np.abs(change).max() > 0
        factor = 0 if name.startswith("encoder") else 4 if name == "plan/term_weights" else 1
        np.testing.assert_allclose(scaled[name], factor * change, atol=1e-6, err_msg=name)


def test_what_does_not_fit_is_refused(t5x_engine, run, monkeypatch):
    with pytest.raises(InputError, match=r"a network with a plan, without the task .* with t5x/prepared_run.gin"):
        make(t5x_engine, run, planned=None)
    with pytest.raises(InputError, match="loss_normalizing_factor='AVERAGE_PER_SEQUENCE' for a network with a plan"):
        make(t5x_engine, run, loss_normalizing_factor="AVERAGE_PER_SEQUENCE")
    model, batch = make(t5x_engine, run), as_t5x_has_it(run.task().batch(0))
    with pytest.raises(InputError, match="scores of given docids, from a network with a plan"):
        model.score_batch(run.start_params(), batch)
    monkeypatch.setattr(t5x_planned, "MOST_BYTES", 1 << 10)
    with pytest.raises(InputError, match=r"plan tables of .* GiB, which t5x compiles .*genret train"):
        make(t5x_engine, run)


@pytest.fixture(scope="module")
def place(run, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("programs")
    (folder / "like_ours.gin").write_text(LIKE_OURS)
    return folder


@pytest.fixture(scope="module")
def trained(t5x_engine, place, run) -> Path:
    """The MODEL_DIR of a run on eight devices, stopped after half of its steps and resumed."""
    for steps in (STEPS // 2, STEPS):
        macros = {"RUN": str(run.folder), "MODEL_DIR": "whole", "TRAIN_STEPS": steps}
        finished(t5x("train", place, ["like_ours.gin"], **macros))
    return place / "whole"


def test_training_is_that_of_our_own_engine_from_the_pretrained_encoder(trained, run, place, tiny_corpus):
    shutil.copytree(run.folder, place / "ours")
    ours = train_run(planned_experiment(tiny_corpus, WORDS_AND_VECTORS), place / "ours")
    expected = {record["step"]: record["loss"] for record in read_metrics(ours.folder) if record["kind"] == "train"}
    found = losses(trained)
    assert sorted(found) == sorted(expected) == list(range(1, STEPS + 1))
    np.testing.assert_allclose([found[s] for s in expected], list(expected.values()), atol=1e-3)
    start, ours_last, theirs = (run.params("start"), ours.params("last"), run.params(str(trained)))
    jax.tree.map(np.testing.assert_array_equal, theirs["encoder"], start["encoder"])
    flat = flax.traverse_util.flatten_dict(ours_last, sep="/")
    for name, array in flax.traverse_util.flatten_dict(theirs, sep="/").items():
        np.testing.assert_allclose(array, flat[name], atol=2e-3, err_msg=name)
    assert np.abs(theirs["plan"]["term_weights"]).max() > 0.01


def test_eval_and_infer_find_what_our_retriever_finds(trained, place, run):
    macros = {"RUN": str(run.folder), "CHECKPOINT_PATH": f"{trained.name}/checkpoint_{STEPS}", "BEAMS": BEAMS}
    programs = [
        t5x(program, place, [f"t5x/{program}.gin", "t5x/prepared_run.gin"], *options, BATCH_SIZE=16, **output, **macros)
        for program, options, output in (
            ("infer", [], {"INFER_OUTPUT_DIR": "inferred"}),
            ("eval", ["--alsologtostderr"], {"EVAL_OUTPUT_DIR": "evaluated"}),
        )
    ]
    _, output = map(finished, programs)
    inferred, wanted = rankings(place / "inferred"), searched(run.folder, str(trained), BEAMS)
    assert list(inferred) == list(wanted)
    for query, results in wanted.items():
        np.testing.assert_allclose([s for _, s in inferred[query]], [s for _, s in results], atol=1e-3)
    qrels = open_run(run.folder).corpus.qrels["test"]
    hits = np.mean([any(doc in qrels[query] for doc, _ in found) for query, found in inferred.items()])
    assert f"dsi_retrieval/hits@10 at step {STEPS}: {100 * hits:.3f}" in output
