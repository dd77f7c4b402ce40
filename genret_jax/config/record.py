"""Write an experiment as gin text, and find the classes that such text may name.

A run folder holds one record of its experiment, ``config.gin``, with one binding a line:

    import my_package.my_docids                # only where a class comes from outside genret_jax
    STEPS = 900                                # macros, so that the command line can override them
    train.experiment = @Experiment()
    TrainerConfig.steps = %STEPS
    HierarchicalKMeans.branching = 64

:mod:`genret_jax.config.gin_text` reads it, as it reads every gin file. Values are Python literals, so reading runs no
code. The modules that a file imports are loaded only if the user allows it: see :func:`require_allowed`.
"""

import ast
import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Collection
from typing import Any

from genret_jax.errors import InputError

#: Classes that a gin file may name: ``name -> module``. Modules are imported when a name is used.
CONFIGURABLES = {
    "Experiment": "genret_jax.config.experiment",
    "Recommendation": "genret_jax.config.experiment",
    "VocabularyConfig": "genret_jax.config.experiment",
    "EvaluationConfig": "genret_jax.config.experiment",
    "PretrainedStart": "genret_jax.config.experiment",
    "LsaStart": "genret_jax.models.initialize",
    "EncoderStart": "genret_jax.models.encoder_start",
    "ItemStart": "genret_jax.models.initialize",
    "T5Config": "genret_jax.models.config",
    "PlanConfig": "genret_jax.models.config",
    "AtomicDocids": "genret_jax.docids",
    "NaiveStringDocids": "genret_jax.docids",
    "HierarchicalKMeans": "genret_jax.docids",
    "ResidualKMeans": "genret_jax.docids",
    "ProductQuantization": "genret_jax.docids",
    "RqVae": "genret_jax.docids",
    "LearnedDocids": "genret_jax.docids",
    "LshDocids": "genret_jax.docids",
    "RandomDocids": "genret_jax.docids",
    "NpyDocids": "genret_jax.docids",
    "NpyVectors": "genret_jax.data.vectors",
    "LsaVectors": "genret_jax.data.vectors",
    "SentenceTransformerVectors": "genret_jax.data.vectors",
    "EncoderVectors": "genret_jax.models.encoders.sentence",
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
#: Classes that gin files may not name, because only the network of a prepared run holds them.
DERIVED = {
    "ItemInput": "genret_jax.models.config",
    "BertConfig": "genret_jax.models.encoders.config",
    "SentenceForm": "genret_jax.models.encoders.config",
}
#: Parameters that the command line sets through macros.
MACROS = {
    "train.run": "RUN",
    "Experiment.corpus": "CORPUS",
    "Recommendation.corpus": "CORPUS",
    "TrainerConfig.steps": "STEPS",
    "TrainerConfig.seed": "SEED",
}
#: Environment variable with the modules that may always be imported, separated by commas.
ALLOWED_IMPORTS = "GENRET_ALLOW_IMPORTS"

_SCOPES = ("", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


def to_bindings(name: str, value: Any) -> dict[str, str]:
    """Return the gin bindings of a configuration, every field written out.

    Args:
        name: Parameter that the value is bound to, such as ``"train.experiment"``.
        value: A literal, or a dataclass whose fields are such values.

    Returns:
        Parameter to value: ``{"train.experiment": "@Experiment()", "Experiment.corpus": "'c'", ...}``. Of two different
        objects of one class the second is in a scope, ``@second/Constant()``.

    Raises:
        InputError: If a value cannot be written, such as an object that is no dataclass.
    """
    found: dict[str, str] = {}
    seen: dict[str, list[Any]] = {}
    _bind(name, value, found, seen)
    return found


def _bind(name: str, value: Any, found: dict[str, str], seen: dict[str, list[Any]]) -> None:
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        found[name] = _literal(name, value)
        return
    owner = type(value).__name__
    objects = seen.setdefault(owner, [])
    known = value in objects
    if not known:
        objects.append(value)
    place = objects.index(value)
    selector = f"{_SCOPES[place]}/{owner}" if place else owner
    found[name] = f"@{selector}()"
    if not known:
        for field in dataclasses.fields(value):
            _bind(f"{selector}.{field.name}", getattr(value, field.name), found, seen)


def _literal(name: str, value: Any) -> str:
    text = repr(value)
    try:
        if ast.literal_eval(text) == value:
            return text
    except (ValueError, SyntaxError):
        pass
    raise InputError(
        f"{name} is {text[:80]}, which a configuration file cannot hold",
        expected="a dataclass, text, a number, True, False, None, or a tuple of these",
        fix="make its class a frozen dataclass in a module of its own",
    )


def find_class(name: str, modules: Collection[str] = ()) -> Any:
    """Return a configuration class by its name.

    Args:
        name: Name of the class.
        modules: Modules outside genret_jax to look in, already imported.

    Raises:
        InputError: If there is none.
    """
    known = CONFIGURABLES | DERIVED
    if name in known:
        return getattr(importlib.import_module(known[name]), name)
    for module in modules:
        if name in (classes := classes_of(module)):
            return classes[name]
    where = f" in {', '.join(modules)}" if modules else ""
    raise InputError(f"there is no configuration class '{name}'{where}", fix="import the module that defines it")


def classes_of(module: str) -> dict[str, Any]:
    """Return the public dataclasses that an imported module defines or re-exports from outside genret_jax."""
    return {
        name: value
        for name, value in vars(sys.modules[module]).items()
        if isinstance(value, type)
        and dataclasses.is_dataclass(value)
        and not name.startswith("_")
        and not value.__module__.startswith("genret_jax.")
    }


def modules_of(value: Any) -> list[str]:
    """Return the modules outside genret_jax that define the classes of a configuration.

    Raises:
        InputError: If a class cannot be imported again, because it is defined in ``__main__`` or within a function.
    """
    if not dataclasses.is_dataclass(value):
        return []
    cls, found = type(value), []
    if not cls.__module__.startswith("genret_jax."):
        if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            raise InputError(
                f"the class {cls.__qualname__} is defined in {cls.__module__}, where a run cannot find it again",
                expected="a class at the top level of a module",
                fix="move it to a file of its own and import it",
            )
        found.append(cls.__module__)
    for field in dataclasses.fields(value):
        found += modules_of(getattr(value, field.name))
    return list(dict.fromkeys(found))


def require_allowed(modules: Collection[str], allowed: Collection[str], *, file: str | os.PathLike[str] | None) -> None:
    """Import modules that a configuration names, if the user allows it.

    Args:
        modules: Dotted names.
        allowed: Modules or packages that may be imported, beside those of ``GENRET_ALLOW_IMPORTS``.
        file: The file that names them.

    Raises:
        InputError: If one is not allowed, or cannot be imported.
    """
    trusted = {*allowed, *filter(None, os.environ.get(ALLOWED_IMPORTS, "").split(","))}
    for module in modules:
        packages = {module[: dot.start()] for dot in re.finditer(r"\.", module)}
        if not {module, *packages} & trusted:
            raise InputError(
                f"this configuration imports '{module}', which runs that module's code",
                file=file,
                fix=f"if you trust it, add --allow-import {module} (in Python: allow_imports=['{module}'])",
            )
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise InputError(
                f"the module '{module}' cannot be imported ({error})",
                file=file,
                fix="install it, or run where Python finds it (PYTHONPATH)",
            ) from None


def record_text(run: str, experiment: Any) -> str:
    """Return the record of an experiment, defaults included.

    Args:
        run: The run folder.
        experiment: The experiment.
    """
    bindings = {"train.run": repr(run), **to_bindings("train.experiment", experiment)}
    macros = {MACROS[name]: value for name, value in bindings.items() if name in MACROS}
    return "\n".join(
        [
            "# The configuration of this run, defaults included. To run it once more, elsewhere:",
            "#",
            "#   genret train --gin-file THIS_FILE --run DIR",
            "",
            *(f"import {module}" for module in modules_of(experiment)),
            *(f"{name} = {value}" for name, value in macros.items()),
            "",
            *(f"{name} = %{MACROS[name]}" if name in MACROS else f"{name} = {text}" for name, text in bindings.items()),
            "",
        ]
    )
