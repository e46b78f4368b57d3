"""Instruction data: files of conversations and preferences.

`record_shapes` reads one record, in any of the shapes that people have. A malformed record is reported with its file,
line and field and counted; the others are used. So is a file in a folder that holds no records. Fields that are not
used are named. Nothing is dropped in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetuning.data.chat_format import ConversationError
from finetuning.data.record_shapes import Example, Preference, RecordError, read_record
from groundwork.text_sources import TextError, find_text_files, parse_record, read_lines, read_parquet, read_text

SUFFIXES = (".json", ".jsonl", ".parquet")


class InstructionDataError(ValueError):
    """A file that cannot be read at all, or that holds no usable record."""


@dataclass(frozen=True)
class Problem:
    """What is wrong with one record."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


@dataclass
class InstructionData:
    """What was read.

    Args:
        examples: conversations.
        preferences: pairs of answers.
        problems: records that were left out, each with its reason.
        unused_fields: fields of the records that were read which change nothing, and in how many records they were.
    """

    examples: list[Example] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unused_fields: Counter[str] = field(default_factory=Counter)

    def summary(self, most: int = 5) -> str:
        """How many records were read and left out, with the first reasons, and which fields were not used."""
        read = len(self.examples) + len(self.preferences)
        lines = [f"{read:,} records read, {len(self.problems):,} left out"]
        lines += [f"  {problem}" for problem in self.problems[:most]]
        if len(self.problems) > most:
            lines.append(f"  … and {len(self.problems) - most:,} more")
        if self.unused_fields:
            names = ", ".join(f"{name} ({count:,})" for name, count in self.unused_fields.most_common(12))
            lines.append(f"  fields that are not used: {names}{', …' if len(self.unused_fields) > 12 else ''}")
        return "\n".join(lines)


def read_instruction_data(path: Path | str) -> InstructionData:
    """Read a JSON, JSONL or Parquet file, or every such file of a folder.

    Raises:
        InstructionDataError: there is no such file, its content does not fit its ending, or there is no usable record.
    """
    path = Path(path)
    try:
        files = find_text_files(path, SUFFIXES)
    except TextError as error:
        raise InstructionDataError(str(error)) from None
    data = InstructionData()
    for file in files:
        try:
            for line, record in _records(file, data):
                try:
                    _add(data, *read_record(record))
                except (ConversationError, RecordError) as error:
                    data.problems.append(Problem(str(file), line, str(error)))
        except (TextError, InstructionDataError) as error:
            if file == path.expanduser():
                raise InstructionDataError(str(error)) from None
            data.problems.append(Problem(str(file), 1, f"the file is left out: {error}"))
    if not data.examples and not data.preferences:
        raise InstructionDataError(f"{path} has no usable record: {data.summary(1)}")
    return data


def _add(data: InstructionData, read: Example | Preference, unused_fields: list[str]) -> None:
    data.unused_fields.update(unused_fields)
    if isinstance(read, Example):
        data.examples.append(read)
    else:
        data.preferences.append(read)


def _records(file: Path, data: InstructionData) -> Iterator[tuple[int, Any]]:
    """(line or position, record); lines that are not JSON go to the problems."""
    if file.suffix.lower() == ".parquet":
        yield from read_parquet(file)
    elif file.suffix.lower() == ".json":
        try:
            content = parse_record(read_text(file), file)
        except TextError as error:
            hint = "; if each line is a record, let the name end in .jsonl" if "Extra data" in str(error) else ""
            raise TextError(f"{error}{hint}") from None
        if not isinstance(content, list):
            raise InstructionDataError(f"{file} must hold a list of records, it holds a {type(content).__name__}")
        yield from enumerate(content, start=1)
    else:
        for number, line in read_lines(file):
            try:
                yield number, parse_record(line, file, number)
            except TextError as error:
                data.problems.append(Problem(str(file), number, str(error).removeprefix(f"{file}, line {number}: ")))
