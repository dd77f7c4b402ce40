"""What a report says about runs: the scores that take part, and the memory that documents take."""

import dataclasses

import numpy as np
import pytest
from support.tiny_model import tiny_t5
from support.tiny_run import tiny_experiment

from genret_jax.config.experiment import VocabularyConfig
from genret_jax.docids import AtomicDocids
from genret_jax.inference import Ranker
from genret_jax.models.config import PlanConfig
from genret_jax.problems import Measured
from genret_jax.run import open_run, prepare_only
from genret_jax.run.description import description, details, mode

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")


@pytest.mark.parametrize(
    ("model", "codes", "expected"),
    [
        ({}, 3, "codes only"),
        ({"head": "prefix"}, 3, "a vector per prefix of codes"),
        ({}, 1, "one code per document"),
        ({"head": "prefix"}, 1, "one code per document"),
        ({"plan": PlanConfig(codes=True), "layers": 0}, 16, "plan of codes, no decoder layers"),
        ({"plan": PlanConfig(dense=True, terms=8), "layers": 0}, 2, "plan of words and vectors, no decoder layers"),
        ({"plan": PlanConfig(dense=True, terms=8), "layers": 2}, 2, "plan of words and vectors, 2 decoder layers"),
        (
            {"plan": PlanConfig(codes=True, dense=True, terms=8), "layers": 1},
            2,
            "plan of words, vectors and codes, 1 decoder layer",
        ),
    ],
)
def test_the_mode_names_every_score_that_takes_part(model, codes, expected):
    fields = {"num_decoder_layers" if name == "layers" else name: value for name, value in model.items()}
    assert mode(tiny_t5(**fields), codes) == expected


def parts_of(run):
    requests = run.requests("test", Measured())
    ranker = Ranker(run.model, run.encoded, run.params("start"))
    found = details(run, ranker, requests, 10)
    parts = found["bytes per document by part"]
    assert found["bytes per document"] == pytest.approx(sum(parts.values()), abs=0.2)
    assert found["parameters"] == sum(np.size(leaf) for leaf in leaves(run.params("start")))
    assert parts["docid index"] == pytest.approx(ranker.index.num_bytes / 41, abs=0.1)
    return parts


def leaves(params):
    for value in params.values():
        yield from leaves(value) if isinstance(value, dict) else [value]


def test_vectors_of_prefixes_are_no_shared_part_of_the_network(tiny_run):
    """An output vector of 32 numbers, an input vector of 32 and a wide one of words for each node of the tree."""
    run = open_run(tiny_run)
    assert description(run, "best") == "semantic docids, a vector per prefix of codes, checkpoint 'best'"
    assert description(run, 20) == "semantic docids, a vector per prefix of codes, checkpoint '20'"
    parts = parts_of(run)
    head = run.params("start")["decoder"]["prefix_head"]
    tables = [table for table in head.values() if np.shape(table)[0] == run.model.num_nodes]
    assert len(tables) >= 2
    assert parts["rows of the network"] == pytest.approx(4 * sum(np.size(table) for table in tables) / 41, abs=0.1)
    assert parts["docid tree"] > 0


def test_rows_of_tokens_count_where_each_document_has_its_own(tiny_corpus, tmp_path):
    given = tiny_experiment(
        tiny_corpus, model={"head": "vocabulary"}, docids=AtomicDocids(), vocabulary=VocabularyConfig(kind="bytes")
    )
    own = prepare_only(dataclasses.replace(given, start=None), tmp_path / "atomic")[0]
    # A row of 32 numbers in the output layer, and one in the embedding of the tokens.
    assert parts_of(own)["rows of the network"] == 2 * 32 * 4
    shared = tiny_experiment(tiny_corpus, model={"head": "vocabulary"}, vocabulary=VocabularyConfig(kind="bytes"))
    assert set(parts_of(prepare_only(dataclasses.replace(shared, start=None), tmp_path / "semantic")[0])) == {
        "docid index"
    }
