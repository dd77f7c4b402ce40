"""Deep networks counted from shallow ones."""

import dataclasses

import pytest

from genret_jax.models.config import T5Config
from genret_jax.planning.counting import count_by_layers


def linear(config: T5Config) -> dict[str, float]:
    return {"flops": 7.0 + 3 * config.num_encoder_layers + 5 * config.num_decoder_layers}


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
