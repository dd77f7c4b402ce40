"""Writes the example store of a corpus from its documents, its docids and a vocabulary."""

import itertools
import os
from collections.abc import Mapping

import numpy as np

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.shards import WordSequences, WordTable, number_documents, remove_shards
from genret_jax.data.examples.store import ARRAYS, KIND, VERSION, VOCABULARY, ExampleStore
from genret_jax.data.text.terms import number_terms
from genret_jax.data.text.vocabulary import Vocabulary
from genret_jax.data.text.words import STOP_WORDS
from genret_jax.docids.codec import DocidCodec, EncodedDocids
from genret_jax.docids.packed_strings import PackedStrings
from genret_jax.errors import InputError
from genret_jax.storage import atomic_folder, fingerprint, save_arrays

_BAGS_OF_TERMS = ("term_words", "term_offsets")  # words without stop words, for the set representation
_SEGMENTATIONS = 8  # most segmentations of a word that are kept, to draw from


def build_store(
    folder: str | os.PathLike[str],
    corpus: Corpus,
    encoded: EncodedDocids,
    vocabulary: Vocabulary,
    *,
    codec: DocidCodec,
    docids_fingerprint: str = "",
    document_words: int | None = None,
    replace: bool = False,
) -> ExampleStore:
    """Write the example store of a corpus; a failure leaves no folder.

    Args:
        folder: Destination.
        corpus: Documents, queries and judgements.
        encoded: Docids as tokens; document i is the corpus's document i.
        vocabulary: Vocabulary of the texts.
        codec: The codec that made ``encoded``.
        docids_fingerprint: Fingerprint of the docid table, kept in the manifest.
        document_words: Most words of a document to keep; by default all.
        replace: Replace an existing folder.

    Returns:
        The store, open for reading.

    Raises:
        InputError: If the docids belong to another corpus, no document has any word, or the folder cannot be written.
    """
    table = WordTable(vocabulary)
    arrays = number_documents(folder, corpus, table, document_words)
    if not len(arrays["document_words"]):
        raise InputError(
            "no document has any word",
            file=corpus.source or None,
            fix="check the 'text' and 'title' fields, or use a vocabulary with normalization 'none'",
        )
    arrays |= _query_arrays(corpus, table)
    arrays |= table.segmentations(_SEGMENTATIONS)
    arrays |= _word_arrays(arrays, table)
    terms, arrays["term_numbers"], arrays["word_term_offsets"] = number_terms(table.words)
    arrays |= _docid_arrays(corpus, encoded)
    strings_of = {"doc_id": corpus.doc_ids, "title": corpus.titles, "query_id": [*corpus.queries], "term_string": terms}
    for name, strings in strings_of.items():
        packed = PackedStrings.pack(strings)
        arrays |= {f"{name}_text": packed.text, f"{name}_offsets": packed.offsets}
    details = {
        "documents": len(corpus.doc_ids),
        "words": len(table),
        "splits": list(corpus.qrels),
        "corpus": corpus.name,
        "corpus_fingerprint": corpus.fingerprint,
        "docids_fingerprint": docids_fingerprint,
        "vocabulary_fingerprint": vocabulary.fingerprint,
        "vocabulary_size": vocabulary.size,
        "extra_ids": vocabulary.extra_ids,
        "codec": codec.to_json(),
        "decoder_vocabulary_size": codec.vocab_size,
    }
    # Terms follow from the words, so stores with and without them are the same store.
    decisive = {name: array for name, array in arrays.items() if "term_" not in name or name in _BAGS_OF_TERMS}
    details["fingerprint"] = fingerprint(details, *itertools.chain.from_iterable(sorted(decisive.items())))
    with atomic_folder(folder, replace=replace) as partial:
        vocabulary.save(partial / VOCABULARY)
        save_arrays(partial / ARRAYS, arrays, kind=KIND, version=VERSION, details=details)
    remove_shards(folder)
    return ExampleStore.open(folder)


def _query_arrays(corpus: Corpus, table: WordTable) -> dict[str, np.ndarray]:
    queries = WordSequences()
    for text in corpus.queries.values():
        queries.append(table.numbers(text))
    pairs, ends = [], [0]
    number_of_query = {query_id: number for number, query_id in enumerate(corpus.queries)}
    for judged in corpus.qrels.values():
        split = [
            (corpus.document_index[doc_id], number_of_query[query_id], grade)
            for query_id, grades in judged.items()
            for doc_id, grade in grades.items()
        ]
        pairs += sorted(split)
        ends.append(len(pairs))
    document, query, grade = np.array(pairs, np.int32).reshape(-1, 3).T
    return {
        "query_words": queries.words,
        "query_offsets": queries.offsets,
        "pair_query": query,
        "pair_document": document,
        "pair_grade": grade,
        "pair_offsets": np.array(ends, np.int64),
    }


def _word_arrays(arrays: Mapping[str, np.ndarray], table: WordTable) -> dict[str, np.ndarray]:
    """Return idf of words, cumulated idf over the bags, terms without stop words, and lengths in tokens."""
    bag, offsets = arrays["bag_words"], arrays["bag_offsets"]
    documents = len(offsets) - 1
    # Smoothed as in scikit-learn's TfidfTransformer; it is never zero, so every word can be drawn.
    idf = np.log((1 + documents) / (1 + np.bincount(bag, minlength=len(table)))) + 1
    stop = np.array([word.strip().lower() in STOP_WORDS for word in table.words], bool)
    terms = ~stop[bag]
    best = arrays["word_segments"][:-1]
    sizes = arrays["segment_offsets"][best + 1] - arrays["segment_offsets"][best]
    token_ends = np.concatenate([[0], np.cumsum(sizes[arrays["document_words"]], dtype=np.int64)])
    return {
        "word_idf": idf.astype(np.float32),
        "bag_idf_ends": np.cumsum(idf[bag]),
        "term_words": bag[terms],
        "term_offsets": np.concatenate([[0], np.cumsum(terms)]).astype(np.int64)[offsets],
        "document_tokens": np.diff(token_ends[arrays["document_offsets"]]).astype(np.int32),
    }


def _docid_arrays(corpus: Corpus, encoded: EncodedDocids) -> dict[str, np.ndarray]:
    documents = len(corpus.doc_ids)
    counts = np.bincount(encoded.document, minlength=documents)
    if len(counts) != documents or not counts.all():
        raise InputError(
            f"docids of {int((counts > 0).sum())} documents for a corpus of {documents}",
            expected="at least one docid for every document and none for others",
            fix="build the docids of this corpus with 'genret docids build'",
        )
    order = np.argsort(encoded.document, kind="stable")
    return {
        "docid_tokens": np.ascontiguousarray(encoded.tokens[order], np.int32),
        "docid_lengths": np.ascontiguousarray(encoded.lengths[order], np.int32),
        "docid_prefix_nodes": np.ascontiguousarray(encoded.prefix_nodes[order], np.int32),
        "docid_offsets": np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    }
