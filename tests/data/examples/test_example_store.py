"""The example store, against its sources."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from support.tiny_store import LetterVocabulary, tiny_corpus, tiny_store

from genret_jax.data.corpus import Corpus
from genret_jax.data.examples.store import ExampleStore
from genret_jax.data.text.vocabulary import ByteVocabulary, SentencePieceVocabulary, train_sentencepiece
from genret_jax.errors import InputError
from genret_jax.storage import read_json, write_json

VOCABULARY = LetterVocabulary(["cat", "dog"], extra_ids=20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ExampleStore:
    return tiny_store(tmp_path_factory.mktemp("store") / "examples")


def texts_of(store: ExampleStore, name: str, offsets: str) -> list[str]:
    """Decode every sequence of a word array."""
    bounds = store.array(offsets).tolist()
    widest = max(end - start for start, end in itertools.pairwise(bounds))
    starts, ends = np.array(bounds[:-1]), np.array(bounds[1:])
    rows = store.tokens(store.words(name, starts, ends - starts, widest), 200)
    return [VOCABULARY.decode(row) for row in rows]


def spelled(text: str) -> str:
    """Text as the letter vocabulary decodes it."""
    return VOCABULARY.decode(VOCABULARY.encode(text))


def test_documents_are_their_texts(store: ExampleStore) -> None:
    corpus = tiny_corpus()
    assert texts_of(store, "document_words", "document_offsets") == [spelled(corpus.document_text(i)) for i in range(5)]
    assert list(store.doc_ids) == list(corpus.doc_ids)
    assert list(store.titles) == list(corpus.titles)
    assert store.documents_with_text.tolist() == [0, 1, 3, 4]


def test_sentences_begin_where_they_do(store: ExampleStore) -> None:
    starts, offsets = store.array("sentence_starts"), store.array("sentence_offsets")
    # "Cats. | The cat sat on a mat. | The cat ran. | Then it slept for the whole day."
    assert starts[offsets[0] : offsets[1]].tolist() == [0, 1, 7, 10]
    assert np.diff(offsets).tolist() == [4, 1, 0, 2, 1]


def test_set_of_terms_has_no_repetitions_and_no_stop_words(store: ExampleStore) -> None:
    terms = texts_of(store, "term_words", "term_offsets")
    assert terms[0] == spelled("cats cat sat mat ran slept whole day")
    assert terms[1] == spelled("dog barks every")
    assert terms[4] == ""


def test_idf_counts_documents(store: ExampleStore) -> None:
    bag, ends = store.array("bag_words"), store.array("bag_idf_ends")
    first, last = store.array("bag_offsets")[1:3]
    # "A dog barks at every other dog.": only "a" stands in another document (the cat's); five documents in all.
    a, once = np.log(6 / 3) + 1, np.log(6 / 2) + 1
    np.testing.assert_allclose(np.diff(ends)[first - 1 : last - 1], [a, once, once, once, once, once])
    np.testing.assert_allclose(store.array("word_idf")[bag[first:last]], [a, once, once, once, once, once], rtol=1e-6)
    assert store.array("bag_counts")[first:last].tolist() == [1, 2, 1, 1, 1, 1]


def test_pairs_are_those_of_the_qrels(store: ExampleStore) -> None:
    assert store.splits == ("train", "test")
    query, document, grade = store.pairs("train")
    named = [
        (store.query_ids[int(q)], store.doc_ids[int(d)], int(g)) for q, d, g in zip(query, document, grade, strict=True)
    ]
    assert named == [("q1", "cat", 1), ("q2", "cat", 2), ("q2", "dog", 1), ("q3", "dog", 1), ("q3", "empty", 1)]
    with pytest.raises(InputError, match=r"no split 'tset'.*train, test.*did you mean 'test'"):
        store.pairs("tset")


def test_docids_stand_by_their_document(store: ExampleStore) -> None:
    first = store.vocabulary_size
    tokens, offsets = store.array("docid_tokens"), store.array("docid_offsets")
    # Level 0 has codes 0 to 2, level 1 codes 0 and 1; "cat" is (0,), which (0, 1) of "stop" extends, so it ends in EOS.
    assert tokens[offsets[0] : offsets[1]].tolist() == [[first, 1]]
    assert tokens[offsets[1] : offsets[2]].tolist() == [[first + 1, first + 3]]
    assert tokens[offsets[4] : offsets[5]].tolist() == [[first + 2, first + 4], [first, first + 4]]
    assert store.array("docid_prefix_nodes")[:, 0].tolist() == [0] * 6
    assert store.decoder_vocabulary_size == first + 5
    assert store.shares_vocabulary


def test_queries_of_a_split(store: ExampleStore) -> None:
    ids, tokens = store.queries("test", 40)
    assert ids == ["q4", "q5"]
    assert [VOCABULARY.decode(row) for row in tokens] == [spelled("sea animal"), spelled("who swims")]
    _, cut = store.queries("test", 5, append_eos=True)
    assert cut.tolist() == [[*VOCABULARY.encode("seaa"), 1], [*VOCABULARY.encode("whos"), 1]]


def test_document_inputs_are_the_first_tokens(store: ExampleStore) -> None:
    inputs = store.document_inputs(8)
    assert [VOCABULARY.decode(row) for row in inputs] == [
        spelled(text) for text in ("cats the cat", "a dog barks a", "", "fish fish", "it is what")
    ]
    assert store.document_inputs(6, documents=np.array([2, 1]), append_eos=True).tolist() == [
        [1, 0, 0, 0, 0, 0],
        [*VOCABULARY.encode("a dog bar"), 1],
    ]


def test_token_counts_against_counting(store: ExampleStore) -> None:
    corpus = tiny_corpus()
    expected = [np.bincount(VOCABULARY.encode(corpus.document_text(i)), minlength=VOCABULARY.size) for i in range(5)]
    counts = store.token_counts()
    np.testing.assert_array_equal(counts.toarray(), expected)
    assert counts.shape == (5, VOCABULARY.size)
    np.testing.assert_array_equal(store.array("document_tokens"), np.sum(expected, axis=1))


def test_training_queries_and_their_answers_against_counting(store: ExampleStore) -> None:
    corpus = tiny_corpus()
    counts, answers = store.training_queries()
    judged = {corpus.queries[query]: grades for query, grades in corpus.qrels["train"].items()}
    assert counts.shape == (len(judged), VOCABULARY.size)
    assert answers.shape == (5, len(judged))
    for text, grades in judged.items():
        expected = np.bincount(VOCABULARY.encode(text), minlength=VOCABULARY.size)
        [row] = np.flatnonzero((counts.toarray() == expected).all(axis=1))
        assert {corpus.doc_ids[document] for document in np.flatnonzero(answers.toarray()[:, row])} == set(grades)


def test_training_queries_of_documents_that_are_not_shown_are_left_out(store: ExampleStore) -> None:
    corpus = tiny_corpus()
    hidden = {doc_id for grades in corpus.qrels["test"].values() for doc_id in grades}
    counts, answers = store.training_queries("test")
    kept = [query for query, grades in corpus.qrels["train"].items() if set(grades) - hidden]
    assert 0 < len(kept) < len(corpus.qrels["train"])
    assert counts.shape[0] == answers.shape[1] == len(kept)
    answering = {corpus.doc_ids[document] for document in np.unique(answers.nonzero()[0]).tolist()}
    assert not answering & hidden


def test_alternatives_and_gaps_in_rows_of_words(store: ExampleStore) -> None:
    dog = store.array("document_words")[store.array("document_offsets")[1] + 1]
    words = np.array([[-1, dog, -1, dog], [-1, -1, -1, -1]], np.int32)
    assert store.segmentation_counts(words)[0].tolist()[1::2] == [2, 2]
    second = store.tokens(words, 6, alternatives=np.array([[0, 0, 0, 1], [0, 0, 0, 0]]))
    assert second.tolist() == [[VOCABULARY.token("dog"), *VOCABULARY.encode("d o g"), 0, 0], [0] * 6]
    with_eos = store.tokens(words, 2, append_eos=True)
    assert with_eos.tolist() == [[VOCABULARY.token("dog"), 1], [1, 0]]


def test_the_manifest_says_what_it_was_made_of(tmp_path: Path) -> None:
    corpus = tiny_corpus()
    store = tiny_store(tmp_path / "a", docids_fingerprint="docids")
    manifest = read_json(tmp_path / "a" / "arrays" / "manifest.json")
    assert manifest["corpus_fingerprint"] == corpus.fingerprint
    assert manifest["docids_fingerprint"] == "docids"
    assert manifest["vocabulary_fingerprint"] == VOCABULARY.fingerprint == store.vocabulary.fingerprint
    assert tiny_store(tmp_path / "b", docids_fingerprint="docids").fingerprint == store.fingerprint
    other = dataclasses.replace(corpus, queries=corpus.queries | {"q1": "who slept there"})
    assert tiny_store(tmp_path / "c", corpus=other, docids_fingerprint="docids").fingerprint != store.fingerprint


def test_a_store_is_whole_or_absent(tmp_path: Path) -> None:
    tiny_store(tmp_path / "examples")
    with pytest.raises(InputError, match="already exists"):
        tiny_store(tmp_path / "examples")
    tiny_store(tmp_path / "examples", replace=True)
    assert [path.name for path in tmp_path.iterdir()] == ["examples"]
    (tmp_path / "examples" / "arrays" / "word_idf.npy").unlink()
    with pytest.raises(InputError, match=r"word_idf.npy: the file is missing"):
        ExampleStore.open(tmp_path / "examples")
    with pytest.raises(InputError, match="no example store here"):
        ExampleStore.open(tmp_path)


def test_corpora_that_cannot_work(tmp_path: Path) -> None:
    wordless = Corpus(name="w", doc_ids=("a", "b"), titles=("", ""), texts=("...", ""), source="w")
    with pytest.raises(InputError, match=r"no document has any word.*normalization"):
        tiny_store(tmp_path / "a", corpus=wordless)
    from support.tiny_store import tiny_table

    from genret_jax.data.examples.building import build_store
    from genret_jax.docids.codec import DocidCodec

    fewer = Corpus(name="f", doc_ids=("cat", "dog"), titles=("", ""), texts=("cat", "dog"), source="f")
    table = tiny_table(tiny_corpus())
    codec = DocidCodec(first_token=VOCABULARY.size, level_sizes=table.level_sizes)
    with pytest.raises(InputError, match=r"docids of 5 documents for a corpus of 2.*genret docids build"):
        build_store(tmp_path / "b", fewer, codec.encode(table), VOCABULARY, codec=codec)
    assert not list(tmp_path.iterdir())


def test_document_words_limits_what_is_kept(tmp_path: Path) -> None:
    store = tiny_store(tmp_path / "examples", document_words=3)
    assert np.diff(store.array("document_offsets")).tolist() == [3, 3, 0, 3, 3]
    assert np.diff(store.array("sentence_offsets")).tolist() == [2, 1, 0, 2, 1]


@pytest.mark.parametrize("normalization", ["words", "none"])
@pytest.mark.parametrize("kind", ["sentencepiece", "bytes"])
def test_tokens_are_the_vocabularys_own(kind: str, normalization: str, tmp_path: Path) -> None:
    corpus = tiny_corpus()
    texts = [corpus.document_text(i) for i in range(5)]
    if kind == "bytes":
        vocabulary: ByteVocabulary | SentencePieceVocabulary = ByteVocabulary(normalization=normalization)
    else:
        vocabulary = train_sentencepiece(texts, size=80, normalization=normalization)
    store = tiny_store(tmp_path / "examples", vocabulary=vocabulary)
    for row, text in zip(store.document_inputs(300), texts, strict=True):
        assert row[row > 0].tolist() == vocabulary.encode(text)
    assert type(ExampleStore.open(tmp_path / "examples").vocabulary) is type(vocabulary)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("splits", {}, "'splits' is an object"),
        ("vocabulary_size", "9", "'vocabulary_size' is a string"),
        ("codec", None, "'codec' is null"),
        ("fingerprint", ..., "no field 'fingerprint'"),
    ],
)
def test_a_manifest_of_another_shape_is_refused(name, value, found, tmp_path):
    tiny_store(tmp_path / "store")
    path = tmp_path / "store" / "arrays" / "manifest.json"
    manifest = read_json(path)
    manifest = {key: kept for key, kept in manifest.items() if key != name} | ({} if value is ... else {name: value})
    write_json(path, manifest)
    with pytest.raises(InputError, match=found) as caught:
        ExampleStore.open(tmp_path / "store")
    assert caught.value.file == path


def test_a_manifest_that_lacks_an_array_is_refused(tmp_path):
    tiny_store(tmp_path / "store")
    path = tmp_path / "store" / "arrays" / "manifest.json"
    manifest = read_json(path)
    del manifest["arrays"]["doc_id_text"]
    write_json(path, manifest)
    with pytest.raises(InputError, match="no array 'doc_id_text'"):
        ExampleStore.open(tmp_path / "store")


@pytest.mark.parametrize("name", ["../../elsewhere", "/elsewhere", "folder/inside"])
def test_a_manifest_that_names_an_array_outside_of_its_folder_is_refused(name, tmp_path):
    tiny_store(tmp_path / "store")
    np.save(tmp_path / "elsewhere.npy", np.zeros(3, np.int32))
    path = tmp_path / "store" / "arrays" / "manifest.json"
    manifest = read_json(path)
    manifest["arrays"][name] = {"shape": [3], "dtype": "int32"}
    write_json(path, manifest)
    with pytest.raises(InputError, match="does not describe arrays") as error:
        ExampleStore.open(tmp_path / "store")
    assert str(error.value.file) == str(path)
