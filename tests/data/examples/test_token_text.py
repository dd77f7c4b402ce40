"""Tokens of examples as text and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny_store import LetterVocabulary

from genret_jax.data.examples.token_text import TokenText
from genret_jax.data.text.vocabulary import ByteVocabulary
from genret_jax.errors import InputError

VOCABULARY = LetterVocabulary(["cat"], extra_ids=3)  # letters 3 to 28, cat 29, sentinels 32, 31, 30
PER_LEVEL = {"kind": "per_level", "first_token": 33, "level_sizes": [10, 4, 4]}
SHARED = {"kind": "shared", "first_token": 33, "level_sizes": [10, 4, 4]}


def test_docids_of_each_level_and_of_a_shared_set() -> None:
    assert TokenText(VOCABULARY, PER_LEVEL).decode([29, 33 + 7, 43 + 1, 47 + 3, 1, 0]) == "cat <7-1-3>"
    assert TokenText(VOCABULARY, SHARED).decode([29, 33 + 7, 33 + 1, 33 + 3, 1, 0]) == "cat <7-1-3>"


def test_text_codecs_have_no_tokens_of_their_own() -> None:
    text = TokenText(ByteVocabulary(), {"kind": "text", "first_token": 259, "level_sizes": [10]})
    assert text.decode([52, 53, 1]) == "12"
    assert text.encode("12") == [52, 53]


@pytest.mark.parametrize("codec", [PER_LEVEL, SHARED])
@given(codes=st.lists(st.integers(0, 3), min_size=1, max_size=3), word=st.sampled_from(["cat", "a b", ""]))
def test_what_is_written_is_read_again(codec: dict, codes: list[int], word: str) -> None:
    text = TokenText(VOCABULARY, codec)
    written = f"{word} <{'-'.join(map(str, codes))}> <extra_id_2>".strip()
    assert text.decode(text.encode(written)) == written


def test_what_cannot_be_written() -> None:
    with pytest.raises(InputError, match="docid <1-1-1-1>; expected at most 3 codes"):
        TokenText(VOCABULARY, PER_LEVEL).encode("<1-1-1-1>")
    docids_only = TokenText(None, PER_LEVEL | {"first_token": 2})
    assert docids_only.decode([2 + 7, 1]) == "<7>"
    for wrong in ("cat <7>", "<extra_id_0>"):
        with pytest.raises(InputError, match="docids only"):
            docids_only.encode(wrong)
    with pytest.raises(InputError, match=r"docid <7>"):
        TokenText(VOCABULARY, None).encode("<7>")
