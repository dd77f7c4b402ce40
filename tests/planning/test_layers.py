"""Deep networks counted from shallow ones."""

import dataclasses

import pytest

from genret_jax.models.config import PlanConfig, T5Config
from genret_jax.models.encoders.config import BertConfig
from genret_jax.planning.counting import count_by_layers, depths


def linear(config: T5Config) -> dict[str, float]:
    encoder, decoder = depths(config)
    return {"flops": 7.0 + 3 * encoder + 5 * decoder}


@pytest.mark.parametrize(("encoder", "decoder"), [(24, 24), (12, 4)])
def test_what_grows_with_layers_is_exact(encoder, decoder):
    config = T5Config(num_encoder_layers=encoder, num_decoder_layers=decoder)
    counts, how = count_by_layers(config, linear)
    assert counts == linear(config)
    assert f"{encoder} + {decoder} extrapolated" in how


def test_shallow_networks_and_on_request_all_are_compiled_whole():
    seen = []
    for config, whole in ((T5Config(num_encoder_layers=2, num_decoder_layers=2), False), (T5Config(), True)):
        count_by_layers(config, lambda c: seen.append(c) or linear(c), whole=whole)
        assert seen.pop() == config
        assert not seen


def test_nothing_becomes_negative():
    config = dataclasses.replace(T5Config(), num_encoder_layers=9, num_decoder_layers=9)
    counts, _ = count_by_layers(config, lambda c: {"bytes/temp": 10.0 - 4 * c.num_encoder_layers})
    assert counts == {"bytes/temp": 0.0}


@pytest.mark.parametrize("decoder", [0, 1, 12])
def test_the_layers_of_a_pretrained_encoder_count_as_its_own(decoder):
    bert, plan = BertConfig(num_layers=12), PlanConfig(dense=True)
    config = T5Config(
        encoder=bert, d_model=384, num_decoder_layers=decoder, decoder_vocab_size=64, plan=plan, num_encoder_layers=8
    )
    counts, how = count_by_layers(config, linear)
    assert counts == linear(config) == {"flops": 7.0 + 36 + 5 * decoder}
    assert f"12 + {decoder} extrapolated" in how
