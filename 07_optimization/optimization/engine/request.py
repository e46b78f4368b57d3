"""A request on its way through the engine, and what its owner sees of it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from optimization.engine.block_pool import BlockTable
from optimization.engine.events import FinishReason, GenerationStats, TokenEvent, TokenLogprobs
from tokenizer.interface import Tokenizer
from tokenizer.streaming import StreamingDecoder
from transformer.sampling import SamplingParameters
from transformer.stop_sequences import StopSequences

if TYPE_CHECKING:
    from optimization.engine.engine import Engine


@dataclass
class Request:
    """The engine's side of a request. Only the thread that steps the engine touches it.

    Args:
        prompt: ids.
        tokenizer: turns tokens into text.
        parameters: how to choose tokens.
        priority: smaller goes first.
        end_ids: ids that end the text.
        logprobs: how many alternatives to report; None for no report.
        prompt_logprobs: report the prompt's tokens too.
        table: its blocks.
        handle: where its owner listens.
    """

    prompt: list[int]
    tokenizer: Tokenizer
    parameters: SamplingParameters
    priority: int
    end_ids: Collection[int]
    logprobs: int | None
    prompt_logprobs: bool
    table: BlockTable
    handle: RequestHandle
    generated: list[int] = field(default_factory=list)
    finished: bool = False

    def __post_init__(self) -> None:
        # The tokens that the model sees: prompt and text, or their newer part after a context shift.
        self.window = list(self.prompt)
        self.generator: torch.Generator = self.parameters.generator()
        self._stop = StopSequences(self.parameters.stop)
        # A character may be spread over several tokens; the decoder holds its first bytes back.
        self._decoder = StreamingDecoder(self.tokenizer)

    @property
    def number(self) -> int:
        """In order of arrival."""
        return self.handle.number

    @property
    def order(self) -> tuple[int, int]:
        """Who goes first: by priority, then by arrival."""
        return (self.priority, self.number)

    @property
    def num_pending(self) -> int:
        """Tokens of the window that have not passed through the model."""
        return len(self.window) - self.table.length

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits behind every token of the prompt are still to be reported."""
        return self.prompt_logprobs and not self.generated

    def emit(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Report a token; ends the request where its text or its length ends here."""
        stats = self.handle.stats
        stats.generated_tokens += 1
        stats.total_seconds = time.perf_counter() - self.handle.submitted
        if stats.generated_tokens == 1:
            stats.first_token_seconds = stats.total_seconds
        self.generated.append(token)
        self.window.append(token)
        text = self._stop.push(self._decoder.decode([token]))
        if self._stop.stopped:
            self.finish("stop", token, text, logprobs)
        elif stats.generated_tokens == self.parameters.max_tokens:
            self.finish("length", token, text, logprobs)
        else:
            self.handle.deliver(TokenEvent(token, text, logprobs))

    def finish(
        self,
        reason: FinishReason,
        token: int | None = None,
        text: str = "",
        logprobs: TokenLogprobs | None = None,
        error: str | None = None,
    ) -> None:
        """Report the last event, with the text that was held back, and give back the blocks."""
        if self.finished:
            return
        self.finished = True
        self.table.release()
        stats = self.handle.stats
        stats.finish_reason = reason
        stats.total_seconds = time.perf_counter() - self.handle.submitted
        if stats.generated_tokens == 0:
            stats.first_token_seconds = stats.total_seconds
        if not self._stop.stopped:
            text += self._stop.push(self._decoder.finish()) + self._stop.flush()
        self.handle.deliver(TokenEvent(token, text, logprobs, reason, error))


class RequestHandle:
    """The owner's side of a request: iterate over it for its events. Made by `Engine.submit`.

    Events wait in a queue until they are read, or go to a callback. Any thread may read or cancel.

    Args:
        engine: where it was submitted.
        number: the request's.
        on_event: called with each event on the engine's thread in place of the queue. It must return at
            once, as `loop.call_soon_threadsafe` does; if it raises, the request is cancelled.
    """

    def __init__(self, engine: Engine, number: int, on_event: Callable[[TokenEvent], object] | None = None):
        self.number, self.submitted = number, time.perf_counter()
        self.stats = GenerationStats()
        self.prompt_logprobs: list[TokenLogprobs] = []  # of the prompt's second token and on
        self.cancelled = threading.Event()
        self._engine, self._on_event = engine, on_event
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    def deliver(self, event: TokenEvent) -> None:
        """Called by the engine."""
        if self._on_event is None:
            self._events.put(event)
            return
        try:
            self._on_event(event)
        except Exception:  # whoever listened is gone; the other requests must not notice
            self.cancel()

    def cancel(self) -> None:
        """Stop as soon as the step under way ends; the blocks are free then. Afterwards it does nothing."""
        self.cancelled.set()
        self._engine.wake()

    def tokens(self) -> list[int]:
        """All tokens, when the last has come."""
        return [event.token for event in self if event.token is not None]

    def __iter__(self) -> Iterator[TokenEvent]:
        """Events until the last; without a thread of the engine's own, this one does the computing.

        Leaving the loop early cancels the request.

        Raises:
            RuntimeError: the computation failed.
        """
        done = False
        try:
            while not done:
                event = self._next_event()
                done = event.finish_reason is not None
                if event.finish_reason == "error":
                    raise RuntimeError(event.error)
                yield event
        finally:
            if not done:
                self.cancel()

    def _next_event(self) -> TokenEvent:
        while True:
            try:
                return self._events.get(block=self._engine.is_started, timeout=1.0)
            except queue.Empty:
                if not self._engine.is_started:
                    self._engine.step()
