"""What gin lets pass or says badly: repeated and unused names, misspelt ones, and where a value came from."""

import importlib
import inspect
import re
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gin

from genret_jax.errors import InputError, nearest

_UNKNOWN_NAME = re.compile(r"No configurable matching (?:reference )?'@?(?:\w+/)*([^'()]+)(?:\(\))?'")
_UNKNOWN_PARAMETER = re.compile(r"Configurable '([^']+)' doesn't have a parameter named '([^']+)'")
_MISSING_PARAMETERS = re.compile(r"missing \d+ required .*?arguments?: (.+)")
_OWNER = re.compile(r"In call to configurable '([^']+)'")
_BINDING = re.compile(r"^([\w./]+)\s*=\s*(?:%([\w/.]+))?")
_MACRO = re.compile(r"%(\w[\w/.]*)")
_INCLUDE = re.compile(r"""^include\s+(['"])(.+)\1""")
_MACRO_SELECTOR = "gin.macro"
_TRAIN = ("", "genret_jax.train.train")


class Place(NamedTuple):
    """Where a name is bound."""

    file: Path | None  # None on the command line
    line: int | None
    macro: str | None  # that its value is, if it is one


class ConfigText:
    """The text of a configuration, read beside gin for what gin forgets.

    Args:
        shipped: Folder of the shipped gin files, where a file may be too.

    Attributes:
        places: Where each name is bound; the last binding, which is the one that counts.
        given: Names bound on the command line.
        mentioned: Macros that some file refers to.
    """

    def __init__(self, shipped: Path):
        self._shipped = shipped
        self.places: dict[str, Place] = {}
        self.given: list[str] = []
        self.mentioned: set[str] = set()

    def find(self, file: str) -> Path | None:
        """Return the file as gin finds it: here, or among the shipped ones."""
        return next((path for path in (Path(file), self._shipped / file) if path.is_file()), None)

    def bind(self, bindings: Sequence[str]) -> None:
        """Note the bindings of the command line, ``"NAME = value"`` each."""
        for binding in bindings:
            if match := _BINDING.match(binding):
                self.given.append(match.group(1))
                self.places[match.group(1)] = Place(None, None, match.group(2))

    def read(self, file: str, including: tuple[Path, ...] = (), line: int | None = None) -> None:
        """Note the bindings of a file and of those it includes.

        Args:
            file: The file.
            including: The files on the way to it.
            line: Where the last of those includes it.

        Raises:
            InputError: If it is missing or includes itself, or binds a name twice.
        """
        path = self.find(file)
        if path is None:
            raise self._missing(file, including[-1] if including else None, line)
        if path in including:
            raise InputError(f"'{file}' includes itself", file=including[-1], line=line, fix="remove this line")
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise InputError("not UTF-8", file=path, expected="a gin file", fix="convert it") from None
        own: dict[str, Place] = {}
        for number, text in enumerate(lines, 1):
            self.mentioned.update(_MACRO.findall(text.split("#")[0]))
            if match := _INCLUDE.match(text):
                self.read(match.group(2), (*including, path), number)
            if match := _BINDING.match(text):
                name, macro = match.groups()
                if name in own:
                    found = f"'{name}' is bound twice (first on line {own[name].line})"
                    raise InputError(found, file=path, line=number, fix="keep one")
                own[name] = Place(path, number, macro)
        self.places |= own

    def _missing(self, file: str, included_in: Path | None, line: int | None) -> InputError:
        shipped = sorted(str(path.relative_to(self._shipped)) for path in self._shipped.rglob("*.gin"))
        hint = nearest(file, shipped) or f"use a path or one of {', '.join(shipped)}"
        if included_in is None:
            return InputError("no such gin file", file=file, fix=hint)
        return InputError(f"no such gin file '{file}'", file=included_in, line=line, fix=hint)


def explain(error: Exception, files: Sequence[str], known: Mapping[str, str]) -> InputError:
    """Turn an error of gin's parser into one line.

    Args:
        error: The error.
        files: What was parsed.
        known: Names that gin files may use, with their modules.
    """
    message = str(error)
    where = re.search(r'In file "([^"]+)", line (\d+)', message)
    file, line = (where.group(1), int(where.group(2))) if where else (None, None)
    if isinstance(error, SyntaxError) and error.filename and Path(error.filename).is_file():
        file, line, message = error.filename, error.lineno, error.msg
    if isinstance(error, tokenize.TokenError):  # at the end of a file that gin does not name
        file, message = (files[-1] if len(files) == 1 else None), "a bracket or quote is not closed"
    if match := _UNKNOWN_PARAMETER.search(message):
        owner, parameter = match.group(1).split(".")[-1], match.group(2)
        parameters = _parameters(owner, known)
        hint = nearest(parameter, parameters) or f"use one of {', '.join(parameters)}"
        return InputError(f"unknown gin name '{owner}.{parameter}'", fix=hint, file=file, line=line)
    if match := _UNKNOWN_NAME.search(message):
        name = match.group(1)
        hint = nearest(name, known) or f"use one of {', '.join(known)}"
        return InputError(f"unknown gin name '{name}'", fix=hint, file=file, line=line)
    return InputError(
        f"gin cannot read this: {message.splitlines()[0]}",
        expected="NAME = value, with text in quotes",
        fix="correct the gin file or --gin.NAME=VALUE",
        file=file,
        line=line,
    )


def explain_value(error: Exception, text: ConfigText) -> InputError:
    """Say where the value was bound that a configuration rejects; gin's own idea of that takes several lines."""
    if isinstance(error, InputError):
        bound = next((name for name in text.places if error.found.startswith(f"{name} is ")), "")
        place = text.places.get(bound, Place(None, None, None))
        fix = f"set --gin.{place.macro}=VALUE" if place.macro else error.fix
        if place.macro:
            place = text.places.get(place.macro, place)
        return InputError(
            error.found, file=error.file or place.file, line=error.line or place.line, expected=error.expected, fix=fix
        )
    missing, owner = _MISSING_PARAMETERS.search(str(error)), _OWNER.search(str(error))
    if not missing or not owner:
        raise error
    name = f"{owner.group(1).split('.')[-1]}.{re.split(',| and ', missing.group(1))[0].strip(chr(39))}"
    return InputError(f"{name} is not set", fix=f"bind it in the gin file or with --gin.{name}=VALUE")


def check_macros(text: ConfigText) -> None:
    """Reject a macro that nothing refers to: a misspelt override, ``--gin.STEP=10`` where the file says ``%STEPS``.

    In a file it may be a choice of the file it includes, where a later binding took the place of what referred to it.
    """
    defined = {scope for scope, selector in gin.config._CONFIG if selector == _MACRO_SELECTOR}
    used = set(_macros_in(gin.config._CONFIG))
    for name in sorted(defined - used):
        place = text.places.get(name, Place(None, None, None))
        if place.file is None or name not in text.mentioned:
            hint = nearest(name, used) or f"the files use {', '.join(sorted(used)) or 'no macros'}"
            found = f"the gin macro '{name}' is set but nothing uses it"
            raise InputError(found, file=place.file, line=place.line, fix=hint)
    for name in sorted(used - defined):
        raise InputError(f"the gin macro '%{name}' has no value", fix=nearest(name, defined) or f"write {name} = ...")


def check_bindings(text: ConfigText, known: Mapping[str, str]) -> None:
    """Reject a binding of the command line that training never reads: ``--gin.Adafactor.…`` where AdamW is used."""
    config, reached = gin.config._CONFIG, [_TRAIN]
    for key in reached:
        for reference in gin.config.iterate_references(config.get(key, {})):
            scope, selector = reference.config_key
            reached += [each for each in ((scope, selector), ("", selector)) if each not in reached]
    used = {selector.split(".")[-1] for _, selector in reached}
    for name in text.given:
        owner = name.rpartition(".")[0].split("/")[-1].split(".")[-1]
        if owner and owner not in used:
            names = ", ".join(sorted(used & set(known)))
            raise InputError(f"'{name}' is set but '{owner}' is not used", expected=f"one of {names}", fix="bind these")


def _macros_in(value: Any) -> Iterator[str]:
    for reference in gin.config.iterate_references(value, to=gin.get_configurable(gin.config.macro)):
        yield "/".join(reference.scopes)


def _parameters(name: str, known: Mapping[str, str]) -> list[str]:
    if name not in known:
        return []
    target = getattr(importlib.import_module(known[name]), name)
    return [parameter for parameter in inspect.signature(target).parameters if parameter != "self"]
