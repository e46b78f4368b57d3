"""Which exercises there are, found without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from learn.exercise import Exercise

ROOT = Path(__file__).resolve().parents[2]  # of the repository
# The line between what the learner gets and how it is graded begins so.
MARKER = "# ==="
_TITLE = re.compile(r"Exercise (\d+)\.(\d+): (.+?)\.?")


class LearnError(ValueError):
    """A mistake in how the command is used, or in an exercise's file."""


@dataclass(frozen=True)
class Entry:
    """One exercise, as its file tells.

    Args:
        stage: from 1.
        place: within the stage, from 1.
        title: in a few words.
        path: the file.
    """

    stage: int
    place: int
    title: str
    path: Path

    @property
    def number(self) -> str:
        """Such as `2.3`. It may change between versions; the name of the file does not."""
        return f"{self.stage}.{self.place}"

    @property
    def name(self) -> str:
        """The file's, without `.py`: by it the workspace knows the exercise."""
        return self.path.stem

    @property
    def folder(self) -> str:
        """Of the stage, such as `02_attention`."""
        return self.path.parent.parent.name

    @property
    def stub(self) -> str:
        """The text that the learner gets."""
        return self.path.read_text(encoding="utf-8").split(f"\n{MARKER}")[0].rstrip() + "\n"

    def load(self) -> Exercise:
        """Import the file. Most import PyTorch, which takes a second or two."""
        spec = importlib.util.spec_from_file_location(f"exercise_{self.name}", self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass in the file looks for its module there
        spec.loader.exec_module(module)
        exercise: Exercise = module.EXERCISE
        return exercise


def all_exercises(root: Path = ROOT) -> list[Entry]:
    """Every exercise, in order.

    Raises:
        LearnError: the repository's folders are not there, or a file does not say its number and title.
    """
    entries = []
    for path in sorted(root.glob("0?_*/exercises/*.py")):
        title = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        match = _TITLE.fullmatch(title.partition("\n")[0])
        if match is None:
            raise LearnError(f"{path} does not begin with a docstring like: Exercise 2.3: What it is about.")
        entries.append(Entry(int(match[1]), int(match[2]), match[3], path))
    if not entries:
        raise LearnError(f"there are no exercises in {root}; install from a clone of the repository: pip install -e .")
    return sorted(entries, key=lambda entry: (entry.stage, entry.place))


def choose(entries: Sequence[Entry], wanted: Sequence[str]) -> list[Entry]:
    """The exercises that a user names: numbers (2.3), stages (2) or names; all of them if none is named.

    Raises:
        LearnError: nothing is called so.
    """
    if not wanted:
        return list(entries)
    chosen = []
    for word in wanted:
        found = [entry for entry in entries if word in (entry.number, str(entry.stage), entry.name, entry.folder)]
        if not found:
            stages = sorted({entry.stage for entry in entries})
            raise LearnError(
                f"there is no exercise {word!r}; give a stage ({stages[0]} to {stages[-1]}) or one like 2.3"
            )
        chosen += [entry for entry in found if entry not in chosen]
    return chosen


def choose_one(entries: Sequence[Entry], wanted: str) -> Entry:
    """The exercise that a user names.

    Raises:
        LearnError: none or several are called so.
    """
    chosen = choose(entries, [wanted])
    if len(chosen) > 1:
        raise LearnError(f"{wanted!r} names {len(chosen)} exercises; give one, such as {chosen[0].number}")
    return chosen[0]
