"""A task: a small YAML file that says which data to read in which layout, and how to ask."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from evaluation.tasks.docs_tasks import build_all
from evaluation.tasks.layouts import LAYOUTS, Item, Layout
from evaluation.tasks.records import read_records
from groundwork.files import read_yaml
from groundwork.user_errors import UserError

TASKS = Path(__file__).parents[2] / "tasks"  # the YAML files that come with this stage


@dataclass(frozen=True)
class Task:
    """What is asked, and how.

    Args:
        name: the name that is printed and used in file names.
        layout: how records are read; a key of `LAYOUTS`.
        data: JSONL or CSV file; a relative path starts at the folder of the YAML file.
        about: one sentence for the reader.
        source: where to get the data file, for the message when it is not there.
        made_from: `python_docs` if the data file can be made on this machine when it is not there.
        instruction: text before everything else.
        few_shot: number of solved examples before each question.
        few_shot_data: file with the examples; without it, they come from the other questions of `data`.
        separator: text after the instruction and after each example.
        answer_pattern: for generation, a regular expression whose first group is the answer in a text. It is used for
            the model's text and for the reference.
        stop: for generation, texts that end the answer.
        max_tokens: for generation, the most tokens to write.
    """

    name: str
    layout: str
    data: Path
    about: str = ""
    source: str = ""
    made_from: str | None = None
    instruction: str = ""
    few_shot: int = 0
    few_shot_data: Path | None = None
    separator: str = "\n\n"
    answer_pattern: str | None = None
    stop: tuple[str, ...] = ()
    max_tokens: int = 128

    @property
    def reader(self) -> Layout:
        """How the records of the task are read."""
        return LAYOUTS[self.layout]

    def items(self) -> list[Item]:
        """All questions in the order of the file.

        Raises:
            UserError, CorpusError: the file is not there, or a record does not have the layout.
        """
        if self.made_from is not None and not self.data.exists():
            build_all(self.data.parent)
        return self._read(self.data)

    def examples(self) -> list[Item] | None:
        """Where few-shot examples come from, or None for the questions themselves."""
        return None if self.few_shot_data is None else self._read(self.few_shot_data)

    def _read(self, path: Path) -> list[Item]:
        if not path.exists():
            raise UserError(f"task {self.name}: there is no data file {path}{self._way_out()}")
        items = [self.reader.read(record) for record in read_records(path)]
        if not items:
            raise UserError(f"task {self.name}: {path} holds no questions")
        return items

    def _way_out(self) -> str:
        return f"; get it from {self.source}" if self.source else ""


def load_task(name_or_path: str | Path) -> Task:
    """A task by its name, or from the user's own YAML file.

    Raises:
        UserError: there is no such task, or a field is missing, unknown or impossible; the message names both.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        path = TASKS / f"{name_or_path}.yaml"
    if not path.exists():
        raise UserError(
            f"there is no task {str(name_or_path)!r}; there are {', '.join(task_names())}, or give a .yaml file"
        )
    values = read_yaml(path)
    return _checked(values, path)


def task_names() -> list[str]:
    """Names of the tasks that come with this stage."""
    return sorted(path.stem for path in TASKS.glob("*.yaml"))


def _checked(values: dict[str, object], path: Path) -> Task:
    def require(field: str, condition: bool, expected: str) -> None:
        if not condition:
            raise UserError(f"{path}: field {field!r} should be {expected}, got {values.get(field)!r}")

    fields = {field.name: field for field in dataclasses.fields(Task)}
    fields.pop("name")
    if unknown := sorted(str(key) for key in values.keys() - fields.keys()):
        raise UserError(f"{path}: unknown field {unknown[0]!r}; there are {', '.join(sorted(fields))}")
    for field in ("layout", "data"):
        if field not in values:
            raise UserError(f"{path}: field {field!r} is missing")
    for field in values:
        if field not in {"few_shot", "max_tokens", "stop"}:
            require(field, isinstance(values[field], str), "a text")
    require("layout", values["layout"] in LAYOUTS, f"one of {', '.join(sorted(LAYOUTS))}")
    require("made_from", values.get("made_from", "python_docs") == "python_docs", "'python_docs'")
    few_shot, max_tokens, stop = values.get("few_shot", 0), values.get("max_tokens", 1), values.get("stop", [])
    require("few_shot", isinstance(few_shot, int) and few_shot >= 0, "0 or more")
    require("max_tokens", isinstance(max_tokens, int) and max_tokens >= 1, "at least 1")
    require("stop", isinstance(stop, list) and all(isinstance(s, str) and s for s in stop), "a list of texts")
    pattern = values.get("answer_pattern")
    if pattern is not None:
        try:
            require("answer_pattern", re.compile(str(pattern)).groups >= 1, "a pattern with a group ( ) for the answer")
        except re.error as error:
            raise UserError(f"{path}: field 'answer_pattern' is not a regular expression: {error}") from None
    checked = dict(values)
    for field in ("data", "few_shot_data"):
        if field in checked:
            checked[field] = path.parent / str(checked[field])  # an absolute path stays as it is
    if isinstance(stop, list) and stop:
        checked["stop"] = tuple(stop)
    return Task(name=path.stem, **checked)  # type: ignore[arg-type]  # each was checked above
