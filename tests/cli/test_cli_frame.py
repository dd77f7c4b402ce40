"""The genret command as a process sees it, and its errors, interrupts and warnings."""

import argparse
import errno
import importlib.metadata
import json
import os
import subprocess
import sys
import types
import warnings
from pathlib import Path

import pytest

import genret_jax
from genret_jax import cli
from genret_jax.cli import doctor
from genret_jax.errors import InputError

GENRET = [sys.executable, "-m", "genret_jax"]


@pytest.fixture
def command(monkeypatch):
    """Put ``genret doctor`` aside for a command that does what a test gives it to do."""

    def install(do):
        def configure(parser):
            parser.add_argument("--steps", type=int)
            nested = parser.add_subparsers(dest="what").add_parser("show")
            nested.add_argument("--limit", type=int)

        fake = types.SimpleNamespace(HELP="does as told", configure=configure, run=do)
        monkeypatch.setattr(cli, "load", lambda name: fake)

    return install


def subparsers(parser):
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for nested in action.choices.values():
                yield from subparsers(nested)


def test_commands_are_the_files_of_the_package():
    files = {file.stem for file in Path(cli.__file__).parent.glob("[a-z]*.py")}
    assert set(cli.COMMANDS) == files


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_shows_an_example(name):
    for parser in subparsers(cli.build_parser(name)):
        assert parser.description or parser.prog.count(" ") > 1, parser.prog
        assert "genret " in (parser.epilog or ""), f"the help of {parser.prog!r} has no example"
        assert parser.prog in parser.format_help()


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_one_line_and_fits(name):
    assert "\n" not in cli.load(name).HELP
    assert len(cli.load(name).HELP) < 100


def test_help_answers_at_once_and_without_heavy_imports():
    code = (
        "import sys; from genret_jax.cli import *; from genret_jax.cli import main, build_parser, COMMANDS\n"
        "main(['--help']); [build_parser(name) for name in COMMANDS]\n"
        "heavy = {'jax', 'numpy', 'tensorflow', 'seqio', 'flax', 'sklearn', 'scipy', 'gin', 'matplotlib'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    for name in cli.COMMANDS:
        assert f"\n  {name} " in result.stdout


def test_long_descriptions_are_wrapped(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    assert cli.main(["docids", "build", "--help"]) == 0
    above_options = capsys.readouterr().out.split("\noptions:")[0]
    assert max(map(len, above_options.splitlines())) <= 80


def test_help_takes_half_a_second():
    def seconds():  # of this process, whatever else the machine is doing
        before = os.times()
        subprocess.run([*GENRET, "--help"], check=True, stdout=subprocess.DEVNULL)
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    assert min(seconds() for _ in range(3)) < 0.5


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"genret {genret_jax.__version__}\n"


def test_without_a_command_shows_the_commands(capsys):
    assert cli.main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["serach"], "no command 'serach'; expected one of corpus, recipes, train, evaluate, search, recommend, "
         "docids, encoder, examples, queries, checkpoint, plan, claims, doctor; next: did you mean 'search'?"),
        (["zzz"], "next: see 'genret --help'"),
        (["--verbose"], "no option '--verbose'"),
        (["doctor", "--step=3"], "no option --step=3; did you mean '--steps'?; next: see 'genret doctor --help'"),
        (["doctor", "--steps", "x"], "argument --steps: invalid int value: 'x'; next: see 'genret doctor --help'"),
        (["doctor", "show", "--limt=3"], "did you mean '--limit'?; next: see 'genret doctor show --help'"),
        (["doctor", "show", "extra"], "unrecognized arguments: extra"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_one_line(argv, message, command, capsys):
    command(lambda args: pytest.fail("ran"))
    assert cli.main(argv) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("genret: error: ")
    assert printed.err.count("\n") == 1
    assert message in printed.err


def test_runs_with_the_arguments_and_returns_the_code(command):
    command(lambda args: args.steps)
    assert cli.main(["doctor", "--steps", "3"]) == 3


def test_help_of_a_command_exits_with_zero(command, capsys):
    command(lambda args: pytest.fail("ran"))
    assert cli.main(["doctor", "--help"]) == 0
    assert "does as told" in capsys.readouterr().out


def raises(error):
    def run(args):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (InputError("broken JSON", file="a.jsonl", line=3, fix="mend it"), "a.jsonl:3: broken JSON; next: mend it"),
        (OSError(errno.ENOSPC, "No space left"), "standard output: no space left on the disk; next: free some space"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "/a/b: Permission denied; next: change the permissions",
        ),
        (
            FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
            "x: No such file or directory; next: check",
        ),
    ],
)
def test_what_the_user_can_mend_is_one_line(error, message, command, capsys):
    command(raises(error))
    assert cli.main(["doctor"]) == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"genret: error: {message}")
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "error", [ValueError("a mistake of ours"), OSError(errno.EIO, "Input/output error"), TypeError()]
)
def test_a_mistake_of_ours_keeps_its_traceback(error, command):
    command(raises(error))
    with pytest.raises(type(error)):
        cli.main(["doctor"])


def test_a_traceback_on_request(command, capsys, monkeypatch):
    monkeypatch.setenv("GENRET_TRACEBACK", "1")
    command(raises(InputError("broken")))
    assert cli.main(["doctor"]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_130(command, capsys):
    command(raises(KeyboardInterrupt()))
    assert cli.main(["doctor"]) == 130
    assert capsys.readouterr().err == "genret: interrupted\n"


def test_a_warning_is_one_line_each_time(command, capsys):
    def run(args):
        for name in ("a", "a", "b"):
            warnings.warn_explicit(
                f"document {name}\n has no text", UserWarning, "corpus.py", 1, "genret_jax.data.corpus", {}
            )
        return 0

    command(run)
    assert cli.main(["doctor"]) == 0
    assert capsys.readouterr().err == (
        "genret: warning: document a has no text\n" * 2 + "genret: warning: document b has no text\n"
    )


def test_a_reader_that_leaves_early_is_no_error():
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run([*GENRET, "--help"], stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert result.returncode == cli.EXIT_BROKEN_PIPE
    assert result.stderr == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full is Linux's")
def test_a_full_disk_under_the_output_is_one_line():
    with open("/dev/full", "w") as full:
        result = subprocess.run([*GENRET, "--help"], stdout=full, stderr=subprocess.PIPE, text=True)
    assert result.returncode == 2
    assert result.stderr.startswith("genret: error: standard output: no space left on the disk; next: ")
    assert result.stderr.count("\n") == 1


def test_doctor_finds_this_installation_whole(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["problems"] == []
    assert found["packages"]["jax"] == importlib.metadata.version("jax")
    assert [device["platform"] for device in found["devices"]] == ["cpu"] * 8
    assert Path(found["files"]["gin_configs"]).is_dir()
    assert (Path(found["files"]["tasks"]) / "__init__.py").is_file()
    assert found["memory"]["total"] > found["memory"]["available"] > 0


def test_doctor_names_what_is_missing_and_how_to_get_it(monkeypatch, capsys):
    def version(package, real=importlib.metadata.version):
        if package in ("optax", "faiss-cpu"):
            raise importlib.metadata.PackageNotFoundError(package)
        return "0.9.2" if package == "jax" else real(package)

    monkeypatch.setattr(importlib.metadata, "version", version)
    assert cli.main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "optax MISSING" in printed
    assert "problem: optax is missing; next: pip install optax" in printed
    assert "problem: jax 0.9.2 is too old; next: pip install 'jax>=0.10'" in printed
    assert "missing faiss-cpu: " in printed


def test_doctor_reports_a_broken_device(monkeypatch):
    monkeypatch.setattr("jax.devices", lambda: raises(RuntimeError("driver\n too old"))(None))
    found = doctor.examine()
    assert found["devices"] == []
    assert "jax finds no device (driver too old); next: try JAX_PLATFORMS=cpu" in found["problems"]
    assert "  none\n" in doctor.describe(found)


def test_doctor_hints_at_an_accelerator_that_is_not_used(monkeypatch):
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert "jax[cuda13]" in doctor.examine()["hints"][0]


def test_a_platform_that_is_not_there_is_one_line(command, capsys):
    command(raises(RuntimeError("Unable to initialize backend 'tpu': no libtpu.so")))
    assert cli.main(["doctor"]) == 2
    printed = capsys.readouterr().err
    assert "JAX_PLATFORMS" in printed
    assert printed.count("\n") == 1
