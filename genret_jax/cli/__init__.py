"""The ``genret`` command: runs a subcommand, and reports users' mistakes in one line instead of a traceback.

Each subcommand is a module of this package with ``HELP`` (one line), ``configure(parser)`` and ``run(args)``, which
returns the exit code. Only the module of the subcommand that is run is imported, and none of them imports jax,
TensorFlow or the like before ``run``, so that ``--help`` answers at once.
"""

import argparse
import contextlib
import errno
import importlib
import os
import re
import shutil
import sys
import textwrap
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, Protocol, cast, runtime_checkable

from genret_jax import __version__
from genret_jax.errors import InputError, LostProcessError, nearest, os_failure
from genret_jax.parallel.cluster import EXIT_LOST_PROCESS

COMMANDS = (  # in the order of a first use
    "corpus", "recipes", "train", "evaluate", "search", "recommend", "docids", "encoder", "examples", "queries",
    "checkpoint", "plan", "claims", "doctor",
)  # fmt: skip
#: Options of other programs, and the option of this one to use instead.
SYNONYMS = {
    "--epochs": "training is counted in steps: --steps N",
    "--num-steps": "use --steps N",
    "--max-steps": "use --steps N",
    "--batch-size": "use --gin.TrainerConfig.batch_size=N",
    "--lr": "set the peak of the recipe's schedule, such as --gin.LinearWarmupLinearDecay.peak=0.001",
    "--learning-rate": "set the peak of the recipe's schedule, such as --gin.LinearWarmupLinearDecay.peak=0.001",
    "--seed": "use --gin.SEED=N, or --seeds N ...",
    "--model": "use --gin-file models/NAME.gin",
    "--config": "use --gin-file FILE or --recipe NAME",
    "--data": "use --corpus DIR",
    "--dataset": "use --corpus DIR",
    "--output": "use --run DIR (train) or --out DIR",
    "--output-dir": "use --run DIR (train) or --out DIR",
    "--top-k": "use -k N",
    "--k": "use -k N",
    "--num-beams": "use --beam N",
    "--beams": "use --beam N",
}
DEFAULT_RECIPE = "semantic"

# Failures that name no file: a full disk behind standard output, and limits of the process.
_OF_THE_MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}

EXIT_INPUT = 2
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell reports it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

_EPILOG = """
examples:
  genret corpus python-docs --out corpus        a first corpus, from this Python's own documentation
  genret docids --help                          what a command does, with an example
  genret doctor                                 versions, devices, and what is missing
"""


@runtime_checkable
class Command(Protocol):
    """A module of this package."""

    HELP: str
    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


class _Parser(argparse.ArgumentParser):
    """An argument parser with laid-out epilogs, no abbreviations, and errors that name the nearest option."""

    def __init__(self, **options: Any):
        options = {"formatter_class": argparse.RawDescriptionHelpFormatter, "allow_abbrev": False, **options}
        if options.get("description"):  # only epilogs are laid out by hand
            width = shutil.get_terminal_size().columns - 2
            options["description"] = textwrap.fill(options["description"], width, break_on_hyphens=False)
        super().__init__(**options)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and report arguments that no option takes by :meth:`error`."""
        parsed, unknown = self.parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return parsed

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, and report a misspelt option with the nearest option of this parser."""
        parsed, unknown = super().parse_known_args(args, namespace)
        misspelt = next((text for text in unknown if text.startswith("--")), None)
        if misspelt:  # here, in the innermost parser, because only it knows its options
            name = misspelt.split("=")[0]
            hint = SYNONYMS.get(name) or nearest(name, self._option_string_actions)
            self.error(f"no option {misspelt}{f'; {hint}' if hint else ''}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        """Raise an error, which the command line prints as one line, instead of printing the usage."""
        raise InputError(message, fix=f"see '{self.prog} --help'")


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``genret`` and return its exit code, see :func:`exit_code_of`.

    Args:
        argv: Arguments after the program's name; those of the process by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow greets on stderr otherwise
    return exit_code_of(lambda: _run(arguments))


def experiment_options(parser: argparse.ArgumentParser, default: str = DEFAULT_RECIPE) -> None:
    """Declare the options that choose an experiment: ``--recipe``, ``--gin-file``, ``--gin`` and ``--allow-import``.

    Args:
        parser: Gets the options.
        default: What is said about the default recipe.
    """
    parser.add_argument("--recipe", metavar="NAME", help=f"shipped recipe, see 'genret recipes' (default: {default})")
    parser.add_argument(
        "--gin-file", action="append", default=[], metavar="FILE", help="gin file; may be repeated, later ones win"
    )
    parser.add_argument(
        "--gin",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set a gin macro or parameter; may be repeated, also as --gin.NAME=VALUE",
    )
    allow_import_option(parser)


def allow_import_option(parser: argparse.ArgumentParser) -> None:
    """Declare ``--allow-import``."""
    parser.add_argument(
        "--allow-import",
        action="append",
        default=[],
        metavar="MODULE",
        help="let the configuration import this module or package, which runs its code; may be repeated",
    )


def gin_files_and_bindings(args: argparse.Namespace) -> tuple[list[str], list[str]]:
    """Return the gin files and bindings of :func:`experiment_options`."""
    from genret_jax.config.gin_files import command_line_binding, recipe_file

    recipe = args.recipe or (None if args.gin_file else DEFAULT_RECIPE)
    files = [*([recipe_file(recipe)] if recipe else []), *args.gin_file]
    return files, [command_line_binding(text) for text in args.gin]


def chosen_experiment(args: argparse.Namespace, macros: Mapping[str, Any]) -> tuple[str, Any]:
    """Return the run folder and the experiment of :func:`experiment_options`.

    Args:
        args: The options.
        macros: Values of other options by the gin macros that they set. None leaves the configured value.
    """
    from genret_jax.config.gin_files import bindings_of, experiment_from_gin, require_set_once

    files, bindings = gin_files_and_bindings(args)
    bindings += bindings_of(macros)
    require_set_once(bindings)
    return experiment_from_gin(files, bindings, allow_imports=args.allow_import)


def search_options(parser: argparse.ArgumentParser) -> None:
    """Declare ``--checkpoint``, ``--model-parallel`` and ``--allow-import``, which say how to open a run."""
    checkpoint_option(parser)
    allow_import_option(parser)
    parser.add_argument(
        "--model-parallel",
        type=int,
        metavar="N",
        help="search on all devices; N devices share a copy of the network, and the copies share the queries "
        "(default: one device)",
    )


def opened_with(args: argparse.Namespace) -> dict[str, Any]:
    """Return the values of :func:`search_options`, by the names of the arguments that take them.

    Raises:
        InputError: If ``--model-parallel`` does not divide the devices.
    """
    mesh = None
    if args.model_parallel is not None:
        from genret_jax.parallel.mesh import make_mesh

        mesh = make_mesh(model_parallel=args.model_parallel)
    return {"checkpoint": args.checkpoint, "mesh": mesh, "allow_imports": args.allow_import}


def checkpoint_option(
    parser: argparse.ArgumentParser,
    which: str = "best, last, start (untrained), a step, or the path of a t5x checkpoint",
) -> None:
    """Declare ``--checkpoint``, whose value is an integer step or a text."""
    parser.add_argument(
        "--checkpoint",
        type=lambda text: int(text) if text.isdecimal() else text,
        default="best",
        metavar="WHICH",
        help=f"{which} (default: best)",
    )


def exit_code_of(work: Callable[[], int]) -> int:
    """Do the work of a command; print a failure that the user can mend as a line on stderr.

    Returns:
        The code that ``work`` returns, 0 for success; 2 for input that cannot be used, 75 when another process of the
        run was lost, 130 when interrupted.
    """
    with _one_line_warnings():
        try:
            code = work()
            sys.stdout.flush()  # while a broken pipe or a full disk can still be reported
            return code
        except InputError as error:
            return _fail(str(error))
        except LostProcessError as error:
            _fail(str(error))
            return EXIT_LOST_PROCESS
        except RuntimeError as error:
            from genret_jax.parallel.mesh import missing_devices  # imports jax, which raised this if it explains it

            if (explained := missing_devices(error)) is None:
                raise
            return _fail(str(explained))
        except KeyboardInterrupt:
            print("genret: interrupted", file=sys.stderr)
            return EXIT_INTERRUPTED
        except BrokenPipeError:
            _flush_or_forget_stdout()
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.filename is None and error.errno not in _OF_THE_MACHINE:
                raise  # a mistake of ours
            _flush_or_forget_stdout()
            return _fail(str(os_failure(error, "standard output")))


def load(name: str) -> Command:
    """Import the module of a subcommand."""
    return cast(Command, importlib.import_module(f"{__name__}.{name}"))


def build_parser(name: str) -> argparse.ArgumentParser:
    """Build the parser of a subcommand."""
    command = load(name)
    parser = _Parser(prog=f"genret {name}", description=command.HELP)
    command.configure(parser)
    return parser


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_overview())
        return 0 if arguments else EXIT_INPUT
    name, *rest = arguments
    if name == "--version":
        print(f"genret {__version__}")
        return 0
    if name not in COMMANDS:
        what = "option" if name.startswith("-") else "command"
        raise InputError(
            f"no {what} {name!r}",
            expected=f"one of {', '.join(COMMANDS)}",
            fix=nearest(name, COMMANDS) or "see 'genret --help'",
        )
    try:
        args = build_parser(name).parse_args([_spelt(text) for text in rest])
    except SystemExit as stop:  # --help
        return int(stop.code or 0)
    try:
        return load(name).run(args)
    except InputError as error:
        raise _about_option(error, args) from error


def _about_option(error: InputError, args: argparse.Namespace) -> InputError:
    """Return an error about the field of a configuration as one about the option that has set the field."""
    match = re.fullmatch(r"\w+\.(\w+) is (.+)", error.found)
    value = getattr(args, match[1], None) if match else None
    if match is None or value is None or match[2] != repr(value):
        return error
    option = "--" + match[1].replace("_", "-")
    return InputError(f"{option} {value}", expected=error.expected, fix=f"change {option}")


def _spelt(text: str) -> str:
    """Return an option as argparse knows it: t5x's ``--gin.NAME=VALUE``, and ``_`` where options have ``-``."""
    if text.startswith("--gin."):
        return f"--gin={text.removeprefix('--gin.')}"  # argparse cannot have an option for every name
    if text.startswith("--"):
        name, equals, value = text.partition("=")
        return f"{name.replace('_', '-')}{equals}{value}"
    return text


def _overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = (f"  {name:<{width}}{load(name).HELP}" for name in COMMANDS)
    return textwrap.dedent("""\
        usage: genret [--help] [--version] COMMAND ...

        Generative retrieval in JAX: train a model to write the docid of the document that answers.

        commands:
        {}
        {}""").format("\n".join(lines), _EPILOG.rstrip())


def _fail(message: str) -> int:
    if os.environ.get("GENRET_TRACEBACK"):
        traceback.print_exc()
    print(f"genret: error: {message}", file=sys.stderr)
    return EXIT_INPUT


def _flush_or_forget_stdout() -> None:
    """Flush stdout, or send its rest to /dev/null, so that the interpreter does not fail again on its last flush."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _one_line_warnings() -> Iterator[None]:
    def show(message: Warning | str, *_: Any) -> None:
        print(f"genret: warning: {' '.join(str(message).split())}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.filterwarnings("always", category=UserWarning, module="genret_jax")
        warnings.showwarning = cast(Any, show)
        yield
