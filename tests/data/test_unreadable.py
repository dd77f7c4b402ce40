"""A folder or file that cannot be read is an error, and never taken for one that is absent."""

import os
import pathlib

import pytest
from support.small_interactions import three_users
from support.tiny_store import tiny_corpus

from genret_jax.data.corpus import read_beir, write_beir
from genret_jax.data.interactions import EMBEDDINGS, read_corpus, write_interactions
from genret_jax.data.item_vectors import vectors_of_items
from genret_jax.data.sources.movielens import movielens
from genret_jax.data.sources.python_docs import python_docs
from genret_jax.data.sources.recbole import recbole
from genret_jax.errors import InputError


@pytest.fixture
def deny(monkeypatch):
    """Return a function after which a folder refuses to be listed and its entries to be looked at, as mode 0 does.

    Tests may run as root, whom no mode stops.
    """

    def refuse(folder):
        def guarded(function, is_denied):
            def call(path=".", *args, **options):
                if is_denied(pathlib.Path(os.fspath(path))):
                    raise PermissionError(13, "Permission denied", os.fspath(path))
                return function(path, *args, **options)

            return call

        for name in ("listdir", "scandir", "open"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda path: path == folder))
        for name in ("stat", "lstat"):
            monkeypatch.setattr(os, name, guarded(getattr(os, name), lambda path: path.parent == folder))

    return refuse


@pytest.mark.parametrize("denied", ["qrels", "."])
def test_a_corpus_whose_judgements_cannot_be_listed_is_refused(denied, tmp_path, deny):
    write_beir(tiny_corpus(), tmp_path / "c")
    deny(tmp_path / "c" / denied)
    with pytest.raises(InputError, match="Permission denied") as caught:
        read_beir(tmp_path / "c")
    assert caught.value.file == tmp_path / "c" / denied


def test_the_kind_of_a_folder_that_cannot_be_searched_is_unknown(tmp_path, deny):
    write_interactions(three_users(), tmp_path / "items")
    deny(tmp_path / "items")
    with pytest.raises(InputError, match="Permission denied"):
        read_corpus(tmp_path / "items")


def test_vectors_that_cannot_be_seen_are_not_absent(tmp_path, deny):
    (tmp_path / EMBEDDINGS).touch()
    deny(tmp_path)
    with pytest.raises(InputError, match=rf"{EMBEDDINGS}.*Permission denied"):
        vectors_of_items(tmp_path, log=lambda line: None)


@pytest.mark.parametrize("importer", [recbole, movielens])
def test_importers_do_not_take_an_unreadable_folder_for_an_empty_one(importer, tmp_path, deny):
    deny(tmp_path)
    with pytest.raises(InputError, match="Permission denied"):
        importer(tmp_path)


def test_a_part_of_the_library_that_cannot_be_listed_is_not_left_out(tmp_path, deny):
    (tmp_path / "package").mkdir()
    (tmp_path / "module.py").write_text('"""Do it.\n\nIt does it well."""\n')
    deny(tmp_path / "package")
    with pytest.raises(InputError, match=r"package.*Permission denied"):
        python_docs(tmp_path)


def test_a_dangling_link_is_a_missing_file_and_not_an_absent_one(tmp_path):
    write_beir(tiny_corpus(), tmp_path / "c")
    (tmp_path / "c" / "queries_generated.jsonl").unlink()
    (tmp_path / "c" / "queries_generated.jsonl").symlink_to("nowhere")
    with pytest.raises(InputError, match=r"queries_generated.jsonl: the file is missing"):
        read_beir(tmp_path / "c")
