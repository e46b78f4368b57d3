"""Records of a task's data file. Every error message names the file, the line and the field."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundwork.text_sources import read_jsonl, read_text
from groundwork.user_errors import UserError


@dataclass(frozen=True)
class Record:
    """One line of a data file.

    Args:
        values: its fields.
        place: file and line, for messages.
    """

    values: dict[str, Any]
    place: str

    def fail(self, field: str, problem: str) -> UserError:
        """The error to raise when a field is not what it should be."""
        return UserError(f"{self.place}: field {field!r} {problem}")

    def text(self, field: str) -> str:
        """A text that is not empty.

        Raises:
            UserError: it is missing, empty or not a text.
        """
        value = self._get(field)
        if not isinstance(value, str) or not value.strip():
            raise self.fail(field, f"should be a text that is not empty, got {value!r}")
        return value

    def texts(self, field: str) -> list[str]:
        """At least two texts that are not empty, such as the choices of a question.

        Raises:
            UserError: it is missing or something else.
        """
        value = self._get(field)
        if not isinstance(value, list) or len(value) < 2 or not all(isinstance(v, str) and v.strip() for v in value):
            raise self.fail(field, f"should be a list of at least two texts, none of them empty, got {value!r}")
        return value

    def index(self, field: str, count: int, first: int = 0) -> int:
        """Which of `count` choices, written as a number or as digits in a text; the result counts from 0.

        Args:
            field: name of the field.
            count: how many choices there are.
            first: number of the first choice in the file.

        Raises:
            UserError: it is missing, not a number, or outside the choices.
        """
        value = self._get(field)
        number = int(value) if isinstance(value, str) and value.strip().isdecimal() else value
        if not isinstance(number, int) or isinstance(number, bool) or not first <= number < first + count:
            raise self.fail(field, f"should be from {first} to {first + count - 1}, got {value!r}")
        return number - first

    def _get(self, field: str) -> Any:
        if field not in self.values:
            raise self.fail(field, f"is missing; there are {', '.join(sorted(self.values)) or 'none'}")
        return self.values[field]


def read_records(path: Path) -> list[Record]:
    """All records of a JSONL file, or of a CSV file in the layout of MMLU (question, four choices, letter).

    Raises:
        UserError, TextError: the file is missing, empty, not UTF-8 or not in that format.
    """
    if path.suffix.lower() == ".csv":
        rows = csv.reader(io.StringIO(read_text(path), newline=""))
        try:
            return [_mmlu_record(row, f"{path}, line {rows.line_num}") for row in rows if row]
        except csv.Error as error:
            raise UserError(f"{path}, line {rows.line_num}: not CSV ({error})") from None
    records = []
    for number, values in read_jsonl(path):
        if not isinstance(values, dict):
            found = json.dumps(values)[:40]
            raise UserError(f"{path}, line {number}: expected an object with named fields, got {found}")
        records.append(Record(values, f"{path}, line {number}"))
    if not records:
        raise UserError(f"{path} is empty: it holds no record")
    return records


def _mmlu_record(row: list[str], place: str) -> Record:
    if len(row) != 6:
        raise UserError(f"{place}: expected 6 columns (question, A, B, C, D, answer), got {len(row)}")
    return Record({"question": row[0], "choices": row[1:5], "answer": row[5].strip()}, place)
