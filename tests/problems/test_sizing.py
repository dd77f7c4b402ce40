"""A network with a pretrained encoder is refused inputs that the encoder has no positions for."""

import dataclasses

import pytest
from support.encoder_folders import ENCODERS
from support.tiny_model import tiny_t5

from genret_jax.docids import DocidCodec
from genret_jax.errors import InputError
from genret_jax.models.encoders.sentence import SentenceEncoder
from genret_jax.problems.sizing import with_encoder


def sized(encoder, input_length):
    return with_encoder(tiny_t5(), encoder, DocidCodec(first_token=2, level_sizes=(4, 4)), 0, input_length)


# MPNet counts its 202 positions from 2. Both put one token before a text and one after it.
@pytest.mark.parametrize(("name", "positions"), [("bert", 40), ("mpnet", 200)])
def test_special_tokens_and_the_prompt_take_positions_from_the_input(name, positions):
    plain = dataclasses.replace(SentenceEncoder.load(ENCODERS / name), prompts={})
    assert sized(plain, positions - 2).encoder == dataclasses.replace(plain.config, dropout_rate=0.0)
    with pytest.raises(InputError) as caught:
        sized(plain, positions - 1)
    assert str(caught.value) == (
        f"SamplerConfig.input_length is {positions - 1}; expected at most {positions - 2}: the encoder has {positions} "
        f"positions, and its special tokens and prompt take 2; next: set SamplerConfig.input_length to {positions - 2} "
        "or less"
    )
    prompted = dataclasses.replace(plain, prompts={"query": "a b: ", "passage": "a very long passage: "})
    words = len(plain.tokenizer.encode("a b: ", add_special_tokens=False).ids)
    assert sized(prompted, positions - 2 - words).sentence.last_token > 0
    with pytest.raises(InputError, match=f"special tokens and prompt take {2 + words};"):
        sized(prompted, positions - 1 - words)
