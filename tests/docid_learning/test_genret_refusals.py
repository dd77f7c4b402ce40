"""What GenRet refuses before it begins, and what is a collapse that stops it."""

import numpy as np
import pytest
from support.tiny_run import learned_experiment, tiny_recommendation

from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docid_learning import learner as learning
from genret_jax.docids import LearnedDocids
from genret_jax.errors import CollapsedError, InputError
from genret_jax.run import prepare

pytestmark = pytest.mark.filterwarnings("ignore:.*neither title nor text:UserWarning")


def prepared(experiment, folder):
    return prepare(experiment, folder, log=lambda line: None)


CASES = {
    "codebook larger than the corpus": (
        {"docids": LearnedDocids(levels=1, codebook=64, steps=4)},
        "40 documents to learn from, for codebooks of 64; expected at least as many.*LearnedDocids.codebook to about 5",
    ),
    "no such split": ({"sampler": SamplerConfig(unseen_split="tset")}, "no split 'tset'.*did you mean 'test'"),
    "all unseen": (
        {"sampler": SamplerConfig(unseen_split="train"), "hold_out": 0.0},
        "every document has queries in the split 'train', whose documents are not shown",
    ),
}


@pytest.mark.parametrize(("fields", "message"), CASES.values(), ids=CASES)
def test_bad_input_is_refused_before_anything_is_there(tiny_corpus, tmp_path, fields, message):
    with pytest.raises(InputError, match=message):
        prepared(learned_experiment(tiny_corpus, **fields), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_several_processes_are_told_to_prepare_first(tiny_corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(InputError, match=r"learned by one process.*--prepare-only"):
        prepared(learned_experiment(tiny_corpus), tmp_path / "run")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"codec": "text"}, "Experiment.codec = 'per_level'"),
        ({"sampler": SamplerConfig(objective="targets_to_inputs")}, "SamplerConfig.objective = 'inputs_to_targets'"),
    ],
)
def test_networks_that_learned_docids_do_not_fit(tiny_corpus, fields, message):
    with pytest.raises(InputError, match=message):
        learned_experiment(tiny_corpus, **fields)


def test_items_are_not_read(tmp_path):
    with pytest.raises(InputError, match="LearnedDocids reads documents"):
        tiny_recommendation(tmp_path, docids=LearnedDocids())


def test_levels_beyond_those_that_tell_all_documents_apart_are_no_collapse(tiny_corpus, tmp_path):
    docids = LearnedDocids(levels=2, codebook=24, steps=40, alike=4, document_length=12)
    run = prepared(learned_experiment(tiny_corpus, docids), tmp_path / "run")
    last = run.table.strategy["course"][-1]
    before = run.table.strategy["course"][-4]
    assert (last["level"], before["level"]) == (2, 1)
    assert before["prefixes"] > 40 - 24  # fewer documents than codes are left to be told apart
    assert last["prefixes"] >= before["prefixes"]


def test_a_collapsed_codebook_stops_and_leaves_nothing(tiny_corpus, tmp_path, monkeypatch):
    def one_code(params, documents, codes, books, known=0):
        return np.zeros_like(codes)

    monkeypatch.setattr(learning, "predict_codes", one_code)
    docids = LearnedDocids(levels=1, codebook=8, steps=4, alike=4, document_length=12)
    with pytest.raises(CollapsedError, match=r"level 1 has collapsed: 1 of 8 codes are used.*balanced = True"):
        prepared(learned_experiment(tiny_corpus, docids), tmp_path / "run")
    assert not (tmp_path / "run").exists()
