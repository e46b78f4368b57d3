"""`POST /v1/completions`, as in OpenAI's API: continue a text, report on its tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response

from deployment.errors import ApiError, ErrorResponse, check_limit
from deployment.generation import Generation, merge
from deployment.routes.answering import EventStream, sse, unless_disconnected, usage_of, whole
from deployment.routes.logprobs import CompletionLogprobsWriter
from deployment.routes.openai_schemas import Completion, CompletionRequest
from deployment.served_model import ServedModel
from deployment.server_state import ServerState
from optimization.engine.events import TokenEvent
from optimization.engine.request import GenerationRequest
from tokenizer.patterns import replace_surrogates


class CompletionWriter:
    """Turns the events of one choice into text and probabilities.

    Args:
        body: the request.
        prompt: text or ids, as the client sent them.
        generation: the generation of the choice.
    """

    def __init__(self, body: CompletionRequest, prompt: str | list[int], generation: Generation):
        self._body, self._prompt, self._generation = body, prompt, generation
        self._model = generation.model
        self._logprobs = None if body.logprobs is None else CompletionLogprobsWriter(self._model, body.logprobs)
        self._echo = body.echo
        self.finish_reason: str | None = None

    def write(self, events: Sequence[TokenEvent]) -> tuple[str, dict[str, list] | None]:
        """Text and probabilities of the next events. If the prompt is echoed, its own come first."""
        text, logprobs = "", None
        if self._echo:
            self._echo = False
            text, logprobs = self._echoed()
        if self._body.max_tokens == 0:  # one token was computed, only to get the prompt's probabilities
            self.finish_reason = "length" if events[-1].finish_reason else None
            return text, logprobs
        reason = events[-1].finish_reason
        text += "".join(event.text for event in events)
        if not self._generation.request.end_ids and not self._body.ignore_eos:
            last = events[-1].token
            if last in self._model.end_ids:  # see `_scores_only`
                text, reason = text.removesuffix(events[-1].text), "stop"
        if self._logprobs is not None:
            logprobs = _joined(logprobs, self._logprobs.text(events))
        self.finish_reason = reason
        return text, logprobs

    def _echoed(self) -> tuple[str, dict[str, list] | None]:
        ids = list(self._generation.request.prompt_ids)
        if isinstance(self._prompt, str):
            written = replace_surrogates(self._prompt)  # as the tokenizer reads it; half of a pair cannot be sent
        else:
            written = self._model.tokenizer.decode(self._prompt)
        if self._logprobs is None:
            return written, None
        added = len(self._model.tokenizer.begin_ids) if isinstance(self._prompt, str) else 0
        return written, self._logprobs.prompt(ids, self._generation.prompt_logprobs, added)


def completion_routes(state: ServerState) -> APIRouter:
    """The route, for one server."""
    router = APIRouter(tags=["OpenAI"])

    @router.post("/v1/completions", response_model=Completion, responses={"4XX": {"model": ErrorResponse}})
    async def complete(body: CompletionRequest, request: Request) -> Response:
        """Continue one or several prompts."""
        model, limits = state.model(body.model), state.settings.limits
        check_limit("n", body.n, limits.max_n)
        check_limit("logprobs", body.logprobs or 0, min(limits.max_logprobs, model.tokenizer.vocab_size))
        if body.best_of not in (None, body.n):
            raise ApiError(400, f"best_of must equal n, which is {body.n}: all answers are given", "best_of")
        prompts = _as_list(body.prompt)
        check_limit("prompt", len(prompts), limits.max_prompts, "prompts")
        requests = []
        for prompt in prompts:
            ids = await state.encode_prompt(model, prompt)
            requests += [_to_engine(body, model, ids, state, choice) for choice in range(body.n)]
        generations = await state.submit(request, model, requests, body.stream)
        of_choice = [prompt for prompt in prompts for _ in range(body.n)]
        writers = [CompletionWriter(body, p, g) for p, g in zip(of_choice, generations, strict=True)]
        head = {
            "id": f"cmpl-{request.scope['state']['request_id']}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
        }
        if body.stream:
            return EventStream(_stream(body, head, writers, generations), generations)
        write = partial(_answer, body, head, writers, generations)
        return await unless_disconnected(request, generations, lambda: whole(generations, write))

    return router


def _answer(
    body: CompletionRequest,
    head: dict[str, Any],
    writers: Sequence[CompletionWriter],
    generations: list[Generation],
    gathered: list[list[TokenEvent]],
) -> dict[str, Any]:
    choices = []
    for index, (writer, events) in enumerate(zip(writers, gathered, strict=True)):
        text, logprobs = writer.write(events)
        choices.append({"index": index, "text": text, "logprobs": logprobs, "finish_reason": writer.finish_reason})
    return {**head, "choices": choices, "usage": usage_of(generations, body.n, body.max_tokens == 0)}


async def _stream(
    body: CompletionRequest, head: dict[str, Any], writers: Sequence[CompletionWriter], generations: list[Generation]
) -> AsyncIterator[bytes]:
    with_usage = body.stream_options is not None and body.stream_options.include_usage
    rest = {"usage": None} if with_usage else {}
    async for index, events in merge(generations):
        text, logprobs = writers[index].write(events)
        reason = writers[index].finish_reason
        if text or logprobs is not None or reason is not None:
            choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}
            yield sse({**head, "choices": [choice], **rest})
    if with_usage:
        yield sse({**head, "choices": [], "usage": usage_of(generations, body.n, body.max_tokens == 0)})
    yield b"data: [DONE]\n\n"


def _to_engine(
    body: CompletionRequest, model: ServedModel, ids: list[int], state: ServerState, choice: int
) -> GenerationRequest:
    no_end = body.ignore_eos or _scores_only(body)
    return GenerationRequest(
        ids,
        body.sampling(state.settings.limits, 1 if body.max_tokens == 0 else 16, model.recommended, choice),
        end_ids=() if no_end else model.end_ids,
        logprobs=body.logprobs,
        prompt_logprobs=body.echo and body.logprobs is not None,
    )


def _scores_only(body: CompletionRequest) -> bool:
    """Whether the request only wants the prompt's probabilities, in the way that evaluation programs ask for them.

    These programs expect a list of the prompt's tokens and exactly one more. So a token that ends the text must be
    listed like any other.
    """
    return body.echo and body.logprobs is not None and (body.max_tokens or 0) <= 1


def _as_list(prompt: str | list[str] | list[int] | list[list[int]]) -> list[Any]:
    if isinstance(prompt, str) or not prompt or isinstance(prompt[0], int):
        return [prompt]
    return list(prompt)


def _joined(first: dict[str, list] | None, second: dict[str, list] | None) -> dict[str, list] | None:
    if first is None or second is None:
        return first or second
    return {key: values + second[key] for key, values in first.items()}
