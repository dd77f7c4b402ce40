"""Plans in training: the loss sees what the search sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.sparse
from support.tiny_model import tiny_t5

from genret_jax.decoding import TrieConstraint
from genret_jax.docids import DocidCodec, DocidTable
from genret_jax.inference import docid_index, node_tree, search_tokens
from genret_jax.models.config import PlanConfig
from genret_jax.models.encoders.config import BertConfig, SentenceForm
from genret_jax.models.network import T5, random_variables
from genret_jax.training.planned_docids import PlanDocuments, PlannedDocids, docid_numbers

DOCUMENTS, TERMS, WIDTH, VOCAB = 60, 30, 16, 24


def world(head="vocabulary", shared=0):
    """A network with every kind of plan, docids of two and three codes, and what the plan knows about documents."""
    random = np.random.default_rng(0)
    codes = random.integers(0, 6, (DOCUMENTS, 3))
    codes[: DOCUMENTS // 4, 2] = -1
    codes[: DOCUMENTS // 4, 0] = 6  # so that none begins another
    codes[:shared] = codes[0]
    table = DocidTable.from_codes(
        [f"d{i}" for i in range(DOCUMENTS)], codes, strategy={"name": "test"}, corpus_fingerprint=""
    )
    codec = DocidCodec(first_token=2, level_sizes=(7, 6, 6))
    encoded = codec.encode(table)
    shape = tiny_t5(
        vocab_size=40,
        decoder_vocab_size=VOCAB,
        d_model=WIDTH,
        head=head,
        num_nodes=encoded.tree.num_nodes if head == "prefix" else 0,
        encoder=BertConfig(
            vocab_size=40, d_model=WIDTH, num_heads=2, d_ff=32, num_layers=1, positions=16, dropout_rate=0.0
        ),
        sentence=SentenceForm(first_tokens=(3,), last_token=4),
        query_width=8,
        plan=PlanConfig(codes=True, dense=True, terms=4, vocabulary=TERMS),
    )
    params = random_variables(shape, jax.random.key(0), node_tree(encoded))["params"]
    params = jax.tree.map(lambda leaf: leaf + 0.1 * jax.random.normal(jax.random.key(1), leaf.shape), params)
    documents = PlanDocuments(
        vectors=random.normal(size=(DOCUMENTS, WIDTH)),
        weights=scipy.sparse.random(DOCUMENTS, TERMS, 0.2, random_state=0, format="csr", dtype=np.float32),
        bias=random.normal(size=DOCUMENTS),
    )
    inputs = random.integers(5, 30, (5, 10))
    inputs[1, 3:6] = 0
    return shape, params, encoded, documents, jnp.asarray(inputs)


def teacher_forced(shape, params, encoded, documents, inputs, shown, targets):
    """Return the log-probability of the docids of target rows, as the training loss sees it."""
    tables = documents.tables(shape, encoded)
    plan, tree = PlannedDocids.of(tables, encoded, shown), node_tree(encoded, shown)
    tokens, nodes = jnp.asarray(encoded.tokens[targets]), jnp.asarray(encoded.prefix_nodes[targets])
    shifted = jnp.pad(tokens, ((0, 0), (1, 0)))[:, :-1]

    @jax.jit
    def run(params, tables, plan, tree):
        logits, scores = T5(shape).apply({"params": params}, tables, inputs, shifted, nodes, tree, method=T5.planned)
        return plan.guided(logits, scores, nodes, tree)

    logits = run(params, tables, plan, tree)
    chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return jnp.sum(jnp.where(tokens > 0, chosen, 0.0), axis=1)


@pytest.mark.parametrize("head", ["vocabulary", "prefix"])
def test_the_loss_of_a_docid_is_its_score_in_the_search(head):
    shape, params, encoded, documents, inputs = world(head)
    everything = np.ones(DOCUMENTS, bool)
    index, tree = docid_index(encoded, VOCAB), node_tree(encoded) if head == "prefix" else None
    tables = documents.tables(shape, encoded)
    found = search_tokens(params, inputs, TrieConstraint(index), tree, shape, index.num_docids, tables)
    np.testing.assert_allclose(np.exp(found.scores).sum(axis=1), 1, rtol=1e-4)
    row_of = {tuple(tokens): row for row, tokens in enumerate(encoded.tokens.tolist())}
    for place in (0, 1, 7, 30):
        targets = np.array([row_of[tuple(tokens)] for tokens in np.asarray(found.tokens[:, place]).tolist()])
        wanted = teacher_forced(shape, params, encoded, documents, inputs, everything, targets)
        np.testing.assert_allclose(found.scores[:, place], wanted, atol=2e-4)


def test_hidden_documents_take_no_part_in_the_loss():
    shape, params, encoded, documents, inputs = world()
    shown = np.arange(DOCUMENTS) % 3 > 0
    targets = np.flatnonzero(shown)
    rows = targets[np.unique(encoded.tokens[targets], axis=0, return_index=True)[1]]
    each = [teacher_forced(shape, params, encoded, documents, inputs, shown, np.full(len(inputs), r)) for r in rows]
    np.testing.assert_allclose(np.exp(each).sum(axis=0), 1, rtol=1e-4)


def test_documents_that_share_a_docid_give_it_their_mean():
    shape, _, encoded, documents, _ = world(shared=4)
    number, count = docid_numbers(encoded)
    tables = documents.tables(shape, encoded, room_for=count + 5)
    assert tables.num_docids == count + 5
    place = number[0]
    together = np.flatnonzero(number == place)
    assert len(together) >= 4
    np.testing.assert_allclose(tables.bias[place], documents.bias[together].mean(), rtol=1e-5)
    mean = documents.vectors[together].mean(axis=0)
    np.testing.assert_allclose(tables.vectors[place].astype(jnp.float32), mean, rtol=0.01, atol=0.01)
    np.testing.assert_array_equal(tables.codes[place], encoded.tokens[0])
    assert not tables.bias[count:].any()


def test_the_numbers_of_docids_are_those_of_the_index():
    _, _, encoded, _, _ = world(shared=3)
    index = docid_index(encoded, VOCAB)
    number, count = docid_numbers(encoded)
    assert count == index.num_docids
    of_document, docid = index.documents_of(np.arange(count))
    np.testing.assert_array_equal(np.sort(of_document), np.arange(DOCUMENTS))
    np.testing.assert_array_equal(number[of_document], docid)
