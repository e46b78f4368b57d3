"""How the body of a request is read: types are exact, null means the default, and the first error ends the reading.

A validator that gathers every error is kind to a person with a form, and a weapon against a server: 2 MB of `-1, -1, …`
have 660,000 errors. So every list here stops at its first error, and every mapping and list of objects has an end.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Strict,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from deployment.errors import shown
from finetuning.data.chat_format import Message

MAX_DEPTH = 64  # of an object that is passed on
MAX_ENTRIES = 10_000  # of a list of objects or texts, or of a mapping, whatever the limits of the server are


class Body(BaseModel):
    """An object in a request. Unknown fields are refused, so that a typo is not silently ignored."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _known_fields(cls, data: Any) -> Any:
        """Drop the fields that are null, as clients send those that nobody set, and refuse the first unknown one."""
        if not isinstance(data, dict):
            return data
        given = {name: value for name, value in data.items() if value is not None}
        for name in given:
            if name not in cls.model_fields:
                raise PydanticCustomError("unknown_field", "unknown field", {"name": shown(name)})
        return given


def _not_too_many(value: Any) -> Any:
    """Count before anything is read: pydantic reads a whole mapping, and then counts."""
    if isinstance(value, (list, dict)) and len(value) > MAX_ENTRIES:
        raise PydanticCustomError("too_long", f"{len(value):,} entries are more than the limit of {MAX_ENTRIES:,}")
    return value


def _empty(value: Sequence[Any]) -> Sequence[Any]:
    if value:
        raise PydanticCustomError("not_supported", "not supported by this server: leave it out, or empty")
    return value


def _token_of_key(key: Any) -> int:
    """JSON has only strings as keys. One id has one spelling, so that no entry replaces another."""
    if not (isinstance(key, str) and key.isascii() and key.isdecimal() and len(key) <= 10 and str(int(key)) == key):
        raise PydanticCustomError("token_id", 'a key must be the id of a token, such as "15"')
    return int(key)


def _kind_of_prompt(value: Any) -> str | None:
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else 0
    return "texts" if isinstance(first, str) else "token_lists" if isinstance(first, list) else "tokens"


def _one_or_several(value: Any) -> str | None:
    return "text" if isinstance(value, str) else "list" if isinstance(value, list) else None


def _joined(value: Any) -> Any:
    """Join the parts of a message to one text. There may be 80,000, so they are read without a validator for each."""
    if not isinstance(value, list):
        return value
    for number, part in enumerate(value):
        if not (isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)):
            raise PydanticCustomError("part", f"part {number} is not of the type text, the only one that is supported")
        for name in part:
            if name not in ("type", "text") and part[name] is not None:
                raise PydanticCustomError("part", f"part {number} has the unknown field {shown(name)}")
    return "".join(part["text"] for part in value)


Integer = Annotated[int, Strict()]  # neither true nor "1" nor 1.5
Number = Annotated[float, Strict(), Field(allow_inf_nan=False)]
Switch = Annotated[bool, Strict()]
Unused = Annotated[Any, Field(description="Accepted and not used.")]
Empty = Annotated[list[Any], AfterValidator(_empty)]

LARGEST_ID = 2**32 - 1
TokenId = Annotated[int, Strict(), Field(ge=0, le=LARGEST_ID)]
TokenIds = Annotated[list[TokenId], Field(fail_fast=True)]
Texts = Annotated[list[str], Field(max_length=MAX_ENTRIES, fail_fast=True)]
Biases = Annotated[
    dict[
        Annotated[int, BeforeValidator(_token_of_key), Field(ge=0, le=LARGEST_ID)],
        Annotated[Number, Field(ge=-100.0, le=100.0)],
    ],
    BeforeValidator(_not_too_many),
]
# A union is decided by the shape of the value: pydantic would try every member, and report the errors of each.
Prompt = Annotated[
    Annotated[str, Tag("text")] | Annotated[TokenIds, Tag("tokens")],
    Discriminator(_kind_of_prompt, "prompt_type", "Input should be a text or a list of token ids"),
]
Prompts = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[Texts, Tag("texts")]
    | Annotated[TokenIds, Tag("tokens")]
    | Annotated[list[TokenIds], Field(max_length=MAX_ENTRIES, fail_fast=True), Tag("token_lists")],
    Discriminator(_kind_of_prompt, "prompt_type", "Input should be a text, token ids, or a list of either"),
]
Stops = Annotated[
    Annotated[str, Tag("text")] | Annotated[Texts, Tag("list")],
    Discriminator(_one_or_several, "stop_type", "Input should be a text or a list of texts"),
]


_PART = {
    "type": "object",
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "required": ["type", "text"],
}
Content = Annotated[
    str,
    BeforeValidator(_joined),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART}]}),
]


def _arguments(value: Any) -> Any:
    """OpenAI writes a call's arguments as JSON in a text. Templates expect the object, and write it in their own way."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value) if value.strip() else {}
    except (ValueError, RecursionError):
        raise PydanticCustomError("arguments", "the arguments of a call must be a JSON object") from None


def _not_too_deep(value: Any) -> Any:
    """Reading and writing a nested value needs a place on the stack for each level."""
    level, depth = [value], 0
    while level:
        inner = [
            list(part.values()) if isinstance(part, dict) else part for part in level if isinstance(part, (dict, list))
        ]
        level, depth = [item for part in inner for item in part], depth + 1
        if depth > MAX_DEPTH:
            raise PydanticCustomError("too_deep", f"it is nested deeper than the limit of {MAX_DEPTH} levels")
    return value


def _functions(tools: list[Any]) -> list[Any]:
    """Check no more than that these are functions: the template gets them as they came."""
    for number, tool in enumerate(tools):
        function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
        if not (isinstance(function, dict) and isinstance(function.get("name"), str)):
            expected = '{"type": "function", "function": {"name": …}}, the only kind that is supported'
            raise PydanticCustomError("tool", f"tool {number} is not {expected}")
    return tools


Object = Annotated[dict[str, Any], AfterValidator(_not_too_deep)]
Tools = Annotated[list[Any], BeforeValidator(_not_too_many), AfterValidator(_functions), AfterValidator(_not_too_deep)]


class CalledFunction(Body):
    """What a call calls."""

    name: str
    arguments: Annotated[Object, BeforeValidator(_arguments)] = Field({}, description="An object, or its JSON.")


class ToolCall(Body):
    """A call of a tool in an earlier answer."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction
    index: Unused = None


class ChatMessage(Body):
    """What one side says, or the message of an earlier answer as it came."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: Content
    name: str | None = Field(None, description="For the model's own chat template, if that reads it.")
    annotations: Unused = None
    refusal: Literal["", None] = Field(None, description="Not supported: what the assistant said is the content.")
    tool_calls: Annotated[list[ToolCall], Field(max_length=MAX_ENTRIES, fail_fast=True)] = Field(
        [], description="Of the assistant, for a template that reads them."
    )
    tool_call_id: str | None = Field(None, description="Of a tool's result: the call that it belongs to.")

    @model_validator(mode="before")
    @classmethod
    def _may_be_silent(cls, data: Any) -> Any:
        """An assistant's content may be null, as in OpenAI's API."""
        if isinstance(data, dict) and data.get("role") == "assistant" and data.get("content") is None:
            return {**data, "content": ""}
        return data

    def to_message(self) -> Message:
        """The message in the chat format. A developer's instructions become a system message."""
        given = {"name": self.name, "tool_call_id": self.tool_call_id}
        details: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
        if self.tool_calls:
            details["tool_calls"] = [call.model_dump(exclude={"index"}, exclude_none=True) for call in self.tool_calls]
        return Message("system" if self.role == "developer" else self.role, self.content, details=details)


Messages = Annotated[list[ChatMessage], Field(min_length=1, max_length=MAX_ENTRIES, fail_fast=True)]
