"""Read an experiment from a recipe, gin files and command-line bindings."""

import re
import tokenize
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from genret_jax.config.experiment import BaseExperiment, Experiment
from genret_jax.config.gin_text import Binding, GinText, gin_configs_folder, parse_line
from genret_jax.errors import InputError, nearest

_NOT_READ = "planned, not read"  # a placeholder for folders that a plan does not open
_BARE_WORD = re.compile(r"[\w./~+:-]+$")


def recipes() -> dict[str, tuple[str, str]]:
    """Return the shipped recipes: short name to gin file and one line about it."""
    found = {}
    for path in sorted(gin_configs_folder().glob("runs/*.gin")):
        header = [line[1:].strip() for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        if any(line.startswith("genret train") for line in header):  # the others are included by these
            name = path.stem.removeprefix("dsi_").removesuffix("_from_scratch").replace("_", "-")
            paragraph = " ".join(header[: header.index("")])
            found[name] = (f"runs/{path.name}", re.split(r"(?<!\bal)\.(?: |$)|[:;] ", paragraph)[0])
    return found


def recipe_file(name: str) -> str:
    """Return the gin file of a recipe; the name itself where it is that of a file.

    Raises:
        InputError: If there is no such recipe.
    """
    known = recipes()
    if name in known:
        return known[name][0]
    if name.endswith(".gin"):
        return name
    raise InputError(f"no recipe '{name}'", expected=f"one of {', '.join(known)}", fix=nearest(name, known) or None)


def recipe_experiment(
    recipe: str, corpus: str, *, steps: int | None = None, seed: int | None = None, overrides: Mapping[str, Any]
) -> BaseExperiment:
    """Return the experiment of a recipe on a corpus.

    Args:
        recipe: Short name or gin file.
        corpus: Folder with the data.
        steps: Training steps; the recipe's when left out.
        seed: Seed of the run; the recipe's when left out.
        overrides: Parameters to change, by their gin names.

    Raises:
        InputError: If there is no such recipe or parameter.
    """
    given = bindings_of({"CORPUS": corpus, "RUN": ".", "STEPS": steps, "SEED": seed})
    return experiment_from_gin([recipe_file(recipe)], [*given, *bindings_of(overrides, keep_none=True)])[1]


def experiment_from_gin(
    files: Sequence[str], bindings: Sequence[str] = (), *, allow_imports: Collection[str] = ()
) -> tuple[str, BaseExperiment]:
    """Return the run folder and the experiment that gin files and bindings describe.

    Args:
        files: Paths, absolute, relative to here, or relative to the shipped ``gin_configs``; later ones win.
        bindings: ``"NAME = value"`` lines that win over the files. A value may be a bare word.
        allow_imports: Modules outside genret_jax that the files may import.

    Raises:
        InputError: For a missing file, a syntax error, an unknown name, a name bound twice in a file, a macro or a
            binding of the command line that nothing uses, or a value that does not fit.
    """
    text = GinText.read(files, bindings, allow_imports)
    for name, option in ((text.corpus_parameter(), "--corpus"), ("train.run", "--run")):
        if text.value(name) is None:
            raise InputError(
                f"{option} is missing", expected=f"a folder (nothing sets {name})", fix=f"add {option} DIR"
            )
    return text.experiment()


def planned_experiment(files: Sequence[str], bindings: Sequence[str] = ()) -> Experiment:
    """Return the experiment of gin files that is only planned: the folders they ask for may be missing.

    Args:
        files: As for :func:`experiment_from_gin`.
        bindings: As for :func:`experiment_from_gin`.

    Raises:
        InputError: As :func:`experiment_from_gin`, except for missing folders; if it is no experiment on documents.
    """
    text = GinText.read(files, bindings)
    folders = [text.corpus_parameter(), "train.run", "PretrainedStart.path"]
    if text.value("VocabularyConfig.kind") == "file":
        folders.append("VocabularyConfig.path")
    for name in folders:
        if text.value(name) is None:
            text.bindings[name] = Binding(_NOT_READ)
    experiment = text.experiment()[1]
    if not isinstance(experiment, Experiment):
        raise InputError(
            f"a plan of a {type(experiment).__name__}",
            expected="an experiment on documents",
            fix="give another gin file",
        )
    return experiment


def command_line_binding(text: str) -> str:
    """Return ``NAME=VALUE`` of the command line as a gin binding, with quotes around a bare word.

    Raises:
        InputError: If there is no value.
    """
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value:
        raise InputError(f"--gin.{text}", expected="--gin.NAME=VALUE", fix="add a value")
    if _BARE_WORD.match(value):
        try:
            parse_line(f"x = {value}")
        except (SyntaxError, tokenize.TokenError):
            value = repr(value)
    return f"{name} = {value}"


def bindings_of(values: Mapping[str, Any], *, keep_none: bool = False) -> list[str]:
    """Return values as gin bindings, ``"NAME = value"`` lines.

    Args:
        values: Values by the names of macros or parameters.
        keep_none: Bind None too; by default it leaves what is configured.
    """
    return [f"{name} = {value!r}" for name, value in values.items() if keep_none or value is not None]


def require_set_once(bindings: Sequence[str]) -> None:
    """Check that no name of the command line is set twice, by ``--steps`` and ``--gin.STEPS`` for example.

    Raises:
        InputError: If one is.
    """
    names = [binding.split("=")[0].strip() for binding in bindings]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"'{name}' is set twice on the command line", fix="keep one")
