"""Text to words and sentences: the part of a vocabulary's normalisation that needs no model."""

import functools
import re
import sys
import unicodedata

# Between "camel" and "Case", and between "HTTP" and "Response"; ASCII and Latin-1 letters.
_LOWER, _UPPER = "a-z0-9ß-öø-ÿ", "A-ZÀ-ÖØ-Þ"
_CAMEL = re.compile(f"(?<=[{_LOWER}])(?=[{_UPPER}])|(?<=[{_UPPER}])(?=[{_UPPER}][a-zß-öø-ÿ])")
_ASCII_WORD = re.compile(r"[^\W_]+", re.ASCII)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?=\n\s*\n)|(?<=[。！？])")

# Function words of English, for the set-based representation, which leaves stop words out.
_ENGLISH_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by
can cannot could did do does doing down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself may me might more most must my myself no nor not of off
on once only or other ought our ours ourselves out over own same shall she should so some such than that the their
theirs them themselves then there these they this those through to too under until up very was we were what when
where which while who whom why will with would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())


@functools.cache
def _unicode_word() -> re.Pattern[str]:
    """Letters and digits with their combining marks, which regular expressions leave out (Hindi vowels are such)."""
    marks = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M"]
    return re.compile(f"(?:[^\\W_]|[{''.join(marks)}])+")


def normalized_words(text: str) -> list[str]:
    """Return the lower-cased words of a text, with camelCase and snake_case split.

    The text is brought to Unicode's compatibility form NFKC first; whatever is neither letter, digit nor a combining
    mark separates words.

    Args:
        text: Any text.

    Returns:
        Words in their order: ``"HTTPServer's bind_port"`` gives ``http server s bind port``.
    """
    if text.isascii():
        pattern = _ASCII_WORD
    else:
        text, pattern = unicodedata.normalize("NFKC", text), _unicode_word()
    if not text.islower():
        text = _CAMEL.sub(" ", text).lower()
    return pattern.findall(text)


def sentences(text: str) -> list[str]:
    """Split a text after ``. ! ?`` before white space, after their wide forms, and at empty lines.

    Joined again, the sentences are the text: white space stays at the beginning of the sentence that follows it.
    """
    return [part for part in _SENTENCE_END.split(text) if part]


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which a command line can carry and UTF-8 cannot, by question marks."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")
