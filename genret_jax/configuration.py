"""The gin edge: every class that a gin file may name, and a stricter parser in front of gin.

Gin by itself reports an unknown name from deep inside, ignores bindings and macros that nothing uses, and lets the last
of two equal bindings win. Here each of these is an error with the place and the nearest known name.
"""

import dataclasses
import importlib
import inspect
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gin

from genret_jax.errors import InputError, nearest
from genret_jax.experiment import Experiment

#: What a gin file may name: ``name -> module``. Modules are imported when a file is parsed, not before.
CONFIGURABLES = {
    "train": "genret_jax.train",
    "Experiment": "genret_jax.experiment",
    "VocabularyConfig": "genret_jax.experiment",
    "EvaluationConfig": "genret_jax.experiment",
    "PretrainedStart": "genret_jax.experiment",
    "LsaStart": "genret_jax.models.initialize",
    "T5Config": "genret_jax.models.config",
    "AtomicDocids": "genret_jax.docids",
    "NaiveStringDocids": "genret_jax.docids",
    "HierarchicalKMeans": "genret_jax.docids",
    "ResidualKMeans": "genret_jax.docids",
    "NpyVectors": "genret_jax.data.vectors",
    "LsaVectors": "genret_jax.data.vectors",
    "SentenceTransformerVectors": "genret_jax.data.vectors",
    "SamplerConfig": "genret_jax.data.sampler",
    "PseudoQueries": "genret_jax.data.pseudo_queries",
    "SpanCorruption": "genret_jax.data.span_corruption",
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
    "TrainerConfig.steps": "STEPS",
    "TrainerConfig.seed": "SEED",
}

_UNKNOWN_NAME = re.compile(r"No configurable matching '([^']+)'")
_UNKNOWN_PARAMETER = re.compile(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'")
_MISSING_PARAMETERS = re.compile(r"missing \d+ required .*?arguments?: (.+)")
_OWNER = re.compile(r"In call to configurable '([^']+)'")
_BINDING = re.compile(r"^([\w./]+)\s*=\s*(%\w+)?")
_INCLUDE = re.compile(r"""^include\s+(['"])(.+)\1""")
_TRAIN = ("", "genret_jax.train.train")

# Where each name of the configuration is bound: (file, line), a binding of the command line has neither.
_Places = dict[str, tuple[Path | None, int | None]]


def gin_configs_folder() -> Path:
    """Return the folder of the shipped gin files, in a clone as in an installed wheel."""
    import genret_jax

    for root in genret_jax.__path__:
        if (Path(root) / "gin_configs").is_dir():
            return Path(root) / "gin_configs"
    raise InputError("gin_configs is not part of this installation", fix="install genret_jax again")


def experiment_from_gin(files: Sequence[str], bindings: Sequence[str] = ()) -> tuple[str, Experiment]:
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
    places = parse(files, bindings)
    for name, option in (("Experiment.corpus", "--corpus"), ("train.run", "--run")):
        if _value(name) is None:
            raise InputError(
                f"{option} is missing", expected=f"a folder (nothing sets {name})", fix=f"add {option} DIR"
            )
    try:
        arguments = gin.get_configurable("train")()
        run, experiment = arguments["run"], arguments["experiment"]
        if not isinstance(experiment, Experiment):
            raise InputError(
                "train.experiment is not set", fix="write train.experiment = @Experiment() in the gin file"
            )
        if not isinstance(run, str):
            raise InputError(f"train.run is {run!r}", expected="str", fix="change train.run")
    except (InputError, TypeError) as error:
        raise _explain_value(error, places) from None
    return run, experiment


def parse(files: Sequence[str], bindings: Sequence[str] = ()) -> _Places:
    """Parse gin files and bindings into gin's global configuration, replacing what was there.

    Args:
        files: As for :func:`experiment_from_gin`.
        bindings: As for :func:`experiment_from_gin`.

    Returns:
        Where each name is bound: file and line, or None and None for a binding.

    Raises:
        InputError: As :func:`experiment_from_gin`, but for values, which are not yet looked at.
    """
    _register()
    gin.clear_config()
    gin.add_config_file_search_path(str(gin_configs_folder()))
    places: _Places = {}
    for file in files:
        places |= _read_places(file, ())
    given = [match.group(1) for binding in bindings if (match := _BINDING.match(binding))]
    places |= dict.fromkeys(given, (None, None))
    logging.disable(logging.ERROR)  # gin logs an error for every place where an included file is not
    try:
        gin.parse_config_files_and_bindings(
            list(files), list(bindings), finalize_config=False, print_includes_and_imports=False
        )
    except (ValueError, SyntaxError, NameError, AttributeError, TypeError) as error:
        raise _explain(error) from None
    finally:
        logging.disable(logging.NOTSET)
    _check_macros(places)
    _reject_unused(given)
    return places


def experiment_as_gin(run: str, experiment: Experiment) -> str:
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


def _find(file: str) -> Path | None:
    return next((p for p in (Path(file), gin_configs_folder() / file) if p.is_file()), None)


def _read_places(file: str, including: tuple[Path, ...], line: int | None = None) -> _Places:
    """Find the bindings of a file and of those it includes, and reject what gin would let pass."""
    path, included_in = _find(file), including[-1] if including else None
    if path is None:
        shipped = sorted(str(p.relative_to(gin_configs_folder())) for p in gin_configs_folder().rglob("*.gin"))
        hint = nearest(file, shipped) or f"use a path or one of {', '.join(shipped)}"
        found = "no such gin file" if included_in is None else f"no such gin file '{file}'"
        raise InputError(found, file=included_in or file, line=line, fix=hint)
    if path in including:
        raise InputError(f"'{file}' includes itself", file=included_in, line=line, fix="remove this line")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise InputError("not UTF-8", file=path, expected="a gin file") from None
    included: _Places = {}
    own: dict[str, tuple[Path | None, int | None]] = {}
    for number, text in enumerate(lines, 1):
        if match := _INCLUDE.match(text):
            included |= _read_places(match.group(2), (*including, path), number)
        if match := _BINDING.match(text):
            name = match.group(1)
            if name in own:
                raise InputError(
                    f"'{name}' is bound twice (first on line {own[name][1]})", file=path, line=number, fix="keep one"
                )
            own[name] = (path, number)
    return included | own


def _explain(error: Exception) -> InputError:
    """Turn an error of gin's parser into one line."""
    message = str(error)
    where = re.search(r'In file "([^"]+)", line (\d+)', message)
    file, line = (where.group(1), int(where.group(2))) if where else (None, None)
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        file, line, message = error.filename, error.lineno, error.msg
    if match := _UNKNOWN_PARAMETER.search(message):
        owner, parameter = match.groups()
        known = _parameters(owner.split(".")[-1])
        hint = nearest(parameter, known) or f"use one of {', '.join(known)}"
        return InputError(f"unknown gin name '{owner.split('.')[-1]}.{parameter}'", fix=hint, file=file, line=line)
    if match := _UNKNOWN_NAME.search(message):
        name = match.group(1)
        hint = nearest(name, CONFIGURABLES) or f"use one of {', '.join(CONFIGURABLES)}"
        return InputError(f"unknown gin name '{name}'", fix=hint, file=file, line=line)
    return InputError(
        f"gin cannot read this: {message.splitlines()[0]}",
        expected="NAME = value; text in quotes",
        fix="correct the gin file or --gin.NAME=VALUE",
        file=file,
        line=line,
    )


def _explain_value(error: Exception, places: _Places) -> InputError:
    """Say where the value was bound that a configuration rejects; gin appends its own idea of that on further lines."""
    if isinstance(error, InputError):
        bound = next((name for name in places if re.search(rf"(?<![\w.]){re.escape(name)}\b", error.found)), None)
        file, line = places.get(bound or "", (None, None))
        return InputError(
            error.found, file=error.file or file, line=error.line or line, expected=error.expected, fix=error.fix
        )
    missing, owner = _MISSING_PARAMETERS.search(str(error)), _OWNER.search(str(error))
    if not missing or not owner:
        raise error
    name = f"{owner.group(1).split('.')[-1]}.{missing.group(1).split(',')[0].split(' and ')[0].strip(chr(39))}"
    return InputError(f"{name} is not set", fix=f"bind it in the gin file or with --gin.{name}=VALUE")


def _parameters(name: str) -> list[str]:
    if name not in CONFIGURABLES:
        return []
    target = getattr(importlib.import_module(CONFIGURABLES[name]), name)
    return [p for p in inspect.signature(target).parameters if p not in ("self", "args", "kwargs")]


def _value(name: str) -> Any:
    """Return what a parameter is bound to, through macros; None where it is not."""
    owner, _, parameter = name.rpartition(".")
    module = CONFIGURABLES[owner]
    value = gin.config._CONFIG.get(("", f"{module}.{owner}"), {}).get(parameter)
    while isinstance(value, gin.config.ConfigurableReference) and value.configurable.selector == "gin.macro":
        value = gin.config._CONFIG.get(value.config_key, {}).get("value")
    return value


def _macros_used_by(value: Any) -> Iterator[str]:
    for reference in gin.config.iterate_references(value, to=gin.get_configurable(gin.config.macro)):
        yield "/".join(reference.scopes)


def _check_macros(places: _Places) -> None:
    """A macro that nothing refers to is a misspelt override: ``--gin.STEP=10`` where the file says ``%STEPS``."""
    defined = {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro"}
    used = set(_macros_used_by(gin.config._CONFIG))
    for name in sorted(defined - used):
        file, line = places.get(name, (None, None))
        hint = nearest(name, used) or f"the files use {', '.join(sorted(used)) or 'no macros'}"
        raise InputError(f"the gin macro '{name}' is set but nothing uses it", file=file, line=line, fix=hint)
    for name in sorted(used - defined):
        raise InputError(f"the gin macro '%{name}' has no value", fix=nearest(name, defined) or f"write {name} = ...")


def _reject_unused(given: Sequence[str]) -> None:
    """A binding of the command line that training never reads is a mistake too: ``--gin.Adafactor...`` with AdamW."""
    config, reached = gin.config._CONFIG, [_TRAIN]
    for key in reached:
        for reference in gin.config.iterate_references(config.get(key, {})):
            scope, selector = reference.config_key
            reached += [k for k in ((scope, selector), ("", selector)) if k not in reached]
    used = {selector.split(".")[-1] for _, selector in reached}
    for name in given:
        owner = name.rpartition(".")[0].split("/")[-1].split(".")[-1]
        if owner and owner not in used:
            names = ", ".join(sorted(used & set(CONFIGURABLES)))
            raise InputError(f"'{name}' is set but '{owner}' is not used", expected=f"one of {names}", fix="bind these")
