"""The chat template that a model came with: a small program in Jinja, as Hugging Face keeps it.

It is rendered as `transformers` renders it, in a sandbox: a template comes from elsewhere, and may neither change what it is
given nor reach the rest of Python. One thing is done differently. `transformers` looks for special tokens in the finished
text, so that a user who writes `<|im_end|>` ends their turn. Here a mark is put into such a text before it is rendered, and
taken out when it is encoded: the user gets the characters.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any

from jinja2 import Template, TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetuning.data.chat_format import Conversation, ConversationError, EncodedConversation, Message
from tokenizer.interface import Tokenizer
from tokenizer.patterns import replace_surrogates

# Unicode sets these code points aside for use within a program. The first two stand around what the assistant says, and the
# third breaks up special tokens that people wrote.
LEARNED_FROM, LEARNED_TO, BROKEN = "\ufdd0", "\ufdd1", "\ufdd2"
_MARKS = re.compile(f"[{LEARNED_FROM}{LEARNED_TO}{BROKEN}]")


class JinjaTemplate:
    """A model's own chat template.

    >>> template = JinjaTemplate("{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}")
    >>> template.render([Message("user", "Hello")])
    '<user>Hello</s>'

    Args:
        source: the template.
        tokens: named special tokens that it may write, such as `bos_token`.

    Raises:
        ConversationError: it is not a template.
    """

    name = "the model's own"
    special_tokens: tuple[str, ...] = ()  # the vocabulary of the model has those that it needs

    def __init__(self, source: str, tokens: Mapping[str, str] | None = None):
        self._source, self._tokens = source, dict(tokens or {})
        self._template = _compile(source)

    def render(
        self,
        conversation: Conversation | Sequence[Mapping[str, Any]],
        generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> str:
        """The conversation as text, as `apply_chat_template` gives it.

        Args:
            conversation: messages; a mapping may have more than a role and a content, such as `tool_calls`.
            generation_prompt: end where the assistant goes on.
            tools: functions that the model may call, as JSON schemas.

        Raises:
            ConversationError: the template refuses the conversation, or fails.
        """
        return _MARKS.sub("", self._render(_as_mappings(conversation), generation_prompt, tools))

    def _render(
        self, messages: list[dict[str, Any]], generation_prompt: bool, tools: Sequence[Mapping[str, Any]] | None
    ) -> str:
        if not messages:
            raise ConversationError("the conversation is empty")
        try:
            return self._template.render(
                messages=messages,
                tools=None if tools is None else [dict(tool) for tool in tools],
                documents=None,
                add_generation_prompt=generation_prompt,
                **self._tokens,
            )
        except TemplateError as error:
            raise ConversationError(f"the model's chat template refuses the conversation: {_one_line(error)}") from None
        except Exception as error:  # whatever a template does wrong, it is not a fault of this program
            what = f"{type(error).__name__}: {_one_line(error)}"
            raise ConversationError(f"the model's chat template fails on the conversation: {what}") from None

    def encode(
        self,
        conversation: Conversation | Sequence[Mapping[str, Any]],
        tokenizer: Tokenizer,
        generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> EncodedConversation:
        """The conversation as tokens, and which of them the model is to learn to say.

        Learned is what the template marks with `{% generation %}`. In a template without it, it is the last answer, from
        where the text begins to differ from the one that asks for it.

        Args:
            conversation: see `render`.
            tokenizer: the model's.
            generation_prompt: see `render`.
            tools: see `render`.

        Raises:
            ConversationError: the template refuses the conversation, or fails.
        """
        specials = tokenizer.special_tokens
        try:
            guarded = _guarded(_as_mappings(conversation), specials)
            tools = _guarded(tools, specials)
        except RecursionError:
            raise ConversationError("the messages or the tools are nested too deeply") from None
        text = self._render(guarded, generation_prompt, tools)
        if LEARNED_FROM not in text and not generation_prompt and guarded[-1].get("role") == "assistant":
            text = self._mark_last_answer(text, guarded, specials, tools)
        plain, places = _without_marks(replace_surrogates(text))
        edges = sorted({place for mark, place in places if mark != BROKEN})
        ids, numbers = _encode(plain, tokenizer, [place for mark, place in places if mark == BROKEN], edges)
        learned = [False] * len(ids)
        opened = 0
        for mark, place in places:
            whole, begun = numbers.get(place, (0, 0))
            if mark == LEARNED_FROM:
                opened = whole
            elif mark == LEARNED_TO:
                learned[opened:begun] = [True] * max(begun - opened, 0)
        return EncodedConversation(ids, learned)

    def _mark_last_answer(self, text: str, messages: list[dict[str, Any]], specials: Iterable[str], tools: Any) -> str:
        asked = self._render(messages[:-1], True, tools) if len(messages) > 1 else ""
        if not text.startswith(asked):
            return text
        answer = text[len(asked) :]
        ends = [match.end() for match in _any_of(specials).finditer(answer)]
        length = ends[0] if ends else len(answer)
        return f"{asked}{LEARNED_FROM}{answer[:length]}{LEARNED_TO}{answer[length:]}"

    def end_id(self, tokenizer: Tokenizer) -> int:
        """The token by which the assistant says that it has finished: the special token that follows an answer.

        Raises:
            ConversationError: the template shows none, and the model's files name no end token.
        """
        probe = "\ufdd3"
        try:
            text = self._render(
                [{"role": "user", "content": "?"}, {"role": "assistant", "content": probe}], False, None
            )
        except ConversationError:
            text = ""
        match = _any_of(tokenizer.special_tokens).search(text, text.find(probe) + 1) if probe in text else None
        if match is not None:
            return tokenizer.special_tokens[match.group()]
        if not tokenizer.end_ids:
            raise ConversationError("nothing ends an answer: the chat template shows no special token after it")
        return tokenizer.end_ids[0]

    def reads(self, name: str) -> bool:
        """Whether the template names a variable, a part of a message or a role, such as `tools`, `tool_calls`, `tool`.

        >>> JinjaTemplate("{% if tools %}{{ tools | tojson }}{% endif %}").reads("tools")
        True
        """
        return name in _names(self._source)

    def to_jinja(self) -> str:
        """The template itself."""
        return self._source


class _LearnedText(Extension):
    """`{% generation %}…{% endgeneration %}`: marks what the assistant says."""

    tags = {"generation"}  # noqa: RUF012 — the name and type are Jinja's

    def parse(self, parser: Parser) -> list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        marks = [nodes.Output([nodes.TemplateData(mark)], lineno=line) for mark in (LEARNED_FROM, LEARNED_TO)]
        return [marks[0], *body, marks[1]]


def _refuse(message: str) -> None:
    raise TemplateError(message)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    """As JSON, without the escapes for HTML of Jinja's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


@lru_cache(maxsize=16)
def _names(source: str) -> frozenset[Any]:
    tree = _environment().parse(source)
    names = {node.name for node in tree.find_all(nodes.Name)} | {node.attr for node in tree.find_all(nodes.Getattr)}
    return frozenset(names | {node.value for node in tree.find_all(nodes.Const)})


@lru_cache(maxsize=16)
def _compile(source: str) -> Template:
    try:
        return _environment().from_string(source)
    except TemplateError as error:
        raise ConversationError(f"the model's chat template cannot be read: {_one_line(error)}") from None


@lru_cache(maxsize=1)
def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_LearnedText, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment


def _as_mappings(conversation: Conversation | Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"role": message.role, "content": message.content, **message.details}
        if isinstance(message, Message)
        else dict(message)
        for message in conversation
    ]


def _guarded(value: Any, specials: Iterable[str]) -> Any:
    """A message whose texts hold no special token: each is broken up by a mark. Marks that were there are dropped."""
    if isinstance(value, str):
        # After the first character of each, also of one that begins within another.
        begins = re.compile(f"(?=(?:{_any_of(specials).pattern}))[\\s\\S]")
        return begins.sub(lambda match: match.group() + BROKEN, _MARKS.sub("", value))
    if isinstance(value, Mapping):
        return {_guarded(key, specials): _guarded(item, specials) for key, item in value.items()}
    return [_guarded(item, specials) for item in value] if isinstance(value, (list, tuple)) else value


def _without_marks(text: str) -> tuple[str, list[tuple[str, int]]]:
    """The text, and each mark with the place where it stood."""
    pieces = re.split(f"({_MARKS.pattern})", text)
    places, length = [], 0
    for piece, mark in zip(pieces[::2], pieces[1::2], strict=False):
        length += len(piece)
        places.append((mark, length))
    return "".join(pieces[::2]), places


def _encode(
    text: str, tokenizer: Tokenizer, broken: list[int], edges: list[int]
) -> tuple[list[int], dict[int, tuple[int, int]]]:
    """The ids of the whole text, as `transformers` encodes it; and for each edge, how many ids end there or before it, and
    how many begin before it. The two differ where one token stands on both sides."""
    ids: list[int] = []
    numbers: dict[int, tuple[int, int]] = {}
    start = 0
    for part, index in tokenizer.parts(text, broken):
        end = start + len(part)
        forged = any(start < place <= end for place in broken)
        new = [index] if index is not None else tokenizer.encode_part(part, not start, forged)
        for edge in edges:
            if start <= edge <= end:
                if edge in (start, end):
                    number = len(ids) + (len(new) if edge == end else 0)
                    numbers[edge] = (number, number)
                elif index is not None:
                    numbers[edge] = (len(ids), len(ids) + 1)
                else:
                    before = tokenizer.encode_part(part[: edge - start], not start, forged)
                    length = len(tokenizer.continue_bytes(before))
                    ends = list(accumulate(len(tokenizer.continue_bytes([one])) for one in new))
                    whole, begun = bisect_right(ends, length), bisect_left(ends, length) + bool(length)
                    numbers[edge] = (len(ids) + whole, len(ids) + min(begun, len(new)))
        ids += new
        start = end
    return ids, numbers


def _any_of(texts: Iterable[str]) -> re.Pattern[str]:
    return _any_of_sorted(tuple(sorted(texts, key=len, reverse=True)))


@lru_cache(maxsize=16)
def _any_of_sorted(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, texts)) or "(?!)")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
