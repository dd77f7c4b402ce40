"""Document vectors: one finite row a document, or an error that says which row is wrong."""

import sys
import types
import warnings

import numpy as np
import pytest

from genret_jax.data.corpus import Corpus
from genret_jax.data.vectors import LsaVectors, NpyVectors, SentenceTransformerVectors, VectorSource, count_words
from genret_jax.errors import InputError

TEXTS = (
    "the cat sat on the mat with another cat",
    "a cat and a mat",
    "stocks fell as markets closed",
    "markets and stocks rose",
    "",
)


@pytest.fixture
def corpus():
    return Corpus(name="c", doc_ids=tuple("abcde"), titles=("",) * 5, texts=TEXTS, source="somewhere")


@pytest.fixture(autouse=True)
def no_unexpected_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def saved(folder, array):
    path = folder / "vectors.npy"
    np.save(path, array)
    return NpyVectors(path=str(path))


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int32])
def test_npy_vectors_stay_in_their_file(corpus, tmp_path, dtype):
    array = np.arange(1, 16).reshape(5, 3).astype(dtype)
    vectors = saved(tmp_path, array).vectors(corpus)
    assert isinstance(vectors, np.memmap)
    np.testing.assert_array_equal(vectors, array)


def with_nan():
    array = np.ones((5, 2), np.float32)
    array[[1, 3], 1] = np.nan, np.inf
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.ones((4, 3)), "4 vectors; expected 5, one for each document of somewhere"),
        (np.ones((6, 3)), "6 vectors; expected 5"),
        (np.ones(5), r"float64\[5\]; expected numbers of shape"),
        (np.ones((5, 0)), r"float64\[5, 0\]; expected numbers of shape"),
        (np.full((5, 1), "x"), r"<U1\[5, 1\]; expected numbers of shape"),
        (with_nan(), r"row 1 \(document 'b'\) holds NaN or infinity, as do 1 other rows"),
        (np.full((5, 1), 1e300), r"row 0 \(document 'a'\) holds NaN or infinity"),
    ],
)
def test_wrong_npy_vectors_are_refused(corpus, tmp_path, array, message):
    warnings.simplefilter("ignore", RuntimeWarning)  # 1e300 does not fit float32, which is the point
    with pytest.raises(InputError, match=message) as caught:
        saved(tmp_path, array).vectors(corpus)
    assert caught.value.file == tmp_path / "vectors.npy"


def test_missing_damaged_and_pickled_files_are_refused(corpus, tmp_path):
    path = tmp_path / "vectors.npy"
    with pytest.raises(InputError, match="the file is missing"):
        NpyVectors(path=str(path)).vectors(corpus)
    np.save(path, np.ones((5, 300)))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(InputError, match=r"not a readable \.npy file"):
        NpyVectors(path=str(path)).vectors(corpus)
    np.save(path, np.array([{}] * 5, dtype=object), allow_pickle=True)
    with pytest.raises(InputError, match=r"not a readable \.npy file"):
        NpyVectors(path=str(path)).vectors(corpus)
    np.savez(tmp_path / "vectors.npz", a=np.ones((5, 2)))
    with pytest.raises(InputError, match="an archive of arrays"):
        NpyVectors(path=str(tmp_path / "vectors.npz")).vectors(corpus)


def test_zero_vectors_of_documents_with_text_are_warned_of(corpus, tmp_path):
    array = np.ones((5, 2))
    array[[2, 4]] = 0  # document e has no text, and the reader has warned of it
    with pytest.warns(UserWarning, match=r"1 of 5 document vectors are zero \(first: document 'c'\)"):
        saved(tmp_path, array).vectors(corpus)


def test_counts_of_words():
    counts = count_words(["a_b A", "", "b c c"])
    np.testing.assert_array_equal(counts.toarray(), [[2, 1, 0], [0, 0, 0], [0, 1, 2]])


def test_counts_of_nothing():
    assert count_words([]).shape == (0, 0)


def test_lsa_vectors_bring_like_documents_together(corpus):
    vectors = LsaVectors(dimensions=2).vectors(corpus)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), [1, 1, 1, 1, 0], atol=1e-6)
    similarity = vectors @ vectors.T
    assert similarity[0, 1] > 0.9
    assert similarity[2, 3] > 0.9
    assert similarity[:2, 2:4].max() < 0.5
    np.testing.assert_array_equal(vectors, LsaVectors(dimensions=2).vectors(corpus))


def test_lsa_vectors_without_any_shared_word():
    corpus = Corpus(name="c", doc_ids=("a", "b"), titles=("", ""), texts=("red", "blue sky"))
    vectors = LsaVectors(dimensions=4).vectors(corpus)
    assert vectors.shape == (2, 4)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, rtol=1e-5)


def test_lsa_vectors_warn_of_a_document_that_shares_no_word(corpus):
    lonely = Corpus(name="c", doc_ids=tuple("abcde"), titles=("",) * 5, texts=(*TEXTS[:4], "zebra"))
    with pytest.warns(UserWarning, match="first: document 'e'"):
        vectors = LsaVectors(dimensions=2).vectors(lonely)
    np.testing.assert_array_equal(vectors[4], 0.0)


@pytest.mark.parametrize("fields", [{"dimensions": 0}, {"seed": -1}, {"min_documents": 0}])
def test_wrong_settings_are_refused(fields):
    with pytest.raises(InputError, match=f"LsaVectors.{next(iter(fields))}"):
        LsaVectors(**fields)


class FakeSentenceTransformer:
    """Encode a text as its number of characters and of words."""

    def __init__(self, model):
        if model == "missing":
            raise OSError("no such model")

    def encode(self, texts, *, batch_size, normalize_embeddings, convert_to_numpy, show_progress_bar):
        assert normalize_embeddings
        assert convert_to_numpy
        return np.array([[len(text), len(text.split())] for text in texts], dtype=np.float64)


def test_sentence_transformers_encode_title_and_text(monkeypatch):
    library = types.SimpleNamespace(SentenceTransformer=FakeSentenceTransformer)
    monkeypatch.setitem(sys.modules, "sentence_transformers", library)
    corpus = Corpus(name="c", doc_ids=("a", "b"), titles=("T", ""), texts=("one two", "three"))
    vectors = SentenceTransformerVectors(model="tiny").vectors(corpus)
    assert vectors.dtype == np.float32
    np.testing.assert_array_equal(vectors, [[len("T. one two"), 3], [len("three"), 1]])
    with pytest.raises(InputError, match="'missing' cannot be loaded"):
        SentenceTransformerVectors(model="missing").vectors(corpus)


def test_without_sentence_transformers_the_extra_is_named(monkeypatch, corpus):
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(InputError, match=r"pip install 'genret_jax\[embed\]'"):
        SentenceTransformerVectors(model="tiny").vectors(corpus)


@pytest.mark.parametrize(
    "source", [NpyVectors(path="x.npy"), LsaVectors(), SentenceTransformerVectors(model="x")], ids=lambda one: str(one)
)
def test_shipped_sources_are_vector_sources(source):
    assert isinstance(source, VectorSource)


def test_a_users_own_class_is_a_vector_source():
    class Own:
        def vectors(self, corpus):
            return np.zeros((len(corpus), 2), np.float32)

    assert isinstance(Own(), VectorSource)
    assert not isinstance(object(), VectorSource)
