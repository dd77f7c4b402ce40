"""What every test stands on: eight CPU devices, no silent broadcasting over ranks, and checked array shapes."""

import os
import runpy
import sys
from pathlib import Path

import pytest

# Before jax or TensorFlow is imported anywhere. Subprocesses of tests inherit these.
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
_DEVICES = "--xla_force_host_platform_device_count"
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_DEVICES}=8".strip()

import jax

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
