"""The code of the lessons and guides runs: Python blocks whole, and commands as far as their parsers."""

from __future__ import annotations

import argparse
import contextlib
import doctest
import functools
import importlib
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonargparse
import pytest
from serving import serve, tiny_models

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [
        *ROOT.glob("0?_*/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/guides/*.md"),
        ROOT / "README.md",
        ROOT / "exercises" / "README.md",
    ]
)
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
# The start of a command in a block; in a block of output, it stands behind a prompt.
COMMAND = re.compile(r"((?:[A-Z_]+=\S+ )*(?:python|torchrun|learn) .*)", re.DOTALL)


def blocks_of(page: Path, *languages: str) -> list[str]:
    return [code for _, language, code in BLOCK.findall(page.read_text(encoding="utf-8")) if language in languages]


def python_blocks(page: Path) -> list[str]:
    """A block whose lines are indented is a part of a function, and shown where it belongs."""
    return [block for block in blocks_of(page, "python") if not block.startswith(" ")]


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


def test_the_lessons_have_code_to_run():
    assert sum(len(python_blocks(page)) for page in WITH_PYTHON) >= 25


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run_and_print_what_they_say(
    page: Path, tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    # In a folder of their own, with a small model under the name of the default one. The blocks of a page share names.
    shutil.copytree(trained_run, tmp_path / "checkpoints" / "small_gpt")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "lesson"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    for number, block in enumerate(python_blocks(page), 1):
        if "http://127.0.0.1:8000" in block:
            url = request.getfixturevalue("server_url")
            block = block.replace("http://127.0.0.1:8000", url).replace("small_gpt", "tiny")
        if block.lstrip().startswith(">>>"):
            test = doctest.DocTestParser().get_doctest(block, names, f"block {number}", str(page), 0)
            failed, tried = runner.run(test, clear_globs=False)
            assert tried and not failed
            names = test.globs
        else:
            exec(compile(block, f"{page.name}, block {number}", "exec"), names)


@pytest.fixture
def server_url() -> Iterator[str]:
    with serve(tiny_models()) as server:
        yield server.url


def commands_of(page: Path) -> list[str]:
    """Commands of a page, each on one line of its own unless a quotation goes on."""
    lines = [line for block in blocks_of(page, "sh", "bash") for line in _whole_lines(block)]
    for block in blocks_of(page, "text", "console"):
        lines += [line[2:] for line in _whole_lines(block) if line.startswith("$ ")]
    return [match[1] for line in lines if (match := COMMAND.match(line.replace(".venv/bin/", "")))]


def _whole_lines(block: str) -> Iterator[str]:
    whole = ""
    for line in block.replace("\\\n", " ").splitlines():
        whole += ("\n" if whole else "") + line
        if whole.count('"') % 2 == 0:
            yield whole
            whole = ""


ALL_COMMANDS = sorted({command for page in PAGES for command in commands_of(page)})


class Parsed(BaseException):
    """The arguments were understood; what comes next would be the work itself."""


@contextlib.contextmanager
def only_parsing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def stop_after(parse):
        def parse_and_stop(self, *args, **kwargs):
            parse(self, *args, **kwargs)
            raise Parsed

        return parse_and_stop

    with monkeypatch.context() as patch:
        for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
            patch.setattr(parser, "parse_args", stop_after(parser.parse_args))
        yield


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda command: command.split("#")[0].strip()[:80])
def test_commands_are_understood_by_what_they_call(command: str, monkeypatch: pytest.MonkeyPatch):
    words = [word for word in shlex.split(command, comments=True) if not re.match(r"[A-Z_]+=", word)]
    if words[0] == "torchrun":
        words = words[next(i for i, word in enumerate(words) if word.endswith(".py")) :]
    elif words[0] == "learn":
        words = ["-m", "learn.command_line", *words[1:]]
    else:
        words = words[1:]
    if words[0] == "-m" and not (words[1].split(".")[0] in sys.stdlib_module_names or "." not in words[1]):
        run, words = importlib.import_module(words[1]).main, words[1:]  # as running the module does
    elif words[0].endswith(".py"):
        run = functools.partial(runpy.run_path, words[0], run_name="__main__")
    else:
        pytest.skip("not a command of this project")
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", words)
    if len(words) == 1:  # nothing to understand: that the script is there is tested with the links
        return
    with only_parsing(monkeypatch), pytest.raises((Parsed, SystemExit)) as ended:
        run()
    assert isinstance(ended.value, Parsed) or ended.value.code == 0  # such as --print_config
