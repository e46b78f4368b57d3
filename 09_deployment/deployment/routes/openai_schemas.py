"""What `/v1/completions` and `/v1/chat/completions` accept and return, as OpenAI documents it.

OpenAI's fields that change nothing here (`user`, `metadata` and similar ones) are accepted. Fields that would change
the answer but are not supported (images, audio) are refused by name, never ignored; a value of such a field that asks
for nothing (`functions: []`, `verbosity: medium`) is accepted, because clients send it.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, Field

from deployment.routes.bodies import Body, Empty, Integer, Messages, Prompts, Switch, Tools, Unused
from deployment.routes.schemas import SamplingFields


class StreamOptions(Body):
    """What a stream says besides the text."""

    include_usage: Switch = False
    include_obfuscation: Unused = None


class ResponseFormat(Body):
    """The form of the answer; only text."""

    type: Literal["text"]


class OpenAIFields(SamplingFields):
    """What both routes have in common beyond sampling."""

    n: Integer = Field(1, ge=1, description="Answers to each prompt.")
    stream_options: StreamOptions | None = None
    ignore_eos: Switch = Field(False, description="Go on after tokens that end a text, as in vLLM.")
    user: Unused = None
    metadata: Unused = None
    store: Unused = None
    service_tier: Unused = None
    safety_identifier: Unused = None
    prompt_cache_key: Unused = None
    prompt_cache_options: Unused = None
    prompt_cache_retention: Unused = None


class CompletionRequest(OpenAIFields):
    """Body of `POST /v1/completions`."""

    prompt: Prompts = Field(description="Text, ids, or several of either.")
    max_tokens: Integer | None = Field(16, ge=0, description="0 with echo: only report on the prompt.")
    echo: Switch = Field(False, description="Give the prompt back in front of the text.")
    logprobs: Integer | None = Field(None, ge=0, description="Alternatives to report with each token.")
    best_of: Integer | None = Field(None, ge=1, description="Must equal n.")
    suffix: Literal[None, ""] = Field(None, description="Not supported: the model reads from left to right.")


class ChatCompletionRequest(OpenAIFields):
    """Body of `POST /v1/chat/completions`. Fields for what the model cannot do may say that it need not."""

    messages: Messages
    max_completion_tokens: Integer | None = Field(None, ge=1, description="The same as max_tokens.")
    logprobs: Switch = False
    top_logprobs: Integer | None = Field(None, ge=0, description="With logprobs.")
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] = Field([], max_length=1, fail_fast=True)
    tools: Tools = Field([], description="Functions, as the model's own chat template writes them.")
    tool_choice: Literal["none", "auto", None] = Field(None, description="none: the model is not told of the tools.")
    parallel_tool_calls: Unused = None
    functions: Empty = Field([], description="Not supported; may be empty.")
    function_call: Literal["none", "auto", None] = None
    reasoning_effort: Literal["none", None] = None
    verbosity: Literal["medium", None] = None


class PromptTokensDetails(BaseModel):
    """Where the prompt's keys and values came from."""

    cached_tokens: int


class Usage(BaseModel):
    """Tokens of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class CompletionLogprobs(BaseModel):
    """Probabilities in the form of the completions route: a list for each quantity."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(BaseModel):
    """One continuation."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: str | None


class Completion(BaseModel):
    """Answer of `POST /v1/completions`."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class ChatLogprob(BaseModel):
    """A token and its probability, in the form of the chat route."""

    token: str
    logprob: float
    bytes: list[int]


class ChatTokenLogprobs(ChatLogprob):
    """A token that came, and others that could have."""

    top_logprobs: list[ChatLogprob]


class ChatLogprobs(BaseModel):
    """Probabilities of an answer."""

    content: list[ChatTokenLogprobs]
    refusal: None = None


class AssistantMessage(BaseModel):
    """The answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One answer."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: str | None


class ChatCompletion(BaseModel):
    """Answer of `POST /v1/chat/completions`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
