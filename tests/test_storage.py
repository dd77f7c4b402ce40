"""Files and folders that are whole or absent, never someone else's, and arrays whose damage is noticed."""

import errno
import os
import shutil

import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.storage import (
    atomic_file,
    atomic_folder,
    folder_lock,
    list_folder,
    load_arrays,
    read_json,
    read_npy,
    remove_partial,
    require_free,
    save_arrays,
    user_cache,
    write_json,
)

ARRAYS = {"a": np.arange(12, dtype=np.int32).reshape(3, 4), "b": np.ones((2, 0)), "c": np.array(3.5, np.float32)}
SAME = {"kind": "test", "version": 1}


def write(folder, text, **options):
    with atomic_folder(folder, **options) as partial:
        (partial / "file").write_text(text)


# --- folders


def write_while(out, meanwhile, **options):
    """Write a folder while something else happens."""
    with atomic_folder(out, **options) as partial:
        (partial / "file").write_text("slow")
        meanwhile()


@pytest.mark.parametrize("is_there", [False, True], ids=["absent", "empty"])
def test_of_two_that_write_one_folder_the_second_fails(is_there, tmp_path):
    out = tmp_path / "out"
    if is_there:
        out.mkdir()
    with pytest.raises(InputError, match="out: something else was written here"):
        write_while(out, lambda: write(out, "fast"))
    assert (out / "file").read_text() == "fast"
    assert list_folder(tmp_path) == ["out"]


def test_what_a_user_made_meanwhile_is_left_alone(tmp_path):
    file, folder = tmp_path / "file", tmp_path / "folder"
    for out, make in ((file, lambda: file.write_text("mine")), (folder, lambda: save_arrays(folder, ARRAYS, **SAME))):
        with pytest.raises(InputError, match="meantime"):
            write_while(out, make)
    assert file.read_text() == "mine"
    assert len(list_folder(folder)) == 4


def test_replace_takes_what_was_there_and_nothing_later(tmp_path):
    out = tmp_path / "out"
    write(out, "first")
    write(out, "second", replace=True)
    assert (out / "file").read_text() == "second"
    with pytest.raises(InputError, match="meantime"):
        write_while(out, lambda: (shutil.rmtree(out), write(out, "third")), replace=True)
    assert (out / "file").read_text() == "third"
    with pytest.raises(InputError, match="meantime"):
        write_while(out, (out / "note").touch, replace=True)
    assert list_folder(out) == ["file", "note"]
    new = tmp_path / "new"
    with pytest.raises(InputError, match="meantime"):
        write_while(new, lambda: write(new, "mine"), replace=True)
    assert (new / "file").read_text() == "mine"


def test_an_error_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        write_while(tmp_path / "out", lambda: 1 / 0)
    assert list_folder(tmp_path) == []


def test_through_a_link_the_folder_it_names_is_written(tmp_path):
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write(tmp_path / "link", "text")
    assert (tmp_path / "target" / "file").read_text() == "text"
    assert (tmp_path / "link").is_symlink()
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    with pytest.raises(InputError, match="dangling: a link to something that is missing"):
        write(tmp_path / "dangling" / "below", "text")
    for use in (write, require_free, lambda path, *_: folder_lock(path, doing="x").__enter__()):
        with pytest.raises(InputError, match="dangling: a link to something that is missing"):
            use(*((tmp_path / "dangling", "text") if use is write else (tmp_path / "dangling",)))


def test_an_output_that_is_there(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    require_free(tmp_path / "empty")
    for path, folder in ((tmp_path, True), (tmp_path / "file", True), (tmp_path / "empty", False)):
        with pytest.raises(InputError, match="already exists"):
            require_free(path, folder=folder)


def test_leftovers_of_killed_processes_are_removed(tmp_path):
    (tmp_path / ".a.partial-1").mkdir()
    (tmp_path / ".b.partial-2").write_text("")
    (tmp_path / "c.partial-3").write_text("")
    remove_partial(tmp_path)
    assert list_folder(tmp_path) == ["c.partial-3"]


def test_a_folder_that_cannot_be_read_is_not_an_empty_one(tmp_path, monkeypatch):
    assert list_folder(tmp_path / "missing") == []
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: Not a directory"):
        list_folder(tmp_path / "file")

    def refuse(path):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(InputError, match="Permission denied; next: change the permissions"):
        list_folder(tmp_path)


def test_a_lock_notices_that_its_folder_is_gone(tmp_path):
    folder = tmp_path / "run"
    with folder_lock(folder, doing="training") as require_held:
        require_held()
        shutil.rmtree(folder)
        with pytest.raises(InputError, match="removed or replaced"):
            require_held()
        with folder_lock(folder, doing="training"), pytest.raises(InputError, match="removed or replaced"):
            require_held()
    with pytest.raises(InputError, match="expected a folder"):
        folder_lock(folder / ".lock", doing="training").__enter__()


@pytest.mark.parametrize(
    ("number", "message"),
    [
        (errno.ENOSPC, "no space left on the disk; next: free some space"),
        (errno.EFBIG, "File too large; next: allow larger files"),
        (errno.EMFILE, "Too many open files; next: allow more open files"),
        (errno.ENFILE, "Too many open files in system; next: allow more open files"),
    ],
)
def test_what_the_system_refuses_is_one_line_with_a_next_step(number, message, tmp_path):
    with pytest.raises(InputError, match=f"out: {message}"), atomic_file(tmp_path / "out"):
        raise OSError(number, os.strerror(number), str(tmp_path / ".out.partial-1"))
    with pytest.raises(ConnectionError), atomic_file(tmp_path / "out"):
        raise ConnectionResetError(errno.ECONNRESET, "of something else")


# --- JSON


def test_json_of_another_shape(tmp_path):
    file = tmp_path / "x.json"
    write_json(file, {"a": "ü"})
    assert read_json(file, expect=dict) == {"a": "ü"}
    write_json(file, [1])
    with pytest.raises(InputError, match=r"x\.json: the JSON value is an array; expected an object"):
        read_json(file, expect=dict)
    for content in (b"{", b"\xff", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(InputError, match="not valid JSON"):
            read_json(file)
    with pytest.raises(InputError, match="Is a directory"):
        read_json(tmp_path)


# --- arrays


@pytest.fixture
def saved(tmp_path):
    save_arrays(tmp_path / "arrays", ARRAYS, **SAME, details={"more": 1})
    return tmp_path / "arrays"


def test_arrays_come_back_as_numpy_would_have_saved_them(saved):
    arrays, manifest = load_arrays(saved, **SAME)
    assert manifest["more"] == 1
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        np.testing.assert_array_equal(np.load(saved / f"{name}.npy"), array)
        assert arrays[name].dtype == array.dtype
    assert isinstance(arrays["a"], np.memmap)
    assert arrays.pop("a")[0, 1] == 1
    assert set(dict(arrays)) == {"b", "c"}


def test_a_changed_array_is_noticed_when_it_is_taken(saved):
    content = bytearray((saved / "a.npy").read_bytes())
    content[-5] ^= 1
    (saved / "a.npy").write_bytes(content)
    arrays, _ = load_arrays(saved, **SAME)
    assert float(arrays["c"]) == 3.5
    for take in (lambda: arrays["a"], lambda: dict(arrays), lambda: arrays.pop("a")):
        with pytest.raises(InputError, match=r"a.npy: damaged: .*; expected [0-9a-f]{8}.* restore the file"):
            take()


def test_an_array_is_checked_once(saved, monkeypatch):
    checked = []
    monkeypatch.setattr("genret_jax.storage._checksum", lambda array: checked.append(array.size) or "00000000")
    manifest = read_json(saved / "manifest.json")
    for described in manifest["arrays"].values():
        described["crc32"] = "00000000"
    write_json(saved / "manifest.json", manifest)
    arrays, _ = load_arrays(saved, **SAME)
    for _ in range(3):
        assert arrays["a"].size == 12
    assert checked == [12]


def test_a_folder_without_checksums_is_read(saved):
    manifest = read_json(saved / "manifest.json")
    for described in manifest["arrays"].values():
        del described["crc32"]
    write_json(saved / "manifest.json", manifest)
    np.testing.assert_array_equal(load_arrays(saved, **SAME)[0]["a"], ARRAYS["a"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable .npy file"),
        (b"\x93NUMPY\x01\x00\x76\x00{'descr': '<i4', 'shape': (3,", "not a readable .npy file"),
        (b"\x93NUMPY\x01\x00\x10\x00{((((((((((((((\n", "not a readable .npy file"),
        (b"\x93NUMPY\x01\x00\x46\x00{'descr': '<i4', 'fortran_order': False, 'shape': (-3, 4), }          \n", "a.npy"),
        (b"\x93NUMPY\x01\x00\x46\x00{'descr': '<i4', 'fortran_order': False, 'shape': (10**9, 4)}         \n", "a.npy"),
        (None, "missing"),
    ],
)
def test_a_broken_file_is_named(content, message, saved):
    (saved / "a.npy").unlink()
    if content is not None:
        (saved / "a.npy").write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.npy: .*{message}|{message}"):
        load_arrays(saved, **SAME)
    with pytest.raises(InputError, match=r"a\.npy"):
        read_npy(saved / "a.npy", kinds="i", expected="codes")


def test_too_many_open_files_are_not_damage(saved, monkeypatch):
    def refuse(path, **_):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))

    monkeypatch.setattr(np, "load", refuse)
    with pytest.raises(InputError, match="npy: Too many open files; next: allow more"):
        load_arrays(saved, **SAME)


@pytest.mark.parametrize(
    "arrays",
    [None, [], {"a": 3}, {"a": {"shape": 3, "dtype": "int32"}}, {"../a": {"shape": [3], "dtype": "int32"}}],
)
def test_a_manifest_of_another_shape(arrays, saved):
    manifest = read_json(saved / "manifest.json")
    write_json(saved / "manifest.json", {**manifest, "arrays": arrays})
    with pytest.raises(InputError, match=r"manifest\.json: the entry 'arrays'"):
        load_arrays(saved, **SAME)


def test_a_folder_of_another_kind(saved):
    with pytest.raises(InputError, match="a test of version 1; expected a test of version 2"):
        load_arrays(saved, kind="test", version=2)
    with pytest.raises(InputError, match="no other here"):
        load_arrays(saved / "nothing", kind="other", version=1)


def test_a_file_limit_stops_an_array_with_its_reason(tmp_path):
    """NumPy's own writer would say that fewer bytes were written, and not why."""
    import resource
    import signal

    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, before[1]))
    try:
        with pytest.raises(InputError, match="out: File too large; next: allow larger files"):
            save_arrays(tmp_path / "out", {"a": np.zeros(1 << 16, np.int32)}, **SAME)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert list_folder(tmp_path) == []


def test_the_cache_is_the_users_own(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for given, expected in (("", ".cache"), ("relative", ".cache"), (str(tmp_path / "mine"), "mine")):
        monkeypatch.setenv("XDG_CACHE_HOME", given)
        assert user_cache("part") == tmp_path / expected / "genret" / "part"
    monkeypatch.setenv("HOME", "nowhere")
    monkeypatch.delenv("XDG_CACHE_HOME")
    with pytest.raises(InputError, match="you have no home folder"):
        user_cache("part")
