"""Groundwork: functions that Numba compiles at their first call. Each test runs small modules in new interpreters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALLED = """
from groundwork.compiled import compiled

@compiled(allocates=False)
def step(number):
    return number + 1
"""
CALLER = """
import sys
from groundwork import compiled as module
from groundwork.compiled import compiled
from called import step

module._NOTICEABLE = 0.0

@compiled()
def steps(count):
    number = 0
    for _ in range(count):
        number = step(number)
    return number

assert "numba" not in sys.modules  # nothing is loaded or compiled at import
print(steps(5), "numba" in sys.modules)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "called.py").write_text(CALLED)
    (tmp_path / "code" / "caller.py").write_text(CALLER)
    return tmp_path / "code"


def run(script: Path, **environment: str) -> tuple[str, str]:
    result = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=120, env=os.environ | environment
    )
    return result.stdout, result.stderr


@pytest.mark.slow
def test_what_is_compiled_is_kept_until_one_of_its_files_changes(folder: Path):
    cache = str(folder.parent / "cache")
    say = "Compiling once; later runs load it from a cache.\n"
    assert run(folder / "caller.py", NUMBA_CACHE_DIR=cache) == ("5 True\n", say)
    assert run(folder / "caller.py", NUMBA_CACHE_DIR=cache) == ("5 True\n", "")
    (folder / "called.py").write_text(CALLED.replace("+ 1", "+ 2"))
    assert run(folder / "caller.py", NUMBA_CACHE_DIR=cache) == ("10 True\n", say)


@pytest.mark.slow
def test_where_no_folder_can_be_written_to_it_is_compiled_in_memory(folder: Path):
    for name in ("cache", "code/__pycache__", "home"):  # files, where folders would have to be
        (folder.parent / name).write_text("")
    home = str(folder.parent / "home")
    out, err = run(folder / "caller.py", NUMBA_CACHE_DIR=home, HOME=home, XDG_CACHE_HOME=home, LOCALAPPDATA=home)
    assert out == "5 True\n"
    assert err == "No folder for compiled code can be written to, so each run compiles again.\n"


def test_plain_kernels_are_ordinary_python(folder: Path):
    assert run(folder / "caller.py", NULLM_KERNELS="plain") == ("5 False\n", "")
