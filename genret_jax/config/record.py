"""The record of an experiment: gin text that is written, read back and compared without gin.

A run folder holds one record, ``config.gin``. It is a small part of gin's language, one binding a line:

    import my_package.my_docids                # only where a class comes from outside genret_jax
    STEPS = 900                                # macros, so that the command line can override them
    train.experiment = @Experiment()
    TrainerConfig.steps = %STEPS
    HierarchicalKMeans.branching = 64

Values are Python literals, so reading a record runs no code. The modules that it imports are loaded only with the
user's word: see :func:`require_allowed`.
"""

import ast
import dataclasses
import importlib
import os
import re
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
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
#: Classes that only the network of a prepared run holds.
_DERIVED = {"ItemInput": "genret_jax.models.config"}
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

_IMPORT = re.compile(r"import ([A-Za-z_][\w.]*)$")
_LINE = re.compile(r"([\w./]+) = (.+)$")
_REFERENCE = re.compile(r"@((?:\w+/)*)(\w+)\(\)$")


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


_SCOPES = ("", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")


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


def from_bindings(name: str, bindings: Mapping[str, str], modules: Collection[str] = ()) -> Any:
    """Return the configuration whose bindings these are.

    Args:
        name: Parameter to return the value of.
        bindings: From :func:`to_bindings`.
        modules: Imported modules outside genret_jax that may define classes.

    Raises:
        InputError: If a class is unknown or a value does not fit.
    """
    text = bindings[name]
    reference = _REFERENCE.match(text)
    if reference is None:
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise InputError(f"{name} = {text[:80]}", expected="a Python literal or @Class()") from None
    selector = reference[1] + reference[2]
    cls = find_class(reference[2], modules)
    known = {field.name for field in dataclasses.fields(cls)}
    fields: dict[str, Any] = {}
    for parameter in bindings:
        owner, _, field = parameter.rpartition(".")
        if owner == selector:
            if field not in known:
                raise InputError(
                    f"{reference[2]} has no field '{field}'", expected=f"one of {', '.join(sorted(known))}"
                )
            fields[field] = from_bindings(parameter, bindings, modules)
    return cls(**fields)


def find_class(name: str, modules: Collection[str] = ()) -> Any:
    """Return a configuration class by its name.

    Args:
        name: Name of the class.
        modules: Modules outside genret_jax to look in, already imported.

    Raises:
        InputError: If there is none.
    """
    known = CONFIGURABLES | _DERIVED
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
    """Return the modules outside genret_jax that a configuration's classes come from.

    Raises:
        InputError: If a class cannot be imported again, because it is defined in ``__main__`` or within a function.
    """
    found: dict[str, None] = {}
    _collect_modules(value, found)
    return list(found)


def _collect_modules(value: Any, found: dict[str, None]) -> None:
    if not dataclasses.is_dataclass(value):
        return
    cls = type(value)
    if not cls.__module__.startswith("genret_jax."):
        if cls.__module__ == "__main__" or "<locals>" in cls.__qualname__:
            raise InputError(
                f"the class {cls.__qualname__} is defined in {cls.__module__}, where a run cannot find it again",
                expected="a class at the top level of a module",
                fix="move it to a file of its own and import it",
            )
        found[cls.__module__] = None
    for field in dataclasses.fields(value):
        _collect_modules(getattr(value, field.name), found)


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


def read_record(path: str | os.PathLike[str], allow_imports: Collection[str] = ()) -> Any:
    """Read the experiment of a record.

    Args:
        path: The ``config.gin`` of a run folder.
        allow_imports: Modules outside genret_jax that may be imported.

    Raises:
        InputError: If the file is missing, is not a record, or needs a module that is not allowed.
    """
    bindings: dict[str, str] = {}
    macros: dict[str, str] = {}
    modules: list[str] = []
    for number, line in enumerate(_lines(path), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if match := _IMPORT.match(line):
            modules.append(match[1])
        elif match := _LINE.match(line):
            (bindings if "." in match[1] else macros)[match[1]] = match[2]
        else:
            raise InputError(
                f"'{line[:80]}' does not belong in the record of a run",
                file=path,
                line=number,
                expected="'import MODULE' or 'NAME = VALUE', as 'genret train' writes it",
                fix="restore the file from a copy",
            )
    require_allowed(modules, allow_imports, file=path)
    values = {name: macros.get(text[1:], text) if text.startswith("%") else text for name, text in bindings.items()}
    try:
        return from_bindings("train.experiment", values, modules)
    except KeyError as error:
        raise InputError(f"{error.args[0]} is missing", file=path, fix="restore the file from a copy") from None
    except InputError as error:
        raise InputError(error.found, file=path, expected=error.expected, fix=error.fix) from None


def _lines(path: str | os.PathLike[str]) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise InputError("the file is missing", file=path, fix="restore it from a copy") from None
    except UnicodeDecodeError:
        raise InputError("not UTF-8", file=path, fix="restore it from a copy") from None
