"""One record of instruction data, in the shapes that people have: what it says, or why it cannot be used.

| shape | fields |
|---|---|
| messages | `messages` or `conversations`: a list of `role` and `content`, or of `from` and `value`; or the list alone |
| question and answer | `instruction` and `output` (Alpaca), `prompt` and `completion`, `question` and `answer` or `response` |
| preference | `chosen` and `rejected` after `prompt`, `question` or `conversations`: texts, a message, or whole conversations |
| OpenAI's preference | `input` with `messages`, `preferred_output`, `non_preferred_output` |

All may have `system`, and questions also `input` and `history`. A field that says what is to be learned is obeyed, or the
record is refused by the name of that field. All other fields are named to the caller, as not used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetuning.data.chat_format import ConversationError, Message, Role, check_conversation

ROLE_NAMES: dict[str, Role] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "developer": "system",  # the newer name of system in OpenAI's API
}
QUESTIONS, ANSWERS = ("instruction", "prompt", "question"), ("output", "completion", "response", "answer")
# Fields that change what is to be learned, in a way that the chat templates here cannot express.
REFUSED = frozenset(
    [
        "tools",
        "functions",
        "tool_calls",
        "tool_call_id",
        "function_call",
        "tool_choice",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "thinking",
        "thoughts",
        "refusal",
        "prefix",
        "images",
        "image",
        "videos",
        "video",
        "audio",
        "audios",
        "documents",
        "loss_mask",
        "loss_scale",
        "mask",
        "completion_mask",
        "assistant_mask",
        "assistant_masks",
        "train_on_input",
        "train_detail",
        "mask_history",
        "chat_template_kwargs",
        "response_format",
    ]
)
# Fields that say whether a message, or all of a record, is learned: 1 or true, 0 or false.
LEARNED = ("weight", "loss", "loss_weight", "train", "training")
# Fields of records with one answer that say that it is a bad one, or name a bad one beside it.
JUDGED = ("label", "kto_tag", "rejected_response", "rejected_messages")
_NOTHING: tuple[Any, ...] = (None, "", [], {})


class RecordError(ValueError):
    """A record that cannot be used; the message names the field."""


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


def read_record(record: Any) -> tuple[Example | Preference, list[str]]:
    """What a record says, and the names of its fields that are not used.

    Args:
        record: from JSON or Parquet.

    Raises:
        RecordError: it has no known shape, or a field that cannot be obeyed.
        ConversationError: its messages make no conversation.
    """
    if isinstance(record, list) and record and all(isinstance(item, dict) for item in record):
        record = {"messages": record}
    if not isinstance(record, dict):
        raise RecordError(f"a record must be an object, this is a {type(record).__name__}")
    unused: list[str] = []
    fields = _Fields(record, "", unused)
    name, weight = fields.one_of(LEARNED)
    if weight is not None and weight != 1:
        raise RecordError(f"field {name} of a whole record must be 1 or true, got {weight!r}")
    if fields.has("chosen", "rejected", "preferred_output", "non_preferred_output"):
        read: Example | Preference = _preference(fields)
    else:
        read = _example(fields)
    fields.close()
    return read, sorted(set(unused))


class _Fields:
    """The fields of an object; each is taken once, so that those that nobody takes can be named.

    Args:
        values: the object.
        where: names it in messages, as a prefix; empty for the record itself.
        unused: where `close` puts the names of fields that were not taken.

    Raises:
        RecordError: one of the fields is `REFUSED` and says something.
    """

    def __init__(self, values: dict[str, Any], where: str, unused: list[str]):
        self.values, self.where, self.unused, self._taken = values, where, unused, set[str]()
        for name in sorted(REFUSED & values.keys()):
            if values[name] not in _NOTHING:
                raise RecordError(f"field {where}{name} changes what is to be learned, and cannot be obeyed")

    def has(self, *names: str) -> bool:
        """Whether one of these fields is not null."""
        return any(self.values.get(name) is not None for name in names)

    def take(self, name: str) -> Any:
        """The value of a field, or None."""
        self._taken.add(name)
        return self.values.get(name)

    def one_of(self, names: Iterable[str]) -> tuple[str, Any]:
        """The one of these fields that says something, or else one that is there, or else the first.

        Raises:
            RecordError: several say something.
        """
        present = [name for name in names if self.values.get(name) not in _NOTHING]
        if len(present) > 1:
            raise RecordError(f"fields {self.where}{' and '.join(present)}: only one of them can be used")
        name = next(iter([*present, *filter(self.has, names), *names]))
        return name, self.take(name)

    def close(self, name: str = "") -> None:
        """Name the fields that say something and were not taken, as fields of `name`.

        Raises:
            RecordError: one of them is the history of a question, and there is no such question.
        """
        left = [key for key, value in self.values.items() if key not in self._taken and value not in _NOTHING]
        if "history" in left:
            raise RecordError("field history stands beside a whole conversation; put it into the conversation")
        self.unused.extend(f"{name}.{key}" if name else str(key) for key in left)


# --- conversations ----------------------------------------------------------------------------


def _example(fields: _Fields) -> Example:
    for name in JUDGED:
        if fields.values.get(name) not in _NOTHING:
            raise RecordError(f"field {name} says which answers are good, and cannot be obeyed here")
    if fields.has("messages"):
        messages = _messages(fields.take("messages"), "messages", fields.unused)
    elif fields.has("conversations"):
        messages = _messages(fields.take("conversations"), "conversations", fields.unused)
    elif fields.has(*QUESTIONS):
        messages = _question(fields)
        if not fields.has(*ANSWERS):
            raise RecordError(f"the question has no answer: there is none of the fields {', '.join(ANSWERS)}")
        name, answer = fields.one_of(ANSWERS)
        messages += _turn(answer, name, "assistant", fields.unused)
    else:
        names = ", ".join(sorted(map(str, fields.values))) or "none"
        raise RecordError(
            f"no known format has the fields {names}; expected messages, conversations, prompt and completion, "
            "instruction and output, question and answer, or prompt, chosen and rejected"
        )
    messages = _with_system(fields, messages)
    check_conversation(messages)
    if messages[-1].role != "assistant":
        raise ConversationError("the conversation does not end with the assistant")
    if not any(message.learned for message in messages if message.role == "assistant"):
        raise RecordError("all that the assistant says has a weight of 0: there is nothing to learn")
    return Example(tuple(messages))


def _question(fields: _Fields) -> list[Message]:
    """What was said before, and the question itself with its input."""
    name, question = fields.one_of(QUESTIONS)
    asked = _turn(question, name, "user", fields.unused)
    if fields.has("input", "context"):
        name, context = fields.one_of(("input", "context"))
        if not isinstance(context, str):
            raise RecordError(f"field {name} must be a text")
        if context.strip():
            asked[-1] = Message(asked[-1].role, f"{asked[-1].content}\n\n{context}")
    before: list[Message] = []
    history = fields.take("history")
    if not isinstance(history, list | None):
        raise RecordError("field history must be a list of pairs, each a question and its answer")
    for number, pair in enumerate(history or [], start=1):
        if not isinstance(pair, list) or len(pair) != 2:
            raise RecordError(f"field history, item {number} must be a pair: a question and its answer")
        before += [Message("user", _text(pair[0], "history")), Message("assistant", _text(pair[1], "history"))]
    return before + asked


def _with_system(fields: _Fields, messages: list[Message]) -> list[Message]:
    """The messages after the text of the field system, if there is one."""
    name, system = fields.one_of(("system", "system_prompt"))
    if not _says_something(system):
        return messages
    first = Message("system", _text(system, name))
    if messages and messages[0].role == "system":
        if said(messages[:1]) != said([first]):
            raise RecordError(f"field {name} and the first message are two different system messages")
        return messages
    return [first, *messages]


def _turn(value: Any, name: str, role: Role, unused: list[str]) -> list[Message]:
    """A field that is a text, a message, or a list of messages."""
    if isinstance(value, str):
        return [Message(role, _text(value, name))]
    return _messages([value] if isinstance(value, dict) else value, name, unused)


def _messages(value: Any, name: str, unused: list[str]) -> list[Message]:
    if not isinstance(value, list) or not value:
        raise RecordError(f"field {name} must be a list of messages, not empty")
    messages = []
    for number, item in enumerate(value, start=1):
        where = f"{name}, message {number}, "
        if not isinstance(item, dict):
            raise RecordError(f"field {name}, message {number} must have role and content")
        fields = _Fields(item, where, unused)
        key, speaker = fields.one_of(("role", "from"))
        if not isinstance(speaker, str) or speaker not in ROLE_NAMES:
            says = "is from" if key == "from" else "has the role"
            raise RecordError(f"field {name}, message {number} {says} {speaker!r}")
        role = ROLE_NAMES[speaker]
        key, content = fields.one_of(("content", "value"))
        learned = _learned(*fields.one_of(LEARNED), role, where)
        fields.close(name)
        if role != "system" or _says_something(content):  # an empty system message says that there is none
            messages.append(Message(role, _text(content, where + key), learned))
    if not messages:
        raise RecordError(f"field {name} has an empty system message and nothing else")
    return messages


def _says_something(content: Any) -> bool:
    return bool(content.strip() if isinstance(content, str) else content)


def _learned(name: str, weight: Any, role: Role, where: str) -> bool:
    if weight is None:
        return True
    if isinstance(weight, str) or weight not in (0, 1):
        raise RecordError(f"field {where}{name} must be 0 or 1, got {weight!r}")
    if weight and role != "assistant":
        raise RecordError(f"field {where}{name} is {weight!r}, and what the {role} says cannot be learned")
    return bool(weight) or role != "assistant"


def _text(value: Any, name: str) -> str:
    """A text that is not empty, or the text of parts that are all text."""
    if isinstance(value, list):
        for number, part in enumerate(value, start=1):
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            if kind != "text" or not isinstance(part.get("text"), str):
                raise RecordError(f"field {name}, part {number} is of the type {kind!r}: only text can be learned")
        value = "".join(part["text"] for part in value)
    if not isinstance(value, str) or not value.strip():
        raise RecordError(f"field {name} must be a text, not empty")
    return value


# --- preferences ------------------------------------------------------------------------------


def _preference(fields: _Fields) -> Preference:
    prompt: list[Message] = []
    names = ("chosen", "rejected") if fields.has("chosen", "rejected") else ("preferred_output", "non_preferred_output")
    both = [_turn(fields.take(name), name, "assistant", fields.unused) for name in names]
    if isinstance(fields.values.get("input"), dict):
        inner = _Fields(fields.take("input"), "input, ", fields.unused)
        prompt = _messages(inner.take("messages"), "input, messages", fields.unused)
        inner.close("input")
    elif fields.has(*QUESTIONS):
        prompt = _question(fields)
    elif fields.has("conversations"):
        prompt = _messages(fields.take("conversations"), "conversations", fields.unused)
    elif fields.has("messages") and len(both[0]) == 1:
        prompt = _messages(fields.take("messages"), "messages", fields.unused)
    prompt = _with_system(fields, prompt)
    prompts = [_longer(prompt, messages[:-1], name) for name, messages in zip(names, both, strict=True)]
    if not prompts[0]:
        raise RecordError(f"nothing stands before {names[0]} and {names[1]}: there is no field prompt")
    if said(prompts[0]) != said(prompts[1]):
        raise RecordError(f"{names[0]} and {names[1]} begin differently")
    check_conversation(prompts[0])
    if prompts[0][-1].role != "user":
        raise ConversationError("the prompt does not end with the user")
    for name, messages in zip(names, both, strict=True):
        if messages[-1].role != "assistant" or not messages[-1].learned:
            raise RecordError(f"field {name} must end with a message of the assistant, whose weight is not 0")
    chosen, rejected = (messages[-1].content for messages in both)
    if chosen.split() == rejected.split():
        raise RecordError(f"{names[0]} and {names[1]} are the same, or differ only in white space")
    return Preference(tuple(prompts[0]), chosen, rejected)


def _longer(prompt: list[Message], before: list[Message], name: str) -> list[Message]:
    """The prompt, said by a field of its own and again before an answer, which may be longer or have no system message.

    Raises:
        RecordError: the two are different.
    """
    turns, turns_before = ([m for m in messages if m.role != "system"] for messages in (prompt, before))
    systems = [*(m for m in prompt if m.role == "system"), *(m for m in before if m.role == "system")]
    agree = said(turns_before[: len(turns)]) == said(turns) or not before
    if not agree or len({m.content.strip() for m in systems}) > 1:
        raise RecordError(f"field {name} begins with another conversation than the prompt")
    return systems[:1] + (turns_before if before else turns)


def said(messages: Iterable[Message]) -> list[tuple[str, str]]:
    """What is compared of messages: the templates strip white space around each."""
    return [(message.role, message.content.strip()) for message in messages]
