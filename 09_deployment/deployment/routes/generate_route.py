"""`POST /generate`, this server's own route: ids, probabilities and entropy, as the chat page shows them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deployment.errors import ErrorResponse, check_limit
from deployment.generation import Generation, merge
from deployment.routes.answering import EventStream, sse, unless_disconnected, whole
from deployment.routes.logprobs import token_report
from deployment.routes.schemas import GenerateRequest, GenerateResponse
from deployment.server_state import ServerState
from optimization.engine.events import TokenEvent
from optimization.engine.request import GenerationRequest


def generate_routes(state: ServerState) -> APIRouter:
    """The route, for one server."""
    router = APIRouter(tags=["nuLLM"])

    @router.post("/generate", response_model=GenerateResponse, responses={"4XX": {"model": ErrorResponse}})
    async def generate(body: GenerateRequest, request: Request) -> Response:
        """Continue a prompt, or answer a conversation.

        With `stream`, the events are `start` with the prompt's ids, a `token` for each token, and `end` or `error`.
        """
        model, limits = state.model(body.model), state.settings.limits
        check_limit("top_logprobs", body.top_logprobs or 0, min(limits.max_logprobs, model.tokenizer.vocab_size))
        if body.messages is not None:
            ids = await state.encode_conversation(model, [message.to_message() for message in body.messages])
        else:
            assert body.prompt is not None  # the schema asks for one of the two
            ids = await state.encode_prompt(model, body.prompt)
        sampling = body.sampling(limits, 200, model.recommended)
        wanted = GenerationRequest(ids, sampling, end_ids=model.end_ids, logprobs=body.top_logprobs)
        generations = await state.submit(request, model, [wanted], body.stream)
        if body.stream:
            return EventStream(_stream(generations[0]), generations)
        write = partial(_answer, generations[0], body)
        return await unless_disconnected(request, generations, lambda: whole(generations, write))

    return router


def _answer(generation: Generation, body: GenerateRequest, gathered: list[list[TokenEvent]]) -> dict[str, Any]:
    events, stats = gathered[0], generation.stats
    tokens = None
    if body.top_logprobs is not None:
        tokens = [token_report(generation.model, event) for event in events if event.token is not None]
    return {
        "generated_text": "".join(event.text for event in events),
        "finish_reason": events[-1].finish_reason,
        "prompt_tokens": stats.prompt_tokens,
        "generated_tokens": stats.generated_tokens,
        "context_shifts": stats.context_shifts,
        "tokens": tokens,
    }


async def _stream(generation: Generation) -> AsyncIterator[bytes]:
    model, stats = generation.model, generation.stats
    yield sse({"model": model.name, "prompt_ids": list(generation.request.prompt_ids)}, "start")
    async for _, events in merge([generation]):
        rest, parts = "", []
        for event in events:
            if event.token is not None:
                parts.append(sse(token_report(model, event), "token"))
            else:
                rest += event.text
        if events[-1].finish_reason is not None:
            ending = {
                "text": rest,
                "finish_reason": events[-1].finish_reason,
                "prompt_tokens": stats.prompt_tokens,
                "cached_tokens": stats.cached_tokens,
                "generated_tokens": stats.generated_tokens,
                "context_shifts": stats.context_shifts,
                "queue_seconds": round(stats.queue_seconds, 6),
                "first_token_seconds": round(stats.first_token_seconds, 6),
                "total_seconds": round(stats.total_seconds, 6),
            }
            parts.append(sse(ending, "end"))
        yield b"".join(parts)
