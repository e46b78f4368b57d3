"""Instruction data: the file formats that people have, read into conversations and preferences.

| format | a record |
|---|---|
| Alpaca | `instruction`, `input` (may be empty), `output` |
| ShareGPT | `conversations`: a list of `from` (human, gpt, system) and `value` |
| OpenAI | `messages`: a list of `role` and `content` |
| prompt and completion | `prompt`, `completion`: texts, or lists of messages |
| preference | `prompt`, `chosen`, `rejected`: texts, or lists of messages |

The format is recognised by the fields. A malformed record is reported with its file, line and field and
counted; the others are used. Nothing is dropped in silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetuning.data.chat_format import ConversationError, Message, Role, check_conversation
from groundwork.text_sources import TextError, find_text_files, parse_json, read_lines, read_parquet, read_text

SUFFIXES = (".json", ".jsonl", ".parquet")
SHAREGPT_ROLES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}


class InstructionDataError(ValueError):
    """A file that cannot be read at all, or that holds no usable record."""


@dataclass(frozen=True)
class Example:
    """A conversation to imitate; it ends with the assistant."""

    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Preference:
    """Two answers to one conversation, of which one is better.

    Args:
        prompt: ends with the user.
        chosen: the better answer.
        rejected: the worse one.
    """

    prompt: tuple[Message, ...]
    chosen: str
    rejected: str


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
    """

    examples: list[Example] = field(default_factory=list)
    preferences: list[Preference] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    def summary(self, most: int = 5) -> str:
        """How many records were read and left out, with the first reasons."""
        read = len(self.examples) + len(self.preferences)
        lines = [f"{read:,} records read, {len(self.problems):,} left out"]
        lines += [f"  {problem}" for problem in self.problems[:most]]
        if len(self.problems) > most:
            lines.append(f"  … and {len(self.problems) - most:,} more")
        return "\n".join(lines)


def read_instruction_data(path: Path | str) -> InstructionData:
    """Read a JSON, JSONL or Parquet file, or every such file of a folder.

    Raises:
        InstructionDataError: there is no such file, its content does not fit its ending, or it has no usable record.
    """
    path = Path(path)
    try:
        files = find_text_files(path, SUFFIXES)
    except TextError as error:
        raise InstructionDataError(str(error)) from None
    data = InstructionData()
    for file in files:
        for line, record in _records(file, data):
            try:
                _add_record(data, record)
            except (ConversationError, InstructionDataError) as error:
                data.problems.append(Problem(str(file), line, str(error)))
    if not data.examples and not data.preferences:
        raise InstructionDataError(f"{path} has no usable record: {data.summary(1)}")
    return data


def _records(file: Path, data: InstructionData) -> Iterator[tuple[int, Any]]:
    """(line or position, record); lines that are not JSON go to the problems."""
    try:
        if file.suffix.lower() == ".parquet":
            yield from read_parquet(file)
        elif file.suffix.lower() == ".json":
            yield from _json_records(file)
        else:
            for number, line in read_lines(file):
                try:
                    yield number, parse_json(line, file, number)
                except TextError as error:
                    data.problems.append(
                        Problem(str(file), number, str(error).removeprefix(f"{file}, line {number}: "))
                    )
    except TextError as error:
        raise InstructionDataError(str(error)) from None


def _json_records(file: Path) -> Iterator[tuple[int, Any]]:
    content = parse_json(read_text(file), file)
    if not isinstance(content, list):
        raise InstructionDataError(f"{file} must hold a list of records, it holds a {type(content).__name__}")
    yield from enumerate(content, start=1)


# --- one record -------------------------------------------------------------------------------


def _add_record(data: InstructionData, record: Any) -> None:
    if not isinstance(record, dict):
        raise InstructionDataError(f"a record must be an object, this is a {type(record).__name__}")
    if "chosen" in record or "rejected" in record:
        data.preferences.append(_preference(record))
        return
    if "messages" in record:
        messages = _messages(record["messages"], "messages")
    elif "conversations" in record:
        messages = _sharegpt(record["conversations"])
    elif "completion" in record:
        messages = _turn(record, "prompt", "user") + _turn(record, "completion", "assistant")
    elif "instruction" in record:
        messages = _alpaca(record)
    else:
        fields = ", ".join(sorted(map(str, record))) or "none"
        raise InstructionDataError(
            f"no known format has the fields {fields}; expected messages, conversations, prompt and completion, "
            "instruction and output, or prompt, chosen and rejected"
        )
    check_conversation(messages)
    if messages[-1].role != "assistant":
        raise ConversationError("the conversation does not end with the assistant")
    data.examples.append(Example(tuple(messages)))


def _preference(record: dict[str, Any]) -> Preference:
    chosen, rejected = record.get("chosen"), record.get("rejected")
    if "prompt" in record:
        prompt = _turn(record, "prompt", "user")
        answers = [_turn(record, name, "assistant") for name in ("chosen", "rejected")]
    else:  # the prompt is what the two conversations begin with
        both = [_messages(value, name) for name, value in (("chosen", chosen), ("rejected", rejected))]
        if both[0][:-1] != both[1][:-1]:
            raise InstructionDataError("chosen and rejected begin differently, and there is no field prompt")
        prompt, answers = both[0][:-1], [[messages[-1]] for messages in both]
    check_conversation(prompt)
    if prompt[-1].role != "user":
        raise ConversationError("the prompt does not end with the user")
    for name, answer in zip(("chosen", "rejected"), answers, strict=True):
        if len(answer) != 1 or answer[0].role != "assistant":
            raise InstructionDataError(f"field {name} must be one message of the assistant")
    if answers[0][0].content == answers[1][0].content:
        raise InstructionDataError("chosen and rejected are the same")
    return Preference(tuple(prompt), answers[0][0].content, answers[1][0].content)


def _turn(record: dict[str, Any], name: str, role: Role) -> list[Message]:
    """A field that is a text, or a list of messages."""
    value = record.get(name)
    if isinstance(value, str):
        return [Message(role, _text(value, name))]
    return _messages(value, name)


def _messages(value: Any, name: str) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise InstructionDataError(f"field {name} must be a list of messages, not empty")
    messages = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise InstructionDataError(f"field {name}, message {number} must have role and content")
        role = item.get("role")
        if role not in ("system", "user", "assistant"):
            raise InstructionDataError(f"field {name}, message {number} has the role {role!r}")
        messages.append(Message(role, _text(item.get("content"), f"{name}, message {number}, content")))
    return messages


def _sharegpt(value: Any) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise InstructionDataError("field conversations must be a list, not empty")
    messages = []
    for number, item in enumerate(value, start=1):
        speaker = item.get("from") if isinstance(item, dict) else None
        if speaker not in SHAREGPT_ROLES:
            raise InstructionDataError(f"field conversations, message {number} is from {speaker!r}")
        text = _text(item.get("value"), f"conversations, message {number}, value")
        messages.append(Message(SHAREGPT_ROLES[speaker], text))
    return messages


def _alpaca(record: dict[str, Any]) -> list[Message]:
    instruction, output = (_text(record.get(name), name) for name in ("instruction", "output"))
    context = record.get("input") or ""
    if not isinstance(context, str):
        raise InstructionDataError("field input must be a text")
    question = f"{instruction}\n\n{context}" if context.strip() else instruction
    return [Message("user", question), Message("assistant", output)]


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InstructionDataError(f"field {name} must be a text, not empty")
    return value
