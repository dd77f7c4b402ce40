"""Checkpoints: resumed from exactly, on other meshes too, never half, never another model's."""

import json
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny_training_task import TinyModel, TinyTask

from genret_jax.errors import InputError
from genret_jax.training import Adafactor, AdamW, Constant, make_mesh, restore_params, train
from genret_jax.training.checkpoint_format import checksum, describe_difference

FINGERPRINT = {"corpus": "aaaa", "docids": "bbbb"}


@pytest.fixture(scope="module")
def settings():
    """What the run below and those that resume it have in common."""
    return {"average_decay": 0.9, "keep": 3}


@pytest.fixture(scope="module")
def finished(tiny_config, settings, tmp_path_factory):
    """Twelve uninterrupted steps, with checkpoints at 4, 8 and 12."""
    folder = tmp_path_factory.mktemp("finished")
    result = train(TinyTask(), tiny_config(**settings), folder, fingerprint=FINGERPRINT)
    return folder, jax.device_get(result.params)


@pytest.fixture
def stopped(finished, tmp_path):
    """The same run as if it had been killed between steps 8 and 12."""
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "checkpoints" / "12")
    return folder


def damage(file):
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def test_resumed_run_ends_as_the_uninterrupted_one(
    finished, stopped, tiny_config, settings, records, assert_same_params
):
    result = train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    assert_same_params(result.params, finished[1])
    assert records(stopped) == records(finished[0])


def test_resume_on_another_mesh(finished, tiny_config, settings, records, tmp_path):
    """Twenty more steps on eight devices have the losses of twenty more on the one that began."""
    losses = []
    for mesh in ({}, {"data_parallel": 2, "model_parallel": 4}):
        folder = tmp_path / f"{len(losses)}"
        shutil.copytree(finished[0], folder)
        train(TinyTask(), tiny_config(**settings, steps=32, **mesh), folder, fingerprint=FINGERPRINT)
        losses.append([record["loss"] for record in records(folder)])
    assert len(losses[0]) == len(losses[1]) == 32
    np.testing.assert_allclose(*losses, atol=1e-5)


def test_half_written_checkpoint_is_not_taken(stopped, finished, tiny_config, settings, assert_same_params):
    half = stopped / "checkpoints" / "12.orbax-checkpoint-tmp"
    shutil.copytree(finished[0] / "checkpoints" / "12", half)
    largest_file(half).unlink()
    result = train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    assert_same_params(result.params, finished[1])
    assert not half.exists()


@pytest.mark.parametrize("harm", ["changed", "cut", "lost", "metadata"])
def test_damaged_checkpoint_gives_way_to_the_one_before(
    harm, stopped, finished, tiny_config, settings, assert_same_params
):
    latest = stopped / "checkpoints" / "8"
    if harm == "changed":
        damage(largest_file(latest / "params"))
    elif harm == "cut":
        for file in (latest / "training").rglob("d/*"):
            file.write_bytes(file.read_bytes()[:-50])
    elif harm == "lost":
        shutil.rmtree(latest / "average")
    else:
        file = latest / "metadata" / "metadata"
        file.write_text(file.read_text().replace("aaaa", "aaab"))
    with pytest.warns(UserWarning, match="checkpoint 8 is damaged .* trying the one before it"):
        result = train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    assert_same_params(result.params, finished[1])
    assert [path.name for path in (stopped / "damaged_checkpoints").iterdir()] == ["8"]


def test_nothing_but_damaged_checkpoints(stopped, tiny_config, settings):
    for step in ("4", "8"):
        (stopped / "checkpoints" / step / "metadata" / "metadata").unlink()
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(InputError, match="none of the 2 checkpoints can be read"),
    ):
        train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)


@pytest.mark.parametrize(
    ("task", "changes", "fingerprint", "message"),
    [
        (TinyTask(model=TinyModel(hidden=8)), {}, FINGERPRINT,
         r"another model \(wi: checkpoint float32\[8, 16\], this run float32\[8, 8\], wo: checkpoint"),
        (TinyTask(), {"optimizer": Adafactor()}, FINGERPRINT, "another optimizer or set of metrics"),
        (TinyTask(), {"average_decay": None}, FINGERPRINT, r"another average_decay \(embedding: checkpoint float32"),
        (TinyTask(), {}, {**FINGERPRINT, "corpus": "cccc"}, r"another corpus \(aaaa\); expected cccc"),
        (TinyTask(), {}, {"corpus": "aaaa"}, r"another docids \(bbbb\); expected None"),
    ],
)  # fmt: skip
def test_checkpoint_of_something_else(task, changes, fingerprint, message, finished, tiny_config, settings):
    with pytest.raises(InputError, match=message):
        train(task, tiny_config(**{**settings, **changes}), finished[0], fingerprint=fingerprint)


def test_rate_may_change_on_resume(stopped, tiny_config, settings):
    config = tiny_config(**settings, optimizer=AdamW(learning_rate=Constant(rate=0.001)))
    assert train(TinyTask(), config, stopped, fingerprint=FINGERPRINT).step == 12


def test_restore_params_by_name_and_step(finished, assert_same_params):
    folder, average = finished
    assert_same_params(restore_params(folder), average)  # no best_metric, so the last is the best
    assert_same_params(restore_params(folder, "last"), average)
    earlier = restore_params(folder, 4)
    assert np.abs(earlier["wi"] - average["wi"]).max() > 1e-3
    with pytest.raises(InputError, match=r"no checkpoint 5; expected 'best', 'last' or one of the steps \[4, 8, 12\]"):
        restore_params(folder, 5)
    with pytest.raises(InputError, match="no checkpoints here; next: give the folder of a run that was trained"):
        restore_params(folder / "elsewhere")


def test_restore_params_onto_a_mesh(finished, assert_same_params):
    params = restore_params(finished[0], "last", make_mesh(model_parallel=4))
    assert params["wi"].sharding.spec == P(None, "model")
    assert_same_params(params, finished[1])


def test_restore_params_of_a_damaged_run(stopped, finished, assert_same_params):
    damage(largest_file(stopped / "checkpoints" / "8" / "average"))
    with pytest.warns(UserWarning, match="checkpoint 8 is damaged"):
        assert_same_params(restore_params(stopped, "last"), jax.device_get(restore_params(stopped, 4)))
    with pytest.raises(InputError, match=r"checkpoint 8 is damaged .*; next: take 'last' or another step"):
        restore_params(stopped, 8)
    assert (stopped / "checkpoints" / "8").exists()  # reading moves nothing


@pytest.mark.parametrize(
    ("at", "error"),
    [
        ("save", OSError(28, "No space left on device")),
        ("wait_until_finished", ValueError("RESOURCE_EXHAUSTED: Failed to write to file 8: No space left on device")),
    ],
)
def test_full_disk_keeps_the_last_checkpoint(
    at, error, stopped, tiny_config, settings, monkeypatch, assert_same_params, finished
):
    import orbax.checkpoint as ocp

    def fail(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, at, fail)
        with pytest.raises(InputError, match="no space left on the disk for a checkpoint; next: free some space"):
            train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    result = train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    assert_same_params(result.params, finished[1])


def test_metadata_is_plain_json(finished):
    metadata = json.loads((finished[0] / "checkpoints" / "12" / "metadata" / "metadata").read_text())
    assert metadata["step"] == 12
    assert metadata["fingerprint"] == FINGERPRINT
    assert metadata["shapes"]["params"]["wi"] == ["float32", [8, 16]]
    assert metadata["axes"]["wi"] == ["embed", "mlp"]


def test_checksum_sees_every_bit_and_order():
    tree = {"a": np.float32([1, 2, 3]), "b": np.int32([7]), "c": np.zeros(2, bool)}
    base = checksum(tree)
    assert checksum({name: leaf.copy() for name, leaf in tree.items()}) == base
    assert checksum({**tree, "a": np.float32([2, 1, 3])}) != base
    assert checksum({**tree, "a": np.nextafter(np.float32([1, 2, 3]), np.float32(9))}) != base
    assert checksum({**tree, "b": np.int32([-(2**31) + 7])}) != base


def test_difference_names_the_first_few():
    found = {f"layer_{i}": ["float32", [i]] for i in range(6)}
    wanted = {**{f"layer_{i}": ["float32", [i + 1]] for i in range(5)}, "new": ["float32", [2]]}
    assert describe_difference(found, wanted, found_in="file", wanted_in="model") == (
        "layer_0: file float32[0], model float32[1], layer_1: file float32[1], model float32[2], "
        "layer_2: file float32[2], model float32[3], layer_3: file float32[3], model float32[4] and 3 more"
    )
    assert describe_difference(found, found, found_in="file", wanted_in="model") == ""


def test_a_checkpoint_that_is_not_large_is_in_files_of_at_most_16_mib(tiny_config, tmp_path):
    """What copies a run elsewhere may take no larger ones."""
    result = train(TinyTask(model=TinyModel(vocab_size=1 << 19)), tiny_config(steps=1), tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert result.params["wo"].nbytes > 2 * max(sizes)
    assert max(sizes) <= 16 << 20
    np.testing.assert_array_equal(restore_params(tmp_path)["wo"], result.params["wo"])
