"""The example store: a corpus's texts, queries and docids as memory-mapped integers, ready to sample from.

Texts are sequences of word numbers, and a table maps each word to its tokens, best segmentation first. So text is
tokenised once, while words are dropped, drawn and segmented anew at every step. The store holds nothing random: rates
and representations belong to the sampler (:mod:`genret_jax.data.examples.sampler`) and need no new store.
"""

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32, Shaped

from genret_jax.data.records import is_present, require_fields
from genret_jax.data.text.latent import token_counts
from genret_jax.data.text.terms import term_rows, terms_of
from genret_jax.data.text.vocabulary import EOS, PAD, Vocabulary
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError, nearest
from genret_jax.storage import MANIFEST, load_arrays

KIND, VERSION = "example_store", 1
_MANIFEST_FIELDS = {
    "splits": list,
    "fingerprint": str,
    "vocabulary_size": int,
    "decoder_vocabulary_size": int,
    "extra_ids": int,
    "codec": dict,
    "arrays": dict,
}
ARRAYS, VOCABULARY = "arrays", "vocabulary"
NO_WORD = -1
#: A number for each row of a batch, such as that of its document.
Rows = Int[np.ndarray, " b"]
#: Words of each row, with -1 where there is none, or a number for each of these words.
Words = Int[np.ndarray, "b w"]
#: Tokens of each row for the encoder, padded with 0.
Tokens = Int32[np.ndarray, "b l"]
#: Tokens of each row for the decoder, padded with 0, or a number for each of these tokens.
Targets = Int32[np.ndarray, "b m"]
_ROWS_AT_ONCE = 1 << 14


class ExampleStore:
    """A store that is open for reading; use :meth:`open`.

    Attributes:
        folder: Its folder.
        manifest: Counts, splits, fingerprints of its sources, and its own.
        doc_ids: External document ids, n of them.
        titles: Document titles.
        query_ids: External ids of all queries.
        splits: Names of the qrels splits.
    """

    def __init__(self, folder: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]):
        self.folder = folder
        self.manifest = manifest
        # A plain view of a memory map: numpy's memmap class makes every small index operation slower.
        self._arrays = {name: np.asarray(array) for name, array in arrays.items()}
        self.splits: tuple[str, ...] = tuple(manifest["splits"])
        self.doc_ids = PackedStrings(self.array("doc_id_text"), self.array("doc_id_offsets"))
        self.titles = PackedStrings(self.array("title_text"), self.array("title_offsets"))
        self.query_ids = PackedStrings(self.array("query_id_text"), self.array("query_id_offsets"))

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "ExampleStore":
        """Open a store written by :func:`genret_jax.data.examples.building.build_store`.

        Raises:
            InputError: If it is missing, damaged, or no example store.
        """
        folder = Path(folder)
        if not is_present(folder / ARRAYS):
            raise InputError(
                "no example store here", file=folder, fix="give a run folder, or a store from 'genret examples build'"
            )
        arrays, manifest = load_arrays(folder / ARRAYS, kind=KIND, version=VERSION)
        require_fields(manifest, _MANIFEST_FIELDS, folder / ARRAYS / MANIFEST)
        return cls(folder, arrays, manifest)

    def array(self, name: str) -> Shaped[np.ndarray, "..."]:
        """Return an array of the store by its name.

        Raises:
            InputError: If the store lacks it.
        """
        if name not in self._arrays:
            manifest = self.folder / ARRAYS / MANIFEST
            raise InputError(f"no array {name!r}", file=manifest, fix="build the examples again")
        return self._arrays[name]

    @functools.cached_property
    def vocabulary(self) -> Vocabulary:
        """The vocabulary, read at the first use."""
        return Vocabulary.load(self.folder / VOCABULARY)

    @property
    def fingerprint(self) -> str:
        """Hash of everything that decides the examples."""
        return str(self.manifest["fingerprint"])

    @property
    def num_documents(self) -> int:
        """Number of documents, including those without text."""
        return len(self.doc_ids)

    @property
    def vocabulary_size(self) -> int:
        """Number of text tokens, sentinels included: the encoder's vocabulary."""
        return int(self.manifest["vocabulary_size"])

    @property
    def decoder_vocabulary_size(self) -> int:
        """One more than the highest token that a docid can have."""
        return int(self.manifest["decoder_vocabulary_size"])

    @property
    def docid_length(self) -> int:
        """Tokens of the longest docid, EOS included."""
        return int(self.array("docid_tokens").shape[1])

    @property
    def shares_vocabulary(self) -> bool:
        """Whether text and docids have different tokens of one vocabulary, so that the decoder can write text."""
        return self.manifest["codec"]["kind"] == "text" or (
            int(self.manifest["codec"]["first_token"]) == self.vocabulary_size
        )

    @functools.cached_property
    def documents_with_text(self) -> Int[np.ndarray, " with_text"]:
        """Indices of the documents that have words."""
        return np.flatnonzero(np.diff(self.array("document_offsets")))

    def hidden_documents(self, unseen_split: str | None) -> Int[np.ndarray, " hidden"]:
        """Return the indices of the documents of a split that training must not see; none for None."""
        return np.zeros(0, np.int64) if unseen_split is None else np.unique(self.pairs(unseen_split)[1])

    def shown_documents(self, unseen_split: str | None) -> Int[np.ndarray, " shown"]:
        """Return the indices of the documents that have words, without those of a split that training must not see.

        Raises:
            InputError: If there is no such split, or no other document.
        """
        shown = np.setdiff1d(self.documents_with_text, self.hidden_documents(unseen_split))
        if not len(shown) and unseen_split is not None:
            raise InputError(
                f"every document has queries in the split {unseen_split!r}, whose documents are not shown",
                file=self.folder,
                fix="choose another SamplerConfig.unseen_split, or None",
            )
        return shown

    def pairs(self, split: str) -> tuple[Int32[np.ndarray, " p"], Int32[np.ndarray, " p"], Int32[np.ndarray, " p"]]:
        """Return the judged pairs of a split, ordered by document.

        Returns:
            Query indices, document indices and grades, aligned; empty for a missing split ``"train"``, because a corpus
            needs no training queries.

        Raises:
            InputError: If there is no such split.
        """
        if split not in self.splits and split != "train":
            raise InputError(
                f"no split {split!r}",
                file=self.folder,
                expected=f"one of {', '.join(self.splits)}",
                fix=nearest(split, self.splits) or "choose one of these",
            )
        start = end = 0
        if split in self.splits:
            start, end = self.array("pair_offsets")[self.splits.index(split) :][:2]
        return tuple(self.array(f"pair_{name}")[start:end] for name in ("query", "document", "grade"))  # type: ignore[return-value]

    def queries(self, split: str, length: int, *, append_eos: bool = False, terms: int = 0) -> tuple[list[str], Tokens]:
        """Return the queries of a split as tokens.

        Args:
            split: Name of the qrels split.
            length: Tokens to cut or pad to.
            append_eos: End each with EOS.
            terms: Number of terms to append to the tokens.

        Returns:
            External query ids in the order of the corpus, and their tokens, padded with 0.
        """
        chosen = np.unique(self.pairs(split)[0])
        return [self.query_ids[int(i)] for i in chosen], self._token_rows("query", chosen, length, append_eos, terms)

    def document_inputs(
        self, length: int, *, documents: Rows | None = None, append_eos: bool = False, terms: int = 0
    ) -> Tokens:
        """Return the first tokens of documents, padded with 0; all documents by default.

        Args:
            length: Tokens to cut or pad to.
            documents: Indices of the documents.
            append_eos: End each with EOS.
            terms: Number of terms to append to the tokens.
        """
        chosen = np.arange(self.num_documents) if documents is None else np.asarray(documents)
        return self._token_rows("document", chosen, length, append_eos, terms)

    def token_counts(self) -> Any:
        """Count the tokens of each document, best segmentations: scipy CSR [n, vocabulary size]."""
        import scipy.sparse

        bag = (self.array("bag_counts").astype(np.float32), self.array("bag_words"), self.array("bag_offsets"))
        shape = (self.num_documents, len(self.array("word_idf")))
        return self._in_tokens(scipy.sparse.csr_array(bag, shape=shape))

    def training_queries(self, unseen_split: str | None = None, *, terms: bool = False) -> tuple[Any, Any]:
        """Return the tokens and the relevant documents of the training queries.

        Args:
            unseen_split: A split whose documents are left out, or None.
            terms: Count terms instead of tokens.

        Returns:
            Counts of the tokens of each query, best segmentations, scipy CSR [q, vocabulary size]; and 1 for each
            document that answers a query, scipy CSR [n, q].
        """
        import scipy.sparse

        query, document, _ = self.pairs("train")
        shown = np.isin(document, self.hidden_documents(unseen_split), invert=True)
        chosen, query = np.unique(query[shown], return_inverse=True)
        starts, lengths = self.spans("query", chosen)
        of_words = self.array("query_words")[_ranges(starts, lengths)]
        of_query = np.repeat(np.arange(len(chosen)), lengths)
        shape = (len(chosen), len(self.array("word_idf")))
        words = scipy.sparse.coo_array((np.ones(len(of_words), np.float32), (of_query, of_words)), shape).tocsr()
        ones = np.ones(len(query), np.float32)
        answers = scipy.sparse.csr_matrix((ones, (document[shown], query)), shape=(self.num_documents, len(chosen)))
        return self._in_terms(words) if terms else self._in_tokens(words), answers

    def _in_tokens(self, of_words: Any) -> Any:
        """Turn counts of words into counts of tokens."""
        import scipy.sparse

        words = len(self.array("word_idf"))
        starts, lengths = self.spans("segment", self.array("word_segments")[:-1])
        tokens = self.array("segment_tokens")[_ranges(starts, lengths)]
        of_word = np.repeat(np.arange(words), lengths)
        shape = (words, self.vocabulary_size)
        word_tokens = scipy.sparse.coo_array((np.ones(len(tokens), np.float32), (of_word, tokens)), shape).tocsr()
        counts = of_words @ word_tokens
        counts.sort_indices()
        return scipy.sparse.csr_matrix(counts)

    def spans(self, name: str, chosen: Int[np.ndarray, "*b"]) -> tuple[Int[np.ndarray, "*b"], Int[np.ndarray, "*b"]]:
        """Return the starts and the lengths of some sequences.

        Args:
            name: Kind of the sequences, such as ``"document"``; the array ``{name}_offsets`` holds where each starts.
            chosen: Numbers of the sequences.
        """
        offsets = self.array(f"{name}_offsets")
        starts = offsets[chosen]
        return starts, offsets[chosen + 1] - starts

    def words(self, name: str, starts: Rows, lengths: Rows, width: int) -> Words:
        """Return stretches of one word array as rows, padded with -1.

        Args:
            name: Name of the array, such as ``"document_words"``.
            starts: First position of each stretch.
            lengths: Number of words of each stretch, of which at most ``width`` are returned.
            width: Columns to return.
        """
        columns = np.arange(width)
        inside = columns < lengths[:, None]
        positions = np.where(inside, starts[:, None] + columns, 0)
        if not inside.any():
            return np.full(inside.shape, NO_WORD, np.int32)
        return np.where(inside, self.array(name)[positions], np.int32(NO_WORD))

    def tokens(
        self, words: Words, length: int, *, alternatives: Words | None = None, append_eos: bool = False
    ) -> Tokens:
        """Turn rows of words into rows of tokens.

        Args:
            words: Word numbers; -1 is no word and may be anywhere.
            length: Tokens to cut or pad to.
            alternatives: Number of the segmentation of each word, below :meth:`segmentation_counts`; by default 0,
                the best.
            append_eos: End each row with EOS, and cut the text one token earlier where it is too long.

        Returns:
            Tokens padded with 0.
        """
        segments = self.array("word_segments")[np.maximum(words, 0)]
        if alternatives is not None:
            segments = segments + alternatives
        spans = self.spans("segment", segments)
        out, count = self._spread("segment_tokens", words, *spans, length - append_eos)
        if append_eos:
            out = np.pad(out, ((0, 0), (0, 1)), constant_values=PAD)
            out[np.arange(len(words)), count] = EOS
        return out

    def segmentation_counts(self, words: Words) -> Words:
        """Return the number of segmentations of each word; for -1 that of word 0."""
        numbers, segments = np.maximum(words, 0), self.array("word_segments")
        return segments[numbers + 1] - segments[numbers]

    def terms(self, words: Words, width: int) -> Tokens:
        """Turn rows of words into rows of terms (:mod:`genret_jax.data.text.terms`), padded with 0.

        Args:
            words: Word numbers; -1 is no word and may be anywhere.
            width: Columns to cut or pad to.
        """
        return self._spread("term_numbers", words, *self.spans("word_term", np.maximum(words, 0)), width)[0]

    def term_rows(self, texts: Sequence[str], width: int) -> Tokens:
        """Return the terms of texts that need not be in the store, padded with 0; unknown ones are left out."""
        return term_rows(texts, width, self._term_number)

    def count_terms(self, texts: Sequence[str]) -> Any:
        """Count the terms of texts that need not be in the store; unknown ones are left out: scipy CSR [n, terms]."""
        return token_counts([self.term_numbers(terms_of(text)).tolist() for text in texts], self.num_terms)

    def term_numbers(self, terms: Iterable[str]) -> Int[np.ndarray, " t"]:
        """Return the numbers of those terms that are known."""
        return np.array([self._term_number[term] for term in terms if term in self._term_number], np.int64)

    @functools.cached_property
    def _term_number(self) -> dict[str, int]:
        strings = PackedStrings(self.array("term_string_text"), self.array("term_string_offsets"))
        return {term: number for number, term in enumerate(strings, 1)}

    @property
    def num_terms(self) -> int:
        """Number of terms, with 0 for padding."""
        return len(self.array("term_string_offsets"))

    def term_counts(self) -> Any:
        """Count the terms of each document: scipy CSR [n, number of terms]."""
        import scipy.sparse

        bag = (self.array("bag_counts").astype(np.float32), self.array("bag_words"), self.array("bag_offsets"))
        return self._in_terms(scipy.sparse.csr_array(bag, shape=(self.num_documents, len(self.array("word_idf")))))

    def _in_terms(self, of_words: Any) -> Any:
        """Turn counts of words into counts of terms."""
        import scipy.sparse

        numbers, offsets = self.array("term_numbers"), self.array("word_term_offsets")
        shape = (len(offsets) - 1, self.num_terms)
        word_terms = scipy.sparse.csr_array((np.ones(len(numbers), np.float32), numbers, offsets), shape=shape)
        counts = scipy.sparse.csr_matrix(of_words @ word_terms)
        counts.sum_duplicates()
        return counts

    def _token_rows(self, name: str, chosen: Rows, length: int, append_eos: bool, terms: int) -> Tokens:
        """Return the first tokens of some documents or queries, padded with 0, and their first terms."""
        blocks = [np.zeros((0, length + terms), np.int32)]
        for first in range(0, len(chosen), _ROWS_AT_ONCE):
            spans = self.spans(name, chosen[first : first + _ROWS_AT_ONCE])
            words = self.words(f"{name}_words", *spans, max(length, 2 * terms))  # a word has at least one token
            rows = [self.tokens(words, length, append_eos=append_eos)]
            blocks.append(np.concatenate(rows + ([self.terms(words, terms)] if terms else []), axis=1))
        return np.concatenate(blocks)

    def _spread(
        self, values: str, words: Words, starts: Words, sizes: Words, width: int
    ) -> tuple[Tokens, Int[np.ndarray, " b"]]:
        """Return the values of each row's words side by side, cut or padded to a width, and how many there are."""
        sizes = np.where(words >= 0, sizes, 0)
        begins = np.cumsum(sizes, axis=1) - sizes  # column of each word's first value
        sizes = np.clip(width - begins, 0, sizes)
        out = np.full((len(words), width), PAD, np.int32)
        row = np.repeat(np.arange(len(words)), sizes.sum(1))
        out[row, _ranges(begins.ravel(), sizes.ravel())] = self.array(values)[_ranges(starts.ravel(), sizes.ravel())]
        return out, sizes.sum(1)


def pack_rows(
    values: Int32[np.ndarray, "b w"], chosen: Bool[np.ndarray, "b w"], width: int, fill: int
) -> Int32[np.ndarray, "b width"]:
    """Return the chosen values of each row side by side, cut or filled to ``width`` columns."""
    column = np.cumsum(chosen, axis=1) - 1
    row, source = np.nonzero(chosen & (column < width))
    packed = np.full((len(values), width), fill, np.int32)
    packed[row, column[row, source]] = values[row, source]
    return packed


def _ranges(starts: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Return ``starts[i] ... starts[i] + sizes[i] - 1`` for every i, one range after the other."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) + np.repeat(starts - (ends - sizes), sizes)
