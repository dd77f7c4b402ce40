"""Compiled programs outlive the process."""

import os
import subprocess
import sys
import time

import jax

from genret_jax.cli import compiled


def search(run, cache):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    kept |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "genret_jax", "search", "--run", str(run), "-k", "1", "brass instrument"]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=True).stdout


def test_a_second_process_compiles_nothing_that_the_first_has_kept(tiny_run, tmp_path):
    first = search(tiny_run, tmp_path / "cache")
    programs = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "genret" / "compiled").glob("*/*")}
    assert programs
    assert search(tiny_run, tmp_path / "cache") == first
    after = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache" / "genret" / "compiled").glob("*/*")}
    assert {file.name for file in after} == {file.name for file in programs}


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "cache").write_text("no folder")
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = jax.config.jax_compilation_cache_dir
    compiled.keep_compiled()
    assert jax.config.jax_compilation_cache_dir == before


def test_a_place_that_the_user_chose_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    compiled.keep_compiled()
    assert not (tmp_path / "cache").exists()


def test_old_programs_are_removed(tmp_path):
    for name, days in (("old", 70), ("new", 5)):
        (tmp_path / name).write_text("")
        then = time.time() - days * 24 * 3600
        os.utime(tmp_path / name, (then, then))
    compiled._remove_old(tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["new"]
