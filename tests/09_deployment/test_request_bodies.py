"""Stage 9: what a body may say: types are exact, null means the default, and the first error ends the reading."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import ValidationError
from support.serving import JSON, Served, serve, tiny_models

from deployment.errors import shown
from deployment.routes.bodies import MAX_ENTRIES, Body, ChatMessage
from deployment.routes.openai_schemas import ChatCompletionRequest, CompletionRequest
from deployment.routes.schemas import AttentionRequest, DetokenizeRequest, GenerateRequest, TokenizeRequest

HI = {"role": "user", "content": "hi"}
TOOL = {"type": "function", "function": {"name": "find"}}
NESTED: Any = []
for _ in range(70):
    NESTED = [NESTED]
LEAST: dict[type[Body], dict[str, Any]] = {  # the smallest body of each route
    CompletionRequest: {"prompt": "a"},
    ChatCompletionRequest: {"messages": [HI]},
    GenerateRequest: {"prompt": "a"},
    TokenizeRequest: {"prompt": "a"},
    DetokenizeRequest: {"tokens": [1]},
    AttentionRequest: {"tokens": [1]},
}
FIELDS = [(kind, name) for kind, least in LEAST.items() for name in kind.model_fields if name not in least]
COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with serve(tiny_models()) as server:
        yield server


def calling(arguments: str) -> dict[str, Any]:
    """A message of the assistant that calls a tool."""
    call = {"id": "1", "type": "function", "function": {"name": "find", "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def errors_of(kind: type[Body], body: dict[str, Any]) -> list[Any]:
    with pytest.raises(ValidationError) as caught:
        kind.model_validate(body)
    return caught.value.errors()


def is_number(kind: type[Body], name: str) -> bool:
    schema = kind.model_json_schema()["properties"][name]
    return any(variant.get("type") in ("integer", "number") for variant in [schema, *schema.get("anyOf", [])])


def test_the_error_says_that_the_first_wrong_element_is_wrong(served: Served):
    body = {"prompt": [1, 2, -1, -1]}
    error = served.client.post(COMPLETIONS, json=body).json()["error"]
    assert error["param"] == "prompt.tokens.2"
    assert error["message"] == "prompt.tokens.2: Input should be greater than or equal to 0"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (CompletionRequest, {"prompt": [-1] * 100}),
        (CompletionRequest, {"prompt": [[]] * 99 + [["a"] * 100]}),
        (CompletionRequest, {"prompt": ["a", *[1] * 100]}),
        (CompletionRequest, {"prompt": ["a"] * (MAX_ENTRIES + 1)}),
        (CompletionRequest, {"prompt": [None] * 100}),
        (CompletionRequest, {"prompt": "a", "stop": [0] * 100}),
        (CompletionRequest, {"prompt": "a", **{f"x{i}": 0 for i in range(100)}}),
        (CompletionRequest, {"prompt": "a", "logit_bias": {f"a{i}": 0 for i in range(MAX_ENTRIES + 1)}}),
        (CompletionRequest, {"prompt": "a", "stream_options": {f"x{i}": 0 for i in range(100)}}),
        (ChatCompletionRequest, {"messages": [{}] * 100}),
        (ChatCompletionRequest, {"messages": [1] * 100}),
        (ChatCompletionRequest, {"messages": [HI] * (MAX_ENTRIES + 1)}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": [{}] * 100}]}),
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": [7] * 100}]}),
        (ChatCompletionRequest, {"messages": [{**HI, **{f"x{i}": 0 for i in range(100)}}]}),
        (ChatCompletionRequest, {"messages": [HI], "modalities": ["audio"] * 100}),
        (ChatCompletionRequest, {"messages": [HI], "tools": [{}] * 100}),
        (GenerateRequest, {"prompt": [-1] * 100}),
        (DetokenizeRequest, {"tokens": [-1] * 100}),
        (AttentionRequest, {"tokens": ["a"] * 100}),
    ],
)
def test_many_mistakes_are_not_gathered(kind: type[Body], body: dict[str, Any]):
    """To gather 660,000 errors takes 16 seconds and gigabytes, while everybody else waits."""
    assert len(errors_of(kind, body)) <= 2  # an empty message lacks two fields


def test_no_list_in_a_body_gathers_errors():
    """Found in the schemas themselves, so that a new field cannot be forgotten."""

    def lists(node: Any) -> Iterator[dict[str, Any]]:
        if isinstance(node, dict):
            if node.get("type") in ("list", "set", "tuple", "generator"):
                yield node
            node = list(node.values())
        if isinstance(node, list):
            for part in node:
                yield from lists(part)

    found = [part for kind in LEAST for part in lists(kind.__pydantic_core_schema__)]
    assert len(found) >= 10
    assert all(part.get("fail_fast") or part["items_schema"]["type"] == "any" for part in found)


@pytest.mark.parametrize(("kind", "name"), FIELDS)
def test_null_means_the_default(kind: type[Body], name: str):
    """Clients send null for the fields that nobody set."""
    assert kind.model_validate({**LEAST[kind], name: None}) == kind.model_validate(LEAST[kind])


def test_null_is_no_value_for_what_is_needed():
    assert errors_of(CompletionRequest, {"prompt": None})[0]["type"] == "missing"
    assert errors_of(ChatCompletionRequest, {"messages": [{"role": "user", "content": None}]})[0]["type"] == "missing"


@pytest.mark.parametrize(("kind", "name"), [field for field in FIELDS if is_number(*field)])
def test_a_number_is_neither_true_nor_a_text(kind: type[Body], name: str):
    for value in (True, False, "1", [], {}):
        assert len(errors_of(kind, {**LEAST[kind], name: value})) == 1, value


@pytest.mark.parametrize("value", [1, "true", "yes", 0.0])
@pytest.mark.parametrize("name", ["stream", "echo", "ignore_eos"])
def test_a_switch_is_true_or_false(name: str, value: Any):
    assert len(errors_of(CompletionRequest, {"prompt": "a", name: value})) == 1


@pytest.mark.parametrize("key", ["1.5", "a", "01", " 1", "1_0", "-1", "+1", "²", "٣", "4294967296", "9" * 5000])
def test_a_bias_is_for_one_token(key: str):
    """With "01" there would be a second name of id 1, and one of two biases would be lost."""
    assert len(errors_of(CompletionRequest, {"prompt": "a", "logit_bias": {key: 1}})) == 1


@pytest.mark.parametrize(
    ("content", "headers", "status", "message"),
    [
        (
            gzip.compress(b'{"prompt": "a"}', mtime=0),
            {"Content-Encoding": "gzip"},
            415,
            "Content-Encoding gzip is not supported",
        ),
        (b'{"prompt": "a"}', {"Content-Encoding": "identity"}, 200, ""),
        ('{"prompt": "é"}'.encode("latin-1"), {}, 400, "the body is not UTF-8: byte 0xe9 at 12"),
        ('{"prompt": "é"}'.encode("utf-16"), {}, 200, ""),  # JSON's older encodings are recognised
    ],
)
def test_a_body_in_another_encoding_is_read_or_named(served: Served, content, headers, status, message):
    headers = {"Content-Type": "application/json", **headers}
    answer = served.client.post(COMPLETIONS, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    assert status == 200 or answer.json()["error"]["message"].startswith(message)


def test_an_empty_prompt_is_called_empty(served: Served):
    for path, prompt in ((COMPLETIONS, []), (COMPLETIONS, [[]]), (COMPLETIONS, [[1], []]), ("/generate", [])):
        answer = served.client.post(path, json={"prompt": prompt})
        assert answer.status_code == 400
        assert answer.json()["error"]["message"] == "the prompt is empty: give a text, or at least one id"


@pytest.mark.parametrize(
    "messages",
    [
        [HI, {"role": "assistant", "content": None}, HI],
        [HI, {"role": "assistant", "content": "a", "refusal": None, "annotations": [], "tool_calls": []}, HI],
        [HI, {"role": "assistant", "content": "a", "audio": None, "function_call": None, "tool_calls": None}, HI],
        [HI, {"role": "assistant"}, HI],
        [{"role": "developer", "content": "be brief"}, HI],
        [HI, {"role": "assistant", "content": "a"}, {"role": "developer", "content": "be brief"}, HI],
        [HI, {"role": "assistant", "content": "a"}, {"role": "system", "content": "be brief"}],
        [HI, HI],
        [{"role": "assistant", "content": "How can I help?"}, HI],
        [{"role": "user", "name": "alice", "content": [{"type": "text", "text": "hi", "annotations": None}]}],
        [{"role": "system", "content": [{"type": "text", "text": "a"}]}, {"role": "system", "content": "b"}, HI],
    ],
)
def test_conversations_that_clients_send_are_answered(served: Served, messages: list[dict[str, Any]]):
    answer = served.client.post(CHAT, json={"messages": messages, "max_tokens": 2})
    assert answer.status_code == 200, answer.text
    model = served.state.model(None)
    written = [ChatMessage.model_validate(message).to_message() for message in messages]
    ids = model.template.encode(written, model.tokenizer, generation_prompt=True).ids
    assert answer.json()["usage"]["prompt_tokens"] == len(ids)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"tools": [{"type": "function"}]}, "tools: tool 0 is not {"),
        ({"tools": [TOOL, {**TOOL, "type": "web_search"}]}, "tools: tool 1 is not {"),
        ({"tools": [{**TOOL, "more": NESTED}]}, "tools: it is nested deeper than the limit of 64 levels"),
        ({"tools": [TOOL]}, "tools: the chat template of this model has no place for them"),
        ({"messages": [HI, calling("{}"), HI]}, "tool_calls: the chat template of"),
        ({"messages": [HI, {"role": "tool", "content": "a"}]}, "messages with the role tool: the chat template"),
        (
            {"messages": [calling("{")]},
            "messages.0.tool_calls.0.function.arguments: the arguments of a call must be a JSON object",
        ),
        (
            {"messages": [calling("[]")]},
            "messages.0.tool_calls.0.function.arguments: Input should be a valid dictionary",
        ),
        ({"tool_choice": "required"}, "tool_choice: "),
        ({"response_format": {"type": "json_object"}}, "response_format.type: "),
        ({"modalities": ["audio"]}, "modalities.0: "),
        ({"reasoning_effort": "high"}, "reasoning_effort: "),
        ({"audio": {"voice": "alloy"}}, "audio: unknown field"),
        ({"min_tokens": 3}, "min_tokens: unknown field"),
        ({"messages": [{**HI, "role": "function"}]}, "messages.0.role: "),
        ({"messages": [HI, {"role": "assistant", "refusal": "no"}, HI]}, "messages.1.refusal: "),
        ({"messages": [HI, {"role": "assistant", "tool_calls": [{}]}, HI]}, "messages.1.tool_calls.0.function: "),
        (
            {"messages": [{**HI, "content": [{"type": "image_url"}]}]},
            "messages.0.content: part 0 is not of the type text",
        ),
        (
            {"messages": [{**HI, "content": [{"type": "text", "text": "a", "cache_control": {}}]}]},
            "messages.0.content: part 0 has the unknown field cache_control",
        ),
        ({"messages": [HI] * 200}, "the conversation has 200 messages, the model's context is 128 tokens"),
        ({"messages": [{"role": "system", "content": "a"}]}, "no message is from the user"),
        ({"messages": [HI, {"role": "assistant", "content": "a"}]}, "message 2 is from the assistant, it should be"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(served: Served, body: dict[str, Any], message: str):
    answer = served.client.post(CHAT, json={"messages": [HI], "max_tokens": 1, **body})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_what_changes_nothing_is_accepted(served: Served):
    harmless = {
        "user": "u", "metadata": {"a": "b"}, "store": False, "service_tier": "auto", "safety_identifier": "s",
        "prompt_cache_key": "k", "prompt_cache_retention": "24h", "parallel_tool_calls": True, "tools": [],
        "tool_choice": "auto", "functions": [], "function_call": "none", "modalities": ["text"],
        "response_format": {"type": "text"}, "reasoning_effort": "none", "verbosity": "medium",
        "logprobs": False, "top_logprobs": 0, "stop": [], "stream_options": {"include_usage": None},
        "not_invented_yet": None,
    }  # fmt: skip
    plain = {"messages": [HI], "max_tokens": 4, "seed": 1}
    answers = [served.client.post(CHAT, json={**plain, **more}).json()["choices"] for more in ({}, harmless)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize("name", ["m" * 100_000, "a\x1b[2J\x1b[31mb", "a\r\nb", "\u2028", "\u202e", "\ud800", "\0"])
def test_names_are_cut_and_escaped_in_errors(served: Served, name: str):
    bodies = [
        (COMPLETIONS, {"prompt": "a", "model": name}),
        (COMPLETIONS, {"prompt": "a", name: 1}),
        (COMPLETIONS, {"prompt": "a", "logit_bias": {name: 1}}),
        (COMPLETIONS, {"prompt": "a", "stream_options": {name: 1}}),
        (CHAT, {"messages": [{**HI, name: 1}]}),
        (CHAT, {"messages": [{**HI, "role": name}]}),
    ]
    for path, body in bodies:
        answer = served.client.post(path, content=json.dumps(body), headers=JSON)
        assert answer.status_code in (400, 404)
        error = answer.json()["error"]
        assert len(error["message"]) <= 501 and error["message"].isprintable(), (body.keys(), error)
        assert error["param"] is None or (len(error["param"]) < 300 and error["param"].isprintable())


def test_a_number_of_4000_digits_is_not_repeated(served: Served):
    body = '{"prompt": "a", "max_tokens": ' + "9" * 4000 + "}"
    answer = served.client.post(COMPLETIONS, content=body, headers=JSON)
    assert answer.status_code == 400 and len(answer.content) < 800


def test_what_is_shown_of_a_name():
    assert shown("a" * 101) == "a" * 100 + "…"
    assert shown("\x1b[0m\n\t\ud800é") == r"\x1b[0m\n\t\ud800é"


def test_an_echo_of_half_a_character_is_the_replacement_character(served: Served):
    """A client that cuts its text in UTF-16 sends half of a pair, which JSON can say and UTF-8 cannot."""
    body = rb'{"prompt": "cut emoji \ud83d", "echo": true, "max_tokens": 2, "temperature": 0, "logprobs": 1}'
    choice = served.client.post(COMPLETIONS, content=body, headers=JSON).json()["choices"][0]
    assert choice["text"].startswith("cut emoji \ufffd")
    assert "".join(choice["logprobs"]["tokens"]).startswith("<|endoftext|>cut emoji ")
