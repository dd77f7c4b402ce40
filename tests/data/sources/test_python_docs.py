"""The documentation of Python as a corpus: a small library written here, and the real one."""

import re
import sys

import pytest

from genret_jax.data.corpus import read_beir, write_beir
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.errors import InputError


def write(root, files):
    for name, source in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(source if isinstance(source, bytes) else source.encode())
    return root


SHAPES = '''"""Draw shapes on
paper.

The paper is A4."""

class HTTPShape:
    """A shape that is fetched.

    It may be slow.

      Very slow.
    """

    def most_common(self):
        """Name the usual shape.

        Usually a square."""
        def inner():
            """Hidden inside.

            A function within a function is nobody's interface."""

    def __len__(self):
        """Count the corners.

        A circle has none."""

    def _secret(self):
        """Keep quiet.

        Private things are left out."""

if True:
    try:
        def rarely():
            """Do it rarely.

            Found below a condition."""
    except ImportError:
        async def never():
            """Do it never.

            Found below a handler."""

def only_summary():
    """There is no body."""

def undocumented():
    pass
'''


def documented(name, summary, body):
    return f'def {name}():\n    """{summary}\n\n    {body}"""\n'


def test_public_definitions_with_summary_and_body(tmp_path):
    corpus = python_docs(write(tmp_path, {"art/shapes.py": SHAPES}))
    assert dict(zip(corpus.doc_ids, corpus.texts, strict=True)) == {
        "art.shapes": "The paper is A4.",
        "art.shapes.HTTPShape": "It may be slow.\n\n  Very slow.",
        "art.shapes.HTTPShape.__len__": "A circle has none.",
        "art.shapes.HTTPShape.most_common": "Usually a square.",
        "art.shapes.never": "Found below a handler.",
        "art.shapes.rarely": "Found below a condition.",
    }
    assert corpus.doc_ids == tuple(sorted(corpus.doc_ids))
    assert corpus.queries["summary:art.shapes"] == "Draw shapes on paper."
    assert (
        corpus.titles[corpus.document_index["art.shapes.HTTPShape.most_common"]] == "art shapes http shape most common"
    )
    assert corpus.source == str(tmp_path)


def test_names_are_those_that_are_imported_and_parts_are_left_out(tmp_path):
    files = {
        "posixpath.py": documented("join", "Join paths.", "One."),
        "_pydecimal.py": documented("plus", "Add.", "Two."),
        "pack/__init__.py": documented("open", "Open it.", "Three."),
        "pack/deep/part.py": documented("shut", "Shut it.", "Four."),
        "pack/_hidden.py": documented("a", "A1.", "A."),
        "pack/tests/test_it.py": documented("b", "B1.", "B."),
        "_private.py": documented("c", "C1.", "C."),
        "test/support.py": documented("d", "D1.", "D."),
        "site-packages/other.py": documented("e", "E1.", "E."),
        "tkinter/__init__.py": documented("f", "F1.", "F."),
        "ntpath.py": documented("g", "G1.", "G."),
        "config-3.11-linux/made.py": documented("h", "H1.", "H."),
        "pack/notes.txt": "no source",
    }
    corpus = python_docs(write(tmp_path, files))
    assert corpus.doc_ids == ("decimal.plus", "os.path.join", "pack.deep.part.shut", "pack.open")


def test_duplicates_keep_the_first_by_name(tmp_path):
    files = {
        "a.py": documented("f", "Do something.", "In this way.") * 2,
        "b.py": documented("f", "Do something else.", "In  this\n    WAY."),  # the same body
        "c.py": documented("f", "do SOMETHING.", "In another way."),  # the same summary
        "d.py": documented("f", "Do something new.", "In a new way."),
    }
    corpus = python_docs(write(tmp_path, files))
    assert corpus.doc_ids == ("a.f", "d.f")


def test_a_summary_that_its_document_repeats_is_no_query(tmp_path):
    files = {
        "a.py": documented("f", "Sort the list.", "To sort\n    the list. Sort the  list."),
        "b.py": documented("main_thread", "Main thread", "Where it began."),  # the title says it
        "c.py": documented("f", "Sort the list.", "It is stable."),
    }
    assert python_docs(write(tmp_path, files)).doc_ids == ("c.f",)


def test_sources_that_cannot_be_read_are_passed_over(tmp_path):
    files = {
        "broken.py": "def (:\n",
        "latin.py": b"# -*- coding: latin-1 -*-\n" + documented("f", "Drink caf\xe9.", "Hot.").encode("latin-1"),
        "wrong.py": b"'''Caf\xe9.\n\nNot UTF-8.'''\n",
        "nul.py": b"'''A.\n\nB.'''\0\n",
        "surrogate.py": documented("g", "Half a pair.", "\\ud800 is it."),
        "escapes.py": documented("h", "Write it raw.", r"\d is no escape."),
    }
    corpus = python_docs(write(tmp_path, files))
    assert dict(zip(corpus.doc_ids, corpus.texts, strict=True)) == {
        "escapes.h": r"\d is no escape.",
        "latin.f": "Hot.",
        "surrogate.g": "? is it.",
    }
    assert corpus.queries["summary:latin.f"] == "Drink café."


def test_splits_depend_on_the_name_alone(tmp_path):
    names = [f"f{index}" for index in range(500)]

    def splits(folder, chosen, **options):
        source = "".join(documented(name, f"Do {name}-ish things.", f"Body of {name}.") for name in chosen)
        corpus = python_docs(write(tmp_path / folder, {"m.py": source}), **options)
        return {doc: split for split, qrels in corpus.qrels.items() for docs in qrels.values() for doc in docs}

    whole, part = splits("whole", names), splits("part", names[::3])
    assert set(whole.values()) == {"train", "test"}
    assert 70 <= sum(split == "test" for split in whole.values()) <= 130  # a fifth of 500
    assert part == {name: whole[name] for name in part}
    held_out = splits("held_out", names, validation=0.25)
    assert {doc for doc, split in held_out.items() if split == "test"} == {
        doc for doc, split in whole.items() if split == "test"
    }
    assert 70 <= sum(split == "validation" for split in held_out.values()) <= 130  # a quarter of the other 400


def test_whole_docstrings_are_there_for_people_who_search(tmp_path):
    source = documented("area", "Measure.", "Give the area.") + "def side():\n    '''One line only.'''\n"
    files = {"shapes.py": source, "uses_c.py": "from math import sqrt, hypot as _hypot\n"}
    corpus = python_docs(write(tmp_path, files), whole=True)
    assert dict(zip(corpus.doc_ids, corpus.texts, strict=True)) == {
        "shapes.area": "Measure.\n\nGive the area.",
        "shapes.side": "One line only.",
    }
    assert not corpus.queries
    assert not corpus.qrels
    with pytest.raises(InputError, match="a validation share of whole docstrings"):
        python_docs(tmp_path, whole=True, validation=0.1)


def test_what_people_search_for_in_this_python_is_there():
    corpus = python_docs(whole=True)
    wanted = {"csv.reader", "os.path.join", "os.getcwd", "threading.Thread.join", "math.sqrt", "time.sleep"}
    assert wanted <= set(corpus.doc_ids)
    assert not [name for name in corpus.doc_ids if name.startswith(("random.sqrt", "posix."))]
    assert corpus.texts[corpus.document_index["math.sqrt"]] == "Return the square root of x."


def test_nothing_to_read_is_refused(tmp_path):
    with pytest.raises(InputError, match="no Python sources with documentation"):
        python_docs(tmp_path)
    with pytest.raises(InputError, match=r"a validation share of 1\.0"):
        python_docs(tmp_path, validation=1.0)


@pytest.fixture(scope="module")
def standard_library():
    return python_docs()


def normal(text):
    return " ".join(text.lower().split())


def test_the_standard_library_gives_about_two_thousand_documents(standard_library):
    assert 1900 <= len(standard_library) <= 2300
    assert 0.17 <= len(standard_library.qrels["test"]) / len(standard_library) <= 0.23
    assert set(standard_library.qrels) == {"train", "test"}
    assert standard_library.source.endswith(sys.version.split()[0])
    for name in ("collections.Counter.most_common", "datetime.date.toordinal", "decimal.Context.plus", "os.removedirs"):
        assert name in standard_library.document_index
    modules = {doc_id.split(".")[0] for doc_id in standard_library.doc_ids}
    assert modules.isdisjoint({"test", "tkinter", "idlelib", "lib2to3", "distutils", "posixpath"})


def test_no_query_stands_in_its_document_and_nothing_is_there_twice(standard_library):
    queries = [normal(text) for text in standard_library.queries.values()]
    assert len(set(queries)) == len(queries) == len(standard_library)
    assert len({normal(text) for text in standard_library.texts}) == len(standard_library)
    for index, doc_id in enumerate(standard_library.doc_ids):
        query = normal(standard_library.queries[f"summary:{doc_id}"])
        assert query not in normal(standard_library.document_text(index)), doc_id
        assert not re.search(r"\s", doc_id)


def test_written_out_it_is_a_folder_like_any_other(standard_library, tmp_path):
    write_beir(standard_library, tmp_path / "docs")
    again = read_beir(tmp_path / "docs")
    assert again.fingerprint == standard_library.fingerprint
    assert again.qrels == standard_library.qrels
    assert again.queries == standard_library.queries
