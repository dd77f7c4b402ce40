"""Documents as word numbers, in shards that several processes make in parallel and that survive an interruption.

Each shard numbers its own words in the order in which they occur. The shards are merged in order, so the result is that
of one pass over all documents.
"""

import collections
import contextlib
import itertools
import os
import shutil
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Int64

from genret_jax.data.corpus import Corpus
from genret_jax.data.text.vocabulary import Vocabulary
from genret_jax.data.text.words import sentences
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError
from genret_jax.storage import fingerprint, folder_lock, load_arrays, save_arrays

_KIND, _VERSION = "document_shard", 1
_SHARD = 1 << 14  # documents
# Arrays of word numbers, each with the array of the offsets of its sequences.
_SEQUENCES = {
    "document_words": "document_offsets",
    "bag_words": "bag_offsets",
    "generated_words": "generated_word_offsets",
}
_WORDS = tuple(_SEQUENCES)
_ENDS = (*_SEQUENCES.values(), "sentence_offsets", "generated_offsets")


#: The text of each document, with its generated queries.
Sources = list[tuple[str, list[str]]]
#: Arrays of words and of their offsets, by name.
Shard = dict[str, np.ndarray]


class WordSequences:
    """Sequences of word numbers, one after the other in one growing array."""

    def __init__(self) -> None:
        self._words = array("i")
        self._ends = array("q", [0])

    def append(self, words: Iterable[int]) -> None:
        """Add one sequence."""
        self._words.extend(words)
        self._ends.append(len(self._words))

    @property
    def words(self) -> Int32[np.ndarray, " total"]:
        """The words of all sequences."""
        return np.frombuffer(self._words, np.int32) if self._words else np.zeros(0, np.int32)

    @property
    def offsets(self) -> Int64[np.ndarray, " sequences_plus_1"]:
        """Sequence i has ``words[offsets[i]:offsets[i + 1]]``."""
        return np.frombuffer(self._ends, np.int64)


class WordTable:
    """Numbers words in the order in which they first occur.

    Args:
        vocabulary: Vocabulary that splits texts into words, and words into tokens.
    """

    def __init__(self, vocabulary: Vocabulary):
        self.vocabulary = vocabulary
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    @property
    def words(self) -> list[str]:
        """All words, in the order of their numbers."""
        return list(self._numbers)

    def add(self, words: Iterable[str]) -> Int32[np.ndarray, " w"]:
        """Return the numbers of words; new words are added."""
        known = self._numbers
        return np.fromiter((known.setdefault(word, len(known)) for word in words), np.int32)

    def numbers(self, text: str) -> list[int]:
        """Return the word numbers of a text; new words are added."""
        known = self._numbers
        return [known.setdefault(word, len(known)) for word in self.vocabulary.words(text)]

    def segmentations(self, limit: int) -> dict[str, np.ndarray]:
        """Return the segmentations of every word into tokens, the best one first.

        Args:
            limit: Most segmentations of a word.

        Returns:
            ``segment_tokens`` [total] and ``segment_offsets`` [s + 1]: segmentation i has the tokens from offset i to
            offset i + 1; ``word_segments`` [w + 1]: word j has the segmentations from entry j to entry j + 1.
        """
        tokens, ends, words = array("i"), array("i", [0]), array("i", [0])
        for word in self._numbers:
            for segmentation in self.vocabulary.segmentations(word, limit):
                tokens.extend(segmentation)
                ends.append(len(tokens))
            words.append(len(ends) - 1)
        packed = {"segment_tokens": tokens, "segment_offsets": ends, "word_segments": words}
        return {name: np.array(values, np.int32) for name, values in packed.items()}


def number_documents(
    folder: str | os.PathLike[str], corpus: Corpus, table: WordTable, most_words: int | None
) -> dict[str, np.ndarray]:
    """Return the words of documents and of their generated queries, in the arrays of the example store.

    A corpus of several shards is read by one process for each processor (``LOKY_MAX_CPU_COUNT`` limits them). After an
    interruption a second call makes only the missing shards.

    Args:
        folder: Folder of the store; the shards are in a hidden folder beside it until the store is complete.
        corpus: The documents.
        table: Table of word numbers; new words are added to it.
        most_words: Most words of a document to keep; None for all.
    """
    if len(corpus.doc_ids) <= _SHARD:
        return _merged([_number(_sources(corpus, 0), table.vocabulary, most_words)], table)
    shards = _shards_folder(folder)
    with folder_lock(shards, doing="numbering the words of documents"):
        return _merged(_all_shards(shards, corpus, table.vocabulary, most_words), table)


def remove_shards(folder: str | os.PathLike[str]) -> None:
    """Remove the shards of a store that is complete."""
    shutil.rmtree(_shards_folder(folder), ignore_errors=True)


def _shards_folder(folder: str | os.PathLike[str]) -> Path:
    return Path(folder).with_name(f".{Path(folder).name}.shards")


def _sources(corpus: Corpus, first: int) -> Sources:
    """Return the text and the generated queries of each document of the shard that begins with document ``first``."""
    documents = range(first, min(first + _SHARD, len(corpus.doc_ids)))
    generated = corpus.generated_queries
    return [(corpus.document_text(i), list(generated.get(corpus.doc_ids[i], ()))) for i in documents]


def _all_shards(folder: Path, corpus: Corpus, vocabulary: Vocabulary, most_words: int | None) -> Iterator[Shard]:
    """Make the missing shards in parallel; yield all shards in order, each as soon as it is there."""
    from joblib import Parallel, delayed
    from tqdm import tqdm

    starts = range(0, len(corpus.doc_ids), _SHARD)
    tasks = (
        delayed(_make)(folder / f"{start // _SHARD:06d}", _sources(corpus, start), vocabulary, most_words)
        for start in starts
    )
    made = Parallel(n_jobs=-1, return_as="generator", pre_dispatch="2 * n_jobs")(tasks)
    for path in tqdm(made, total=len(starts), desc="numbering words", unit="shard", leave=False, delay=2):
        yield dict(load_arrays(path, kind=_KIND, version=_VERSION)[0])


def _make(path: Path, sources: Sources, vocabulary: Vocabulary, most_words: int | None) -> Path:
    """Write a shard, unless it is there and has the same sources."""
    made_of = fingerprint(vocabulary.fingerprint, most_words, sources)
    with contextlib.suppress(InputError):
        if load_arrays(path, kind=_KIND, version=_VERSION)[1].get("made_of") == made_of:
            return path
    arrays = _number(sources, vocabulary, most_words)
    save_arrays(path, arrays, kind=_KIND, version=_VERSION, details={"made_of": made_of}, replace=True)
    return path


def _number(sources: Sources, vocabulary: Vocabulary, most_words: int | None) -> Shard:
    """Return the arrays of one shard, with word numbers of its own."""
    table = WordTable(vocabulary)
    documents, bags, bag_counts, sentence_starts, queries = (WordSequences() for _ in range(5))
    ends = [0]
    for text, generated_queries in sources:
        by_sentence = [numbers for sentence in sentences(text) if (numbers := table.numbers(sentence))]
        words = list(itertools.chain.from_iterable(by_sentence))[:most_words]
        starts = itertools.accumulate(map(len, by_sentence), initial=0)
        documents.append(words)
        sentence_starts.append(start for start in starts if start < len(words))
        bag = collections.Counter(words)
        bags.append(bag)
        bag_counts.append(bag.values())
        for query in generated_queries:
            if numbers := table.numbers(query):
                queries.append(numbers)
        ends.append(len(queries.offsets) - 1)
    packed = PackedStrings.pack(table.words)
    return {
        "document_words": documents.words,
        "document_offsets": documents.offsets,
        "sentence_starts": sentence_starts.words,
        "sentence_offsets": sentence_starts.offsets,
        "bag_words": bags.words,
        "bag_counts": bag_counts.words,
        "bag_offsets": bags.offsets,
        "generated_words": queries.words,
        "generated_word_offsets": queries.offsets,
        "generated_offsets": np.array(ends, np.int64),
        "word_text": packed.text,
        "word_offsets": packed.offsets,
    }


def _merged(shards: Iterable[Shard], table: WordTable) -> Shard:
    """Join shards in order, with the word numbers of the table."""
    parts: dict[str, list[np.ndarray]] = {}
    for shard in shards:
        numbers = table.add(PackedStrings(shard.pop("word_text"), shard.pop("word_offsets")))
        for name, values in shard.items():
            parts.setdefault(name, []).append(numbers[values] if name in _WORDS else np.asarray(values))
    return {name: _joined_ends(arrays) if name in _ENDS else np.concatenate(arrays) for name, arrays in parts.items()}


def _joined_ends(parts: list[np.ndarray]) -> np.ndarray:
    begins = np.cumsum([0, *(part[-1] for part in parts)])
    return np.concatenate([[0], *(part[1:] + begin for part, begin in zip(parts, begins[:-1], strict=True))])
