"""The searches that the quickstart and the help show find what a person would expect."""

import re

import numpy as np
import pytest
import scipy.sparse

from genret_jax import Retriever, train
from genret_jax.cli import search
from genret_jax.data.corpus import write_beir
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.data.text.lexical import Settings, lexical_documents
from genret_jax.data.text.terms import number_terms, stop_terms, terms_of
from genret_jax.models.encoders.getting import get_encoder
from genret_jax.run.defaults import ENCODER

EXPECTED = {
    "read rows of a csv file": "csv.reader",
    "join two paths": "os.path.join",
    "join a thread": "threading.Thread.join",
    "join path components": "os.path.join",
}


@pytest.fixture(scope="module")
def whole():
    return python_docs(whole=True)


def test_the_searches_that_are_shown_have_an_expected_result(repository):
    script = (repository / "scripts" / "quickstart.sh").read_text(encoding="utf-8")
    shown = re.search(r'queries="([^"]+)"', script)[1].splitlines()
    shown += re.findall(r'"([^"]+)"', search._EPILOG)
    assert set(shown) == set(EXPECTED)


def test_words_alone_find_it_among_the_first_three(whole):
    texts = [whole.document_text(index) for index in range(len(whole))]
    terms, numbers, ends = number_terms(texts)
    counts = scipy.sparse.csr_matrix((np.ones(len(numbers), np.float32), numbers, ends), (len(texts), len(terms) + 1))
    counts.sum_duplicates()
    nothing = counts[:0], scipy.sparse.csr_matrix((len(texts), 0), dtype=np.float32)
    weights = lexical_documents(counts, *nothing, Settings()).weights
    for query, expected in EXPECTED.items():
        asked = np.zeros(len(terms) + 1, np.float32)
        for term in terms_of(query):
            if term in terms:
                asked[1 + terms.index(term)] = 0.3 if term in stop_terms() else 1.0
        best = np.argsort(-(weights @ asked), kind="stable")[:3]
        assert expected in [whole.doc_ids[index] for index in best], query


@pytest.mark.slow
def test_the_index_of_the_quickstart_finds_it_first(whole, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    get_encoder(ENCODER)  # from the network, as the quickstart does
    write_beir(whole, tmp_path / "whole")
    train(tmp_path / "whole", tmp_path / "run")
    retriever = Retriever.load(tmp_path / "run")
    assert {query: retriever.search(query, k=1)[0].doc_id for query in EXPECTED} == EXPECTED
