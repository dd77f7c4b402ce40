"""Our network as a t5x model: the parameters t5x knows, our search, and errors before t5x's own."""

import dataclasses

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5
from support.tiny_store import tiny_store

from genret_jax.decoding import INVALID, DocidIndex, TrieConstraint
from genret_jax.decoding.building import spelled
from genret_jax.errors import InputError
from genret_jax.retriever import Retriever
from genret_jax.run import open_run
from genret_jax.run.folder import examples_of
from genret_jax.training.docid_task import DocidTask

pytestmark = [pytest.mark.t5x, pytest.mark.usefixtures("as_t5x_computes")]
BEAMS = 7


@pytest.fixture(scope="module")
def run(text_head_run):
    return open_run(text_head_run)


@pytest.fixture
def model(t5x_engine, run):
    return make(t5x_engine, examples_of(run.folder), run.model)


def make(engine, examples, config, **options):
    from t5x import adafactor

    return engine.RetrievalModel(examples, config, adafactor.Adafactor(), **options)


def queries(run, count=8):
    return jnp.asarray(run.store.queries("train", run.sampler.input_length, append_eos=True)[1][:count])


def test_parameters_are_those_of_t5x_own_network(model, run):
    """Names, shapes and axes alike: public T5X checkpoints are restored, and divided, as those of t5x's own T5."""
    from t5x.examples.t5 import network

    config = run.model
    theirs = network.Transformer(
        network.T5Config(
            vocab_size=config.vocab_size,
            emb_dim=config.d_model,
            num_heads=config.num_heads,
            head_dim=config.d_kv,
            mlp_dim=config.d_ff,
            num_encoder_layers=config.num_encoder_layers,
            num_decoder_layers=config.num_decoder_layers,
            mlp_activations=config.activations,
            dropout_rate=0.0,
        )
    )
    token = jnp.ones((1, 1), jnp.int32)
    wanted = flax.core.unfreeze(theirs.init(jax.random.key(0), token, token, token, enable_dropout=False))
    found = flax.core.unfreeze(
        model.get_initial_variables(jax.random.key(0), {"encoder_input_tokens": (1, 4), "decoder_input_tokens": (1, 2)})
    )
    assert jax.tree.map(jnp.shape, found["params"]) == jax.tree.map(jnp.shape, wanted["params"])
    assert found["params_axes"] == wanted["params_axes"]
    source, target = queries(run), jnp.asarray(run.encoded.tokens[:8])
    expected = theirs.apply({"params": wanted["params"]}, source, target, target, enable_dropout=False)
    logits = model.module.apply({"params": wanted["params"]}, source, target)
    read = np.asarray(target) > 0  # what stands at padding means nothing
    np.testing.assert_allclose(logits[read], expected[read], atol=1e-5)


def test_predictions_are_the_docids_that_our_retriever_finds_the_best_last(model, run):
    params, tokens = run.start_params(), queries(run)
    decodes, aux = model.predict_batch_with_aux(
        params, {"encoder_input_tokens": tokens}, return_all_decodes=True, num_decodes=BEAMS
    )
    ranked = Retriever(run, params).rank(np.asarray(tokens), beam=BEAMS)
    docids = {tuple(row): document for row, document in zip(run.encoded.tokens, run.encoded.document, strict=True)}
    found = [[docids[tuple(docid)] for docid in of_query[::-1]] for of_query in np.asarray(decodes)]
    np.testing.assert_array_equal(found, ranked.documents)
    np.testing.assert_allclose(aux["scores"][:, ::-1], ranked.scores, atol=1e-5)
    best, best_aux = model.predict_batch_with_aux(params, {"encoder_input_tokens": tokens}, num_decodes=BEAMS)
    np.testing.assert_array_equal(best, decodes[:, -1])
    np.testing.assert_array_equal(best_aux["scores"], aux["scores"][:, -1])


def test_scores_are_those_of_teacher_forcing(model, run):
    params, tokens = run.start_params(), queries(run)
    decodes, aux = model.predict_batch_with_aux(params, {"encoder_input_tokens": tokens}, num_decodes=BEAMS)
    batch = {
        "encoder_input_tokens": tokens,
        "decoder_input_tokens": jnp.pad(decodes, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": decodes,
        "decoder_loss_weights": (decodes > 0).astype(jnp.float32),
    }
    np.testing.assert_allclose(model.score_batch(params, batch), aux["scores"], atol=1e-4)


def test_an_adaptive_decoder_is_trained_and_finds_what_our_search_finds(t5x_engine, run):
    from genret_jax.inference import docid_index, node_tree, search_tokens
    from genret_jax.models.folding import folded

    config = dataclasses.replace(run.model, adaptive_layers=1, adaptive_width=4)
    model = make(t5x_engine, examples_of(run.folder), config)
    params = flax.core.unfreeze(model.get_initial_variables(jax.random.key(0), {})["params"])
    kernel = params["decoder"]["adaptive"]["kernel"]
    params["decoder"]["adaptive"]["kernel"] = jax.random.normal(jax.random.key(1), kernel.shape)
    tokens, docids = queries(run), run.encoded
    found = model.search(params, tokens, BEAMS)
    tree = node_tree(docids)
    other, shape = folded(
        params, config, tree, tokens=docids.tokens, prefix_nodes=docids.prefix_nodes, node_tokens=docids.tree.node_token
    )
    index = docid_index(docids, config.output_vocab_size)
    expected = search_tokens(other, tokens, TrieConstraint(index), tree, shape, BEAMS)
    np.testing.assert_array_equal(found.docids, expected.docids)
    np.testing.assert_allclose(found.scores, expected.scores, atol=1e-3)
    gradient = jax.grad(lambda params: model.loss_fn(params, shown(run), jax.random.key(2))[0])(params)
    assert np.abs(gradient["decoder"]["adaptive"]["kernel"]).max() > 0
    assert np.abs(gradient["decoder"]["adaptive"]["layers_0"]["mlp"]["wo"]["kernel"]).max() > 0


def shown(run, count=8):
    docids = jnp.asarray(run.encoded.tokens[:count])
    return {
        "encoder_input_tokens": queries(run, count),
        "decoder_input_tokens": jnp.pad(docids, ((0, 0), (1, 0)))[:, :-1],
        "decoder_target_tokens": docids,
        "decoder_loss_weights": (docids > 0).astype(jnp.float32),
    }


@pytest.mark.parametrize("divisor", ["NUM_REAL_TARGET_TOKENS", None])
def test_consistency_is_that_of_our_own_engine(t5x_engine, run, divisor):
    """The same masks, and the same loss of both passes and of how far they are apart; in evaluation one pass."""
    config = dataclasses.replace(run.model, dropout_rate=0.2)
    options = {"z_loss": 1e-3, "label_smoothing": 0.1}
    ours = DocidTask(config, None, consistency=0.5, **options)
    model = make(
        t5x_engine, examples_of(run.folder), config, consistency=0.5, loss_normalizing_factor=divisor, **options
    )
    params, rng, batch = run.start_params(), jax.random.key(3), shown(run)

    def of_ours(params):
        inputs, shifted, targets, weights = batch.values()
        total, weight, metrics = ours.written(params, inputs, shifted, jnp.zeros_like(shifted), targets, weights, rng)
        return total / (weight if divisor else 1), metrics["consistency"] / (weight if divisor else 1)

    (expected, apart), wanted = jax.value_and_grad(of_ours, has_aux=True)(params)
    (loss, metrics), found = jax.value_and_grad(model.loss_fn, has_aux=True)(params, batch, rng)
    assert apart > 0
    np.testing.assert_allclose(metrics["consistency"].total, apart, rtol=1e-4)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, atol=1e-5), found, wanted)
    plain = make(t5x_engine, examples_of(run.folder), config, loss_normalizing_factor=divisor, **options)
    assert model.eval_fn(params, batch)[0] == plain.eval_fn(params, batch)[0]
    assert metrics.keys() == plain.loss_fn(params, batch, rng)[1].keys() | {"consistency"}


def test_consistency_without_dropout_says_what_to_change(t5x_engine, run):
    with pytest.raises(
        InputError, match=r"RetrievalModel.consistency is 0.5; expected 0 without T5Config.dropout_rate"
    ):
        make(t5x_engine, examples_of(run.folder), run.model, consistency=0.5)


def test_more_beams_than_docids_leave_empty_places(t5x_engine, tmp_path):
    store = tiny_store(tmp_path / "examples")
    model = make(t5x_engine, str(store.folder), tiny_t5(vocab_size=56))
    params = model.get_initial_variables(jax.random.key(0), {})["params"]
    tokens = jnp.asarray(store.queries("train", 8)[1][:1])
    decodes, aux = model.predict_batch_with_aux(
        params, {"encoder_input_tokens": tokens}, return_all_decodes=True, num_decodes=9
    )
    # Five documents, of which the last has two docids.
    assert (np.asarray(decodes)[0] > 0).any(-1).tolist() == [False] * 3 + [True] * 6
    assert (np.asarray(aux["scores"])[0] == np.float32(INVALID)).tolist() == [True] * 3 + [False] * 6


def test_a_checkpoint_of_another_network_is_refused_while_tracing(model, run):
    params = run.start_params()
    params["decoder"]["logits_dense"]["kernel"] = np.zeros((32, 64), np.float32)
    message = r"a checkpoint of another network \(1 different: decoder/logits_dense/kernel \[32, 64\] instead"
    with pytest.raises(InputError, match=message):
        model.search(params, queries(run), BEAMS)
    batch = {"encoder_input_tokens": queries(run), "decoder_input_tokens": queries(run)}
    with pytest.raises(InputError, match=message):
        model.score_batch(params, {**batch, "decoder_target_tokens": queries(run), "decoder_loss_weights": None})


def test_t5x_restores_what_was_not_written_through_orbax(t5x_engine, tmp_path):
    (tmp_path / "checkpoint_5" / "state").mkdir(parents=True)
    paths = [str(tmp_path / "checkpoint_5"), str(tmp_path), str(tmp_path / "checkpoint_6"), "gs://t5/checkpoint_1", []]
    assert [t5x_engine.legacy_path(path) for path in paths] == [[], [], *paths[2:]]


def test_parameters_that_a_checkpoint_lacks_are_not_made_up(t5x_engine):
    model = {"target": {"encoder": {"a": 1, "b": 2}, "decoder": {"c": 3}}, "state": {"step": 0}}
    complete = {"target": model["target"]}  # the optimizer's state may be missing
    assert t5x_engine.require_parameters(complete, model) is complete
    with pytest.raises(InputError, match="a checkpoint without encoder/b and 1 more; expected all parameters"):
        t5x_engine.require_parameters({"target": {"encoder": {"a": 1}}}, model, is_resuming=True)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"vocab_size": 48}, r"T5Config.vocab_size=48 with examples of 56 tokens; .*--gin.T5Config.vocab_size=128"),
        ({"vocab_size": 60, "decoder_vocab_size": 8}, "T5Config.decoder_vocab_size=8 with examples of 56 tokens"),
        ({"head": "prefix", "num_nodes": 8}, "T5Config.head is 'prefix'; expected 'vocabulary' with t5x"),
    ],
)
def test_docids_of_another_vocabulary_are_refused(t5x_engine, tmp_path, fields, message):
    store = tiny_store(tmp_path / "examples")
    assert store.decoder_vocabulary_size == 56
    with pytest.raises(InputError, match=message):
        make(t5x_engine, str(store.folder), tiny_t5(**fields))


def test_docids_with_tokens_of_their_own_need_an_embedding_of_their_own(t5x_engine, tmp_path):
    store = tiny_store(tmp_path / "examples", first_token=2)
    config = tiny_t5(vocab_size=56)
    with pytest.raises(InputError, match=r"which T5Config.decoder_vocab_size=None takes for text; expected .* least 7"):
        make(t5x_engine, str(store.folder), config)
    model = make(t5x_engine, str(store.folder), dataclasses.replace(config, decoder_vocab_size=8))
    assert (model.input_vocabulary.vocab_size, model.output_vocabulary.vocab_size) == (51, 7)


def test_packed_examples_and_prompts_are_refused(model, run):
    packed = {"encoder_input_tokens": (8, 4), "encoder_segment_ids": (8, 4)}
    with pytest.raises(InputError, match=r"packed examples; .* next: set DatasetConfig.pack = False"):
        model.get_initial_variables(jax.random.key(0), packed)
    for wrong in ({"prompt_with_targets": True}, {"decoder_params": {"alpha": 0.6}}):
        with pytest.raises(InputError, match="decoder_params or prompt_with_targets for a search over docids"):
            model.predict_batch_with_aux({}, {"encoder_input_tokens": queries(run)}, **wrong)


def partitioner(engine, **settings):
    from t5x import partitioning

    return engine.Partitioner(partitioning.PjitPartitioner(**settings))


def train_state(model, **config):
    from t5x import train_state as train_state_lib

    variables = model.get_initial_variables(jax.random.key(0), {})
    return train_state_lib.FlaxOptimTrainState.create(model.optimizer_def, variables)


def test_partitions_share_a_copy_of_the_parameters_on_cpus_too(t5x_engine):
    assert {p: dict(partitioner(t5x_engine, num_partitions=p).mesh.shape) for p in (1, 2, 8)} == {
        1: {"data": 8, "model": 1},
        2: {"data": 4, "model": 2},
        8: {"data": 1, "model": 8},
    }
    submesh = partitioner(t5x_engine, model_parallel_submesh=(1, 4))
    assert dict(submesh.mesh.shape) == {"data": 2, "model": 4}


def test_a_mesh_that_does_not_divide_is_refused(t5x_engine, model):
    with pytest.raises(InputError, match=r"PjitPartitioner\.num_partitions=3 for 8 devices; expected a divisor"):
        _ = partitioner(t5x_engine, num_partitions=3).mesh
    with pytest.raises(InputError, match="a batch of 6 rows for 4 data-parallel devices; expected a multiple of 4"):
        partitioner(t5x_engine, num_partitions=2).get_data_layout(6)
    assert partitioner(t5x_engine, num_partitions=2).get_data_layout(8).batch_size == 8
    # 144 tokens and 32 units divide by 4, two attention heads do not.
    partitioner(t5x_engine, num_partitions=2).get_mesh_axes(train_state(model))
    message = r"parameter \w+/relpos_bias/rel_embedding of shape \(2, 32\) for 4 devices of the 'model' axis"
    with pytest.raises(InputError, match=message):
        partitioner(t5x_engine, num_partitions=4).get_mesh_axes(train_state(model))


def test_the_index_is_that_of_the_run(t5x_engine, run):
    index = t5x_engine.docid_index(run.store, run.model.output_vocab_size)
    encoded = run.encoded
    wanted = DocidIndex.build(encoded.tokens, encoded.lengths, encoded.document, vocab_size=run.model.output_vocab_size)
    assert index.layout == wanted.layout
    every = np.arange(index.num_docids)
    np.testing.assert_array_equal(spelled(index)[0], spelled(wanted)[0])
    np.testing.assert_array_equal(index.documents_of(every)[0], wanted.documents_of(every)[0])
