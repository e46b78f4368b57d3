"""Stage 5: records of a run; what cannot be written is told once, and never ends the run."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest

from training.anomalies import LossMonitor
from training.run.tracking import LineFile, Tracker, TrackingConfig, read_metrics

PLAIN = TrackingConfig(tensorboard=False)


class FullDisk:
    """Takes a few bytes, then none, until there is room again."""

    def __init__(self, file, room: int):
        self.file, self.room = file, room

    def write(self, data: bytes) -> int:
        part = data[: self.room]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        return self.file.write(part)

    def __getattr__(self, name: str):
        return getattr(self.file, name)


def test_lines_that_found_no_room_are_written_when_there_is_some(tmp_path: Path):
    lines = LineFile(tmp_path / "lines", "first\n")
    lines._file = disk = FullDisk(lines._file, 3)
    for word in ("second", "third"):
        with pytest.raises(OSError, match="No space left"):
            lines.append(word)
        assert (tmp_path / "lines").read_text() == "first\n"
    disk.room = 1000
    lines.append("fourth")
    assert (tmp_path / "lines").read_text() == "first\nsecond\nthird\nfourth\n"
    disk.room = 0
    with pytest.raises(OSError, match="No space left"):
        lines.append("fifth")
    disk.room = 1000
    lines.close()
    assert (tmp_path / "lines").read_text().endswith("fifth\n")


def test_a_full_disk_is_told_once_with_the_path_and_loses_no_record(tmp_path: Path):
    told: list[str] = []
    tracker = Tracker(tmp_path, 0, PLAIN, warn=told.append)
    tracker._lines._file = disk = FullDisk(tracker._lines._file, 5)
    for step in (1, 2, 3):
        tracker.log(step, train_loss=1.0)
    assert len(told) == 1 and str(tmp_path / "metrics.jsonl") in told[0] and "training goes on" in told[0]
    disk.room = 1000
    tracker.log(4, train_loss=1.0)
    disk.room = 0
    tracker.log(5, train_loss=1.0)
    assert len(told) == 2  # another outage is told again
    disk.room = 1000
    tracker.close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 3, 4, 5]


def test_what_is_not_a_number_is_null_in_every_file_and_nan_again_when_a_run_goes_on(tmp_path: Path):
    tracker = Tracker(tmp_path, 0, PLAIN)
    for step, loss in enumerate((2.0, math.nan, math.inf, 1.0), start=1):
        tracker.log(step, train_loss=loss)
    tracker.write_summary({"validation": {"loss": -math.inf, "curve": [1.0, math.nan]}, "samples": ("a", None)})
    tracker.close()

    def no_constant(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    written = [json.loads(line, parse_constant=no_constant)["train_loss"] for line in lines]
    assert written == [2.0, None, None, 1.0]
    summary = json.loads((tmp_path / "summary.json").read_text(), parse_constant=no_constant)
    assert summary == {"validation": {"loss": None, "curve": [1.0, None]}, "samples": ["a", None]}
    again = Tracker(tmp_path, 3, PLAIN)
    assert again.draw_curve(3.0, {}) is not None
    assert [math.isnan(record["train_loss"]) for record in again.records] == [False, True, True]
    again.close()
    assert (tmp_path / "metrics.jsonl").read_text().splitlines() == lines[:3]


def test_lines_that_are_not_records_are_left_out_and_said(tmp_path: Path, capsys):
    lines = ['{"step": 1, "train_loss": 2.0}', '{"step": 2, "train_loss": NaN}', "[" * 100_000, "[1]", '{"step": "3"}']
    lines += ['{"train_loss": 1.0}', '{"step": true}', '{"step": 4, "train_loss": "low"}', '{"step": 5, "a": [1]}']
    lines += ['{"step": 6, "a": 1%s}' % ("0" * 400), '{"step": 7, "train_loss": 1.5}', '{"step": 8, "tr']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
    assert [record["step"] for record in read_metrics(tmp_path)] == [1, 2, 7]
    assert "left out, because not records of steps: 9 of 12 lines" in capsys.readouterr().err
    Tracker(tmp_path, 1, PLAIN).close()
    assert [record["step"] for record in read_metrics(tmp_path)] == [1]


def test_no_record_of_any_kind_ends_a_run(tmp_path: Path):
    told: list[str] = []
    tracker = Tracker(tmp_path, 0, PLAIN, warn=told.append)
    tracker.log(1, train_loss=1.0)
    for name in ("loss_curve.png", "summary.json", "metrics.csv"):
        (tmp_path / name).mkdir()  # so that no file can have that name
    assert tracker.draw_curve(3.0, {}) is None
    tracker.write_summary({"steps": 1})
    tracker.close()
    assert [line.split(" could not")[0] for line in told] == [
        f"warning: {tmp_path / name}" for name in ("loss_curve.png", "summary.json", "metrics.csv")
    ]
    assert {path.name for path in tmp_path.iterdir()} == {
        "loss_curve.png",
        "summary.json",
        "metrics.csv",
        "metrics.jsonl",
    }


def test_events_that_cannot_be_written_are_given_up_and_the_lines_go_on(tmp_path: Path):
    told: list[str] = []
    tracker = Tracker(tmp_path, 0, TrackingConfig(tensorboard=True), warn=told.append)

    def fail(*_: object) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    tracker._events.add_scalar = fail
    for step in (1, 2):
        tracker.log(step, train_loss=1.0, gradient_norm=1.0)
    tracker.log_text("sample", "some", 2)
    tracker.close()
    assert len(told) == 1 and str(tmp_path / "tensorboard") in told[0] and "quota" in told[0]
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_batch_that_cannot_be_saved_is_told(tmp_path: Path):
    (tmp_path / "file").touch()
    said = LossMonitor(tmp_path / "file" / "run").save_batches("spike", 3, 0, [])
    assert said.startswith(f"its batch could not be saved as {tmp_path / 'file' / 'run'}")
