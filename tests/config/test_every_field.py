"""Every field that a gin file can name is read from it, and comes back from the record of the run."""

import ast
import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal

import pytest

from genret_jax.config.gin_files import experiment_from_gin
from genret_jax.config.gin_text import from_bindings, read_record
from genret_jax.config.record import CONFIGURABLES, find_class, record_text, to_bindings
from genret_jax.models.config import ItemInput

pytestmark = pytest.mark.usefixtures("annotations_unchecked")

EXPERIMENT = {
    "train.run": "'run'",
    "train.experiment": "@{owner}()",
    "{owner}.corpus": "'corpus'",
    "{owner}.model": "@T5Config()",
    "{owner}.trainer": "@TrainerConfig()",
    "TrainerConfig.steps": "10",
    "TrainerConfig.batch_size": "8",
}
# A parameter that takes objects of the class.
PLACES = {
    **dict.fromkeys(("Experiment", "Recommendation"), "train.experiment"),
    "VocabularyConfig": "Experiment.vocabulary",
    "EvaluationConfig": "Experiment.evaluation",
    **dict.fromkeys(("PretrainedStart", "LsaStart", "EncoderStart"), "Experiment.start"),
    "ItemStart": "Recommendation.start",
    "T5Config": "Experiment.model",
    "PlanConfig": "T5Config.plan",
    "HistoryConfig": "Recommendation.histories",
    "SamplerConfig": "Experiment.sampler",
    "PseudoQueries": "SamplerConfig.pseudo_queries",
    "SpanCorruption": "SamplerConfig.span_corruption",
    "TrainerConfig": "Experiment.trainer",
    **dict.fromkeys(("AdamW", "Adafactor"), "TrainerConfig.optimizer"),
    **dict.fromkeys(("Constant", "LinearWarmupLinearDecay", "InverseSquareRoot", "Cosine"), "AdamW.learning_rate"),
    **{
        name: "Experiment.docids"
        for name in CONFIGURABLES
        if name.endswith(("Docids", "KMeans", "Quantization", "Vae"))
    },
    **{name: "Experiment.vectors" for name in CONFIGURABLES if name.endswith("Vectors")},
}
# Fields whose type does not say what else they may be.
VALUES = {
    **dict.fromkeys(("Experiment.docids", "Recommendation.docids"), "@AtomicDocids()"),
    **dict.fromkeys(("Experiment.vectors", "Recommendation.vectors"), "@NpyVectors()"),
    "Experiment.start": "@LsaStart()",
    "Experiment.vocabulary": "None",
    "T5Config.plan": "@PlanConfig()",
    "TrainerConfig.learning_rates": "(('encoder', 0.0),)",
    "Recommendation.start": "@ItemStart()",
    "VocabularyConfig.kind": "'bytes'",
    "T5Config.activations": "('relu',)",
    "TrainerConfig.gradient_accumulation": "2",
    "TrainerConfig.optimizer": "@Adafactor()",
    **dict.fromkeys(("AdamW.learning_rate", "Adafactor.learning_rate"), "@Cosine()"),
    "Adafactor.clipping_threshold": "2.0",
}
# What must be bound too, so that the value is accepted.
PREFIX = {"T5Config.head": "'prefix'"}
BY_ITEMS = {"HistoryConfig.positions": "'items'"}
ENCODER = {"Experiment.encoder": "'e'", "Experiment.vocabulary": "None"}
PLAN = {**ENCODER, "PlanConfig.dense": "True"}
WHOLE_ITEMS = {
    **PREFIX,
    **BY_ITEMS,
    "T5Config.shared_codes": "True",
    "Recommendation.histories": "@HistoryConfig()",
    "HistoryConfig.whole_items": "True",
}
NEEDS: dict[str, dict[str, str]] = {
    **{name: {"NpyVectors.path": "'v.npy'"} for name in ("Experiment.vectors", "Recommendation.vectors")},
    **dict.fromkeys(("ItemStart", "Recommendation.start"), WHOLE_ITEMS),
    "VocabularyConfig.path": {"VocabularyConfig.kind": "'file'"},
    "T5Config.adaptive_width": {"T5Config.adaptive_layers": "1"},
    **dict.fromkeys([f"T5Config.{name}" for name in ("shared_codes", "root_lookahead", "num_nodes")], PREFIX),
    "Experiment.encoder": {"Experiment.vocabulary": "None"},
    "Experiment.vocabulary": {"Experiment.encoder": "'e'"},
    "Experiment.pool": {
        "Experiment.trainer": "@TrainerConfig()",
        "TrainerConfig.learning_rates": "(('encoder', 0.0),)",
    },
    "T5Config.query_width": ENCODER,
    **dict.fromkeys(("T5Config.plan", "PlanConfig"), PLAN),
    "NpyDocids.separate": {"NpyDocids.path": "'c.npy'"},
    "EncoderVectors.batch_size": {"EncoderVectors.path": "'e'"},
    "SentenceTransformerVectors.batch_size": {"SentenceTransformerVectors.model": "'m'"},
    "HistoryConfig.causal": {**BY_ITEMS, "HistoryConfig.user_tokens": "0"},
    "HistoryConfig.whole_items": BY_ITEMS,
}
# The package has no class to bind here: tests/test_extending.py binds a loss, and the data decide about item_input.
NOTHING_TO_BIND = {"Experiment.loss", "Recommendation.loss", "T5Config.item_input"}
# Filled in from the encoder's folder, and from the plan.
NOTHING_TO_BIND |= {"T5Config.encoder", "T5Config.sentence", "SamplerConfig.terms"}


def another(hint: Any, value: Any) -> Any:
    """Return a value of a type that differs from the given one."""
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(iter(found for option in options if (found := another(option, value)) is not None), None)
    if typing.get_origin(hint) is Literal:
        return next(option for option in options if option != value)
    if typing.get_origin(hint) is tuple:
        return tuple(another(type(part), part) for part in value)
    found = {
        bool: lambda: not value,
        int: lambda: (value or 0) + 8,
        float: lambda: (value or 1.0) / 2,
        str: lambda: "other",
    }
    return found[hint]() if hint in found else None


def bindings_of(owner: str, field: dataclasses.Field) -> dict[str, str]:
    """Return the bindings of an experiment with this field of this class changed."""
    name = f"{owner}.{field.name}"
    if name in VALUES:
        value = VALUES[name]
    else:
        hint = typing.get_type_hints(find_class(owner))[field.name]
        default = None if field.default is dataclasses.MISSING else field.default
        value = f"@{hint.__name__}()" if dataclasses.is_dataclass(hint) else repr(another(hint, default))
    bindings, place, placed = {}, PLACES[owner], owner
    while placed not in ("Experiment", "Recommendation"):
        bindings[place] = f"@{placed}()"
        placed = place.split(".")[0]
        place = PLACES[placed]
    base = {key.format(owner=placed): text.format(owner=placed) for key, text in EXPERIMENT.items()}
    return {**base, **bindings, **NEEDS.get(owner, {}), **NEEDS.get(name, {}), name: value}


def objects(value: Any, owner: str) -> list[Any]:
    """Return the objects of a class within a configuration."""
    if not dataclasses.is_dataclass(value):
        return []
    inner = [found for field in dataclasses.fields(value) for found in objects(getattr(value, field.name), owner)]
    return [value, *inner] if type(value).__name__ == owner else inner


@pytest.mark.parametrize("owner", CONFIGURABLES)
def test_every_field_is_bound_and_recorded(owner: str, tmp_path: Path) -> None:
    file = tmp_path / "config.gin"
    for field in dataclasses.fields(find_class(owner)):
        name = f"{owner}.{field.name}"
        if name in NOTHING_TO_BIND:
            continue
        bindings = bindings_of(owner, field)
        file.write_text("".join(f"{key} = {value}\n" for key, value in bindings.items()))
        run, experiment = experiment_from_gin([str(file)])
        found = getattr(objects(experiment, owner)[0], field.name)
        if bindings[name].startswith("@"):
            assert type(found).__name__ == bindings[name].strip("@()"), name
        else:
            assert found == ast.literal_eval(bindings[name]) != field.default, name
        file.write_text(record_text(run, experiment))
        assert read_record(file) == experiment, name
        recorded = to_bindings("x", experiment)
        assert name in recorded
        assert from_bindings("x", recorded) == experiment, name


def test_what_the_data_decides_is_recorded_with_the_network() -> None:
    fields = {"leading": 0, "length": 3, "count": 20, "causal": True, "whole": True}
    model = dataclasses.replace(find_class("T5Config")(), item_input=ItemInput(**fields))
    assert from_bindings("model", to_bindings("model", model)) == model
