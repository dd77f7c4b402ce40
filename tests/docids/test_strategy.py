"""The interface of docid strategies: the shipped ones implement it, and configurations take a user's own."""

import dataclasses
from typing import ClassVar

import pytest
from support.tiny_run import tiny_experiment

from genret_jax import docids
from genret_jax.config.experiment import needs_vectors
from genret_jax.docids import DocidStrategy, DocidTable
from genret_jax.errors import InputError

STRATEGIES = {
    docids.AtomicDocids(): False,
    docids.NaiveStringDocids(): False,
    docids.RandomDocids(): False,
    docids.NpyDocids(path="codes.npy"): False,
    docids.HierarchicalKMeans(): True,
    docids.ResidualKMeans(): True,
    docids.ProductQuantization(): True,
    docids.LshDocids(): True,
    docids.RqVae(): True,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidsByLength:
    longest: int = 50

    def assign(self, doc_ids, vectors, seed, corpus_fingerprint):
        codes = [(min(len(doc_id), self.longest), number) for number, doc_id in enumerate(doc_ids)]
        return DocidTable.from_codes(doc_ids, codes, strategy={"name": "length"}, corpus_fingerprint=corpus_fingerprint)


@dataclasses.dataclass(frozen=True, kw_only=True)
class DocidsOfVectors(DocidsByLength):
    needs_vectors: ClassVar[bool] = True


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda strategy: type(strategy).__name__)
def test_shipped_strategies_implement_it_and_say_whether_they_read_vectors(strategy):
    assert isinstance(strategy, DocidStrategy)
    assert needs_vectors(strategy) == STRATEGIES[strategy]


def test_an_experiment_takes_the_example_of_the_docstring(tmp_path):
    experiment = tiny_experiment(tmp_path, docids=DocidsByLength(longest=2))
    assert not needs_vectors(experiment.docids)
    assert experiment.identity()["DocidsByLength.longest"] == "2"
    assert experiment.docids.assign(["a", "bcd"], None, 0, "c").padded().tolist() == [[1, 0], [2, 1]]
    assert needs_vectors(tiny_experiment(tmp_path, docids=DocidsOfVectors()).docids)


@pytest.mark.parametrize("value", [3, DocidsByLength, object()])
@pytest.mark.usefixtures("annotations_unchecked")
def test_what_assigns_nothing_is_no_strategy(value, tmp_path):
    with pytest.raises(InputError, match=r"Experiment.docids.*DocidStrategy"):
        tiny_experiment(tmp_path, docids=value)
