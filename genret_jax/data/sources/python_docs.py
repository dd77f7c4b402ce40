"""The built-in corpus: the documentation of the running Python, from the sources of its standard library.

A docstring with a summary and a body (PEP 257) becomes a document and a query. The qualified name is the id, its words
are the title, the body is the text, and the summary, which the text leaves out, is the query. The title has separate
words because a plain tokenizer takes ``most_common`` for one word, which would make baselines look weaker than they
are. Sources are parsed and never imported, so no code of the library runs, and parts for other systems are included.

For people who search, there are also the whole docstrings, without queries. These include summaries without a body and
the docstrings of modules in C, which only Python itself can read.
"""

import ast
import importlib
import inspect
import os
import platform
import re
import sys
import sysconfig
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from genret_jax.data.corpus import Corpus
from genret_jax.data.splits import hash_to_unit
from genret_jax.data.text.words import normalized_words, valid_unicode
from genret_jax.errors import InputError

TEST_SHARE = 0.2

# Modules that are not for the library's users (tests, an editor, demonstrations, bundled installers, a converter of
# Python 2); modules that some distributions package separately or newer versions dropped (tkinter, distutils, msilib),
# so that the corpus is similar everywhere; and os.path for Windows.
_SKIPPED = frozenset(
    ("test", "idlelib", "turtledemo", "ensurepip", "pydoc_data", "lib2to3", "tkinter", "distutils", "msilib", "ntpath")
)
_SKIPPED_FOLDERS = frozenset(("site-packages", "dist-packages", "tests", "idle_test", "__pycache__"))

# Modules whose file has another name than users import; most are Python versions of C code.
_PUBLIC_NAMES = {
    "_collections_abc": "collections.abc",
    "_pydatetime": "datetime",
    "_pydecimal": "decimal",
    "_pyio": "io",
    "posix": "os",
    "posixpath": "os.path",
}


class Entry(NamedTuple):
    """One documented object.

    Attributes:
        name: Qualified name, e.g. ``"os.path.join"``.
        summary: The docstring's first paragraph on one line.
        body: The rest of the docstring.
    """

    name: str
    summary: str
    body: str


def python_docs(
    library: str | os.PathLike[str] | None = None, *, validation: float = 0.0, whole: bool = False
) -> Corpus:
    """Read the documentation of public modules, classes, functions and methods from source files.

    Documents are ordered by name. A hash of the document's id puts its summary into split ``test`` (a fifth),
    ``validation`` or ``train``, so the split is the same for every Python version that has the document.

    Args:
        library: Folder of Python sources; by default the standard library of the running Python.
        validation: Share of the training summaries to hold out as split ``validation``, from 0 to below 1.
        whole: Return whole docstrings, also those of the running Python's modules in C, and no queries.

    Raises:
        InputError: If the sources are missing or cannot be read, or have no documentation; for ``validation`` with
            ``whole``.
    """
    if not 0 <= validation < 1:
        raise InputError(f"a validation share of {validation}", expected="a number from 0 to below 1", fix="try 0.1")
    if whole and validation:
        raise InputError(
            "a validation share of whole docstrings", expected="0: they have no queries", fix="leave it out"
        )
    root = Path(library if library is not None else sysconfig.get_path("stdlib"))
    if whole:
        return _whole_docstrings(root, in_c=library is None)
    entries = _without_duplicates(sorted(read_entries(root)))
    if not entries:
        raise _nothing(root)
    qrels: dict[str, dict[str, dict[str, int]]] = {}
    for entry in entries:
        split = _split_of(entry.name, validation)
        qrels.setdefault(split, {})[_query_id(entry)] = {entry.name: 1}
    return Corpus(
        name="python-docs",
        doc_ids=tuple(entry.name for entry in entries),
        titles=tuple(_title(entry.name) for entry in entries),
        texts=tuple(entry.body for entry in entries),
        queries={_query_id(entry): entry.summary for entry in entries},
        qrels=qrels,
        source=_source(library),
    )


def _whole_docstrings(root: Path, *, in_c: bool) -> Corpus:
    """Return the docstrings of public objects; in C, of those whose modules are parts of the running Python."""
    found = {name: docstring for trees in _trees(root) for name, docstring in _docstrings(*trees)}
    for name, docstring in _docstrings_in_c(root) if in_c else ():
        found.setdefault(name, docstring)
    texts = {name: text for name, docstring in sorted(found.items()) if (text := valid_unicode(docstring).strip())}
    if not texts:
        raise _nothing(root)
    return Corpus(
        name="python-docs-whole",
        doc_ids=tuple(texts),
        titles=tuple(map(_title, texts)),
        texts=tuple(texts.values()),
        source=_source(None if in_c else root),
    )


def _docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    for name, node in _documented(tree, module):
        yield name, ast.get_docstring(node) or ""


def _docstrings_in_c(root: Path) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of public functions and classes in C, under the names by which users import them."""
    compiled = {name for name in sys.stdlib_module_names if not _has_source(root, name)}
    public = [name for name in compiled if not _is_private(name) and name not in _SKIPPED]
    # Where users find it, its module, and, of a single member, its name there and for users.
    places: list[tuple[str, str, str, str]] = [(_PUBLIC_NAMES.get(name, name), name, "", "") for name in public]
    for tree, module in _trees(root):
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module in compiled and node.level == 0:
                taken = [alias for alias in node.names if alias.name != "*"]
                places += [(module, str(node.module), alias.name, alias.asname or alias.name) for alias in taken]
    for place, name, member, shown in sorted(places):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                read = importlib.import_module(name)
        except ImportError:  # of another system
            continue
        for each, called in [(member, shown)] if member else [(each, each) for each in dir(read)]:
            value = getattr(read, each, None)
            if (inspect.isbuiltin(value) or inspect.isclass(value)) and not _is_private(called):
                yield f"{place}.{called}", inspect.getdoc(value) or ""


def _has_source(root: Path, module: str) -> bool:
    return (root / f"{module}.py").is_file() or (root / module).is_dir()


def _source(library: str | os.PathLike[str] | None) -> str:
    return f"standard library of Python {platform.python_version()}" if library is None else os.fspath(library)


def _nothing(root: Path) -> InputError:
    return InputError(
        "no Python sources with documentation",
        file=root,
        expected="the .py files of a standard library",
        fix="run a Python that has them (embeddable builds keep only compiled code), or use your own corpus",
    )


def _query_id(entry: Entry) -> str:
    return f"summary:{entry.name}"


def _title(name: str) -> str:
    return " ".join(normalized_words(name))


def _split_of(name: str, validation: float) -> str:
    position = hash_to_unit(name)
    if position < TEST_SHARE:
        return "test"
    return "validation" if position < TEST_SHARE + (1 - TEST_SHARE) * validation else "train"


def read_entries(root: Path) -> Iterator[Entry]:
    """Yield the public objects below a folder whose docstrings have a summary and a body."""
    for tree, module in _trees(root):
        for name, docstring in _docstrings(tree, module):
            if (entry := _entry(name, docstring)) is not None:
                yield entry


def _trees(root: Path) -> Iterator[tuple[ast.Module, str]]:
    """Yield the parsed modules below a folder, with the names by which users import them."""
    for path, module in _modules(root):
        try:
            with tokenize.open(path) as handle, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # old sources hold invalid escapes
                tree = ast.parse(handle.read())
        except (FileNotFoundError, SyntaxError, ValueError):
            continue  # dangling links, templates, and files for other versions of Python
        except OSError as error:
            raise InputError(f"cannot be read ({error.strerror})", file=path, fix="check its permissions") from None
        yield tree, module


def _modules(root: Path) -> Iterator[tuple[Path, str]]:

    def fail(error: OSError) -> None:
        raise InputError(f"cannot be read ({error.strerror})", file=error.filename, fix="check its permissions")

    for folder, subfolders, files in os.walk(root, onerror=fail):
        place = Path(folder).relative_to(root).parts
        subfolders[:] = [
            name
            for name in subfolders
            if name.isidentifier() and name not in _SKIPPED_FOLDERS and (place or name not in _SKIPPED)
        ]
        for file in files:
            stem, extension = os.path.splitext(file)
            first, *rest = (*place, *(() if stem == "__init__" else (stem,))) or ("",)
            if extension != ".py" or first in _SKIPPED or not first:
                continue
            module = ".".join((_PUBLIC_NAMES.get(first, first), *rest))
            if not any(_is_private(part) for part in module.split(".")):
                yield Path(folder, file), module


def _is_private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


_Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _documented(node: _Definition, name: str) -> Iterator[tuple[str, _Definition]]:
    """Yield a module or definition and the public definitions in it, except those inside functions."""
    yield name, node
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        for child in _definitions(node):
            if not _is_private(child.name):
                yield from _documented(child, f"{name}.{child.name}")


def _definitions(node: ast.AST) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield child
        elif isinstance(child, ast.If | ast.Try | ast.With | ast.ExceptHandler):
            yield from _definitions(child)  # "if sys.platform ...", "try: import ... except ImportError"


def _entry(name: str, docstring: str) -> Entry | None:
    summary, *rest = re.split(r"\n[ \t]*\n", valid_unicode(docstring).strip(), maxsplit=1)
    summary, body = " ".join(summary.split()), "".join(rest).strip()
    if not summary or not body or _normal(summary) in _normal(f"{_title(name)}. {body}"):
        return None  # a query that is a part of its document would be no test
    return Entry(name, summary, body)


def _normal(text: str) -> str:
    return " ".join(text.lower().split())


def _without_duplicates(entries: list[Entry]) -> list[Entry]:
    """Keep the first of the entries that share a name, a body or a summary."""
    seen: set[tuple[str, str]] = set()
    kept: list[Entry] = []
    for entry in entries:
        marks = {("name", entry.name), ("summary", _normal(entry.summary)), ("body", _normal(entry.body))}
        if seen.isdisjoint(marks):
            kept.append(entry)
            seen |= marks
    return kept
