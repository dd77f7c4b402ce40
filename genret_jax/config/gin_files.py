"""The gin edge: every class that a gin file may name, and a stricter parser in front of gin.

Gin by itself reports an unknown name from deep inside, ignores bindings and macros that nothing uses, and lets the last
of two equal bindings win. Here each of these is an error with the place and the nearest known name.
"""

import dataclasses
import importlib
import logging
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gin

from genret_jax.config.experiment import AnyExperiment, Experiment, Recommendation
from genret_jax.config.gin_checks import ConfigText, check_bindings, check_macros, explain, explain_value
from genret_jax.errors import InputError

#: What a gin file may name: ``name -> module``. Modules are imported when a file is parsed, not before.
CONFIGURABLES = {
    "train": "genret_jax.train",
    "Experiment": "genret_jax.config.experiment",
    "Recommendation": "genret_jax.config.experiment",
    "VocabularyConfig": "genret_jax.config.experiment",
    "EvaluationConfig": "genret_jax.config.experiment",
    "PretrainedStart": "genret_jax.config.experiment",
    "LsaStart": "genret_jax.models.initialize",
    "ItemStart": "genret_jax.models.initialize",
    "T5Config": "genret_jax.models.config",
    "AtomicDocids": "genret_jax.docids",
    "NaiveStringDocids": "genret_jax.docids",
    "HierarchicalKMeans": "genret_jax.docids",
    "ResidualKMeans": "genret_jax.docids",
    "RqVae": "genret_jax.docids",
    "LearnedDocids": "genret_jax.docids",
    "LshDocids": "genret_jax.docids",
    "RandomDocids": "genret_jax.docids",
    "NpyDocids": "genret_jax.docids",
    "NpyVectors": "genret_jax.data.vectors",
    "LsaVectors": "genret_jax.data.vectors",
    "SentenceTransformerVectors": "genret_jax.data.vectors",
    "HistoryConfig": "genret_jax.data.examples.histories",
    "SamplerConfig": "genret_jax.data.examples.sampler",
    "PseudoQueries": "genret_jax.data.examples.pseudo_queries",
    "SpanCorruption": "genret_jax.data.examples.span_corruption",
    "TrainerConfig": "genret_jax.training",
    "AdamW": "genret_jax.training",
    "Adafactor": "genret_jax.training",
    "Constant": "genret_jax.training",
    "LinearWarmupLinearDecay": "genret_jax.training",
    "InverseSquareRoot": "genret_jax.training",
    "Cosine": "genret_jax.training",
}
#: Parameters that the command line sets by macros; a saved configuration has them too.
MACROS = {
    "train.run": "RUN",
    "Experiment.corpus": "CORPUS",
    "Recommendation.corpus": "CORPUS",
    "TrainerConfig.steps": "STEPS",
    "TrainerConfig.seed": "SEED",
}
_NOT_READ = "planned, not read"  # stands for a folder that a plan does not open


def gin_configs_folder() -> Path:
    """Return the folder of the shipped gin files, in a clone as in an installed wheel."""
    import genret_jax

    for root in genret_jax.__path__:
        if (Path(root) / "gin_configs").is_dir():
            return Path(root) / "gin_configs"
    raise InputError("gin_configs is not part of this installation", fix="install genret_jax again")


def experiment_from_gin(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[str, AnyExperiment]:
    """Parse gin files and bindings, and return what they say that ``train`` shall do.

    Args:
        files: Paths, absolute, relative to here, or relative to the shipped ``gin_configs``; later ones win.
        bindings: ``"NAME = value"`` lines that win over the files.

    Returns:
        The run folder and the experiment.

    Raises:
        InputError: For a missing file, a syntax error, an unknown name (the nearest one is suggested), a name bound
            twice in one file, a macro or a binding of the command line that nothing uses, or a value that does not fit.
    """
    text = parse(files, bindings)
    for name, option in ((_corpus(), "--corpus"), ("train.run", "--run")):
        if _value(name) is None:
            raise InputError(
                f"{option} is missing", expected=f"a folder (nothing sets {name})", fix=f"add {option} DIR"
            )
    return _experiment(text)


def planned_experiment(files: Sequence[str], bindings: Sequence[str] = ()) -> Experiment:
    """Return the experiment of gin files that is only planned: what they leave to a user's folders may be missing.

    Args:
        files: As for :func:`experiment_from_gin`.
        bindings: As for :func:`experiment_from_gin`.

    Raises:
        InputError: As :func:`experiment_from_gin`, but for missing folders of corpus, run, and pretrained model.
    """
    text = parse(files, bindings)
    for name in (_corpus(), "train.run"):
        if _value(name) is None:
            gin.bind_parameter(name, _NOT_READ)
    folders = ["PretrainedStart.path", *["VocabularyConfig.path"] * (_value("VocabularyConfig.kind") == "file")]
    for name in folders:
        if _value(name) is None:
            gin.bind_parameter(name, _NOT_READ)
    experiment = _experiment(text)[1]
    if isinstance(experiment, Recommendation):
        raise InputError(
            "a plan of a recommender", expected="an experiment on documents", fix="give another --gin_file"
        )
    return experiment


def _corpus() -> str:
    """Return the parameter that has the corpus: that of the experiment which shall be run."""
    experiment = gin.config._CONFIG.get(("", "genret_jax.train.train"), {}).get("experiment")
    named = isinstance(experiment, gin.config.ConfigurableReference)
    owner = experiment.configurable.name if named else "Experiment"
    return f"{owner}.corpus" if f"{owner}.corpus" in MACROS else "Experiment.corpus"


def _experiment(text: ConfigText) -> tuple[str, AnyExperiment]:
    try:
        arguments = gin.get_configurable("train")()
        run, experiment = arguments["run"], arguments["experiment"]
        if not isinstance(experiment, AnyExperiment):
            raise InputError(
                "train.experiment is not set",
                fix="write train.experiment = @Experiment() or @Recommendation() in the gin file",
            )
        if not isinstance(run, str):
            raise InputError(f"train.run is {run!r}", expected="str", fix="change train.run")
    except (InputError, TypeError) as error:
        raise explain_value(error, text) from None
    return run, experiment


def parse(files: Sequence[str], bindings: Sequence[str] = ()) -> ConfigText:
    """Parse gin files and bindings into gin's global configuration, replacing what was there.

    Args:
        files: As for :func:`experiment_from_gin`.
        bindings: As for :func:`experiment_from_gin`.

    Returns:
        Where each name is bound.

    Raises:
        InputError: As :func:`experiment_from_gin`, but for values, which are not yet looked at.
    """
    _register()
    gin.clear_config()
    gin.add_config_file_search_path(str(gin_configs_folder()))
    text = ConfigText(gin_configs_folder())
    for file in files:
        text.read(file)
    text.bind(bindings)
    logging.disable(logging.ERROR)  # gin logs an error for every place where an included file is not
    readers = gin.config._FILE_READERS
    # Its other reader takes folders for Python packages, and fails on 'runs/...' beside a folder 'runs'.
    gin.config._FILE_READERS = readers[:1]
    try:
        gin.parse_config_files_and_bindings(
            list(files), list(bindings), finalize_config=False, print_includes_and_imports=False
        )
    except (ValueError, SyntaxError, NameError, AttributeError, TypeError, tokenize.TokenError) as error:
        raise explain(error, files, CONFIGURABLES) from None
    finally:
        gin.config._FILE_READERS = readers
        logging.disable(logging.NOTSET)
    check_macros(text)
    check_bindings(text, CONFIGURABLES)
    return text


def experiment_as_gin(run: str, experiment: AnyExperiment) -> str:
    """Return the gin text that gives this experiment, every default written out."""
    macros: list[str] = []
    lines: list[str] = []

    def bind(name: str, value: Any) -> None:
        if name in MACROS:
            macros.append(f"{MACROS[name]} = {value!r}")
            lines.append(f"{name} = %{MACROS[name]}")
        elif dataclasses.is_dataclass(value):
            owner = type(value).__name__
            lines.append(f"{name} = @{owner}()")
            for field in dataclasses.fields(value):
                bind(f"{owner}.{field.name}", getattr(value, field.name))
        else:
            lines.append(f"{name} = {value!r}")

    bind("train.run", run)
    bind("train.experiment", experiment)
    header = ["# The configuration as run, defaults included. Once more, elsewhere:", "#"]
    header += ["#   genret train --gin_file THIS_FILE --run DIR", ""]
    return "\n".join([*header, *macros, "", *lines, ""])


def _register() -> None:
    for name, module in CONFIGURABLES.items():
        if f"{module}.{name}" not in gin.config._REGISTRY:  # gin has no public question for this
            target = getattr(importlib.import_module(module), name)
            # Collected here and called outside of gin, which would put its own words behind every error.
            target = _arguments if name == "train" else target
            gin.external_configurable(target, name=name, module=module)


def _arguments(*, run: Any = None, experiment: Any = None) -> dict[str, Any]:
    """The parameters of :func:`genret_jax.train.train`."""
    return {"run": run, "experiment": experiment}


def _value(name: str) -> Any:
    """Return what a parameter is bound to, through macros; None where it is not."""
    owner, _, parameter = name.rpartition(".")
    module = CONFIGURABLES[owner]
    value = gin.config._CONFIG.get(("", f"{module}.{owner}"), {}).get(parameter)
    while isinstance(value, gin.config.ConfigurableReference) and value.configurable.selector == "gin.macro":
        value = gin.config._CONFIG.get(value.config_key, {}).get("value")
    return value
