"""Carries requests and tokens between the engine's thread and the event loop. Neither waits for the other.

The engine delivers events on its own thread. To wake the event loop for each event would cost more than computing it:
with 16 streams that is 16 wakes a step. So events gather in a deque, and the loop is woken once for all of them. While
every client waits for a whole answer, it is not woken at all.

To write each token to each client separately would cost even more, most of it in the kernel (about 60 µs; computing
the token takes 600 µs). So everything that comes within 40 ms is sent together, 25 times a second.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace

import structlog

from deployment.errors import ApiError
from deployment.metrics import Metrics
from deployment.served_model import ServedModel
from optimization.engine.events import GenerationStats, TokenEvent, TokenLogprobs
from optimization.engine.request import GenerationRequest

MANY_EVENTS = 64  # of one generation at once, when its client read slowly or waited for the whole answer


class EventRelay:
    """Carries events from any thread to their generations on one event loop.

    The first and the last event of a text are delivered at once. The others wait until the interval since the last
    delivery is over.

    Args:
        interval: in seconds.
    """

    def __init__(self, interval: float = 0.0) -> None:
        self._interval = interval
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending: deque[tuple[Generation, TokenEvent, float]] = deque()
        self._woken = self._scheduled = False
        self._timer: asyncio.TimerHandle | None = None
        self._delivered = -math.inf

    def attach(self, loop: asyncio.AbstractEventLoop) -> None:
        """Set the event loop on which the generations are read."""
        self._loop = loop

    def post(self, generation: Generation, event: TokenEvent) -> None:
        """Called by an engine."""
        self._pending.append((generation, event, time.perf_counter()))
        if self._loop is None:
            return
        if event.finish_reason is not None or (generation.streamed and not generation.begun):
            generation.begun = True
            if not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._deliver)
        elif generation.streamed and not self._woken and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon_threadsafe(self._deliver_later)

    def _deliver_later(self) -> None:
        remaining = self._delivered + self._interval - time.perf_counter()
        if remaining <= 0:
            self._deliver()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(remaining, self._deliver)

    def _deliver(self) -> None:
        self._woken = self._scheduled = False  # before reading: an event that comes from now on wakes the loop again
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._delivered = time.perf_counter()
        while self._pending:
            generation, event, at = self._pending.popleft()
            try:
                generation.receive(event, at)
            except Exception:  # the others must get their events
                structlog.get_logger().exception("an event was not counted")


class Generation:
    """One request in the engine, read from the event loop.

    Args:
        desk: where it was submitted.
        model: the model that generates.
        request: what is generated.
        arrived: set when there is something to take; shared by the generations of one answer.
        streamed: whether the client wants each token at once; otherwise only the end matters.
    """

    def __init__(
        self,
        desk: GenerationDesk,
        model: ServedModel,
        request: GenerationRequest,
        arrived: asyncio.Event,
        streamed: bool,
    ):
        self.model, self.request, self.arrived, self.streamed, self._desk = model, request, arrived, streamed, desk
        self._events: list[TokenEvent] = []
        self._last_token_at: float | None = None
        self._failure: ApiError | None = None
        self.done = self.begun = False
        self.handle = model.engine.submit(request, on_event=lambda event: desk.relay.post(self, event))

    @property
    def stats(self) -> GenerationStats:
        """Counts and times, filled in while the generation runs."""
        return self.handle.stats

    @property
    def prompt_logprobs(self) -> list[TokenLogprobs]:
        """Probabilities of the prompt's tokens, from the second one on."""
        return self.handle.prompt_logprobs

    def receive(self, event: TokenEvent, at: float) -> None:
        """Called by the relay.

        Args:
            event: from the engine.
            at: when it came, by `time.perf_counter`.
        """
        metrics, name = self._desk.metrics, self.model.name
        self._events.append(event)
        ended = event.finish_reason is not None and not self.done
        if ended:
            self.done = True
            self._desk.forget(self)
        if self.streamed or self.done:
            self.arrived.set()
        # The client has its event now, whatever happens while it is counted.
        if event.token is not None:
            if self._last_token_at is None:
                metrics.first_token[name].observe(at - self.handle.submitted)
            else:
                metrics.inter_token[name].observe(at - self._last_token_at)
            self._last_token_at = at
        if ended:
            metrics.finished(name, self.stats)

    def take(self) -> list[TokenEvent]:
        """The events since the last call. There is more than one if the client reads slowly.

        Raises:
            ApiError: the deadline has passed, the server is stopping, or the computation failed.
        """
        if self._failure is not None and not self.done:
            raise self._failure  # without waiting until the engine has finished its step
        events, self._events = self._events, []
        if events and events[-1].finish_reason == "error":
            structlog.get_logger().error("generation failed", reason=events[-1].error)
            raise ApiError(500, "the computation failed; the log has the details under this request id")
        if events and events[-1].finish_reason == "cancelled":
            raise self._failure or ApiError(500, "the computation was ended before the end of the text")
        return events

    def cancel(self, failure: ApiError | None = None) -> None:
        """Stop generating. The blocks are free when the current step ends. After the end of the text this does nothing.

        Args:
            failure: what to tell the client, if it is still there.
        """
        if not self.done:
            self._failure = self._failure or failure
            self.handle.cancel()
            self.arrived.set()


@dataclass
class GenerationDesk:
    """Submits generations, and knows which of them are running.

    Args:
        relay: carries events to the event loop.
        metrics: where to count.
        request_seconds: deadline of each request.
        draining: whether the server is stopping. It then refuses requests.
    """

    relay: EventRelay
    metrics: Metrics
    request_seconds: float
    draining: bool = False
    _live: dict[Generation, asyncio.TimerHandle] = field(default_factory=dict)

    def submit(
        self, model: ServedModel, requests: Sequence[GenerationRequest], streamed: bool, client: str | None
    ) -> list[Generation]:
        """Hand in requests: all of them or none.

        Args:
            model: the model that generates.
            requests: the requests of one answer.
            streamed: whether the client wants the tokens as they come.
            client: name of the API key, or None without keys. What one client has asked is not known to another.

        Raises:
            EngineFullError, PromptError, RequestError: see `Engine.submit`.
            ApiError: the server is stopping.
        """
        if self.draining:
            raise ApiError(503, "the server is stopping; try another or come back", retry_after=5)
        room = model.engine.settings.max_waiting
        if len(requests) > room:
            raise ApiError(
                400,
                f"{len(requests)} texts are asked for at once, and this server lets {room} wait: ask for fewer",
                "n",
            )
        generations: list[Generation] = []
        arrived = asyncio.Event()
        with contextlib.ExitStack() as if_one_is_refused:
            for request in requests:
                generation = Generation(self, model, replace(request, cache_salt=client), arrived, streamed)
                if_one_is_refused.callback(generation.cancel)
                generations.append(generation)
                self._live[generation] = asyncio.get_running_loop().call_later(
                    self.request_seconds, generation.cancel, self._too_late()
                )
            if_one_is_refused.pop_all()
        return generations

    def forget(self, generation: Generation) -> None:
        """Note that a generation has ended."""
        timer = self._live.pop(generation, None)
        if timer is not None:
            timer.cancel()

    def cancel_all(self) -> None:
        """Stop everything that is running, and tell the clients that the server is stopping."""
        for generation in list(self._live):
            generation.cancel(ApiError(503, "the server is stopping", retry_after=5))

    def _too_late(self) -> ApiError:
        return ApiError(504, f"the request took longer than {self.request_seconds:g} seconds; ask for fewer tokens")


async def merge(generations: Sequence[Generation]) -> AsyncIterator[tuple[int, list[TokenEvent]]]:
    """The events of the generations of one answer, as they come.

    Yields:
        The index of a generation, and at least one event of it.

    Raises:
        ApiError: see `Generation.take`.
    """
    running = set(range(len(generations)))
    while running:
        await generations[0].arrived.wait()
        generations[0].arrived.clear()
        for index in sorted(running):
            events = generations[index].take()
            if events and events[-1].finish_reason is not None:
                running.remove(index)
            if events:
                yield index, events
            if len(events) > MANY_EVENTS:
                await asyncio.sleep(0)  # their text takes long to write: let others have a turn
