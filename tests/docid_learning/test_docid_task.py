"""The task that learns docids: its losses by NumPy, its batches, and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5
from support.tiny_store import tiny_store

from genret_jax.data.examples.sampler import Sampler, SamplerConfig
from genret_jax.docid_learning.model import Codebooks
from genret_jax.docid_learning.task import DocidLearningTask, Phase, prefix_ids
from genret_jax.docids import LearnedDocids
from genret_jax.models.network import T5
from genret_jax.training.step import TrainingTask

BATCH = 12


def make_task(folder, phase, *, codes=None, sampler=None, docids=None, **fields):
    store = tiny_store(folder)
    first = store.vocabulary_size
    config = tiny_t5(**{"vocab_size": first + 8, "dropout_rate": 0.0, **fields})
    books = Codebooks(config=config, first_token=first, level_sizes=(3, 4))
    drawn = Sampler(store, sampler or SamplerConfig(input_length=8), seed=3, batch_size=BATCH)
    if codes is None:
        codes = np.stack([np.arange(store.num_documents) % 2, np.full(store.num_documents, -1)], axis=1)
    strategy = {"levels": 2, "balanced": False, "alike": 4, "reconstruction": 0.3, "commitment": 0.7, **(docids or {})}
    task = DocidLearningTask(books, store.document_inputs(10), LearnedDocids(**strategy))
    task.start_phase(phase, drawn, codes.astype(np.int32))
    return task


def params_of(task):
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(task.init, jax.random.key(0))["params"]
    return jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape) * 0.4, leaf.dtype), shapes)


def given(task, step=0):
    return {name: jnp.asarray(array) for name, array in task.batch(step).items()}


SECOND = Phase(levels=(1,), fixed=1)


def test_prefix_ids_are_equal_where_codes_are():
    codes = np.array([[1, 2], [0, 2], [1, 2], [1, 0]])
    numbers = prefix_ids(codes)
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3
    assert prefix_ids(codes[:, :0]).tolist() == [0] * 4


def test_batches_are_a_function_of_step_and_row(tmp_path):
    task = make_task(tmp_path / "store", SECOND)
    assert isinstance(task, TrainingTask)
    whole, rows = task.batch(5), np.array([1, 6, 7])
    for name, part in task.batch(5, rows).items():
        np.testing.assert_array_equal(part, whole[name][rows])
        assert part.dtype == (np.float32 if name in ("learned", "fixed", "with_codes") else np.int32)
    assert any((whole[name] != task.batch(6)[name]).any() for name in whole)


def test_documents_of_a_run_have_the_same_prefix(tmp_path):
    task = make_task(tmp_path / "store", SECOND)
    runs = [task.batch(step)["codes"][:, 0].reshape(-1, 4) for step in range(8)]
    for of_step in runs:
        assert (of_step == of_step[:, :1]).all()
    assert len(np.unique(runs)) == 2


def test_queries_are_of_the_documents_beside_them(tmp_path):
    # Words of a document, all of them and in order, are what is asked for.
    asked = SamplerConfig(
        input_length=10,
        indexing_rate=1.0,
        pseudo_query_rate=0.0,
        retrieval_rate=0.0,
        word_drop=0.0,
        query_word_drop=0.0,
        resegmentation=0.0,
    )
    batch = make_task(tmp_path / "store", SECOND, sampler=asked).batch(0)
    np.testing.assert_array_equal(batch["query_tokens"], batch["document_tokens"])


def test_unseen_documents_are_not_drawn(tmp_path):
    hidden = SamplerConfig(input_length=8, unseen_split="test")
    task = make_task(tmp_path / "store", SECOND, sampler=hidden)
    store = task.sampler.store
    not_shown = set(store.pairs("test")[1].tolist())
    assert not_shown
    drawn = {int(document) for step in range(30) for document in task.batch(step)["document"]}
    assert drawn == set(store.documents_with_text.tolist()) - not_shown


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def told_apart(queries, states, document, prefix):
    total = 0.0
    for row in range(len(queries)):
        rivals = (prefix == prefix[row]) & (document != document[row])
        rivals[row] = True
        scores = states @ queries[row] / len(states[0]) ** 0.5
        total += np.log(np.exp(scores[rivals]).sum()) - scores[row]
    return total


@pytest.mark.parametrize("scaled", [False, True])
def test_the_losses_of_a_level_by_numpy(scaled, tmp_path):
    fields = {"tie_embeddings": True, "scale_decoder_outputs": True} if scaled else {}
    task = make_task(tmp_path / "store", SECOND, **fields)
    params, batch = params_of(task), task.batch(2)
    total, weight, parts = jax.jit(task.loss)(params, given(task, 2), jax.random.key(0))

    first, states, logits = task.books.first_token, {}, {}
    for side in ("document", "query"):
        tokens, shifted = (jnp.asarray(batch[name]) for name in (f"{side}_tokens", "decoder_input_tokens"))

        def read(model, tokens=tokens, shifted=shifted):
            return model.states(model.encode(tokens), tokens, shifted)

        states[side] = np.asarray(task.model.apply({"params": params}, method=read))[:, 1]
        logits[side] = np.asarray(T5(task.books.config).apply({"params": params}, tokens, shifted))
    rows = np.arange(BATCH)
    chosen = logits["document"][:, 1, first + 3 : first + 7].argmax(-1)
    assert len(set(chosen.tolist())) > 1
    among = batch["document"], batch["codes"][:, 0]
    second = {side: log_softmax(of_side[:, 1, first + 3 : first + 7])[rows, chosen] for side, of_side in logits.items()}
    before = {
        side: log_softmax(of_side[:, 0, first : first + 3])[rows, batch["codes"][:, 0]]
        for side, of_side in logits.items()
    }
    vectors = np.asarray(task.books.vectors(params, 1))[chosen]
    expected = {
        "retrieval": told_apart(states["query"], states["document"], *among) - second["query"].sum(),
        "reconstruction": 0.3 * told_apart(vectors, states["document"], *among),
        "commitment": -0.7 * second["document"].sum(),
        "earlier": -before["document"].sum() - before["query"].sum(),
    }
    for name, value in expected.items():
        assert parts[name] == pytest.approx(value, rel=2e-3), name
    assert total == pytest.approx(sum(expected.values()), rel=2e-3)
    assert weight == BATCH
    right = (logits["query"][:, 1, first + 3 : first + 7].argmax(-1) == chosen).sum()
    assert parts["query_code_accuracy"] == right


def gradients(task):
    params, batch = params_of(task), given(task)
    return jax.jit(jax.grad(lambda p: task.loss(p, batch, jax.random.key(0))[0]))(params), task.books


def test_reconstruction_moves_the_network_through_the_codes_and_not_the_codebook(tmp_path):
    """Straight-through: with reconstruction alone, the difference that its weight makes."""
    grads = []
    for number, weight in enumerate((0.0, 1.0)):
        phase = Phase(levels=(0,), fixed=0)
        grad, books = gradients(make_task(tmp_path / str(number), phase, docids={"reconstruction": weight}))
        grads.append(grad)
    encoder = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), *[grad["encoder"] for grad in grads])
    assert max(jax.tree.leaves(encoder)) > 1e-3
    of_books = [books.vectors(grad, 0) for grad in grads]
    np.testing.assert_allclose(of_books[0], of_books[1], atol=1e-5)


def test_before_there_is_a_codebook_none_is_trained(tmp_path):
    grad, books = gradients(make_task(tmp_path / "store", Phase(levels=(0,), fixed=0, with_codes=False)))
    for level in range(2):
        np.testing.assert_array_equal(books.vectors(grad, level), 0)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(grad["encoder"])) > 1e-3


def test_balanced_codes_are_used_where_the_nearest_is_always_the_same(tmp_path):
    counts = {}
    for balanced in (False, True):
        task = make_task(tmp_path / str(balanced), Phase(levels=(0,), fixed=0), docids={"balanced": balanced})
        logits = jnp.asarray(np.random.default_rng(0).normal(size=(BATCH, 3)) * 0.1 + [5.0, 0.0, 0.0])
        counts[balanced] = np.bincount(task._assign(logits), minlength=3)
    assert counts[False].tolist() == [BATCH, 0, 0]
    assert counts[True].min() >= 2


def test_what_is_not_learned_has_no_gradient(tmp_path):
    """One program serves all phases; weights in the batch leave the others' losses out."""
    grad, books = gradients(make_task(tmp_path / "store", Phase(levels=(), fixed=1)))
    assert np.abs(books.vectors(grad, 0)).max() > 1e-3
    np.testing.assert_array_equal(books.vectors(grad, 1), 0)
