"""How a conversation becomes one sequence of tokens, and which of them the model learns to say.

A template marks who speaks with special tokens:

    <|endoftext|><|user|>What does str.split do?<|end|><|assistant|>It cuts a string …<|end|>

Two rules make it safe and exact. First, the marks are special tokens, and what people write is encoded with no
special token allowed: a user who types `<|assistant|>` gets the characters, never the token, so no text can
forge a role. Second, the loss is taken only on the assistant's words and the mark that ends them: the model
should answer, not imitate the questions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeVar, get_args

from tokenizer.interface import Tokenizer

Role = Literal["system", "user", "assistant"]
ROLES: tuple[str, ...] = get_args(Role)
Item = TypeVar("Item")
Encoded = TypeVar("Encoded")


class ConversationError(ValueError):
    """A conversation or template that makes no sense."""


@dataclass(frozen=True)
class Message:
    """What one side says.

    Args:
        role: who says it.
        content: what is said.
        learned: for the assistant, whether the model learns to say it. Otherwise it is only read, like a question.
        details: what else a model's own template may read, such as `tool_calls`; our templates read none of it.
    """

    role: Role | Literal["tool"]
    content: str
    learned: bool = True
    details: Mapping[str, Any] = field(default_factory=dict, hash=False)


Conversation = Sequence[Message]


@dataclass(frozen=True)
class EncodedConversation:
    """Tokens of a conversation.

    Args:
        ids: the tokens.
        learned: for each, whether the model is to learn to say it.
    """

    ids: list[int]
    learned: list[bool]


class ChatFormat(Protocol):
    """How a conversation becomes tokens: by the marks of a `ChatTemplate`, or by the `JinjaTemplate` of a model."""

    def encode(
        self, conversation: Conversation, tokenizer: Tokenizer, generation_prompt: bool = False
    ) -> EncodedConversation:
        """The conversation as tokens."""
        ...

    def reads(self, name: str) -> bool:
        """Whether the template does something with `tools`, with the `tool_calls` of a message, or with a role."""
        ...

    def end_id(self, tokenizer: Tokenizer) -> int:
        """The token by which the assistant says that it has finished."""
        ...

    def to_jinja(self) -> str:
        """The template in Jinja."""
        ...


@dataclass(frozen=True)
class ChatTemplate:
    """The marks around messages. Content is stripped of surrounding white space, as in Llama 3's template.

    Args:
        name: how configurations call it.
        begin: before the first message.
        header: before each message; `{role}` stands for the role.
        end: after each message; the model's sign that it has finished.
        separator: ordinary text after `end`.
        special_tokens: the marks, which must be single tokens of the tokenizer.

    Raises:
        ConversationError: the header does not say the role, or nothing ends a message.
    """

    name: str
    begin: str
    header: str
    end: str
    separator: str
    special_tokens: tuple[str, ...]

    def __post_init__(self) -> None:
        if "{role}" not in self.header:
            raise ConversationError(
                f"the header {self.header!r} of template {self.name!r} has no {{role}}: nothing would mark what the "
                "assistant says"
            )
        if self.end not in self.special_tokens:
            raise ConversationError(
                f"the end {self.end!r} of template {self.name!r} is not one of its special tokens: the model could not "
                "say that it has finished"
            )

    def render(self, conversation: Conversation, generation_prompt: bool = False) -> str:
        """The conversation as text, for people and for comparison with other libraries."""
        text = self.begin
        for message in conversation:
            text += self.header.format(role=message.role) + message.content.strip() + self.end + self.separator
        return text + (self.header.format(role="assistant") if generation_prompt else "")

    def reads(self, name: str) -> bool:
        """Whether the template knows a role; it knows no tools."""
        return name in ROLES

    def encode(
        self, conversation: Conversation, tokenizer: Tokenizer, generation_prompt: bool = False
    ) -> EncodedConversation:
        """The conversation as tokens.

        Args:
            conversation: messages in any order; what is learned from should take turns, see `check_conversation`.
            tokenizer: with this template's special tokens.
            generation_prompt: end with the assistant's header, for the model to go on.

        Raises:
            ConversationError: the tokenizer lacks a special token, the conversation is empty, or a role is unknown.
        """
        check_roles(conversation)
        missing = [token for token in self.special_tokens if token not in tokenizer.special_tokens]
        if missing:
            raise ConversationError(
                f"the tokenizer has no {', '.join(missing)}, which the chat template {self.name!r} needs"
            )
        ids: list[int] = []
        learned: list[bool] = []

        def add(new_ids: list[int], learn: bool) -> None:
            ids.extend(new_ids)
            learned.extend([learn] * len(new_ids))

        def marks(text: str) -> list[int]:
            return tokenizer.encode(text, allowed_special=self.special_tokens)

        add(marks(self.begin), False)
        for message in conversation:
            speaks = message.role == "assistant" and message.learned
            add(marks(self.header.format(role=message.role)), False)
            add(tokenizer.encode(message.content.strip()), speaks)  # no special token allowed
            add(marks(self.end), speaks)
            add(marks(self.separator), False)
        if generation_prompt:
            add(marks(self.header.format(role="assistant")), False)
        return EncodedConversation(ids, learned)

    def end_id(self, tokenizer: Tokenizer) -> int:
        """The token by which the assistant says that it has finished."""
        return tokenizer.special_tokens[self.end]

    def to_jinja(self, mark_learned: bool = False) -> str:
        """The same as a Jinja template, as Hugging Face's `tokenizer_config.json` holds it.

        Args:
            mark_learned: put what the assistant says into `{% generation %}` tags, from which `transformers` makes the
                mask of learned tokens. The tags are a syntax error in every other Jinja.
        """
        header = " + message['role'] + ".join(_quote(part) for part in self.header.split("{role}"))
        said = f"{{{{ message['content'] | trim }}}}{{{{ {_quote(self.end)} }}}}"
        if mark_learned:
            marked = f"{{% generation %}}{said}{{% endgeneration %}}"
            said = f"{{% if message['role'] == 'assistant' %}}{marked}{{% else %}}{said}{{% endif %}}"
        return (
            f"{{{{ {_quote(self.begin)} }}}}"
            "{% for message in messages %}"
            f"{{{{ {header} }}}}{said}"
            f"{{{{ {_quote(self.separator)} }}}}"
            "{% endfor %}"
            f"{{% if add_generation_prompt %}}{{{{ {_quote(self.header.format(role='assistant'))} }}}}{{% endif %}}"
        )


TEMPLATES = {
    template.name: template
    for template in (
        ChatTemplate(
            "nullm",
            begin="<|endoftext|>",
            header="<|{role}|>",
            end="<|end|>",
            separator="",
            special_tokens=("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
        ),
        ChatTemplate(
            "chatml",
            begin="",
            header="<|im_start|>{role}\n",
            end="<|im_end|>",
            separator="\n",
            special_tokens=("<|im_start|>", "<|im_end|>"),
        ),
        ChatTemplate(
            "llama3",
            begin="<|begin_of_text|>",
            header="<|start_header_id|>{role}<|end_header_id|>\n\n",
            end="<|eot_id|>",
            separator="",
            special_tokens=("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        ),
    )
}


def chat_template(name: str) -> ChatTemplate:
    """A template by name.

    Raises:
        ConversationError: there is none of that name.
    """
    if name not in TEMPLATES:
        raise ConversationError(f"there is no chat template {name!r}; the choices are {', '.join(TEMPLATES)}")
    return TEMPLATES[name]


def require_tools_are_read(
    template: ChatFormat, conversation: Conversation, tools: Sequence[Mapping[str, Any]] | None
) -> None:
    """Refuse tools, calls and results of tools that a template would pass over in silence.

    Raises:
        ConversationError: the template does not read them; names what.
    """
    given = {"tools": bool(tools)}
    given["tool_calls"] = any(message.details.get("tool_calls") for message in conversation)
    given["tool"] = any(message.role == "tool" for message in conversation)
    for name, what in (("tools", "tools"), ("tool_calls", "tool_calls"), ("tool", "messages with the role tool")):
        if given[name] and not template.reads(name):
            raise ConversationError(f"{what}: the chat template of this model has no place for them; leave them out")


def check_roles(conversation: Conversation) -> None:
    """Check that there are messages, and that a template can write the role of each.

    Raises:
        ConversationError: the conversation is empty, or a role is unknown; says which message.
    """
    if not conversation:
        raise ConversationError("the conversation is empty")
    for number, message in enumerate(conversation, start=1):
        if message.role not in ROLES:
            raise ConversationError(f"message {number} has the role {message.role!r}; the roles are {', '.join(ROLES)}")


def check_conversation(conversation: Conversation) -> None:
    """Check that the roles take turns: user, assistant, user, …

    A system message may come first, and then a greeting of the assistant.

    Raises:
        ConversationError: see `check_roles`; or a message is out of turn; says which one.
    """
    check_roles(conversation)
    expected = "user"
    before = 1 if conversation[0].role == "system" else 0
    if len(conversation) > before + 1 and conversation[before].role == "assistant":
        before += 1
    for number, message in enumerate(conversation, start=1):
        if number <= before:
            continue
        if message.role != expected:
            raise ConversationError(f"message {number} is from the {message.role}, it should be from the {expected}")
        expected = "assistant" if expected == "user" else "user"
    if expected == "user" and conversation[-1].role == "system":
        raise ConversationError("the conversation has a system message and nothing else")


def fit_conversation(
    conversation: Conversation, template: ChatFormat, tokenizer: Tokenizer, context_length: int
) -> EncodedConversation:
    """Encode a conversation for training, leaving out its oldest exchanges until it fits.

    An exchange ends with what the assistant says. Whole exchanges are left out, never a part of a message, and the
    system message stays.

    Args:
        conversation: ends with the assistant.
        template: see `ChatFormat`.
        tokenizer: with the template's special tokens.
        context_length: the most tokens there may be.

    Raises:
        ConversationError: the last exchange alone does not fit, or nothing that is left is to be learned.
    """
    check_conversation(conversation)
    if conversation[-1].role != "assistant":
        raise ConversationError(
            "the conversation does not end with the assistant: there is nothing to learn at its end"
        )
    start = 1 if conversation[0].role == "system" else 0
    system, turns = list(conversation[:start]), list(conversation[start:])
    while True:
        encoded = template.encode([*system, *turns], tokenizer)
        if len(encoded.ids) <= context_length:
            break
        exchange = next(number for number, turn in enumerate(turns, start=1) if turn.role == "assistant")
        if exchange == len(turns):
            raise ConversationError(
                f"the last exchange has {len(encoded.ids)} tokens with its marks, the context is {context_length}"
            )
        turns = turns[exchange:]
    if not any(encoded.learned):
        raise ConversationError("nothing that the assistant says in it is to be learned")
    return encoded


def encode_each(what: str, items: Sequence[Item], encode: Callable[[Item], Encoded]) -> tuple[list[Encoded], list[str]]:
    """Encode data for a model, and leave out what does not fit.

    Args:
        what: the name of an item in the reasons.
        items: conversations, or pairs of answers.
        encode: encodes one; raises `ConversationError` where it cannot be learned from.

    Returns:
        What was encoded, and for each item that was not, its number and the reason.
    """
    encoded, problems = [], []
    for number, item in enumerate(items, start=1):
        try:
            encoded.append(encode(item))
        except ConversationError as error:
            problems.append(f"{what} {number}: {error}")
    return encoded, problems


def _quote(text: str) -> str:
    """A Jinja string literal."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n") + "'"
