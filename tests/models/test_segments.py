"""Positions of items: what is added depends on items apart, on places, and on how long ago, and on nothing else."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.models import T5, T5Config
from genret_jax.models.config import InputSegments
from genret_jax.models.public_layout import require_public_network
from genret_jax.models.segments import Recency, SegmentBias, places
from genret_jax.testing.tiny_model import tiny_t5

SEGMENTS = InputSegments(leading=1, length=3, count=4)
CONFIG = tiny_t5(input_segments=SEGMENTS)


def test_places():
    item, place = places(SEGMENTS, 8)
    assert item.tolist() == [-1, 0, 0, 0, 1, 1, 1, 2]
    assert place.tolist() == [3, 0, 1, 2, 0, 1, 2, 0]
    assert [part.tolist() for part in places(InputSegments(leading=0, length=2, count=9), 3)] == [[0, 0, 1], [0, 1, 0]]


def drawn(module, *inputs):
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
    random = np.random.default_rng(0)
    return {"params": jax.tree.map(lambda s: jnp.asarray(random.normal(size=s.shape), jnp.float32), shapes)}


def test_the_bias_is_that_of_items_apart_and_that_of_places():
    module = SegmentBias(CONFIG)
    variables = {"params": {"items": jnp.arange(64.0).reshape(2, 32), "places": 1000.0 * jnp.arange(32).reshape(2, 16)}}
    bias = np.asarray(module.apply(variables, 7))[0]
    # From place 1 of item 0 (position 2) to place 2 of item 1 (position 6): one item later is bucket 16 + 1.
    assert bias[0, 2, 6] == 17 + 1000 * (1 * 4 + 2)
    assert bias[1, 2, 6] == 32 + 17 + 1000 * (16 + 1 * 4 + 2)
    # Back to the user, who is item -1 at place 3: bucket 1.
    assert bias[0, 2, 0] == 1 + 1000 * (1 * 4 + 3)
    assert bias[0, 4, 4] == 0


def test_recency_counts_the_items_after():
    module = Recency(CONFIG)
    table = jnp.arange(4.0)[:, None] * jnp.ones((4, CONFIG.d_model))
    tokens = jnp.array([[9, 2, 3, 4, 2, 3, 4, 2, 3, 0], [0, 2, 3, 4, 0, 0, 0, 0, 0, 0]])
    found = np.asarray(module.apply({"params": {"embedder": {"embedding": table}}}, tokens))[..., 0]
    assert found[0].tolist() == [0, 2, 2, 2, 1, 1, 1, 0, 0, 0]
    assert found[1, :4].tolist() == [0, 0, 0, 0]


def test_a_network_of_items_does_not_see_how_far_it_is_padded():
    tokens = jnp.array([[9, 2, 3, 4, 5, 6, 7]])
    targets = jnp.array([[0, 5, 6]])
    model = T5(CONFIG)
    variables = drawn(model, tokens, targets)
    apply = jax.jit(model.apply)
    short = apply(variables, tokens, targets)
    long = apply(variables, jnp.pad(tokens, ((0, 0), (0, 6))), targets)
    np.testing.assert_allclose(short, long, atol=1e-4)
    # The order of the items counts, which attention alone would not see.
    other = apply(variables, tokens[:, jnp.array([0, 4, 5, 6, 1, 2, 3])], targets)
    assert np.abs(np.asarray(short) - np.asarray(other)).max() > 0.01


def test_public_layouts_refuse_it():
    with pytest.raises(InputError, match=r"T5Config\.input_segments"):
        require_public_network(T5Config(input_segments=SEGMENTS))


@pytest.mark.parametrize("field", ["leading", "length", "count"])
def test_sizes_that_cannot_be(field):
    with pytest.raises(InputError, match=f"InputSegments.{field} is -1"):
        InputSegments(**{"leading": 1, "length": 3, "count": 4, field: -1})
