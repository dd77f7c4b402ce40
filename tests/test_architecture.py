"""The order in which the parts stand on one another, and what may be imported where."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "genret_jax"

BASE = {"errors", "orbax_reading", "storage", "validation"}
CORE = BASE | {"docids", "losses", "models", "decoding"}
ENGINE = CORE | {"data", "parallel", "inference", "training", "evaluation", "baselines"}
PROBLEMS = ENGINE | {"config", "docid_learning", "problems"}

# What a part may import beside itself. A part is a folder or a module directly in genret_jax; training/t5x is its own.
MAY_IMPORT = {
    "errors": set(),
    "validation": {"errors"},
    "storage": {"errors"},
    "orbax_reading": {"errors"},
    "docids": BASE | {"losses"},
    "losses": BASE,
    "parallel": BASE,
    "models": BASE,
    "decoding": BASE,
    "data": BASE | {"docids"},
    "inference": CORE | {"parallel"},
    "training": CORE | {"data", "parallel"},
    "training/t5x": CORE | {"data", "parallel", "inference", "training", "evaluation"},
    "evaluation": CORE | {"data"},
    "baselines": CORE | {"data", "training", "evaluation"},
    "config": CORE | {"data", "training"},
    "docid_learning": CORE | {"data", "training", "config"},
    "problems": ENGINE | {"config", "docid_learning", "training/t5x"},
    "run": PROBLEMS,
    "retriever": PROBLEMS | {"run"},
    "planning": PROBLEMS,
    "claims": PROBLEMS | {"run", "retriever"},
    "cli": PROBLEMS | {"run", "retriever", "planning", "claims", "training/t5x"},
    "tasks": BASE | {"docids", "data"},
    "train": {"cli"},
    "__init__": {"config", "run", "retriever"},
    "__main__": {"cli"},
}

# Who may import a library at all; a folder stands for its files. What is not named here is free.
TENSORFLOW = {"data/seqio/*.py", "data/sources/natural_questions.py", "tasks/*.py"}
ONLY_IN = {
    "gin": {"config/gin_*.py"},
    "seqio": TENSORFLOW,
    "tensorflow": TENSORFLOW,
    "tensorflow_datasets": TENSORFLOW,
    "tensorflow_text": set(),
    "torch": set(),
    "transformers": set(),
}
T5X_ENGINE = "training/t5x/engine.py"
OPTIONAL = {"seqio", "tensorflow", "tensorflow_datasets", "t5x", "bm25s", "Stemmer", "faiss", "matplotlib"} | {
    "sentence_transformers"
}
# Slow to import, or needed by few: in functions too.
LAZY = OPTIONAL | {"sklearn", "tensorboardX"}


def sources() -> list[Path]:
    return sorted([*PACKAGE.rglob("*.py"), *(ROOT / "tasks").rglob("*.py")])


def place(file: Path) -> str:
    """Name a source file as the tables above do: "data/corpus.py", "tasks/dsi.py"."""
    return file.relative_to(PACKAGE if PACKAGE in file.parents else ROOT).as_posix()


def module(file: Path) -> str:
    """Name a source file as it is imported."""
    name = place(file).removesuffix(".py").replace("/", ".").removesuffix("__init__").rstrip(".")
    return name if name.startswith("tasks") else f"genret_jax.{name}".rstrip(".")


def part(file: Path) -> str:
    return part_of(place(file).removesuffix(".py"))


def part_of(path: str) -> str:
    """Name the part that a module is in: "training/t5x/engine" is in "training/t5x"."""
    return "training/t5x" if path.startswith("training/t5x") else path.split("/")[0]


def imports(tree: ast.AST, *, only_at_import: bool = False) -> Iterator[tuple[str, int]]:
    """Yield (dotted name, line) of everything imported, in functions too unless told otherwise.

    An ``if TYPE_CHECKING`` block is not run, so it is left out of what happens at import.
    """
    for node in ast.iter_child_nodes(tree):
        if only_at_import and isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            continue
        if only_at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: relative import"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
        else:
            yield from imports(node, only_at_import=only_at_import)


def matches(file: Path, patterns: set[str]) -> bool:
    return any(Path(place(file)).match(pattern) for pattern in patterns)


@pytest.fixture(scope="module")
def trees() -> dict[Path, ast.Module]:
    return {file: ast.parse(file.read_text(encoding="utf-8")) for file in sources()}


def test_the_walk_sees_imports_wherever_they_are():
    tree = ast.parse(
        "import a.b\n"
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import t\n"
        "def f():\n    from c import d\n"
        "class K:\n    def g(self):\n        import e\n    import h\n"
    )
    assert [name for name, _ in imports(tree)] == ["a.b", "typing.TYPE_CHECKING", "t", "c.d", "e", "h"]
    assert [name for name, _ in imports(tree, only_at_import=True)] == ["a.b", "typing.TYPE_CHECKING", "h"]


def test_every_part_has_its_place_in_the_order():
    assert {part(file) for file in sources()} <= set(MAY_IMPORT)


def test_parts_import_only_what_they_stand_on(trees):
    wrong = []
    for file, tree in trees.items():
        allowed = MAY_IMPORT[part(file)] | {part(file), "__version__"}
        for name, line in imports(tree):
            first, *rest = name.split(".")
            if first == "genret_jax" and rest and part_of("/".join(rest)) not in allowed:
                wrong.append(f"{place(file)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_order_has_no_circle():
    order, left = [], {name: needs - {name} for name, needs in MAY_IMPORT.items()}
    while left:
        free = [name for name, needs in left.items() if not needs - set(order)]
        assert free, f"a circle among {sorted(left)}"
        order += free
        left = {name: needs for name, needs in left.items() if name not in free}


def test_modules_have_no_circles(trees):
    """Not even within a part, and not through functions either."""
    modules = {module(file): file for file in trees if module(file) not in ("genret_jax", "genret_jax.__main__")}
    needs = {name: set() for name in modules}
    for name, file in modules.items():
        for imported, _ in imports(trees[file]):
            parents = [imported, imported.rpartition(".")[0]]
            needs[name] |= {parent for parent in parents[:1] if parent in modules} or {
                parent for parent in parents[1:] if parent in modules
            }
        needs[name].discard(name)
    while needs:
        free = {name for name, wanted in needs.items() if not wanted & needs.keys()}
        assert free, f"a circle among {sorted(needs)}"
        needs = {name: wanted for name, wanted in needs.items() if name not in free}


def test_only_problems_ask_for_the_kind_of_a_problem(trees):
    wrong = []
    for file, tree in trees.items():
        if part(file) == "problems":
            continue
        for name, line in imports(tree):
            if name.startswith(("genret_jax.problems.documents", "genret_jax.problems.items")):
                wrong.append(f"{place(file)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_no_private_parts_of_other_packages(trees):
    # jax has no public name for the store of keys and values that its processes share.
    excused = {"parallel/coordination.py"}
    private = re.compile(r"\b(?:gin|jax|flax|orbax|optax|ocp|np|numpy|seqio)(?:\.\w+)*\._[a-z]\w*")
    wrong = []
    for file in trees:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if private.search(line.split("#")[0]) and place(file) not in excused:
                wrong.append(f"{place(file)}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_libraries_that_stay_at_the_edge(library, trees):
    wrong = [
        f"{place(file)}:{line}"
        for file, tree in trees.items()
        for name, line in imports(tree)
        if name.split(".")[0] == library and not matches(file, ONLY_IN[library])
    ]
    assert not wrong, f"{library} is imported in {wrong}; allowed are {sorted(ONLY_IN[library])}"


def test_t5x_is_imported_in_one_file_which_nothing_imports(trees):
    importers: dict[str, set[str]] = {"t5x": set(), "engine": set()}
    for file, tree in trees.items():
        for name, _ in imports(tree):
            if name.split(".")[0] == "t5x":
                importers["t5x"].add(place(file))
            if name.startswith("genret_jax.training.t5x.engine"):
                importers["engine"].add(place(file))
    assert importers == {"t5x": {T5X_ENGINE}, "engine": set()}


def test_optional_and_slow_libraries_are_imported_in_functions(trees):
    wrong = [
        f"{place(file)}:{line} imports {name}"
        for file, tree in trees.items()
        for name, line in imports(tree, only_at_import=True)
        if name.split(".")[0] in LAZY and not matches(file, {"data/seqio/*.py", "tasks/[a-z]*.py", T5X_ENGINE})
    ]
    assert not wrong, "\n".join(wrong)


def test_nothing_else_is_imported_that_setup_py_does_not_require(trees, requirements):
    modules = {
        "gin-config": "gin",
        "orbax-checkpoint": "orbax",
        "scikit-learn": "sklearn",
        "PyStemmer": "Stemmer",
        "faiss-cpu": "faiss",
        "tensorflow-datasets": "tensorflow_datasets",
        "sentence-transformers": "sentence_transformers",
    }
    known = {modules.get(name, name) for name in requirements} | set(sys.stdlib_module_names) | {"genret_jax", "t5x"}
    wrong = [
        f"{place(file)}:{line} imports {name}"
        for file, tree in trees.items()
        for name, line in imports(tree)
        if name.split(".")[0] not in known
    ]
    assert not wrong, "\n".join(wrong)


def test_no_file_has_a_name_that_says_nothing():
    assert not {file.name for file in sources()} & {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}


def test_no_path_of_one_machine():
    files = [*sources(), *(ROOT / "gin_configs").rglob("*.gin"), *(ROOT / "tests").rglob("*.py")]
    files += [file for folder in ("scripts", ".ci") for file in (ROOT / folder).glob("*") if file.is_file()]
    home = re.compile(r"/(?:home|Users|root|mnt)/\w|[A-Z]:\\\\\w")
    wrong = []
    for file in files:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if file != Path(__file__).resolve() and (home.search(line) or f"{ROOT}/" in line):
                wrong.append(f"{file.relative_to(ROOT)}:{number}")
    assert not wrong, wrong


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)


def test_importing_the_package_is_light():
    result = run("import sys, genret_jax; print(*{'jax', 'numpy', 'flax', 'gin'} & set(sys.modules))")
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_the_whole_package_imports_without_what_is_optional():
    """Everything but the seqio side, with every optional library made impossible to import."""
    modules = [place(file).removesuffix(".py").replace("/", ".") for file in PACKAGE.rglob("*.py")]
    modules = [f"genret_jax.{name}".removesuffix(".__init__") for name in modules if not name.startswith("data.seqio.")]
    modules.remove("genret_jax.__main__")
    modules.remove("genret_jax." + T5X_ENGINE.removesuffix(".py").replace("/", "."))
    code = (
        f"import sys, importlib\n"
        f"for name in {sorted(OPTIONAL | {'torch', 'transformers', 'tensorflow_text'})}: sys.modules[name] = None\n"
        f"for name in {sorted(modules)}: importlib.import_module(name)\n"
        f"print(len(sys.modules))"
    )
    result = run(code)
    assert result.returncode == 0, result.stderr


def test_without_tensorflow_seqio_and_t5x_a_run_is_trained_evaluated_and_searched(tmp_path):
    code = f"""
import sys
for name in ("tensorflow", "tensorflow_datasets", "tensorflow_text", "seqio", "t5x"):
    sys.modules[name] = None
from genret_jax.cli import main
from support.tiny_run import tiny_experiment, write_tiny_corpus
from genret_jax.run import train_run
folder = {str(tmp_path)!r}
corpus = write_tiny_corpus(folder + "/corpus")
train_run(tiny_experiment(corpus, trainer={{"steps": 2}}), folder + "/run")
assert main(["evaluate", "--run", folder + "/run", "--out", folder + "/report", "--no-untrained"]) == 0
assert main(["search", "--run", folder + "/run", "-k", "3", "ban bap"]) == 0
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "Hits@10" in (tmp_path / "report" / "report.md").read_text()
    assert re.search(r"\bd\d+\b", result.stdout), result.stdout


def test_descriptions_say_what_a_thing_is(trees):
    """'vectors: Of the documents' and 'What a search depends on' have to be translated by their reader."""
    riddles = re.compile(r'^\s+\w+: Of |^\s+(?:r?""")?What (?!if\b)')
    wrong = []
    for file in trees:
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1):
            if riddles.search(line):
                wrong.append(f"{place(file)}:{number} {line.strip()}")
    assert not wrong, "\n".join(wrong)
