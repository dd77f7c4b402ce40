"""The gin edge: every class and function that a gin file may name, and a stricter parser in front of gin.

Gin by itself reports an unknown name from deep inside, ignores macros that nothing uses and lets the last of two equal
bindings win. Here each of these is an error with the nearest known name.
"""

import importlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

import gin

from genret_jax.errors import InputError, nearest

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

_UNKNOWN_NAME = re.compile(r"No configurable matching '([^']+)'")
_UNKNOWN_PARAMETER = re.compile(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'")
_BINDING = re.compile(r"^([\w./]+)\s*=")
_MACRO_NAME = re.compile(r"^[A-Z][A-Z0-9_]*$")


def gin_configs_folder() -> Path:
    """Return the folder of the shipped gin files, in a clone as in an installed wheel."""
    import genret_jax

    for root in genret_jax.__path__:
        if (Path(root) / "gin_configs").is_dir():
            return Path(root) / "gin_configs"
    raise InputError("gin_configs is not part of this installation", fix="install genret_jax again")


def _register() -> None:
    for name, module in CONFIGURABLES.items():
        if name not in gin.config._REGISTRY:  # gin has no public question for this
            gin.external_configurable(getattr(importlib.import_module(module), name), name=name)


def parse(files: Sequence[str], bindings: Sequence[str] = ()) -> None:
    """Parse gin files and bindings into gin's global configuration, replacing what was there.

    Args:
        files: Paths, absolute, relative to here, or relative to the shipped ``gin_configs``; later ones win.
        bindings: ``"NAME = value"`` lines that win over the files.

    Raises:
        InputError: For a missing file, a syntax error, an unknown name (the nearest one is suggested), a name bound twice in
            one file, or a macro that nothing uses.
    """
    _register()
    gin.clear_config()
    gin.add_config_file_search_path(str(gin_configs_folder()))
    for file in files:
        _reject_repeated_bindings(file)
    logging.disable(logging.ERROR)  # gin logs an error for every place where an included file is not
    try:
        gin.parse_config_files_and_bindings(
            list(files), list(bindings), finalize_config=False, print_includes_and_imports=False
        )
    except OSError as error:
        raise InputError(
            f"cannot open a gin file ({error})", fix="check --gin_file; shipped files are in gin_configs"
        ) from None
    except (ValueError, SyntaxError, NameError, AttributeError, TypeError) as error:
        raise _explain(error) from None
    finally:
        logging.disable(logging.NOTSET)
    _reject_unused_macros()


def macro(name: str) -> object:
    """Return the value of a macro, None where it is not set."""
    return gin.config._CONFIG.get((name, "gin.macro"), {}).get("value")


def operative_config() -> str:
    """Return the bindings that were really used, as gin text, for the run folder."""
    return gin.operative_config_str()


def _find(file: str) -> Path | None:
    return next((p for p in (Path(file), gin_configs_folder() / file) if p.is_file()), None)


def _reject_repeated_bindings(file: str) -> None:
    path = _find(file)
    if path is None:
        shipped = sorted(str(p.relative_to(gin_configs_folder())) for p in gin_configs_folder().rglob("*.gin"))
        hint = nearest(file, shipped)
        raise InputError("no such gin file", file=file, fix=hint or f"use a path or one of {', '.join(shipped)}")
    seen: dict[str, int] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if match := _BINDING.match(line):
            name = match.group(1)
            if name in seen:
                raise InputError(
                    f"'{name}' is bound twice (first on line {seen[name]})", file=path, line=number, fix="keep one"
                )
            seen[name] = number


def _explain(error: Exception) -> InputError:
    message = str(error)
    where = re.search(r'In file "([^"]+)", line (\d+)', message)
    file, line = (where.group(1), int(where.group(2))) if where else (None, None)
    if match := _UNKNOWN_PARAMETER.search(message):
        owner, parameter = match.groups()
        known = _parameters(owner.split(".")[-1])
        hint = nearest(parameter, known) or f"use one of {', '.join(known)}"
        return InputError(f"unknown gin name '{owner}.{parameter}'", fix=hint, file=file, line=line)
    if match := _UNKNOWN_NAME.search(message):
        name = match.group(1)
        return InputError(
            f"unknown gin name '{name}'",
            fix=nearest(name, CONFIGURABLES) or f"use one of {', '.join(CONFIGURABLES)}",
            file=file,
            line=line,
        )
    return InputError(
        f"gin cannot read this: {message.splitlines()[0]}",
        fix="correct the gin file or --gin.NAME=VALUE",
        file=file,
        line=line,
    )


def _parameters(name: str) -> list[str]:
    import inspect

    if name not in CONFIGURABLES:
        return []
    target = getattr(importlib.import_module(CONFIGURABLES[name]), name)
    return [p for p in inspect.signature(target).parameters if p not in ("self", "args", "kwargs")]


def _reject_unused_macros() -> None:
    """A macro that nothing refers to is a misspelt override: ``--gin.STEP=10`` where the file says ``%STEPS``."""
    defined = {scope for scope, selector in gin.config._CONFIG if selector == "gin.macro" and _MACRO_NAME.match(scope)}
    text = gin.config_str(max_line_length=10**6)
    used = set(re.findall(r"%([\w/.]+)", text))
    if unused := sorted(defined - used):
        hint = nearest(unused[0], used) or f"the files use {', '.join(sorted(used)) or 'no macros'}"
        raise InputError(f"the gin macro '{unused[0]}' is set but nothing uses it", fix=hint)
