"""Words and sentences of texts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genret_jax.data.text.words import normalized_words, printable, sentences, spaced, valid_unicode


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("HTTPServer's bind_port", "http server s bind port"),
        ("os.path.joinAll(x2Y, parseHTMLDocument)", "os path join all x2 y parse html document"),
        ("camelÉtat ÉTATSUnis", "camel état états unis"),
        ("ﬁne ½ ＡＢＣ", "fine 1 2 abc"),
        ("हिन्दी भाषा", "हिन्दी भाषा"),  # vowel signs are combining marks and stay in their words
        ("résumé", "résumé"),
        ("日本語 と English", "日本 本語 と english"),
        ("東京駅の地図。iPhone12を2台", "東京 京駅 駅の の地 地図 i phone12 を 2 台"),
        ("我爱北京", "我爱 爱北 北京"),
        ("ｶﾞｲﾄﾞ", "ガイ イド"),  # half-width katakana
        ("ภาษาไทย", "ภา าษ ษา าไ ไท ทย"),
        ("ที่นี่", "ที่นี่"),  # two consonants, each with a vowel and a tone mark
        ("한국어 문장", "한국어 문장"),  # Korean has spaces
        ("བོད་ཡིག", "བོད ཡིག"),  # Tibetan marks syllables
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


@given(st.text("ab 東京の駅ー。กิท1", max_size=20))
def test_words_joined_by_spaces_have_the_same_words(text: str) -> None:
    """So decoded tokens, which are words with spaces between, can be encoded again."""
    words = normalized_words(text)
    assert normalized_words(" ".join(words)) == words


@given(st.text(st.characters(max_codepoint=0x0DFF) | st.sampled_from("한국어Ệ"), max_size=40))
def test_scripts_with_spaces_are_left_as_they_are(text: str) -> None:
    assert spaced(text) == text
    assert normalized_words(text) == normalized_words(text, bigrams=False)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b]0;owned\x07\x1b[31mred", " ]0;owned [31mred"),
        ("\x9b2Jcleared\r\x08", " 2Jcleared "),
        ("abc\u202edcba", "abc dcba"),
        ("東京 é \U0001f600", "東京 é \U0001f600"),
    ],
)
def test_printed_text_controls_no_terminal(text: str, shown: str) -> None:
    assert printable(text) == shown
