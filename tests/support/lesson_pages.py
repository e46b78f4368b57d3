"""The pages that learners read, and the code in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [
        *ROOT.glob("0?_*/*.md"),
        *ROOT.glob("docs/*.md"),
        *ROOT.glob("docs/guides/*.md"),
        ROOT / "README.md",
        ROOT / "exercises" / "README.md",
    ]
)
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


def all_blocks(page: Path) -> list[tuple[str, str]]:
    """The language and the text of each block, in order."""
    return [(language, code) for _, language, code in _BLOCK.findall(page.read_text(encoding="utf-8"))]


def blocks_of(page: Path, language: str) -> list[str]:
    """The blocks in one language."""
    return [code for found, code in all_blocks(page) if found == language]


def commands_of(page: Path) -> Iterator[tuple[str, str]]:
    """Each line for a shell with the output that the page shows after it, in the order of the page.

    It includes Python programs that need a reader's files (marked `py`, not `python`).
    """
    for language, block in all_blocks(page):
        lines = list(_whole_lines(block))
        if language in ("sh", "bash"):
            for line in lines:
                if line.strip() and not line.startswith("#"):
                    yield line.replace(".venv/bin/", ""), ""
        elif language in ("text", "console"):
            for line, shown in zip(lines, [*lines[1:], ""], strict=True):
                if line.startswith("$ "):
                    yield line[2:], shown
        elif language == "py":
            yield shlex.join(["python", "-c", block]), ""


def _whole_lines(block: str) -> Iterator[str]:
    """The commands as single lines, even if a command or a quoted text has several lines on the page."""
    whole = ""
    for line in block.replace("\\\n", " ").splitlines():
        whole += ("\n" if whole else "") + line
        if whole.count('"') % 2 == 0:
            yield whole
            whole = ""
