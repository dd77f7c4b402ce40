"""What a wheel holds, and that a clone, an editable install and a wheel offer the same names."""

import importlib.metadata
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from genret_jax.cli import doctor

SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "genret_jax", "tasks", "gin_configs")

PROBE = """
import importlib, json, pathlib, pkgutil, sys
import genret_jax, genret_jax.tasks
from genret_jax.config.gin_text import gin_configs_folder
folder = gin_configs_folder()
print(json.dumps({
    "package": genret_jax.__file__,
    "version": genret_jax.__version__,
    "tasks_name": genret_jax.tasks.__name__,
    "tasks": sorted(found.name for found in pkgutil.iter_modules(genret_jax.tasks.__path__)),
    "gin": {str(file.relative_to(folder)): file.read_text() for file in sorted(folder.rglob("*.gin"))},
    "top_level_tasks": importlib.util.find_spec("tasks") is not None,
}))
"""


@pytest.fixture(scope="session")
def copy(repository, tmp_path_factory) -> Path:
    """A copy of the sources to build from, so that building leaves nothing in the clone."""
    folder = tmp_path_factory.mktemp("copy")
    subprocess.run(["cp", "-R", *(str(repository / name) for name in SOURCES), str(folder)], check=True)
    return folder


@pytest.fixture(scope="session")
def wheel(copy, tmp_path_factory) -> Path:
    """The wheel that the gate built, or one built here."""
    if "GENRET_TEST_WHEEL" in os.environ:
        return Path(os.environ["GENRET_TEST_WHEEL"])
    return build(copy, tmp_path_factory.mktemp("wheel"), "build_wheel")


def build(source: Path, target: Path, hook: str) -> Path:
    code = f"from setuptools import build_meta; build_meta.{hook}({str(target)!r})"
    result = subprocess.run([sys.executable, "-c", code], cwd=source, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return next(target.glob("*.whl"))


@pytest.fixture(scope="session")
def dependencies(tmp_path_factory) -> Path:
    """Everything that is installed here but genret_jax itself, as links."""
    folder = tmp_path_factory.mktemp("dependencies")
    installed = Path(pytest.__file__).parent.parent
    for entry in installed.iterdir():
        if "genret" not in entry.name and entry.suffix != ".pth":
            (folder / entry.name).symlink_to(entry)
    return folder


def probe(place: Path, dependencies: Path, folder: Path) -> dict:
    """Import from ``place`` as from a site-packages folder, in a Python that sees nothing else but the dependencies."""
    code = f"import site, sys; site.addsitedir({str(place)!r}); sys.path.append({str(dependencies)!r})\n{PROBE}"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [sys.executable, "-P", "-S", "-c", code],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def sources_of(repository: Path) -> dict[str, Path]:
    """Name in the wheel -> file in the clone."""
    found = {}
    for folder, pattern, prefix in (
        ("genret_jax", "*.py", "genret_jax"),
        ("tasks", "*.py", "genret_jax/tasks"),
        ("gin_configs", "*.gin", "genret_jax/gin_configs"),
    ):
        for file in (repository / folder).rglob(pattern):
            found[f"{prefix}/{file.relative_to(repository / folder).as_posix()}"] = file
    return found


def test_a_wheel_holds_every_source_and_nothing_at_the_top_but_the_package(wheel, repository):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        for name, file in sources_of(repository).items():
            assert archive.read(name) == file.read_bytes(), name
    info = next(name.split("/")[0] for name in names if ".dist-info/" in name)
    assert {name.split("/")[0] for name in names} == {"genret_jax", info}
    expected = {*sources_of(repository), "genret_jax/py.typed"}
    assert {name for name in names if name.startswith("genret_jax/")} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_a_wheel_offers_the_command(wheel):
    with zipfile.ZipFile(wheel) as archive:
        entry_points = next(name for name in archive.namelist() if name.endswith("entry_points.txt"))
        assert "genret = genret_jax.cli:main" in archive.read(entry_points).decode()


def test_clone_editable_install_and_wheel_offer_the_same(repository, copy, wheel, dependencies, tmp_path_factory):
    unpacked, editable = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("editable")
    zipfile.ZipFile(wheel).extractall(unpacked)
    zipfile.ZipFile(build(copy, tmp_path_factory.mktemp("editable_wheel"), "build_editable")).extractall(editable)
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    found = {
        "clone": probe(repository, dependencies, elsewhere),
        "editable": probe(editable, dependencies, elsewhere),
        "wheel": probe(unpacked, dependencies, elsewhere),
    }
    roots = {"clone": repository, "editable": copy, "wheel": unpacked}
    for way, result in found.items():
        assert Path(result["package"]) == roots[way].resolve() / "genret_jax" / "__init__.py"
        assert result["tasks_name"] == "genret_jax.tasks"
        for same in ("version", "tasks", "gin"):
            assert result[same] == found["clone"][same], way
    assert found["wheel"]["tasks"]
    assert found["wheel"]["gin"]
    # With one import name everywhere, seqio cannot register a task twice.
    assert not found["wheel"]["top_level_tasks"]
    assert not found["editable"]["top_level_tasks"]


def pins(file: Path) -> dict[str, str]:
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return {
        canonical(name): version for name, version in (line.split("==") for line in lines if line and line[0] != "#")
    }


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_constraints_file_pins_every_requirement(repository, requirements):
    for which in ("", "-oldest", "-newest"):
        pinned = pins(repository / f"constraints{which}.txt")
        for name, bound in requirements.items():
            if name == "sentence-transformers":  # it brings torch; left to the user
                continue
            assert canonical(name) in pinned, f"{name} is not in constraints{which}.txt"
            if which == "-oldest":
                assert pinned[canonical(name)] == bound, f"the oldest {name} that is tested is not the oldest allowed"


def test_doctor_knows_the_requirements_and_extras(extras, wheel):
    assert set(doctor.CORE) == {*extras[""], "jaxlib"}
    assert {name: set(packages) for name, (packages, _) in doctor.EXTRAS.items()} == {
        name: set(packages) for name, packages in extras.items() if name not in ("", "test", "all")
    }
    assert set(extras["all"]) == {package for name, packages in extras.items() if name for package in packages}
    assert ".".join(map(str, doctor.OLDEST_JAX)) in extras[""]["jax"]


def test_the_version_is_that_of_the_installed_package(wheel):
    assert f"-{importlib.import_module('genret_jax').__version__}-" in wheel.name


def test_python_versions_are_the_ones_promised(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = importlib.metadata.PathDistribution(zipfile.Path(wheel, name.rsplit("/", 1)[0] + "/")).metadata
    assert set(metadata["Requires-Python"].split(",")) == {">=3.11", "<3.14"}
    assert metadata["License-Expression"] == "Apache-2.0"
