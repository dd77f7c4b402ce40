"""A store made in shards by several processes is the store made in one piece, also after a stop."""

import dataclasses
import os
import signal
import subprocess
import sys
import time

import pytest
from support.tiny_store import tiny_corpus, tiny_store

from genret_jax.data.examples import shards
from genret_jax.errors import InputError
from genret_jax.storage import folder_lock


@pytest.fixture
def whole(tmp_path):
    return tiny_store(tmp_path / "whole").fingerprint


@pytest.fixture
def of_two(monkeypatch):
    """Five documents make three shards."""
    monkeypatch.setattr(shards, "_SHARD", 2)


@pytest.mark.usefixtures("of_two")
def test_shards_make_the_same_store(whole, tmp_path):
    assert tiny_store(tmp_path / "sharded").fingerprint == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sharded", "whole"]


@pytest.mark.usefixtures("of_two")
def test_goes_on_with_the_shards_that_are_missing(whole, tmp_path, monkeypatch):
    def stopped(*_, **__):
        raise InputError("stopped")

    with monkeypatch.context() as changed:
        changed.setattr("genret_jax.data.examples.building.save_arrays", stopped)
        with pytest.raises(InputError, match="stopped"):
            tiny_store(tmp_path / "sharded")
    kept = tmp_path / ".sharded.shards"
    made = {path.name: path.stat().st_mtime_ns for path in kept.glob("0*")}
    assert sorted(made) == ["000000", "000001", "000002"]
    (kept / "000001" / "document_words.npy").write_bytes(b"damaged")
    monkeypatch.setattr(shards.shutil, "rmtree", lambda *_, **__: None)  # to see what was made again
    corpus = tiny_corpus()
    changed = dataclasses.replace(corpus, texts=(*corpus.texts[:4], "it is what is new"))
    store = tiny_store(tmp_path / "sharded", corpus=changed)
    remade = {path.name: path.stat().st_mtime_ns for path in kept.glob("0*")}
    assert [name for name in sorted(made) if remade[name] != made[name]] == ["000001", "000002"]
    assert store.fingerprint == tiny_store(tmp_path / "again", corpus=changed).fingerprint != whole


@pytest.mark.usefixtures("of_two")
def test_two_processes_do_not_make_the_same_shards(tmp_path):
    with folder_lock(tmp_path / ".sharded.shards", doing="numbering"):
        with pytest.raises(InputError, match=r"another process is using this folder \(numbering"):
            tiny_store(tmp_path / "sharded")


KILLED = """
import sys, time
from genret_jax.data.examples import shards
from support import tiny_store
shards._SHARD = 2
merged = shards._merged
def wait(made, table):
    list(made)
    print("made", flush=True)
    time.sleep(600)
shards._merged = wait
tiny_store.tiny_store(sys.argv[1])
"""


@pytest.mark.usefixtures("of_two")
def test_a_killed_process_leaves_shards_and_no_store(whole, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path / "sharded")], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    assert child.stdout.readline() == "made\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert not (tmp_path / "sharded").exists()
    before = time.time_ns()
    kept = tmp_path / ".sharded.shards"
    assert len(list(kept.glob("0*"))) == 3
    assert all(path.stat().st_mtime_ns < before for path in kept.glob("0*"))
    assert tiny_store(tmp_path / "sharded").fingerprint == whole
    assert not kept.exists()


FULL = """
import dataclasses, resource, sys
from genret_jax.data.examples import shards
from genret_jax.errors import InputError
from support import tiny_store
shards._SHARD = 2
corpus = tiny_store.tiny_corpus()
corpus = dataclasses.replace(corpus, texts=(*corpus.texts[:-1], "word " * (1 << 16)))
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 17, 1 << 17))  # a file that can grow no more, as on a full disk
try:
    tiny_store.tiny_store(sys.argv[1], corpus=corpus)
except InputError as error:
    print(error)
"""


@pytest.mark.usefixtures("of_two")
@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_under_the_shards_says_so_and_the_rest_goes_on(tmp_path, processes):
    kept = tmp_path / ".sharded.shards"
    command = [sys.executable, "-c", FULL, str(tmp_path / "sharded")]
    environment = {**os.environ, "LOKY_MAX_CPU_COUNT": str(processes)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{kept / '000002'}: File too large; next: allow larger files"), result.stderr
    assert not (tmp_path / "sharded").exists()
    made = sorted(path.name for path in kept.glob("[!.]*"))
    if processes == 1:
        assert made == ["000000", "000001"]
        assert not list(kept.glob(".*.partial-*"))
    # Of several processes, the others are stopped in the middle of theirs.
    assert set(made) <= {"000000", "000001"}
    before = {name: (kept / name).stat().st_mtime_ns for name in made}
    corpus = tiny_corpus()
    corpus = dataclasses.replace(corpus, texts=(*corpus.texts[:-1], "word " * (1 << 16)))
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(shards.shutil, "rmtree", lambda *_, **__: None)  # to see what was made again
        store = tiny_store(tmp_path / "sharded", corpus=corpus)
    assert {name: (kept / name).stat().st_mtime_ns for name in made} == before
    assert store.fingerprint == tiny_store(tmp_path / "again", corpus=corpus).fingerprint
