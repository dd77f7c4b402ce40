"""The text of gin files, command-line bindings and records: parsed, checked, and built into configurations.

Gin's own parser reads the files; everything after that is done here. Gin's global configuration is not used, so a file
can name only the classes of :data:`~genret_jax.config.record.CONFIGURABLES` and of modules that the user allows. Each
of these is an error with its place and the nearest known name: an unknown name, a name bound twice in a file, and a
macro or a binding of the command line that nothing uses.
"""

import dataclasses
import io
import os
import tokenize
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from genret_jax.config.experiment import BaseExperiment
from genret_jax.config.record import CONFIGURABLES, DERIVED, classes_of, find_class, require_allowed
from genret_jax.errors import InputError, nearest

_ENTRY, _ENTRY_PARAMETERS = "train", ("run", "experiment")


def gin_configs_folder() -> Path:
    """Return the folder of the shipped gin files, in a clone as in an installed wheel."""
    import genret_jax

    for root in genret_jax.__path__:
        if (Path(root) / "gin_configs").is_dir():
            return Path(root) / "gin_configs"
    raise InputError("gin_configs is not part of this installation", fix="install genret_jax again")


@dataclasses.dataclass(frozen=True)
class Reference:
    """``@scope/Class()``, or ``@scope/Class`` where it is not called."""

    name: str
    called: bool


@dataclasses.dataclass(frozen=True)
class Macro:
    """``%NAME``."""

    name: str


@dataclasses.dataclass(frozen=True)
class Binding:
    """A value with the place where it was bound.

    Attributes:
        value: A literal, a reference, a macro, or a tuple or list of these.
        file: The file; None on the command line.
        line: One-based line number in the file.
    """

    value: Any
    file: Path | None = None
    line: int | None = None


class _Delegate:
    """Receives references and macros from gin's parser."""

    def configurable_reference(self, scoped_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_name, evaluate)

    def macro(self, scoped_name: str) -> Macro:
        return Macro(scoped_name)


class GinText:
    """The bindings of gin files and of the command line; later ones win.

    Attributes:
        bindings: Parameter (``Class.field``, ``scope/Class.field``) or macro to its binding.
        given: Names bound on the command line.
        modules: Imported modules outside genret_jax.
        mentioned: Macros that some file refers to.
    """

    def __init__(self, classes: Collection[str] = tuple(CONFIGURABLES)) -> None:
        self._classes = classes
        self.bindings: dict[str, Binding] = {}
        self.given: list[str] = []
        self.modules: list[str] = []
        self.mentioned: set[str] = set()

    @classmethod
    def read(cls, files: Sequence[str], bindings: Sequence[str] = (), allow_imports: Collection[str] = ()) -> "GinText":
        """Read files, then bindings, and check all names.

        Raises:
            InputError: As :func:`experiment_from_gin`, but for values.
        """
        text = cls()
        for file in files:
            text._read_file(file, allow_imports)
        for line in bindings:
            text.bind_line(line)
        text.check_names()
        text._check_macros()
        text._check_given()
        return text

    # --- Reading ---

    def _read_file(
        self, file: str, allow_imports: Collection[str], including: tuple[Path, ...] = (), line: int | None = None
    ) -> None:
        path = next((path for path in (Path(file), gin_configs_folder() / file) if path.is_file()), None)
        if path is None:
            raise _missing(file, including[-1] if including else None, line)
        if path in including:
            raise InputError(f"'{file}' includes itself", file=including[-1], line=line, fix="remove this line")
        own: dict[str, Binding] = {}
        for statement in _statements(path):
            number = statement.location.line_num
            kind = type(statement).__name__
            if kind == "IncludeStatement":
                self._read_file(statement.filename, allow_imports, (*including, path), number)
            elif kind == "ImportStatement":
                self._import(statement, path, allow_imports)
            elif kind == "BindingStatement":
                name = _name(statement)
                if name in own:
                    found = f"'{name}' is bound twice (first on line {own[name].line})"
                    raise InputError(found, file=path, line=number, fix="keep one")
                own[name] = self.bindings[name] = Binding(statement.value, path, number)
                self.mentioned.update(part.name for part in _parts(statement.value) if isinstance(part, Macro))

    def _import(self, statement: Any, path: Path, allow_imports: Collection[str]) -> None:
        line = statement.location.line_num
        if statement.is_from or statement.alias:
            raise InputError(
                f"'{statement.format()}'",
                file=path,
                line=line,
                expected="'import MODULE'; the classes of genret_jax need no import",
                fix="remove this line, or write 'import MODULE'",
            )
        require_allowed([statement.module], allow_imports, file=path)
        self.modules.append(statement.module)

    def bind_line(self, line: str) -> None:
        """Read one binding.

        Raises:
            InputError: If gin cannot read the line.
        """
        try:
            statement = parse_line(line)
        except (SyntaxError, tokenize.TokenError) as error:
            raise _unreadable(error) from None
        name = _name(statement)
        self.given.append(name)
        self.bindings[name] = Binding(statement.value)

    # --- Checks ---

    def _known(self) -> dict[str, Any]:
        """Return the classes that may be named, by name; None for those of genret_jax, which are imported when used."""
        found: dict[str, Any] = dict.fromkeys(self._classes)
        for module in self.modules:
            found |= classes_of(module)
        return found

    def check_names(self) -> None:
        """Refuse classes and fields that do not exist.

        Raises:
            InputError: For the first of them, with the nearest known name.
        """
        known = self._known()
        for name, binding in self.bindings.items():
            owner, parameter = _split(name)
            for reference in (part for part in _parts(binding.value) if isinstance(part, Reference)):
                self._require_known(_class_name(reference.name), known, binding)
            if not parameter:
                continue
            fields: Collection[str] = _ENTRY_PARAMETERS
            if owner != _ENTRY:
                self._require_known(owner, known, binding)
                fields = [field.name for field in dataclasses.fields(find_class(owner, self.modules))]
            if parameter not in fields:
                hint = nearest(parameter, fields) or f"use one of {', '.join(fields)}"
                raise InputError(
                    f"unknown gin name '{owner}.{parameter}'", fix=hint, file=binding.file, line=binding.line
                )

    def _require_known(self, name: str, known: Mapping[str, Any], binding: Binding) -> None:
        if name not in known:
            hint = nearest(name, known) or f"use one of {', '.join(known)}"
            raise InputError(f"unknown gin name '{name}'", fix=hint, file=binding.file, line=binding.line)

    def _check_macros(self) -> None:
        """Refuse a macro that nothing refers to: a misspelt override, ``--gin.STEP=10`` where the file says ``%STEPS``.

        In a file it may be a choice of the file it includes, where a later binding replaced what referred to it.
        """
        defined = {name for name in self.bindings if "." not in name}
        used = {part.name for binding in self.bindings.values() for part in _parts(binding.value) if _is_macro(part)}
        for name in sorted(defined - used):
            binding = self.bindings[name]
            if binding.file is None or name not in self.mentioned:
                hint = nearest(name, used) or f"the files use {', '.join(sorted(used)) or 'no macros'}"
                found = f"the gin macro '{name}' is set but nothing uses it"
                raise InputError(found, file=binding.file, line=binding.line, fix=hint)
        for name in sorted(used - defined):
            fix = nearest(name, defined) or f"write {name} = ..."
            raise InputError(f"the gin macro '%{name}' has no value", fix=fix)

    def _check_given(self) -> None:
        """Refuse a binding of the command line that training never reads: ``--gin.Adafactor.…`` where AdamW is used."""
        reached = [_ENTRY]
        for owner in reached:
            for name, binding in self.bindings.items():
                if _split(name)[0] == owner:
                    for part in _parts(self._resolved(binding.value)):
                        if isinstance(part, Reference) and _class_name(part.name) not in reached:
                            reached.append(_class_name(part.name))
        for name in self.given:
            owner, parameter = _split(name)
            if parameter and owner not in reached:
                names = ", ".join(sorted(set(reached) - {_ENTRY}))
                raise InputError(
                    f"'{name}' is set but '{owner}' is not used", expected=f"one of {names}", fix="bind these"
                )

    # --- Values ---

    def value(self, name: str) -> Any:
        """Return what a parameter is bound to, through macros; None where it is not."""
        binding = self.bindings.get(name)
        return None if binding is None else self._resolved(binding.value)

    def built(self, name: str) -> Any:
        """Return the value of a parameter with every reference replaced by the object it describes.

        Raises:
            InputError: If a value does not fit, with the place where it was bound.
        """
        return self._built(self.value(name))

    def corpus_parameter(self) -> str:
        """Return the parameter that holds the corpus: that of the experiment to be run."""
        experiment = self.value("train.experiment")
        owner = _class_name(experiment.name) if isinstance(experiment, Reference) else "Experiment"
        return f"{owner}.corpus"

    def experiment(self) -> tuple[str, BaseExperiment]:
        """Return the run folder and the experiment.

        Raises:
            InputError: If a value does not fit, with the place where it was bound.
        """
        run, experiment = self.value("train.run"), self.built("train.experiment")
        if not isinstance(experiment, BaseExperiment):
            raise InputError(
                "train.experiment is not set",
                fix="write train.experiment = @Experiment() or @Recommendation() in the gin file",
            )
        if not isinstance(run, str):
            self._reject_value(InputError(f"train.run is {run!r}", expected="str", fix="change train.run"))
        return run, experiment

    def _resolved(self, value: Any) -> Any:
        while isinstance(value, Macro):
            value = self.bindings[value.name].value
        return value

    def _built(self, value: Any) -> Any:
        value = self._resolved(value)
        if isinstance(value, (tuple, list)):
            return type(value)(self._built(part) for part in value)
        if not isinstance(value, Reference):
            return value
        owner = _class_name(value.name)
        cls = find_class(owner, self.modules)
        if not value.called:
            return cls
        fields = {}
        for selector in dict.fromkeys((owner, value.name)):  # what a scope binds wins
            for name, binding in self.bindings.items():
                if name.rpartition(".")[0] == selector:
                    fields[name.rpartition(".")[2]] = self._built(binding.value)
        for field in dataclasses.fields(cls):
            unset = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
            if unset and field.name not in fields:
                name = f"{owner}.{field.name}"
                raise InputError(f"{name} is not set", fix=f"bind it in the gin file or with --gin.{name}=VALUE")
        try:
            return cls(**fields)
        except InputError as error:
            self._reject_value(error)

    def _reject_value(self, error: InputError) -> NoReturn:
        """Raise an error about a value with the place where it was bound."""
        name = next((name for name in self.bindings if error.found.startswith(f"{name} is ")), "")
        binding, fix = self.bindings.get(name, Binding(None)), error.fix
        if isinstance(binding.value, Macro):
            fix = f"set --gin.{binding.value.name}=VALUE"
            binding = self.bindings.get(binding.value.name, binding)
        raise InputError(
            error.found,
            file=error.file or binding.file,
            line=error.line or binding.line,
            expected=error.expected,
            fix=fix,
        ) from None


def read_record(path: str | os.PathLike[str], allow_imports: Collection[str] = ()) -> BaseExperiment:
    """Read the experiment that :func:`genret_jax.config.record.record_text` wrote.

    Args:
        path: The ``config.gin`` of a run folder.
        allow_imports: Modules outside genret_jax that it may import.

    Raises:
        InputError: If the file is missing or damaged, or imports a module that is not allowed.
    """
    if not Path(path).is_file():
        raise InputError("the file is missing", file=path, fix="restore it from a copy")
    try:
        return GinText.read([os.fspath(path)], (), allow_imports).experiment()[1]
    except InputError as error:
        file = error.file or path
        raise InputError(error.found, file=file, line=error.line, expected=error.expected, fix=error.fix) from None


def from_bindings(name: str, bindings: Mapping[str, str]) -> Any:
    """Return the configuration that :func:`genret_jax.config.record.to_bindings` wrote.

    Args:
        name: Parameter whose value is returned.
        bindings: Parameter to value; they name no class from outside genret_jax.

    Raises:
        InputError: If a class or a field is unknown, or a value does not fit.
    """
    text = GinText(CONFIGURABLES | DERIVED)
    for parameter, value in bindings.items():
        text.bind_line(f"{parameter} = {value}")
    text.check_names()
    return text.built(name)


def _statements(path: Path) -> Iterator[Any]:
    from gin import config_parser

    try:
        content = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise InputError("not UTF-8", file=path, expected="a gin file", fix="convert it") from None
    try:
        yield from config_parser.ConfigParser(content, _Delegate())
    except (SyntaxError, tokenize.TokenError) as error:
        raise _unreadable(error, path) from None


def parse_line(line: str) -> Any:
    """Return gin's statement of one binding, ``NAME = value``.

    Raises:
        SyntaxError: If the line is something else.
    """
    from gin import config_parser

    statements = list(config_parser.ConfigParser(io.StringIO(line), _Delegate()))
    if len(statements) != 1 or type(statements[0]).__name__ != "BindingStatement":
        raise SyntaxError("expected one binding")
    return statements[0]


def _unreadable(error: SyntaxError | tokenize.TokenError, path: Path | None = None) -> InputError:
    if isinstance(error, SyntaxError):
        message, line = error.msg, error.lineno if path else None
    else:
        message, line = "a bracket or quote is not closed", None
    return InputError(
        f"gin cannot read this: {str(message).splitlines()[0]}",
        expected="NAME = value, with text in quotes",
        fix="correct the gin file" if path else "correct --gin.NAME=VALUE",
        file=path,
        line=line,
    )


def _missing(file: str, included_in: Path | None, line: int | None) -> InputError:
    shipped = sorted(str(path.relative_to(gin_configs_folder())) for path in gin_configs_folder().rglob("*.gin"))
    hint = nearest(file, shipped) or f"use a path or one of {', '.join(shipped)}"
    if included_in is None:
        return InputError("no such gin file", file=file, fix=hint)
    return InputError(f"no such gin file '{file}'", file=included_in, line=line, fix=hint)


def _name(statement: Any) -> str:
    """Return the name of a binding: ``scope/Class.field``, or a macro's."""
    if not statement.arg_name:
        return str(statement.selector)
    scope = f"{statement.scope}/" if statement.scope else ""
    return f"{scope}{statement.selector.split('.')[-1]}.{statement.arg_name}"


def _split(name: str) -> tuple[str, str]:
    """Return the class and the field of a parameter; no field for a macro."""
    owner, _, parameter = name.rpartition(".")
    return (_class_name(owner), parameter) if owner else (name, "")


def _class_name(scoped: str) -> str:
    return scoped.split("/")[-1].split(".")[-1]


def _is_macro(part: Any) -> bool:
    return isinstance(part, Macro)


def _parts(value: Any) -> Iterator[Any]:
    """Yield a value, or the parts of a tuple, list or dict."""
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
    elif isinstance(value, dict):
        yield from _parts(list(value.values()))
    else:
        yield value
