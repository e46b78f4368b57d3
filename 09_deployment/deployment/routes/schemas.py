"""What this server's own routes accept and return. OpenAI's are in `openai_schemas`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployment.errors import ApiError, check_limit
from deployment.routes.bodies import Biases, Body, Integer, Messages, Number, Prompt, Stops, Switch, TokenIds
from deployment.settings import Limits
from transformer.sampling import SamplingParameters

MAX_STOP_CHARACTERS = 256


class SamplingFields(Body):
    """How to choose tokens: what all routes that generate have in common.

    For a field that is missing or null, the model's authors may recommend a value (`recommended` in `/v1/models`).
    Otherwise it has the default here, which is OpenAI's.
    """

    model: str | None = Field(None, description="One of /v1/models; null for the first.")
    max_tokens: Integer | None = Field(None, ge=1, description="The most tokens to generate.")
    temperature: Number = Field(1.0, ge=0.0, le=100.0, description="0 is greedy, 1 as trained.")
    top_p: Number = Field(1.0, gt=0.0, le=1.0, description="Keep the likeliest tokens up to this probability.")
    top_k: Integer = Field(0, ge=0, le=2**31, description="Keep the k likeliest tokens; 0 keeps all.")
    min_p: Number = Field(0.0, ge=0.0, le=1.0, description="Keep tokens this many times as likely as the best.")
    typical_p: Number = Field(1.0, gt=0.0, le=1.0, description="Keep the most typical tokens.")
    repetition_penalty: Number = Field(1.0, gt=0.0, le=100.0, description="Above 1: tokens seen become less likely.")
    presence_penalty: Number = Field(0.0, ge=-2.0, le=2.0)
    frequency_penalty: Number = Field(0.0, ge=-2.0, le=2.0)
    logit_bias: Biases | None = Field(None, description="Token id to a number that is added to its logit.")
    seed: Integer | None = Field(None, ge=-(2**63), lt=2**63, description="Repeat the same draw.")
    stop: Stops | None = Field(None, description="Strings that end the text and are not part of it.")
    stream: Switch = Field(False, description="Send tokens as they come, as server-sent events.")

    def sampling(
        self, limits: Limits, default_max_tokens: int, recommended: Mapping[str, Any], choice: int = 0
    ) -> SamplingParameters:
        """These fields as the engine's parameters.

        Args:
            limits: the limits of the server.
            default_max_tokens: used if the request does not give `max_tokens`.
            recommended: for the fields that the request does not give; see `transformer.generation_config`.
            choice: index of the choice; each choice has its own seed.

        Raises:
            ApiError: a field is over its limit.
        """
        wanted = self.max_tokens or default_max_tokens
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        check_limit("max_tokens", wanted, limits.max_tokens)
        check_limit("stop", len(stop), limits.max_stop, "strings")
        check_limit("logit_bias", len(self.logit_bias or {}), limits.max_logit_bias, "entries")
        for string in stop:
            if not string:
                raise ApiError(400, "stop must not contain an empty string: it would stop at once", "stop")
            check_limit("stop", len(string), MAX_STOP_CHARACTERS, "characters in a string")
        # Every field that has the name of a parameter is passed on, so that none can be forgotten here.
        names = [
            field.name for field in dataclasses.fields(SamplingParameters) if field.name in type(self).model_fields
        ]
        values = {name: getattr(self, name) for name in names}
        values |= {name: value for name, value in recommended.items() if name not in self.model_fields_set}
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        values |= {"max_tokens": wanted, "seed": seed, "logit_bias": dict(self.logit_bias or {}), "stop": tuple(stop)}
        return SamplingParameters(**values)


class GenerateRequest(SamplingFields):
    """Body of `POST /generate`: a prompt to continue, or a conversation to answer."""

    prompt: Prompt | None = Field(None, description="Text to continue, or its ids.")
    messages: Messages | None = Field(None, description="A conversation to answer.")
    max_tokens: Integer | None = Field(200, ge=1, description="The most tokens to generate.")
    temperature: Number = Field(0.8, ge=0.0, le=100.0, description="0 is greedy, 1 as trained.")
    top_p: Number = Field(0.95, gt=0.0, le=1.0, description="Keep the likeliest tokens up to this probability.")
    top_logprobs: Integer | None = Field(
        None, ge=0, description="Report every token's probability and this many others."
    )

    @model_validator(mode="after")
    def _one_of_two(self) -> GenerateRequest:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("give either prompt or messages")
        return self


class TokenAlternative(BaseModel):
    """A token that could have come."""

    id: int
    text: str
    logprob: float


class GeneratedToken(BaseModel):
    """A token that came, and what the model thought."""

    id: int
    text: str = Field(description="What can be shown now: whole characters.")
    logprob: float | None = Field(None, description="Natural logarithm of its probability.")
    entropy: float | None = Field(None, description="How undecided the model was, in nats.")
    top: list[TokenAlternative] = Field(default_factory=list)


class GenerateResponse(BaseModel):
    """Answer of `POST /generate`."""

    generated_text: str = Field(description="The continuation, without the prompt.")
    finish_reason: Literal["stop", "length"] = Field(description="stop: the text ended; length: max_tokens reached.")
    prompt_tokens: int
    generated_tokens: int
    context_shifts: int = Field(description="How often the context was full and its older half was dropped.")
    tokens: list[GeneratedToken] | None = Field(None, description="With top_logprobs.")


class TokenizeRequest(Body):
    """Body of `POST /tokenize`."""

    model: str | None = None
    prompt: str
    add_special_tokens: Switch = Field(True, description="Begin as /v1/completions does, with the end-of-text token.")


class TokenizeResponse(BaseModel):
    """Answer of `POST /tokenize`."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str]


class DetokenizeRequest(Body):
    """Body of `POST /detokenize`."""

    model: str | None = None
    tokens: TokenIds


class DetokenizeResponse(BaseModel):
    """Answer of `POST /detokenize`."""

    prompt: str


class AttentionRequest(Body):
    """Body of `POST /attention`: a text as ids; what is shown is where its last token looks."""

    model: str | None = None
    tokens: TokenIds = Field(min_length=1)


class AttentionResponse(BaseModel):
    """Answer of `POST /attention`.

    Of a short text every weight is sent, and a row sums to 1. Of a long text, only the largest weights of each row are.
    """

    tokens: list[str] = Field(description="Text of each position.")
    mean: list[float] = Field(description="(tokens,): the average of all heads of all layers, whole.")
    weights: list[list[list[float]]] = Field(description="(layers, heads, sent).")
    places: list[list[list[int]]] | None = Field(description="The position of each weight; null: all, in order.")
    left_out: list[list[float]] = Field(description="(layers, heads): the share of the weight that is not sent.")


class HealthResponse(BaseModel):
    """Answer of `GET /health`."""

    status: Literal["ok"] = "ok"


class ReadyResponse(BaseModel):
    """Answer of `GET /ready`."""

    status: Literal["ready", "stopping", "failing"]


class ModelInfo(BaseModel):
    """An entry of `GET /v1/models`; the fields after `owned_by` are this server's own."""

    model_config = ConfigDict(protected_namespaces=())

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "nullm"
    root: str
    parent: str | None
    max_model_len: int
    parameters: int
    vocab_size: int
    num_layers: int
    num_heads: int
    chat: bool = Field(description="Whether the model was taught to converse.")
    recommended: dict[str, float] = Field(
        description="How its authors sample from it. A request that does not set such a field gets this value."
    )
    subject: Literal["python", "general"] = Field(description="What it has read, for the examples of the chat page.")
    limits: dict[str, Any]


class ModelList(BaseModel):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    data: list[ModelInfo]
