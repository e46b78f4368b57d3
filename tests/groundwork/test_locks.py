"""Locks that one process holds, and that end with it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from groundwork.locks import ProcessLock

HOLD = """
import sys, time
from pathlib import Path
from groundwork.locks import ProcessLock
lock = ProcessLock(Path(sys.argv[1]))
assert lock.acquire()
print("held", flush=True)
time.sleep(60)
"""


def test_a_lock_is_held_once_names_its_holder_and_leaves_nothing(tmp_path: Path):
    first, second = ProcessLock(tmp_path / "lock"), ProcessLock(tmp_path / "lock")
    assert first.acquire() and not second.acquire()
    assert second.holder().startswith(f"process {os.getpid()} on ")
    second.release()  # holds nothing, so it takes nothing away
    assert not ProcessLock(tmp_path / "lock").acquire()
    first.release()
    assert not list(tmp_path.iterdir()) and second.holder() == ""
    assert second.acquire()
    second.release()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_the_lock_of_a_killed_process_is_free(tmp_path: Path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path / "lock")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        lock = ProcessLock(tmp_path / "lock")
        assert not lock.acquire() and f"process {process.pid} " in lock.holder()
        process.kill()
        process.wait()
        assert lock.acquire()
        lock.release()
    assert not list(tmp_path.iterdir())


def test_one_who_waits_gets_the_lock_when_it_is_given_back(tmp_path: Path):
    held, order = threading.Event(), []

    def hold() -> None:
        lock = ProcessLock(tmp_path / "lock")
        lock.acquire()
        held.set()
        threading.Event().wait(0.1)
        order.append("given back")
        lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    waiting = ProcessLock(tmp_path / "lock")
    assert waiting.acquire(wait=True)
    order.append("taken")
    waiting.release()
    thread.join()
    assert order == ["given back", "taken"]


def test_a_disk_without_locks_is_told_and_not_an_error(tmp_path: Path, monkeypatch):
    import errno

    lock = ProcessLock(tmp_path / "lock")

    def fail(**_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(lock._lock, "acquire", fail)
    assert lock.acquire() and not lock.supported
    lock.release()
