"""What t5x.infer hands over becomes a TREC run; what is handed over is made by hand here."""

import types

import numpy as np
import pytest

from genret_jax.decoding import INVALID
from genret_jax.errors import InputError
from genret_jax.run import open_run
from genret_jax.run.folder import examples_of
from genret_jax.training.t5x.rankings import write_rankings


@pytest.fixture(scope="module")
def run(text_head_run):
    return open_run(text_head_run)


def test_queries_and_documents_have_the_names_of_the_corpus(run, tmp_path):
    rows = {run.store.doc_ids[document]: row for row, document in enumerate(run.encoded.document)}
    best_last = run.encoded.tokens[[rows["d7"], rows["d3"], rows["d5"]]]
    nothing = np.zeros_like(best_last[:1])
    tokens, scores = np.concatenate([nothing, best_last]), np.array([INVALID, -3.0, -2.5, -1.0], np.float32)
    write(tmp_path, run, ([tokens], {"scores": [scores]}), {"split": number_of(run, "test"), "index": 1})
    lines = [line.split()[:5] for line in (tmp_path / "run.trec").read_text().splitlines()]
    query = run.store.queries("test", 1)[0][1]
    wanted = [[query, "d5", -1.0], [query, "d3", -2.5], [query, "d7", -3.0]]
    assert [[q, document, float(score)] for q, _, document, _, score in lines] == wanted


def test_what_has_no_scores_or_queries_is_refused(run, tmp_path):
    found = ([run.encoded.tokens[:1]], {"scores": [np.zeros(1, np.float32)]})
    with pytest.raises(InputError, match=r"infer\.mode='predict' without all beams"):
        write(tmp_path, run, found, {"split": 0, "index": 0}, mode="predict")
    best_alone = ([run.encoded.tokens[0]], {"scores": [np.float32(0)]})
    with pytest.raises(InputError, match="without all beams and their scores"):
        write(tmp_path, run, best_alone, {"split": 0, "index": 0})
    with pytest.raises(InputError, match="rankings of examples without a query"):
        write(tmp_path, run, found, {"split": -1, "index": 0})


def write(folder, run, inferences, example, mode="predict_with_aux"):
    dataset = types.SimpleNamespace(as_numpy_iterator=lambda: iter([example]))
    write_rankings(str(folder / "run.trec"), inferences, dataset, mode, None, examples=examples_of(run.folder))


def number_of(run, split):
    return [name for name in run.store.splits if name != "train"].index(split)
