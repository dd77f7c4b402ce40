"""Positions of items: what is added depends on items apart, on places, and on how long ago, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.tiny_model import tiny_t5

from genret_jax.errors import InputError
from genret_jax.models import T5, T5Config
from genret_jax.models.config import ItemInput
from genret_jax.models.convert.public_layout import require_public_network
from genret_jax.models.item_input import ItemBias, RecencyBias, WholeItems, places, shown
from genret_jax.models.layers import MASKED, Embed

FORM = ItemInput(leading=1, length=3, count=4)
CONFIG = tiny_t5(item_input=FORM)
WHOLE = tiny_t5(item_input=ItemInput(leading=1, length=3, count=4, whole=True), num_nodes=20)
CAUSAL = tiny_t5(item_input=ItemInput(leading=0, length=2, count=4, causal=True))


def test_places():
    item, place = places(FORM, 8)
    assert item.tolist() == [-1, 0, 0, 0, 1, 1, 1, 2]
    assert place.tolist() == [3, 0, 1, 2, 0, 1, 2, 0]
    assert [part.tolist() for part in places(ItemInput(leading=0, length=2, count=9), 3)] == [[0, 0, 1], [0, 1, 0]]


def drawn(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    random = np.random.default_rng(0)
    return {"params": jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape), jnp.float32), shapes)}


def test_the_bias_is_that_of_items_apart_and_that_of_places():
    tables = {"items": jnp.arange(64.0).reshape(2, 32), "places": 1000.0 * jnp.arange(32).reshape(2, 16)}
    bias = np.asarray(ItemBias(CONFIG).apply({"params": tables}, jnp.array([[9, 2, 3, 4, 5, 6, 7, 0]])))[0]
    # From place 1 of item 0 (position 2) to place 2 of item 1 (position 6): one item later is bucket 16 + 1.
    assert bias[0, 2, 6] == 17 + 1000 * (1 * 4 + 2)
    assert bias[1, 2, 6] == 32 + 17 + 1000 * (16 + 1 * 4 + 2)
    # Back to the user, who is item -1 at place 3: bucket 1.
    assert bias[0, 2, 0] == 1 + 1000 * (1 * 4 + 3)
    assert bias[0, 4, 4] == 0
    assert (bias[:, :, 7] < MASKED / 2).all(), "padding"


def test_items_do_not_see_those_after_them_or_of_another_history():
    tables = {"items": jnp.zeros((2, 32)), "places": jnp.zeros((2, 4))}
    tokens = jnp.array([[2, 3, 4, 5, 6, 7, 0, 0]])
    bias = np.asarray(ItemBias(CAUSAL).apply({"params": tables}, tokens, jnp.array([[1, 1, 2, 0]])))[0, 0]
    assert (bias[:6] == 0).astype(int).tolist() == [
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 1, 1, 0, 0],
    ]


def test_recency_counts_the_items_after():
    table = {"recency": jnp.arange(10.0).reshape(2, 5)}
    tokens = jnp.array([[9, 2, 3, 4, 2, 3, 4, 2, 3, 0], [0, 2, 3, 4, 0, 0, 0, 0, 0, 0]])
    bias = np.asarray(RecencyBias(CONFIG).apply({"params": table}, tokens))
    assert bias.shape == (2, 2, 1, 10)
    assert bias[0, 0, 0, :9].tolist() == [4, 2, 2, 2, 1, 1, 1, 0, 0]
    assert bias[1, 1, 0, 1:4].tolist() == [5, 5, 5]
    assert (bias[0, :, :, 9] < MASKED / 2).all()
    assert (bias[1, :, :, 0] < MASKED / 2).all()


def test_recency_of_a_target_for_each_item_of_packed_histories():
    table = {"recency": jnp.arange(10.0).reshape(2, 5)}
    tokens, histories = jnp.array([[2, 3, 4, 5, 6, 7, 0, 0]]), jnp.array([[1, 1, 2, 0]])
    bias = np.asarray(RecencyBias(CAUSAL).apply({"params": table}, tokens, histories))[0, 0]
    assert bias.shape == (8, 8), "two tokens for each of four targets"
    shown = np.where(bias > MASKED / 2, bias, -1)
    np.testing.assert_array_equal(shown[0::2], shown[1::2])
    assert shown[::2].tolist() == [
        [0, 0, -1, -1, -1, -1, -1, -1],
        [1, 1, 0, 0, -1, -1, -1, -1],
        [-1, -1, -1, -1, 0, 0, -1, -1],
        [-1, -1, -1, -1, -1, -1, -1, -1],
    ]


def test_a_whole_item_is_the_sum_of_its_tokens_and_nodes():
    user, first, second = [9], [2, 3, 4, 1, 7, 8], [5, 6, 0, 2, 11, 0]
    rows = [[*user, *first, *second], [*user, *second, *6 * [0]]]
    embedding = Embed(WHOLE.vocab_size, WHOLE.d_model)
    module = WholeItems(WHOLE, embedding)
    variables = drawn(module, jnp.array(rows))
    vectors = np.asarray(module.apply(variables, jnp.array(rows)))
    codes, nodes = (np.asarray(table) for table in jax.tree.leaves(variables["params"]))
    expected = codes[[5, 6]].sum(0) + nodes[[2, 11]].sum(0)
    np.testing.assert_allclose(vectors[0], [codes[9], codes[2:5].sum(0) + nodes[[1, 7, 8]].sum(0), expected], rtol=1e-5)
    np.testing.assert_allclose(vectors[1], [codes[9], expected, 0 * expected], rtol=1e-5)
    zero = np.asarray(jax.jit(module.init)(jax.random.key(0), jnp.array(rows))["params"]["nodes"])
    assert not zero.any(), "an item that training has not seen must be what its codes say"
    assert shown(WHOLE.item_input, jnp.array(rows)).tolist() == [[True, True, True], [True, True, False]]


@pytest.mark.parametrize("config", [CONFIG, CAUSAL, WHOLE], ids=["items", "causal", "whole"])
def test_a_network_of_items_does_not_see_how_far_it_is_padded(config):
    tokens = jnp.array([[9, 2, 3, 4, 5, 6, 7, 2, 4, 6, 8, 3, 5]])[:, 1 - config.item_input.leading :]
    tokens = tokens if config is WHOLE else tokens[:, : 6 + config.item_input.leading]
    targets = jnp.array([[0, 5, 6]])
    model = T5(config)
    variables = drawn(model, tokens, targets)
    apply = jax.jit(model.apply)
    short = apply(variables, tokens, targets)
    long = apply(variables, jnp.pad(tokens, ((0, 0), (0, 12))), targets)
    np.testing.assert_allclose(short, long, atol=1e-4)
    # The order of the items counts, which attention alone would not see.
    leading, length = config.item_input.leading, config.item_input.tokens
    order = [*range(leading), *range(leading + length, leading + 2 * length), *range(leading, leading + length)]
    other = apply(variables, tokens[:, jnp.array(order)], targets)
    same = apply(variables, tokens[:, : leading + 2 * length], targets)
    assert np.abs(np.asarray(same) - np.asarray(other)).max() > 0.01


def test_public_layouts_refuse_it():
    with pytest.raises(InputError, match=r"T5Config\.item_input"):
        require_public_network(T5Config(item_input=FORM))


@pytest.mark.parametrize("field", ["leading", "length", "count"])
def test_sizes_that_cannot_be(field):
    with pytest.raises(InputError, match=f"ItemInput.{field} is -1"):
        ItemInput(**{"leading": 1, "length": 3, "count": 4, field: -1})


def test_what_causal_and_whole_items_refuse():
    with pytest.raises(InputError, match=r"ItemInput\.leading is 1"):
        ItemInput(leading=1, length=3, count=4, causal=True)
