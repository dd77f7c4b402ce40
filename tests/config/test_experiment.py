"""The experiment as a value: what it refuses, and what makes two of them the same run."""

import dataclasses

import pytest
from support.tiny_run import tiny_experiment

from genret_jax.config.experiment import EvaluationConfig, Experiment, VocabularyConfig
from genret_jax.data.examples.sampler import SamplerConfig
from genret_jax.docids import AtomicDocids, HierarchicalKMeans
from genret_jax.errors import InputError


@pytest.mark.usefixtures("annotations_unchecked")
@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: VocabularyConfig(kind="file"), "VocabularyConfig.path is None; expected a path exactly when kind"),
        (lambda: VocabularyConfig(path="x.model"), "VocabularyConfig.path is 'x.model'"),
        (lambda: VocabularyConfig(kind="sentencepeice"), "did you mean 'sentencepiece'"),
        (lambda: VocabularyConfig(size=3), "VocabularyConfig.size is 3; expected at least 16"),
        (lambda: EvaluationConfig(beam=0), "EvaluationConfig.beam is 0; expected at least 1"),
        (lambda: tiny_experiment("c", hold_out=1.0), "Experiment.hold_out is 1.0"),
        (
            lambda: tiny_experiment("c", codec="text"),
            "Experiment.codec is 'text'; expected 'per_level' with the prefix",
        ),
        (
            lambda: tiny_experiment("c", sampler=SamplerConfig(objective="bidirectional")),
            "SamplerConfig.objective is 'bidirectional'; expected 'inputs_to_targets' with T5Config.head='prefix'",
        ),
        (lambda: tiny_experiment("c", z_loss=-1.0), "Experiment.z_loss is -1.0; expected 0 or more"),
        (
            lambda: tiny_experiment("c", label_smoothing=0.1),
            "Experiment.label_smoothing is 0.1; expected 0 with the prefix",
        ),
        (lambda: tiny_experiment("c", docids=3), "Experiment.docids is 3"),
        (lambda: tiny_experiment("c", consistency=-0.1), "Experiment.consistency is -0.1; expected 0 or more"),
        (
            lambda: tiny_experiment("c", consistency=0.1, model={"dropout_rate": 0.0}),
            "Experiment.consistency is 0.1; expected 0 without T5Config.dropout_rate",
        ),
        (lambda: tiny_experiment("c", model={"d_model": "64"}), "T5Config.d_model is '64'; expected int"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(make, message):
    with pytest.raises(InputError) as error:
        make()
    assert message in str(error.value)


def test_the_heads_that_write_text_may_have_any_codec_and_objective():
    experiment = tiny_experiment(
        "c", codec="text", model={"head": "vocabulary"}, sampler=SamplerConfig(objective="bidirectional")
    )
    assert experiment.seed == experiment.trainer.seed


def test_identity_is_everything_that_decides_what_is_learnt():
    first = tiny_experiment("here")
    identity = first.identity()
    assert identity["Experiment.docids"] == "@HierarchicalKMeans()"
    assert identity["HierarchicalKMeans.branching"] == "4"
    assert identity["Constant.rate"] == "0.001"
    assert all(isinstance(value, str) for value in identity.values())
    same = [
        dataclasses.replace(first, corpus="there"),
        dataclasses.replace(first, trainer=dataclasses.replace(first.trainer, steps=99, log_every=1, keep=5)),
        dataclasses.replace(first, evaluation=EvaluationConfig(beam=3)),
    ]
    assert [other.identity() for other in same] == [identity] * len(same)
    changes = {
        "TrainerConfig.seed": dataclasses.replace(first, trainer=dataclasses.replace(first.trainer, seed=1)),
        "HierarchicalKMeans.leaf_size": dataclasses.replace(first, docids=HierarchicalKMeans(branching=4, leaf_size=5)),
        "Experiment.docids": dataclasses.replace(first, docids=AtomicDocids()),
        "SamplerConfig.word_drop": dataclasses.replace(first, sampler=SamplerConfig(word_drop=0.1)),
        "Experiment.start": dataclasses.replace(first, start=None),
    }
    for name, other in changes.items():
        assert other.identity().get(name) != identity[name]


def test_a_configuration_is_a_value():
    assert tiny_experiment("c") == tiny_experiment("c")
    assert isinstance(hash(tiny_experiment("c")), int)
    with pytest.raises(dataclasses.FrozenInstanceError):
        tiny_experiment("c").corpus = "d"
    assert {field.name for field in dataclasses.fields(Experiment) if field.default is dataclasses.MISSING} == {
        "corpus",
        "model",
        "trainer",
    }
