"""Checkpoints in t5x's layout, written and read without t5x, which is on the other side in test_t5x_runs.py."""

import jax
import numpy as np
import pytest

from genret_jax.errors import InputError
from genret_jax.retriever import Retriever
from genret_jax.run import open_run
from genret_jax.training.t5x.checkpoint import find_checkpoint, read_t5x_params, require_t5x_params, write_t5x_params


@pytest.fixture(scope="module")
def params(text_head_run):
    return open_run(text_head_run).start_params()


def assert_equal(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


def test_what_was_written_is_read_by_its_path_or_as_the_last_of_its_folder(params, tmp_path):
    doubled = jax.tree.map(lambda leaf: 2 * leaf, params)
    path, later = write_t5x_params(tmp_path, params, step=9), write_t5x_params(tmp_path, doubled, step=10)
    assert (path.name, later.name) == ("checkpoint_9", "checkpoint_10")
    assert find_checkpoint(tmp_path) == later
    assert_equal(read_t5x_params(path, params), params)
    assert_equal(read_t5x_params(tmp_path, params), doubled)
    shapes = jax.eval_shape(lambda: params)
    assert_equal(read_t5x_params(path, shapes), params)


def test_a_retriever_opens_it(params, text_head_run, tmp_path):
    path = write_t5x_params(tmp_path, params)
    open_run(text_head_run).require_checkpoint(str(path))
    found = Retriever.load(text_head_run, checkpoint=str(path)).search("ban bap", k=3)
    assert found == Retriever.load(text_head_run, checkpoint="start").search("ban bap", k=3)
    assert len(found) == 3


def test_what_is_there_is_kept(params, tmp_path):
    write_t5x_params(tmp_path, params, step=3)
    with pytest.raises(InputError, match="checkpoint_3: a checkpoint exists already"):
        write_t5x_params(tmp_path, params, step=3)


def test_other_folders_and_networks_are_refused(params, tmp_path):
    with pytest.raises(InputError, match="no t5x checkpoint here"):
        read_t5x_params(tmp_path / "elsewhere", params)
    path = write_t5x_params(tmp_path, params)
    other = {**params, "token_embedder": {"embedding": np.zeros((8, 32), np.float32)}}
    with pytest.raises(InputError, match=r"t5x checkpoint of another network .*token_embedder/embedding \[144, 32\]"):
        read_t5x_params(path, other)
    with pytest.raises(InputError, match="t5x checkpoint of another network"):
        require_t5x_params(path, other)
    (path / "state" / "_METADATA").unlink()
    with pytest.raises(InputError, match="an Orbax checkpoint that cannot be read"):
        read_t5x_params(path, params)
