"""What every test stands on: eight CPU devices, no silent broadcasting over ranks, and checked array shapes."""

import os
import runpy
import shutil
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.version import Version

# Before jax or TensorFlow is imported anywhere. Subprocesses of tests inherit these.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
# Tests compile a lot and compute little. Compiling takes 40% less without optimising, and a third less again without
# the newer emitters of fusions and in one thread a program. From jaxlib 0.12 on the emitters cannot be chosen.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if Version(version("jaxlib")) < Version("0.12"):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
for _flag in _FLAGS:
    if _flag.split("=")[0] not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_flag}".strip()
# What one test has compiled, others read: in this process, in xdist's other workers, and in subprocesses of tests.
_COMPILED = "JAX_COMPILATION_CACHE_DIR"
_own_cache = _COMPILED not in os.environ  # not a worker, and the user has none
if _own_cache:
    os.environ[_COMPILED] = tempfile.mkdtemp(prefix="genret-compiled-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

os.environ["XDG_CACHE_HOME"] = str(Path(os.environ[_COMPILED]) / "empty")  # encoders of one machine decide no test

import jax
import jaxtyping

jax.config.update("jax_numpy_rank_promotion", "raise")

# Shape and type annotations of genret_jax are checked at every call; GENRET_CHECK_TYPES=0 turns it off for profiling.
if os.environ.get("GENRET_CHECK_TYPES", "1") != "0":
    from jaxtyping import install_import_hook

    assert "genret_jax" not in sys.modules, "genret_jax was imported before its annotations could be checked"
    install_import_hook("genret_jax", "beartype.beartype")

import genret_jax


def pytest_report_header(config: pytest.Config) -> str:
    return f"genret_jax {genret_jax.__version__} from {Path(genret_jax.__file__).parent}; jax {jax.__version__}"


def pytest_sessionstart(session: pytest.Session) -> None:
    """The gate tests what was installed; a clone on the path would hide a file missing from the wheel."""
    if os.environ.get("GENRET_TEST_INSTALLED") and "site-packages" not in Path(genret_jax.__file__).parts:
        raise pytest.UsageError(f"genret_jax comes from {genret_jax.__file__}, not from an installed wheel")


# A file of tests is one worker's. These take longest and begin first, so that no worker ends long after the others.
_LONGEST = (
    "test_reproduce.py",
    "test_genret.py",
    "test_claims_end_to_end.py",
    "test_recommend.py",
    "test_extending.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST))


def pytest_unconfigure(config: pytest.Config) -> None:
    if _own_cache:
        shutil.rmtree(os.environ[_COMPILED], ignore_errors=True)


@pytest.fixture(scope="module", autouse=True)
def few_memory_maps() -> Iterator[None]:
    """Every compiled program maps memory, and Linux allows a process 65,530 maps; beyond them the compiler aborts."""
    yield
    maps = Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > 30_000:
        jax.clear_caches()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The top of the clone these tests lie in."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def extras(repository: Path) -> dict[str, dict[str, str]]:
    """What setup.py requires: extra ("" for the core) -> package -> oldest version allowed."""
    given: dict = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("setuptools.setup", lambda **options: given.update(options))
        runpy.run_path(str(repository / "setup.py"))
    requirements = {"": given["install_requires"], **given["extras_require"]}
    return {name: dict(line.split(">=") for line in lines) for name, lines in requirements.items()}


@pytest.fixture(scope="session")
def requirements(extras: dict[str, dict[str, str]]) -> dict[str, str]:
    """Every package that setup.py names, core and extras, with the oldest version allowed."""
    return {name: bound for packages in extras.values() for name, bound in packages.items()}


@pytest.fixture
def annotations_unchecked() -> Iterator[None]:
    """Wrong types get as far as they do for users, whose configurations check themselves."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def tiny_corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The BEIR folder of ``support.tiny_run``; not to be changed."""
    from support.tiny_run import write_tiny_corpus

    return write_tiny_corpus(tmp_path_factory.mktemp("tiny") / "topics")


@pytest.fixture(scope="session")
def tiny_run(tiny_corpus: Path) -> Path:
    """A run folder of that corpus, trained for 30 steps; not to be changed."""
    from support.tiny_run import tiny_experiment

    from genret_jax.run import train_run

    folder = tiny_corpus.parent / "run"
    with pytest.warns(UserWarning, match="neither title nor text"):
        train_run(tiny_experiment(tiny_corpus), folder)
    return folder


@pytest.fixture(scope="session")
def text_head_run(tiny_corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder of the tiny corpus with T5's head, prepared and not trained; not to be changed."""
    from support.tiny_run import text_head_experiment

    from genret_jax.run import prepare_only

    folder = tmp_path_factory.mktemp("text_head") / "run"
    with pytest.warns(UserWarning, match="neither title nor text"):
        prepare_only(text_head_experiment(tiny_corpus), folder)
    return folder
