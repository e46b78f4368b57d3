"""The learner's folder: their files, and what is remembered about each since it was last graded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from groundwork.files import read_json, write_atomically
from groundwork.user_errors import require_types
from learn.catalogue import ROOT, Entry
from learn.grade import Grade

# `changed`: the learner's file, or the exercise, is not the one that was graded.
Standing = Literal["passed", "failed", "to do", "changed"]


@dataclass
class _Record:
    """What is remembered of one exercise.

    Args:
        stub: hash of the text that the learner got.
        graded: hash of the learner's file and the exercise's file at the last grading.
        state: state in the last grade.
        hints: how many hints have been shown.
    """

    stub: str = ""
    graded: str = ""
    state: str = ""
    hints: int = 0


@dataclass
class Started:
    """What `Workspace.start` did with each file.

    The files were made, updated, kept, or kept although the exercise has changed (outdated).
    """

    made: list[Path] = field(default_factory=list)
    updated: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    outdated: list[Path] = field(default_factory=list)


class Workspace:
    """A folder with a file for each exercise, in a folder for each stage.

    Args:
        folder: usually `workspace` in the repository, which git ignores.
    """

    def __init__(self, folder: Path = ROOT / "workspace"):
        self.folder = folder
        self._progress = folder / "progress.json"
        self._records: dict[str, _Record] = {}
        try:
            content = read_json(self._progress)
            records = {name: _Record(**record) for name, record in content.items()}
            for name, record in records.items():
                require_types(record, name)
            self._records = records
        except (ValueError, TypeError):
            pass  # nothing is remembered: everything counts as not graded

    def file_of(self, entry: Entry) -> Path:
        """The learner's file of an exercise, whether it exists or not."""
        return self.folder / entry.workspace_path

    def start(self, entries: Sequence[Entry]) -> Started:
        """Put the stubs into the workspace. What the learner has written is never changed.

        If the learner has not changed a stub and the exercise has a new one, the stub is replaced.
        """
        done = Started()
        for entry in entries:
            path, record = self.file_of(entry), self._record(entry)
            stub_hash = _hash(entry.stub)
            if not path.exists():
                write_atomically(path, entry.stub)
                record.stub = stub_hash
                done.made.append(path)
            elif record.stub == stub_hash:
                done.kept.append(path)
            elif _hash(path.read_text(encoding="utf-8", errors="replace")) == record.stub:
                write_atomically(path, entry.stub)
                record.stub = stub_hash
                done.updated.append(path)
            else:
                done.outdated.append(path)
        self._save()
        return done

    def standing(self, entry: Entry) -> Standing:
        """The standing of an exercise by what is remembered, without grading."""
        path, record = self.file_of(entry), self._record(entry)
        if not path.exists() or _hash(path.read_text(encoding="utf-8", errors="replace")) == _hash(entry.stub):
            return "to do"
        if record.graded != self._fingerprint(entry):
            return "changed"
        return record.state  # type: ignore[return-value]

    def remember(self, entry: Entry, grade: Grade) -> None:
        """Keep a grade."""
        record = self._record(entry)
        record.graded, record.state = self._fingerprint(entry), grade.state
        self._save()

    def hint_level(self, entry: Entry) -> int:
        """How many hints have been shown."""
        return self._record(entry).hints

    def remember_hint(self, entry: Entry, level: int) -> None:
        """Remember that the hints up to this one have been shown."""
        self._record(entry).hints = level
        self._save()

    def _record(self, entry: Entry) -> _Record:
        return self._records.setdefault(entry.name, _Record())

    def _fingerprint(self, entry: Entry) -> str:
        """Hash both files, because a changed exercise needs a new grade too."""
        path = self.file_of(entry)
        learners = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        return _hash(learners + "\0" + entry.path.read_text(encoding="utf-8"))

    def _save(self) -> None:
        content = {name: vars(record) for name, record in sorted(self._records.items())}
        write_atomically(self._progress, json.dumps(content, indent=1) + "\n")


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]
