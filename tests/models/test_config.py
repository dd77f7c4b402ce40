"""The shape of a network: sizes beyond any use are refused at once, and the bias tables follow their fields."""

import typing

import jax
import jax.numpy as jnp
import pytest
from support.tiny_model import tiny_t5

from genret_jax.errors import InputError
from genret_jax.models import T5, T5Config
from genret_jax.models.config import ItemInput

INTEGERS = [
    "vocab_size", "decoder_vocab_size", "d_model", "d_kv", "num_heads", "d_ff", "num_encoder_layers",
    "num_decoder_layers", "relative_attention_num_buckets", "relative_attention_max_distance", "adaptive_layers",
    "adaptive_width", "num_nodes", "query_width",
]  # fmt: skip


def test_every_size_is_tested():
    hints = typing.get_type_hints(T5Config)
    assert sorted(name for name, hint in hints.items() if hint in (int, int | None)) == sorted(INTEGERS)


@pytest.mark.parametrize("field", INTEGERS)
@pytest.mark.parametrize("size", [10**10, -1])
def test_sizes_have_limits(field, size):
    with pytest.raises(InputError, match=rf"T5Config\.{field} is {size}; expected from \d to [\d,]+"):
        T5Config(**{field: size})


@pytest.mark.parametrize("field", ["leading", "length", "count"])
def test_item_inputs_have_limits(field):
    with pytest.raises(InputError, match=rf"ItemInput\.{field} is 10000000000; expected from \d to [\d,]+"):
        ItemInput(**{"leading": 0, "length": 2, "count": 3, field: 10**10})


def test_the_limit_of_layers_is_beyond_every_published_network():
    with pytest.raises(InputError, match="expected from 1 to 1,000"):
        T5Config(num_encoder_layers=10**9)
    assert T5Config(num_encoder_layers=1000).num_encoder_layers == 1000


def test_buckets_are_rows_of_the_position_bias():
    config = tiny_t5(relative_attention_num_buckets=16, relative_attention_max_distance=20)
    tokens = jnp.zeros((1, 1), jnp.int32)
    params = jax.eval_shape(T5(config).init, jax.random.key(0), tokens, tokens)["params"]
    assert params["encoder"]["relpos_bias"]["rel_embedding"].shape == (config.num_heads, 16)
