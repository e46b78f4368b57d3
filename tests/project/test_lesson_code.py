"""The code of the lessons and guides runs: programs in Python here, commands in `test_commands.py`."""

from __future__ import annotations

import configparser
import doctest
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lesson_pages import PAGES, ROOT, blocks_of
from support.serving import serve, tiny_models

from finetuning.data.instruction_data import read_instruction_data

pytestmark = pytest.mark.slow


def python_blocks(page: Path) -> list[str]:
    """A block with indented lines is a part of a function, and is shown where it belongs."""
    return [block for block in blocks_of(page, "python") if not block.startswith(" ")]


WITH_PYTHON = [page for page in PAGES if python_blocks(page)]


def test_the_lessons_have_code_to_run():
    assert sum(len(python_blocks(page)) for page in WITH_PYTHON) >= 25


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_python_blocks_run_and_print_what_they_say(
    page: Path, tmp_path: Path, trained_run: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
):
    # In a separate folder, with a small model under the default name. The blocks of a page share names.
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


def test_records_that_the_fine_tuning_guide_shows_are_read(tmp_path: Path):
    (block,) = (block for page in PAGES for block in blocks_of(page, "json"))
    (tmp_path / "shown.jsonl").write_text(block, encoding="utf-8")
    data = read_instruction_data(tmp_path / "shown.jsonl")
    assert not data.problems and len(data.examples) + len(data.preferences) == len(block.splitlines())


def test_the_service_of_the_deployment_guide_starts_what_is_there():
    (block,) = (block for page in PAGES for block in blocks_of(page, "ini"))
    unit = configparser.ConfigParser()
    unit.read_string(block)
    folder, (python, *words) = Path(unit["Service"]["WorkingDirectory"]), unit["Service"]["ExecStart"].split()
    assert Path(python).relative_to(folder) == Path(".venv/bin/python") and (ROOT / words[0]).is_file()
    assert words[1:] == ["--config", "server.yaml"]  # the command of the previous block, which test_commands.py starts
