"""Compiled programs outlive the process."""

import os
import re
import subprocess
import sys
import time

import jax

from genret_jax.run import compiled


def search(run, cache):
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    kept |= {"XDG_CACHE_HOME": str(cache), "JAX_PLATFORMS": "cpu", "JAX_DEBUG_LOG_MODULES": "jax._src.compiler"}
    command = [sys.executable, "-m", "genret_jax", "search", "--run", str(run), "-k", "1", "brass instrument"]
    return subprocess.run(command, env=kept, capture_output=True, text=True, check=True)


def test_a_second_process_does_not_compile_the_search_again(tiny_run, tmp_path):
    first, second = (search(tiny_run, tmp_path / "cache") for _ in range(2))
    hit = re.compile(r"persistent compilation cache hit for 'jit_\w*search", re.IGNORECASE)
    assert (bool(hit.search(first.stderr)), bool(hit.search(second.stderr))) == (False, True)
    assert second.stdout == first.stdout
    assert list((tmp_path / "cache" / "genret" / "compiled").glob("*/jit_*"))


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
