"""The network that writes docids: where its codebooks are, what it writes, and that it is kept whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.docid_learning.model import Codebooks, DocidModel, decoder_inputs, decoder_states, predict_codes
from genret_jax.docids import load_quantiser
from genret_jax.errors import InputError
from genret_jax.models.network import T5, random_variables

SIZES, FIRST, TEXT = (4, 3), 20, 20


def network(**fields):
    """Books, and random parameters of a size at which codes are not all alike."""
    config = tiny_t5(**{"vocab_size": 32, "dropout_rate": 0.0, **fields})
    params = jax.device_get(random_variables(config, jax.random.key(0), None)["params"])
    return Codebooks(config=config, first_token=FIRST, level_sizes=SIZES), params


@pytest.fixture(scope="module")
def documents():
    random = np.random.default_rng(0)
    tokens = random.integers(2, TEXT, (9, 6)).astype(np.int32)
    tokens[3, 4:] = 0
    return tokens


def nothing(documents):
    return np.full((len(documents), 2), -1, np.int32)


def logits_of(books, params, documents, codes):
    """The whole network's logits after codes, by teacher forcing."""
    shown = jnp.asarray(documents), jnp.asarray(decoder_inputs(books, codes))
    return np.asarray(T5(books.config).apply({"params": params}, *shown))


HEADS = {
    "T5 1.1": {},
    "T5 1.0": {"tie_embeddings": True, "scale_decoder_outputs": True},
    "tied, not scaled": {"tie_embeddings": True},
}


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_a_code_is_compared_by_its_vector(fields, documents):
    books, params = network(**fields)
    codes = nothing(documents)
    logits = logits_of(books, params, documents, codes)[:, 0, FIRST : FIRST + 4]
    states = np.asarray(decoder_states(params, documents, codes, books, 0))
    vectors = np.asarray(books.vectors(params, 0))
    np.testing.assert_allclose(states @ vectors.T / books.config.d_model**0.5, logits, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("fields", HEADS.values(), ids=HEADS)
def test_vectors_are_put_where_they_are_read(fields):
    books, params = network(**fields)
    wanted = np.random.default_rng(1).normal(size=(2, books.config.d_model)).astype(np.float32)
    changed = books.with_vectors(params, 1, {0: wanted[0], 2: wanted[1]}, input_norm=1.5)
    found, before = np.asarray(books.vectors(changed, 1)), np.asarray(books.vectors(params, 1))
    np.testing.assert_allclose(found[[0, 2]], wanted, rtol=1e-5)
    np.testing.assert_array_equal(found[1], before[1])
    np.testing.assert_array_equal(books.vectors(changed, 0), books.vectors(params, 0))
    read = changed["token_embedder"]["embedding"][books.token_range(1)[0]]
    if not books.config.tie_embeddings:
        np.testing.assert_allclose(read, 1.5 * wanted[0] / np.linalg.norm(wanted[0]), rtol=1e-5)
    assert not np.shares_memory(changed["token_embedder"]["embedding"], params["token_embedder"]["embedding"])


def test_codes_are_those_of_the_highest_logit_one_after_the_other(documents):
    books, params = network(d_model=16)
    found = np.asarray(predict_codes(params, documents, nothing(documents), books))
    expected = nothing(documents)
    for level in range(2):
        first, number = books.token_range(level)
        expected[:, level] = logits_of(books, params, documents, expected)[:, level, first : first + number].argmax(-1)
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found, axis=0)) > 1


def test_known_codes_are_kept_and_read(documents):
    books, params = network()
    given = np.stack([np.arange(9) % 4, np.zeros(9, int)], axis=1).astype(np.int32)
    found = np.asarray(predict_codes(params, documents, given, books, 1))
    np.testing.assert_array_equal(found[:, 0], given[:, 0])
    first, number = books.token_range(1)
    np.testing.assert_array_equal(
        found[:, 1], logits_of(books, params, documents, given)[:, 1, first : first + number].argmax(-1)
    )


def test_many_documents_are_read_as_few_are(documents):
    books, params = network()
    many = np.random.default_rng(2).integers(2, TEXT, (300, 6)).astype(np.int32)
    together = np.asarray(predict_codes(params, many, nothing(many), books))
    apart = [np.asarray(predict_codes(params, many[i : i + 50], nothing(many[:50]), books)) for i in range(0, 300, 50)]
    np.testing.assert_array_equal(together, np.concatenate(apart))


def test_decoder_inputs():
    books, _ = network()
    codes = np.array([[2, 1], [0, -1], [-1, -1]], np.int32)
    expected = [[0, FIRST + 2], [0, FIRST], [0, 0]]
    np.testing.assert_array_equal(decoder_inputs(books, codes), expected)
    np.testing.assert_array_equal(decoder_inputs(books, jnp.asarray(codes)), expected)


def test_it_is_saved_and_opened_as_a_quantiser(documents, tmp_path):
    books, params = network()
    model = DocidModel.from_parameters(params, books, length=6)
    model.save(tmp_path / "quantiser")
    opened = load_quantiser(tmp_path / "quantiser")
    assert isinstance(opened, DocidModel)
    assert (opened.books, opened.width, opened.fingerprint) == (books, 6, model.fingerprint)
    expected = np.asarray(predict_codes(params, documents, nothing(documents), books))
    np.testing.assert_array_equal(opened.codes(documents), expected)
    with pytest.raises(InputError, match=r"expected a numeric array \[documents, 6\]"):
        opened.codes(documents[:, :5])


def test_a_larger_network_has_its_parameters_and_the_given_ones_beyond():
    books, params = network()
    large = jax.device_get(
        random_variables(tiny_t5(vocab_size=40, dropout_rate=0.0), jax.random.key(1), None)["params"]
    )
    grown = DocidModel.from_parameters(params, books, length=6).grown(large)
    known = FIRST + sum(SIZES)
    table, kernel = grown["token_embedder"]["embedding"], grown["decoder"]["logits_dense"]["kernel"]
    np.testing.assert_array_equal(table[:known], params["token_embedder"]["embedding"][:known])
    np.testing.assert_array_equal(table[known:], large["token_embedder"]["embedding"][known:])
    np.testing.assert_array_equal(kernel[:, :known], params["decoder"]["logits_dense"]["kernel"][:, :known])
    np.testing.assert_array_equal(kernel[:, known:], large["decoder"]["logits_dense"]["kernel"][:, known:])
    same = jax.tree.map(np.array_equal, grown["encoder"], params["encoder"])
    assert all(jax.tree.leaves(same))
