"""Checkpoints: resumed from exactly, on other meshes too, never half, never another model's."""

import errno
import gc
import json
import os
import shutil

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P
from support.tiny_training_task import TinyModel, TinyTask

from genret_jax.errors import InputError
from genret_jax.training import (
    Adafactor,
    AdamW,
    Constant,
    checkpoint_format,
    checkpoints,
    make_mesh,
    restore_params,
    train,
)
from genret_jax.training.checkpoint_format import checkpoint_steps, checksum

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
    """Eight more steps on eight devices have the losses of eight more on the one that began."""
    losses = []
    for mesh in ({}, {"data_parallel": 2, "model_parallel": 4}):
        folder = tmp_path / f"{len(losses)}"
        shutil.copytree(finished[0], folder)
        train(TinyTask(), tiny_config(**settings, steps=20, **mesh), folder, fingerprint=FINGERPRINT)
        losses.append([record["loss"] for record in records(folder)])
    assert len(losses[0]) == len(losses[1]) == 20
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


def test_nothing_but_damaged_checkpoints_is_no_reason_to_start_over(stopped, finished, tiny_config, settings):
    for step in ("4", "8"):
        (stopped / "checkpoints" / step / "metadata" / "metadata").unlink()
    with (
        pytest.warns(UserWarning, match="is damaged"),
        pytest.raises(InputError, match="2 damaged ones lie here; next: copy a whole one"),
    ):
        train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    with pytest.raises(InputError, match="remove this folder to start again from step 0"):
        train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
    assert not checkpoint_steps(stopped / "checkpoints")
    shutil.copytree(finished[0] / "checkpoints" / "12", stopped / "checkpoints" / "12")
    assert train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT).step == 12


FAILURES = [
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EACCES, "Permission denied"),
    OSError(errno.EIO, "Input/output error"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
    MemoryError(),
    ValueError("RESOURCE_EXHAUSTED: Error opening local file: [OS error 24: EMFILE Too many open files]"),
    ValueError("NOT_FOUND: Error reading a manifest: Input/output error"),
    RuntimeError("not known to anybody"),
    KeyError("params"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=[f"{type(e).__name__} {e}"[:30] for e in FAILURES])
def test_what_does_not_prove_damage_changes_nothing(failure, stopped, tiny_config, settings, monkeypatch):
    """A KeyError would prove it, but here a file of the checkpoint cannot be opened."""

    def fail(*_, **__):
        raise failure

    if isinstance(failure, KeyError):
        loop = stopped / "checkpoints" / "8" / "loop"
        loop.symlink_to(loop)
    before = sorted(path for path in stopped.rglob("*") if path.name != ".lock")
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_format, "_restore", fail)
        with pytest.raises(InputError, match=r"could not be read .*nothing was changed"):
            train(TinyTask(), tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
        with pytest.raises(InputError, match="could not be read"):
            restore_params(stopped, "last")
    assert sorted(path for path in stopped.rglob("*") if path.name != ".lock") == before


def test_a_low_limit_of_open_files_changes_nothing(stopped, tiny_config, settings):
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    task = TinyTask()
    train(task, tiny_config(steps=1), stopped.parent / "other")  # imports everything
    lowest = os.open("/dev/null", os.O_RDONLY)
    os.close(lowest)
    for more in (0, 2, 4):
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + more, before[1]))
        try:
            with pytest.raises(InputError, match="Too many open files"):
                train(task, tiny_config(**settings), stopped, fingerprint=FINGERPRINT)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert checkpoint_steps(stopped / "checkpoints") == [8, 4]
    assert not (stopped / "damaged_checkpoints").exists()


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_checkpoint_deleted_while_it_is_read(which, stopped, finished, monkeypatch, assert_same_params, recwarn):
    """Training writes a new one and deletes the old one at that moment."""
    read, seen = checkpoint_format.load_items, []

    def delete_first(path, like):
        seen.append(path.name)
        if len(seen) == 1:
            shutil.copytree(finished[0] / "checkpoints" / "12", stopped / "checkpoints" / "12")
            shutil.rmtree(path)
        return read(path, like)

    monkeypatch.setattr(checkpoint_format, "load_items", delete_first)
    assert_same_params(restore_params(stopped, which), finished[1])
    assert seen == ["8", "12"]
    assert not [str(each.message) for each in recwarn if "damaged" in str(each.message)]


def test_a_step_deleted_while_it_is_read(stopped, monkeypatch):
    read = checkpoint_format.read_metadata
    monkeypatch.setattr(checkpoint_format, "read_metadata", lambda path: (shutil.rmtree(path), read(path)))
    with pytest.raises(InputError, match="no checkpoint 8; expected"):
        restore_params(stopped, 8)


def test_metadata_of_another_shape_is_damage(stopped):
    (stopped / "checkpoints" / "8" / "metadata" / "metadata").write_text("[1]")
    with pytest.raises(InputError, match="checkpoint 8 is damaged"):
        restore_params(stopped, 8)


def test_a_damaged_array_is_reported_without_noise(stopped, capfd):
    for file in (stopped / "checkpoints" / "8").rglob("d/*"):
        file.write_bytes(b"\0" * 100)
    with pytest.raises(InputError, match="checkpoint 8 is damaged"):
        restore_params(stopped, 8)
    gc.collect()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("task", "changes", "fingerprint", "message"),
    [
        (TinyTask(model=TinyModel(hidden=8)), {}, FINGERPRINT,
         r"another model \(2 different: wi float32\[8, 16\] instead of float32\[8, 8\], wo "),
        (TinyTask(), {"optimizer": Adafactor()}, FINGERPRINT, "another optimizer or set of metrics"),
        (TinyTask(), {"average_decay": None}, FINGERPRINT, r"another average_decay \(4 unexpected: embedding "),
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
    assert (metadata["step"], metadata["steps"]) == (12, 12)
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


@pytest.mark.parametrize("recorded", [True, False])
def test_another_number_of_steps_is_said(recorded, stopped, tiny_config, settings, capsys, monkeypatch):
    """Checkpoints from before it was recorded say nothing."""
    if not recorded:
        read = checkpoints.read_metadata
        monkeypatch.setattr(
            checkpoints, "read_metadata", lambda path: {k: v for k, v in read(path).items() if k != "steps"}
        )
    assert train(TinyTask(), tiny_config(**settings, steps=14), stopped, fingerprint=FINGERPRINT).step == 14
    said = [line for line in capsys.readouterr().err.splitlines() if "learning rate" in line]
    assert said == (
        ["the run was to end at step 12 and now ends at step 14; from here on the learning rate is that of a run of 14 "
         "steps"] if recorded else []
    )  # fmt: skip
    train(TinyTask(), tiny_config(**settings, steps=14), stopped, fingerprint=FINGERPRINT)
    assert "learning rate" not in capsys.readouterr().err


def test_fewer_steps_than_were_made(stopped, tiny_config, settings):
    with pytest.raises(InputError, match=r"has made 8 steps already; expected at least 8 steps instead of 7"):
        train(TinyTask(), tiny_config(**settings, steps=7), stopped, fingerprint=FINGERPRINT)
    assert checkpoint_steps(stopped / "checkpoints") == [8, 4]


def test_a_checkpoint_that_is_not_large_is_in_files_of_at_most_16_mib(tiny_config, tmp_path, monkeypatch):
    """What copies a run elsewhere may take no larger ones. Here everything is a 16th of that."""
    monkeypatch.setattr(checkpoints, "_PART", checkpoints._PART >> 4)
    result = train(TinyTask(model=TinyModel(vocab_size=1 << 15)), tiny_config(steps=1), tmp_path)
    sizes = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert result.params["wo"].nbytes > 2 * max(sizes)
    assert max(sizes) <= 1 << 20
    np.testing.assert_array_equal(restore_params(tmp_path)["wo"], result.params["wo"])
