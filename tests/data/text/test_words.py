"""Words and sentences of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genret_jax.data.text.words import normalized_words, sentences, valid_unicode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HTTPServer's bind_port", "http server s bind port"),
        ("os.path.joinAll(x2Y, parseHTMLDocument)", "os path join all x2 y parse html document"),
        ("camelÉtat ÉTATSUnis", "camel état états unis"),
        ("ﬁne ½ ＡＢＣ", "fine 1 2 abc"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # vowel signs are combining marks and stay in their words
        ("résumé", "résumé"),
        ("日本語 と English", "日本語 と english"),
        ("... --- !", ""),
        ("\ud800", ""),
    ],
)
def test_words(text: str, words: str) -> None:
    assert normalized_words(text) == words.split()


def test_sentences_keep_all_of_the_text() -> None:
    text = "One. Two! Is it 3.5? yes\n\n  new paragraph。次の文"
    assert sentences(text) == ["One.", " Two!", " Is it 3.5?", " yes", "\n\n  new paragraph。", "次の文"]


@given(st.text())
def test_joined_sentences_are_the_text(text: str) -> None:
    assert "".join(sentences(text)) == text


@given(st.text(st.characters(codec=None), max_size=30))
def test_valid_unicode_can_be_written(text: str) -> None:
    assert valid_unicode(text).encode("utf-8") == text.encode("utf-8", errors="replace")
