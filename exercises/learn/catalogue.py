"""Find which exercises and labs there are, without importing any of them."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, TypeVar

from learn.exercise import Exercise

if TYPE_CHECKING:
    from learn.lab import Lab

ROOT = Path(__file__).resolve().parents[2]  # the repository's folder
# The line between what the learner gets and how it is graded begins with this.
MARKER = "# ==="
_EXERCISE = re.compile(r"Exercise (\d+)\.(\d+): (.+?)\.?")
_LAB = re.compile(r"Lab (\d+)\.([A-Z]): (.+?)\.?")


class LearnError(ValueError):
    """A mistake in how the command is used, or in an exercise's file."""


@dataclass(frozen=True)
class Entry:
    """One exercise, as its file describes it.

    Args:
        stage: number of the stage, from 1.
        place: place within the stage, from 1.
        title: what the exercise is about, in a few words.
        path: the file.
    """

    stage: int
    place: int
    title: str
    path: Path

    @property
    def number(self) -> str:
        """The number, such as `2.3`. It may change between versions; the name of the file does not."""
        return f"{self.stage}.{self.place}"

    @property
    def name(self) -> str:
        """The name of the file without `.py`. The workspace knows the exercise by this name."""
        return self.path.stem

    @property
    def folder(self) -> str:
        """The folder of the stage, such as `02_attention`."""
        return self.path.parent.parent.name

    @property
    def workspace_path(self) -> Path:
        """Where the learner's file is, within the workspace."""
        return Path(self.folder, self.path.name)

    @property
    def stub(self) -> str:
        """The text that the learner gets."""
        return self.path.read_text(encoding="utf-8").split(f"\n{MARKER}")[0].rstrip() + "\n"

    def load(self) -> Exercise:
        """Import the file. Most import PyTorch, which takes a second or two."""
        exercise: Exercise = self._module().EXERCISE
        return exercise

    def _module(self) -> ModuleType:
        spec = importlib.util.spec_from_file_location(f"exercise_{self.name}", self.path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # a dataclass in the file looks for its module there
        spec.loader.exec_module(module)
        return module


class LabEntry(Entry):
    """One lab: its place in the stage is a letter, and the learner's file is in a folder `labs`."""

    @property
    def number(self) -> str:
        """The number, such as `2.B`."""
        return f"{self.stage}.{chr(ord('A') + self.place - 1)}"

    @property
    def workspace_path(self) -> Path:
        """Where the learner's file is, within the workspace."""
        return Path(self.folder, "labs", self.path.name)

    def load(self) -> Exercise:
        """The exercise that grades the repaired function."""
        return self.load_lab().exercise()

    def load_lab(self) -> Lab:
        """Import the file."""
        lab: Lab = self._module().LAB
        return lab


def all_exercises(root: Path = ROOT) -> list[Entry]:
    """Every exercise, in order.

    Raises:
        LearnError: the repository's folders are missing, or a file does not give its number and title.
    """
    entries = [
        Entry(int(match[1]), int(match[2]), match[3], path)
        for path, match in _titles(root, "exercises", _EXERCISE, "Exercise 2.3")
    ]
    if not entries:
        raise LearnError(f"there are no exercises in {root}; install from a clone of the repository: pip install -e .")
    return sorted(entries, key=lambda entry: (entry.stage, entry.place))


def all_labs(root: Path = ROOT) -> list[LabEntry]:
    """Every lab, in order.

    Raises:
        LearnError: a file does not give its number and title.
    """
    entries = [
        LabEntry(int(match[1]), ord(match[2]) - ord("A") + 1, match[3], path)
        for path, match in _titles(root, "labs", _LAB, "Lab 2.B")
    ]
    return sorted(entries, key=lambda entry: (entry.stage, entry.place))


def _titles(root: Path, folder: str, pattern: re.Pattern[str], example: str) -> Iterator[tuple[Path, re.Match[str]]]:
    for path in sorted(root.glob(f"0?_*/{folder}/*.py")):
        title = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        match = pattern.fullmatch(title.partition("\n")[0])
        if match is None:
            raise LearnError(f"{path} does not begin with a docstring like: {example}: What it is about.")
        yield path, match


def load_exercise(name: str) -> Exercise:
    """The exercise whose file has this name. A lab can use its questions.

    Raises:
        LearnError: there is no such exercise.
    """
    return choose_one(all_exercises(), name).load()


AnyEntry = TypeVar("AnyEntry", bound=Entry)


def choose(entries: Sequence[AnyEntry], wanted: Sequence[str]) -> list[AnyEntry]:
    """The exercises or labs that a user names by numbers (2.3), stages (2) or names; all of them if none is named.

    Raises:
        LearnError: nothing has such a number or name.
    """
    if not wanted:
        return list(entries)
    chosen: list[AnyEntry] = []
    for word in wanted:
        found = [
            entry
            for entry in entries
            if word in (entry.number, str(entry.stage), entry.name, entry.folder) or word.upper() == entry.number
        ]
        if not found:
            stages = sorted({entry.stage for entry in entries})
            kind, example = ("lab", "2.A") if isinstance(entries[0], LabEntry) else ("exercise", "2.3")
            raise LearnError(
                f"there is no {kind} {word!r}; give a stage ({stages[0]} to {stages[-1]}) or one like {example}"
            )
        chosen += [entry for entry in found if entry not in chosen]
    return chosen


def choose_one(entries: Sequence[AnyEntry], wanted: str) -> AnyEntry:
    """The exercise or lab that a user names.

    Raises:
        LearnError: none or several have this number or name.
    """
    chosen = choose(entries, [wanted])
    if len(chosen) > 1:
        raise LearnError(f"{wanted!r} names {len(chosen)} exercises; give one, such as {chosen[0].number}")
    return chosen[0]
