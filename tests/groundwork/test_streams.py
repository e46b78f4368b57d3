"""Programs go on printing where a terminal or a pipe cannot show a character."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = [path for path in sorted(Path(__file__).parents[2].glob("0*/*")) if (path / "__init__.py").is_file()]


def run(program: str, encoding: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    return subprocess.run(
        [sys.executable, "-c", program], input=given, env=environment, capture_output=True, timeout=60, check=False
    )


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ("cp1252", "a ? b € ?".encode("cp1252")),
        ("ascii", b"a ? b ? ?"),
        ("utf-8", "a → b € ?".encode()),  # half of a surrogate pair has no UTF-8
        ("ascii:backslashreplace", rb"a \u2192 b \u20ac \ud83d"),  # what the user chose stays
    ],
)
def test_a_character_that_cannot_be_shown_does_not_end_the_program(encoding: str, expected: bytes):
    done = run("import groundwork; print('a \\u2192 b \\u20ac \\ud83d')", encoding)
    assert (done.returncode, done.stdout.rstrip(), done.stderr) == (0, expected, b"")


def test_bytes_that_are_no_text_can_be_typed():
    done = run("import groundwork; print(ascii(input()))", "utf-8", b"caf\xe9\n")
    assert (done.returncode, done.stdout.rstrip(), done.stderr) == (0, rb"'caf\ufffd'", b"")


@pytest.mark.skipif(os.name == "nt", reason="closes streams by their numbers")
def test_a_closed_stream_is_empty_and_takes_what_is_printed():
    program = (
        "import os, subprocess, sys\n"
        "child = 'import groundwork, sys; print(1, file=sys.stderr); print(2); input()'\n"
        "for stream in (0, 2): os.close(stream)\n"
        "os.execv(sys.executable, [sys.executable, '-c', child])"
    )
    done = run(program, "utf-8", b"typed\n")
    assert done.stdout == b"2\n" and done.returncode == 1  # EOFError, as at the end of a file


def test_every_package_sets_the_streams_by_its_first_import():
    assert len(PACKAGES) == 9
    for package in PACKAGES:
        assert "\nfrom groundwork." in (package / "__init__.py").read_text(encoding="utf-8"), package
