"""Stage 5: a run's folder is written by one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from groundwork.locks import InUseError, ProcessLock
from training.run.run_folder import LOCK_FILE, RunFolder
from training.train_command import main


def test_a_second_run_in_a_folder_is_refused_in_one_line_and_takes_nothing_away(tiny_settings, write_config, capsys):
    run = Path(tiny_settings["output_dir"])
    with RunFolder(run):
        (run / ".step_00000004.7.tmp").mkdir()  # the other run is just saving
        assert main(["--config", write_config(tiny_settings)]) == 1
        error = capsys.readouterr().err.strip()
        assert f"{run} is in use by another process" in error and "choose another folder" in error
        assert len(error.splitlines()) == 1
        assert (run / ".step_00000004.7.tmp").exists() and not (run / "metrics.jsonl").exists()


def test_a_folder_is_free_again_after_a_block_that_failed_and_is_removed_while_empty(tmp_path: Path):
    with pytest.raises(KeyError), RunFolder(tmp_path / "new"):
        raise KeyError("x")
    assert not (tmp_path / "new").exists()
    with RunFolder(tmp_path / "new"):
        (tmp_path / "new" / "weights").touch()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["weights"]
    (tmp_path / "mine").mkdir()
    with RunFolder(tmp_path / "mine"):
        pass
    assert (tmp_path / "mine").exists()


def test_a_folder_that_is_set_aside_takes_everything_with_it_and_an_empty_one_is_held(tmp_path: Path):
    (tmp_path / "run.1").mkdir()
    with RunFolder(tmp_path / "run") as folder:
        (tmp_path / "run" / "adapter").mkdir()
        assert folder.set_aside() == tmp_path / "run.2"
        assert [path.name for path in (tmp_path / "run.2").iterdir()] == ["adapter"]
        with pytest.raises(InUseError), RunFolder(tmp_path / "run"):
            pass
    with RunFolder(tmp_path / "run.2"):
        pass


def test_a_run_that_another_machine_left_is_named(tmp_path: Path, capsys):
    (tmp_path / f"{LOCK_FILE}.holder").write_text("process 12 on node7 since 2026-01-01 10:00")
    with RunFolder(tmp_path):
        assert "process 12 on node7" in capsys.readouterr().out
    with RunFolder(tmp_path):  # that one ended in good order
        assert capsys.readouterr().out == ""


def test_dry_runs_write_nothing_and_need_no_lock(tiny_settings, write_config):
    run = Path(tiny_settings["output_dir"])
    run.mkdir()
    lock = ProcessLock(run / LOCK_FILE)
    assert lock.acquire()
    assert main(["--config", write_config(tiny_settings), "--dry-run"]) == 0
    lock.release()
    assert not list(run.iterdir())
