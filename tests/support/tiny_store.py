"""A vocabulary whose tokens can be told by eye, and a small corpus with its example store."""

import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.building import build_store
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.abstract_vocabulary import TokenIds, Vocabulary
from genret_jax.data.text.words import normalized_words
from genret_jax.docids.codec import DocidCodec
from genret_jax.docids.table import DocidTable
from genret_jax.storage import fingerprint, read_json, write_json

LETTERS = "abcdefghijklmnopqrstuvwxyz"
_FIRST_LETTER, _WORDS = 3, "words.json"


class LetterVocabulary(Vocabulary):
    """Tokens 3 to 28 are the letters; listed words have a token of their own from 29 on.

    A listed word's best segmentation is its own token and the second one its letters; any other word has its letters.

    Args:
        listed: Words with a token of their own.
        extra_ids: Sentinels.
    """

    kind = "letters"

    def __init__(self, listed: Sequence[str] = (), *, extra_ids: int = 0):
        super().__init__(_FIRST_LETTER + len(LETTERS) + len(listed), "words", extra_ids)
        self.listed = tuple(listed)

    @property
    def fingerprint(self) -> str:
        """What changes exactly when some text would become other tokens."""
        return fingerprint(self.kind, list(self.listed), self.extra_ids)

    def words(self, text: str) -> list[str]:
        """Return lower-cased words."""
        return normalized_words(text)

    def segmentations(self, word: str, limit: int = 8) -> list[list[int]]:
        """Return a listed word's own token, then its letters."""
        letters = [_FIRST_LETTER + LETTERS.index(letter) for letter in word]
        own = [[self.token(word)]] if word in self.listed else []
        return [*own, letters][:limit]

    def token(self, word: str) -> int:
        """Return the token of a listed word."""
        return _FIRST_LETTER + len(LETTERS) + self.listed.index(word)

    def decode(self, ids: TokenIds) -> str:
        """Return words, and letters by themselves."""
        known = {self.token(word): word for word in self.listed}
        known |= {_FIRST_LETTER + i: letter for i, letter in enumerate(LETTERS)}
        parts = ([part] if is_text else [known[i] for i in part] for is_text, part in self._decode_parts(ids))
        return " ".join(itertools.chain.from_iterable(parts))

    def _save_model(self, folder: Path) -> None:
        write_json(folder / _WORDS, list(self.listed))

    @classmethod
    def _load_model(cls, folder: Path, *, normalization: str, extra_ids: int) -> Vocabulary:
        return cls(read_json(folder / _WORDS), extra_ids=extra_ids)


def tiny_corpus() -> Corpus:
    """Return five documents: two with queries, one with a generated query, one without text, one of stop words."""
    return Corpus(
        name="tiny",
        doc_ids=("cat", "dog", "empty", "fish", "stop"),
        titles=("Cats", "", "", "Fish", ""),
        texts=(
            "The cat sat on a mat. The cat ran. Then it slept for the whole day.",
            "A dog barks at every other dog.",
            "",
            "fish swim in the sea",
            "it is what it is",
        ),
        queries={"q1": "who sat there", "q2": "cat sleep", "q3": "barks loud", "q4": "sea animal", "q5": "who swims"},
        qrels={
            "train": {"q1": {"cat": 1}, "q2": {"cat": 2, "dog": 1}, "q3": {"dog": 1, "empty": 1}},
            "test": {"q5": {"fish": 1}, "q4": {"fish": 2, "cat": 1}},
        },
        generated_queries={"fish": ("what lives in water", "swimming animals")},
        source="tiny",
    )


def tiny_table(corpus: Corpus) -> DocidTable:
    """Return docids (0,), (0, 1), (1, 0), ... of which the first needs EOS; the last document has a second one."""
    sequences = [(0,), *((1 + i // 2, i % 2) for i in range(len(corpus.doc_ids) - 1)), (0, 1)]
    return DocidTable.from_codes(
        corpus.doc_ids,
        sequences,
        document=[*range(len(corpus.doc_ids)), len(corpus.doc_ids) - 1],
        strategy={"name": "tiny"},
        corpus_fingerprint=corpus.fingerprint,
    )


def tiny_store(
    folder: str | os.PathLike[str],
    *,
    corpus: Corpus | None = None,
    vocabulary: Vocabulary | None = None,
    first_token: int | None = None,
    **options: Any,
) -> ExampleStore:
    """Build the example store of a small corpus.

    Args:
        folder: Destination.
        corpus: By default :func:`tiny_corpus`.
        vocabulary: By default letters, with a token for ``cat`` and ``dog`` and 20 sentinels.
        first_token: First docid token; by default the one after those of text.
        **options: Of :func:`genret_jax.data.examples.building.build_store`.
    """
    corpus = corpus or tiny_corpus()
    vocabulary = vocabulary or LetterVocabulary(["cat", "dog"], extra_ids=20)
    table = tiny_table(corpus)
    codec = DocidCodec(first_token=first_token or vocabulary.size, level_sizes=table.level_sizes)
    return build_store(folder, corpus, codec.encode(table), vocabulary, codec=codec, **options)
