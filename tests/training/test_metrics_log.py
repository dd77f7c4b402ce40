"""metrics.jsonl through kills and resumes."""

import errno
import json
import os

import pytest

from genret_jax.errors import InputError
from genret_jax.training.log import METRICS_FILE, MetricsLog, read_metrics


class FullDisk:
    """A file on a disk that has no room for another line."""

    def write(self, text):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def write(folder, step, records, **options):
    with MetricsLog(folder, step=step, **options) as log:
        for at, loss in records:
            log.write(at, "train", {"loss": loss})


def test_records_are_lines_in_order(tmp_path):
    write(tmp_path, 0, [(5, 2.0), (10, 1.5)])
    assert (tmp_path / METRICS_FILE).read_text() == (
        '{"step": 5, "kind": "train", "loss": 2.0}\n{"step": 10, "kind": "train", "loss": 1.5}\n'
    )


def test_resume_drops_what_will_be_written_again(tmp_path):
    write(tmp_path, 0, [(5, 2.0), (10, 1.5), (15, 1.2)])
    write(tmp_path, 10, [(15, 1.2), (20, 1.0)])
    assert [r["step"] for r in read_metrics(tmp_path)] == [5, 10, 15, 20]


def test_line_cut_by_a_kill_is_dropped(tmp_path):
    write(tmp_path, 0, [(5, 2.0)])
    with open(tmp_path / METRICS_FILE, "a") as handle:
        handle.write('{"step": 10, "ki')
    assert [r["step"] for r in read_metrics(tmp_path)] == [5]
    write(tmp_path, 5, [(10, 1.0)])
    assert [json.loads(line)["step"] for line in (tmp_path / METRICS_FILE).read_text().splitlines()] == [5, 10]


def test_broken_line_in_the_middle_is_named(tmp_path):
    (tmp_path / METRICS_FILE).write_text('{"step": 1, "kind": "train"}\nnonsense\n{"step": 2, "kind": "train"}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: not a record"):
        read_metrics(tmp_path)


@pytest.mark.parametrize("line", ["[1]", "{}", '{"step": "1", "kind": "train"}', '{"step": 1}', "[" * 100_000])
def test_a_line_of_another_shape_is_named(line, tmp_path):
    (tmp_path / METRICS_FILE).write_text(f'{{"step": 1, "kind": "train"}}\n{line}\n')
    with pytest.raises(InputError, match=r"metrics.jsonl:2: not a record"):
        read_metrics(tmp_path)


def test_a_new_run_drops_the_records_of_one_that_was_killed(tmp_path):
    write(tmp_path, 0, [(0, 2.0), (5, 1.9)])
    write(tmp_path, 0, [(0, 2.0)])
    assert [r["step"] for r in read_metrics(tmp_path)] == [0]


def test_numbers_json_does_not_know_become_null(tmp_path):
    write(tmp_path, 0, [(1, float("nan")), (2, float("inf"))])
    assert [r["loss"] for r in read_metrics(tmp_path)] == [None, None]


def test_no_folder_no_records(tmp_path):
    assert read_metrics(tmp_path / "nothing") == []


def test_tensorboard_events_are_written(tmp_path):
    write(tmp_path, 0, [(5, 2.0)], tensorboard=True)
    events = list((tmp_path / "tensorboard").iterdir())
    assert len(events) == 1
    assert b"train/loss" in events[0].read_bytes()


def test_full_disk_says_what_to_do(tmp_path, monkeypatch):
    with MetricsLog(tmp_path, step=0) as log, monkeypatch.context() as patch:
        patch.setattr(log, "_handle", FullDisk())
        with pytest.raises(InputError, match="no space left on the disk; next: free some space"):
            log.write(1, "train", {"loss": 1.0})
