"""Text to words and sentences, without a model; and text that is safe to print."""

import functools
import itertools
import re
import sys
import unicodedata

# Between "camel" and "Case", and between "HTTP" and "Response"; ASCII and Latin-1 letters.
_LOWER, _UPPER = "a-z0-9ß-öø-ÿ", "A-ZÀ-ÖØ-Þ"
_CAMEL = re.compile(f"(?<=[{_LOWER}])(?=[{_UPPER}])|(?<=[{_UPPER}])(?=[{_UPPER}][a-zß-öø-ÿ])")
_ASCII_WORD = re.compile(r"[^\W_]+", re.ASCII)
_SENTENCE_END = re.compile(r"(?<=[.!?])(?=\s)|(?=\n\s*\n)|(?<=[。！？])")
# C0 and C1 controls but tab and line feed, and the overrides and isolates of writing direction.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]+")

# Function words of English, which the set representation of documents leaves out.
_ENGLISH_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but by
can cannot could did do does doing down during each few for from further had has have having he her here hers
herself him himself his how i if in into is it its itself may me might more most must my myself no nor not of off
on once only or other ought our ours ourselves out over own same shall she should so some such than that the their
theirs them themselves then there these they this those through to too under until up very was we were what when
where which while who whom why will with would you your yours yourself yourselves
"""
STOP_WORDS = frozenset(_ENGLISH_STOP_WORDS.split())


# Scripts that are written without spaces between words, by Unicode block: Thai, Lao, Burmese, Khmer, Tai Le, New Tai
# Lue, Tai Tham, Balinese, Javanese, kana, bopomofo, and Chinese characters. Korean has spaces, Tibetan marks syllables.
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\u3005-\u3007\u3041-\u312f"
    "\u31a0-\u31bf\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua980-\ua9ff\uaa60-\uaa7f\uf900-\ufaff\uff66-\uff9f"
    "\U0001b000-\U0001b16f\U00020000-\U000323af"
)

_UNSPACED_CHARACTER = re.compile(f"[{_UNSPACED}]")


@functools.cache
def _unicode_patterns() -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    """Return patterns of a word, of a run of characters without spaces, and of one such character.

    A combining mark belongs to the letter before it; Python's ``re`` leaves marks out (Hindi vowels are such).
    """
    marks = "".join(chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c))[0] == "M")
    character = f"[{_UNSPACED}](?<=[^\\W_]|[{marks}])[{marks}]*"
    return re.compile(f"(?:[^\\W_]|[{marks}])+"), re.compile(f"(?:{character})+"), re.compile(character)


def normalized_words(text: str, *, bigrams: bool = True) -> list[str]:
    """Return the lower-cased words of a text, with camelCase and snake_case split.

    The text is brought to Unicode's compatibility form NFKC first; whatever is neither letter, digit nor a combining
    mark separates words. Scripts without spaces have their character bigrams as words (:func:`spaced`).

    Args:
        text: Any text.
        bigrams: Divide scripts without spaces; without it each run of such characters is one word.

    Returns:
        Words in their order: ``"HTTPServer's bind_port"`` gives ``http server s bind port``.
    """
    if text.isascii():
        pattern = _ASCII_WORD
    else:
        text, pattern = unicodedata.normalize("NFKC", text), _unicode_patterns()[0]
        text = spaced(text) if bigrams else text
    if not text.islower():
        text = _CAMEL.sub(" ", text).lower()
    return pattern.findall(text)


def spaced(text: str) -> str:
    """Write scripts without spaces, such as Chinese, Japanese and Thai, as overlapping character bigrams.

    ``東京駅の map`` becomes ``東京 京駅 駅の map``; a character that stands alone stays alone. Bigrams find nearly as
    well as words from a dictionary (Nie et al. 2000, "On the use of words and n-grams for Chinese information
    retrieval"), and Lucene's ``CJKAnalyzer`` makes the same. Text in scripts with spaces is returned as it is.
    """
    if text.isascii() or not _UNSPACED_CHARACTER.search(text):
        return text
    _, run, character = _unicode_patterns()

    def bigrams(found: re.Match[str]) -> str:
        characters = character.findall(found[0])
        pairs = map("".join, itertools.pairwise(characters)) if len(characters) > 1 else characters
        return f" {' '.join(pairs)} "

    return run.sub(bigrams, text)


def sentences(text: str) -> list[str]:
    """Split a text after ``. ! ?`` before white space, after their wide forms, and at empty lines.

    White space stays at the beginning of the next sentence, so the joined sentences are the text.
    """
    return [part for part in _SENTENCE_END.split(text) if part]


def valid_unicode(text: str) -> str:
    """Replace lone surrogates, which a command line can hold and UTF-8 cannot, by question marks."""
    return text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8")


def printable(text: str) -> str:
    """Return text that is safe to print: each run of control characters becomes one space.

    Control characters in a title could move the cursor, colour the terminal, or rename its window; marks of writing
    direction could show text in another order than it is. Line feeds and tabs are kept.
    """
    return _CONTROL.sub(" ", valid_unicode(text))
