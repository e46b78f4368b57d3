"""`POST /v1/chat/completions`, as in OpenAI's API: answer a conversation."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deployment.errors import ApiError, ErrorResponse, check_limit
from deployment.generation import Generation, merge
from deployment.routes.answering import EventStream, sse, unless_disconnected, usage_of, whole
from deployment.routes.logprobs import chat_logprobs
from deployment.routes.openai_schemas import ChatCompletion, ChatCompletionRequest
from deployment.server_state import ServerState
from optimization.engine.events import TokenEvent
from optimization.engine.request import GenerationRequest


def chat_routes(state: ServerState) -> APIRouter:
    """The route, for one server."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/chat/completions", response_model=ChatCompletion, responses={"4XX": {"model": ErrorResponse}})
    async def answer(body: ChatCompletionRequest, request: Request) -> Response:
        """Answer the last message of a conversation.

        Tools are written into the prompt by the model's own chat template. A call in the answer stays text, as the model
        wrote it.
        """
        model, limits = state.model(body.model), state.settings.limits
        check_limit("n", body.n, limits.max_n)
        check_limit("top_logprobs", body.top_logprobs or 0, min(limits.max_logprobs, model.tokenizer.vocab_size))
        if body.top_logprobs and not body.logprobs:
            raise ApiError(400, "top_logprobs needs logprobs: true", "top_logprobs")
        if body.max_completion_tokens is not None:
            body.max_tokens = body.max_completion_tokens
        tools = None if body.tool_choice == "none" else body.tools
        ids = await state.encode_conversation(model, [message.to_message() for message in body.messages], tools)
        # If no number is given, an answer may fill the rest of the context.
        left = min(limits.max_tokens, max(1, model.engine.context_length - len(ids)))
        requests = [
            GenerationRequest(
                ids,
                body.sampling(limits, left, model.recommended, choice),
                end_ids=() if body.ignore_eos else model.end_ids,
                logprobs=(body.top_logprobs or 0) if body.logprobs else None,
            )
            for choice in range(body.n)
        ]
        generations = await state.submit(request, model, requests, body.stream)
        head = {
            "id": f"chatcmpl-{request.scope['state']['request_id']}",
            "object": "chat.completion.chunk" if body.stream else "chat.completion",
            "created": int(time.time()),
            "model": model.name,
        }
        if body.stream:
            return EventStream(_stream(body, head, generations), generations)
        write = partial(_answer, body, head, generations)
        return await unless_disconnected(request, generations, lambda: whole(generations, write))

    return router


def _answer(
    body: ChatCompletionRequest, head: dict[str, Any], generations: list[Generation], gathered: list[list[TokenEvent]]
) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": "".join(event.text for event in events), "refusal": None},
            "logprobs": chat_logprobs(generations[index].model, events) if body.logprobs else None,
            "finish_reason": events[-1].finish_reason,
        }
        for index, events in enumerate(gathered)
    ]
    return {**head, "choices": choices, "usage": usage_of(generations, body.n)}


async def _stream(
    body: ChatCompletionRequest, head: dict[str, Any], generations: list[Generation]
) -> AsyncIterator[bytes]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    rest = {"usage": None} if with_usage else {}

    def chunk(index: int, delta: dict[str, str], logprobs: Any = None, reason: str | None = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        return sse({**head, "choices": [choice], **rest})

    for index in range(len(generations)):
        yield chunk(index, {"role": "assistant", "content": ""})
    async for index, events in merge(generations):
        text = "".join(event.text for event in events)
        tokens = any(event.token is not None for event in events)
        logprobs = chat_logprobs(generations[index].model, events) if body.logprobs and tokens else None
        if text or logprobs is not None:
            yield chunk(index, {"content": text}, logprobs)
        if events[-1].finish_reason is not None:
            yield chunk(index, {}, None, events[-1].finish_reason)
    if with_usage:
        yield sse({**head, "choices": [], "usage": usage_of(generations, body.n)})
    yield b"data: [DONE]\n\n"
