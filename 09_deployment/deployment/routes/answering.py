"""How answers are sent, whole or as a stream. They end early if nobody reads them: a closed connection cancels its
generations.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import anyio
from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from deployment.errors import as_api_error, unexpected
from deployment.generation import Generation, merge
from optimization.engine.events import TokenEvent

T = TypeVar("T")


class EventStream(StreamingResponse):
    """Server-sent events of some generations, which are cancelled when the client goes away.

    Args:
        events: yields whole events; see `sse`.
        generations: where the events come from.
    """

    def __init__(self, events: AsyncIterator[bytes], generations: Sequence[Generation]):
        # Without these headers, proxies collect a stream until it is finished, or compress it.
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(_errors_as_events(events), headers=headers, media_type="text/event-stream")
        self._generations = generations

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            for generation in self._generations:
                generation.cancel()


def sse(data: Any, event: str | None = None) -> bytes:
    """One server-sent event with JSON in it.

    >>> sse({"a": 1}, "token")
    b'event: token\\ndata: {"a":1}\\n\\n'
    """
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return (f"data: {text}\n\n" if event is None else f"event: {event}\ndata: {text}\n\n").encode()


async def _errors_as_events(events: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The status has been sent already. So an error from now on can only be reported inside the stream."""
    try:
        async for event in events:
            yield event
    except Exception as error:
        known = as_api_error(error) or unexpected(error)
        yield sse(known.body(), "error")


async def whole(generations: Sequence[Generation], write: Callable[[list[list[TokenEvent]]], Any]) -> Response:
    """Wait for the events of an answer, and send it as one piece of JSON.

    Args:
        generations: where the events come from.
        write: makes what is sent from all the events of each generation.
    """
    gathered: list[list[TokenEvent]] = [[] for _ in generations]
    async for index, events in merge(generations):
        gathered[index] += events

    long = any(generation.request.logprobs is not None for generation in generations)
    return await json_answer(lambda: write(gathered), long)


async def json_answer(make: Callable[[], Any], long: bool) -> Response:
    """An answer in JSON.

    Args:
        make: makes what is sent.
        long: whether this takes longer than other clients should wait. It is then done in another thread.
    """

    def to_json() -> bytes:
        text = json.dumps(make(), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        return text.encode("utf-8", "replace")

    content = await anyio.to_thread.run_sync(to_json) if long else to_json()
    return Response(content, media_type="application/json")


async def unless_disconnected(
    request: Request, generations: Sequence[Generation], collect: Callable[[], Awaitable[T]]
) -> T | Response:
    """Wait for a whole answer, and cancel its generations if the client goes away in the meantime.

    Args:
        request: its client is watched; its body has been read already.
        generations: what to cancel.
        collect: makes the answer.
    """
    result: T | None = None
    failure: Exception | None = None

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        group.cancel_scope.cancel()

    try:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            try:
                result = await collect()
            except Exception as error:  # raised after the group, which would wrap it
                failure = error
            group.cancel_scope.cancel()
    finally:
        for generation in generations:
            generation.cancel()
    if failure is not None:
        raise failure
    return Response(status_code=499) if result is None else result


def usage_of(generations: Sequence[Generation], n: int, prompt_only: bool = False) -> dict[str, Any]:
    """The field `usage` of an answer: its tokens, counted as OpenAI counts them.

    Args:
        generations: the generations of one answer: `n` for the first prompt, then `n` for the next, and so on.
        n: choices for each prompt; a prompt counts once.
        prompt_only: whether the generated tokens were not asked for.
    """
    prompt = sum(generation.stats.prompt_tokens for generation in generations[::n])
    completion = 0 if prompt_only else sum(generation.stats.generated_tokens for generation in generations)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(g.stats.cached_tokens for g in generations[::n])},
    }
