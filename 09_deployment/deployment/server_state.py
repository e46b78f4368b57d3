"""What the routes share."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import anyio
import structlog
from fastapi import Request

from deployment.errors import ApiError, check_limit, shown
from deployment.gate.rate_limiting import RateLimiter
from deployment.generation import Generation, GenerationDesk
from deployment.metrics import Metrics
from deployment.served_model import ServedModel
from deployment.settings import ServerSettings
from finetuning.data.chat_format import Message
from optimization.engine.events import PromptError
from optimization.engine.request import GenerationRequest

MARKS = 50  # characters that take as long to encode as the marks around a message
LONG_TEXT = 10_000  # characters; a text of this length or longer is encoded in another thread


@dataclass
class ServerState:
    """The parts of a running server.

    Args:
        settings: all settings.
        models: the models by name; the first is the default.
        metrics: counters.
        desk: the generations.
        limiter: counts requests and tokens per minute.
    """

    settings: ServerSettings
    models: Mapping[str, ServedModel]
    metrics: Metrics
    desk: GenerationDesk
    limiter: RateLimiter

    def model(self, name: str | None) -> ServedModel:
        """The model of a request.

        Raises:
            ApiError: no model has that name.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise ApiError(
                404,
                f"there is no model '{shown(name)}'; there are: {', '.join(self.models)}",
                "model",
                "model_not_found",
            )
        return self.models[name]

    async def encode_prompt(self, model: ServedModel, prompt: str | list[int]) -> list[int]:
        """A prompt as ids. A long text is encoded in another thread, so that it does not block the event loop."""
        if prompt == []:
            raise PromptError("the prompt is empty: give a text, or at least one id")
        check_limit("prompt", len(prompt), self.settings.limits.max_prompt_characters, "characters or ids")
        if len(prompt) < LONG_TEXT:
            return model.encode_prompt(prompt)
        return await anyio.to_thread.run_sync(model.encode_prompt, prompt)

    async def encode_conversation(
        self, model: ServedModel, messages: list[Message], tools: list[Any] | None = None
    ) -> list[int]:
        """A conversation as ids; see `encode_prompt`."""
        length = sum(len(message.content) for message in messages)
        if more := [*(tools or ()), *(message.details for message in messages if message.details)]:
            length += len(json.dumps(more))
        check_limit("messages", length, self.settings.limits.max_prompt_characters, "characters")
        if length + MARKS * len(messages) < LONG_TEXT:
            return model.encode_conversation(messages, tools)
        return await anyio.to_thread.run_sync(model.encode_conversation, messages, tools)

    async def submit(
        self, request: Request, model: ServedModel, wanted: list[GenerationRequest], streamed: bool
    ) -> list[Generation]:
        """Charge a client for the texts that it asks for, and hand them to the engine.

        Args:
            request: the client's request.
            model: the model that generates.
            wanted: the texts that the request asks for.
            streamed: whether the client wants the tokens as they come.

        Raises:
            ApiError: the client is over the rate, the answer would report too many probabilities, or the server is
                stopping.
            EngineFullError, PromptError, RequestError: see `Engine.submit`.
        """
        await self._charge(request, model, wanted)
        return self.desk.submit(model, wanted, streamed, request.scope["state"].get("key_name"))

    async def _charge(self, request: Request, model: ServedModel, wanted: list[GenerationRequest]) -> None:
        """Count the tokens of a request against its key and address, before anything is computed.

        The prompt and all the tokens that were asked for are charged. Both are known in advance, so nobody can use more
        than they may. But a text that ends early is charged in full too.
        """
        self._check_probabilities(wanted)
        tokens = sum(len(g.prompt_ids) + g.parameters.max_tokens for g in wanted)
        structlog.contextvars.bind_contextvars(model=model.name, prompt_tokens=sum(len(g.prompt_ids) for g in wanted))
        if self.settings.log_prompts:
            prompts = [model.tokenizer.decode(g.prompt_ids) for g in wanted]
            structlog.get_logger().info("prompt", prompts=prompts)
        await self.limiter.charge_tokens(request.scope, tokens)

    def _check_probabilities(self, wanted: list[GenerationRequest]) -> None:
        """Each field may be within its limit, and the answer still have 30 MB, which take seconds to write."""
        limit, reported = self.settings.limits.max_probabilities, 0
        for request in wanted:
            if request.logprobs is not None:
                tokens = request.parameters.max_tokens + request.prompt_logprobs * len(request.prompt_ids)
                reported += tokens * (request.logprobs + 1)
        if reported > limit:
            raise ApiError(
                400,
                f"the answer may report {reported:,} probabilities, one for each token and alternative of each choice; this "
                f"server's limit is {limit:,}: ask for fewer alternatives, tokens or choices",
                "logprobs",
            )
