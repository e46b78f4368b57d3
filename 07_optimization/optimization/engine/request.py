"""A request: what a caller asks for, its state inside the engine, and what its owner sees of it."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch

from optimization.engine.block_pool import BlockTable
from optimization.engine.events import (
    FinishReason,
    GenerationStats,
    PromptError,
    RequestError,
    TokenEvent,
    TokenLogprobs,
)
from tokenizer.interface import Tokenizer
from tokenizer.streaming import StreamingDecoder
from transformer.sampling import SamplingParameters
from transformer.stop_sequences import StopSequences


@dataclass(frozen=True)
class GenerationRequest:
    """One text to generate. `Engine.submit` takes it.

    Args:
        prompt_ids: at least one id, and at most as many as fit in the model's context.
        parameters: how to choose tokens, and how many.
        priority: requests with a smaller number go first.
        end_ids: ids that end the text; None for the end-of-text token, an empty collection for none.
        logprobs: how many alternatives to report with each token. With 0, only the token's own probability is reported.
            With None, nothing is reported.
        prompt_logprobs: report the tokens of the prompt too, in `RequestHandle.prompt_logprobs`.
        cache_salt: only requests with the same salt share the blocks of a common beginning. Otherwise the number of
            tokens that were known, or the time to the first token, would tell one client what others have asked.
    """

    prompt_ids: Sequence[int]
    parameters: SamplingParameters
    priority: int = 0
    end_ids: Collection[int] | None = None
    logprobs: int | None = None
    prompt_logprobs: bool = False
    cache_salt: str | None = None

    def check(self, vocab_size: int, context_length: int) -> None:
        """Refuse what a model of this size cannot compute.

        Args:
            vocab_size: ids that the tokenizer knows.
            context_length: the most tokens that the model sees at once.

        Raises:
            PromptError: the prompt is empty or too long, or has an id outside the vocabulary.
            RequestError: another field is outside its limits.
        """
        check_length(self.prompt_ids, context_length)
        if unknown := [token for token in self.prompt_ids if not 0 <= token < vocab_size]:
            raise PromptError(f"the prompt has id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if unknown := [token for token in self.parameters.logit_bias if not 0 <= token < vocab_size]:
            raise RequestError(f"logit_bias names id {unknown[0]}; the vocabulary has ids 0 to {vocab_size - 1}")
        if self.logprobs is not None and not 0 <= self.logprobs <= vocab_size:
            raise RequestError(f"logprobs must be between 0 and {vocab_size}, got {self.logprobs}")


def check_length(prompt_ids: Sequence[int], context_length: int) -> None:
    """Refuse a prompt that is empty or longer than the context.

    Raises:
        PromptError: it is empty or too long.
    """
    if not prompt_ids:
        raise PromptError("the prompt is empty, and this tokenizer has no token to begin a text with")
    if len(prompt_ids) > context_length:
        raise PromptError(
            f"the prompt has {len(prompt_ids)} tokens, the model's context is {context_length}: shorten the prompt"
        )


class RequestHandle:
    """The owner's side of a request: iterate over it to read its events. `Engine.submit` makes it.

    Events wait in a queue until they are read, or they go to a callback. Any thread may read or cancel.

    Args:
        number: counts the requests in order of arrival.
        stats: filled in while the request runs.
        on_event: called with each event on the engine's thread; the queue is then not used. It must return at once, as
            `loop.call_soon_threadsafe` does. If it raises, the request is cancelled. If it raises for the last event,
            it is called once more, with an error.
        on_cancel: tells the engine that `cancelled` was set.
        compute: computes one step for an owner who waits. It returns False if the engine's own thread does that.
    """

    def __init__(
        self,
        number: int,
        stats: GenerationStats,
        on_event: Callable[[TokenEvent], object] | None,
        on_cancel: Callable[[], None],
        compute: Callable[[], bool],
    ):
        self.number, self.stats, self.submitted = number, stats, time.perf_counter()
        self.prompt_logprobs: list[TokenLogprobs] = []  # from the prompt's second token on
        self.cancelled = threading.Event()
        self._on_event, self._on_cancel, self._compute = on_event, on_cancel, compute
        self._events: queue.SimpleQueue[TokenEvent] = queue.SimpleQueue()

    def deliver(self, event: TokenEvent) -> None:
        """Hand an event to the owner. The engine calls this."""
        if self._on_event is None:
            self._events.put(event)
            return
        try:
            self._on_event(event)
        except Exception as error:  # the listener is gone; this must not disturb the other requests
            if event.finish_reason is None:
                self.cancel()
                return
            with contextlib.suppress(Exception):
                self._on_event(TokenEvent(None, finish_reason="error", error=_describe(error)))

    def cancel(self) -> None:
        """Stop when the current step ends. The blocks are free then. For a finished request this does nothing."""
        self.cancelled.set()
        self._on_cancel()

    def result(self) -> list[int]:
        """Wait for the last token, and return all new tokens."""
        return [event.token for event in self if event.token is not None]

    def __iter__(self) -> Iterator[TokenEvent]:
        """The events until the last one. If the engine does not have its own thread, the thread that reads computes.

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
        somebody_computes = False
        while True:
            try:
                return self._events.get(block=somebody_computes, timeout=1.0)
            except queue.Empty:
                somebody_computes = not self._compute()


class Request:
    """The engine's side of a request. Only the thread that steps the engine touches it.

    Args:
        wanted: what the owner asked for.
        tokenizer: turns tokens into text.
        table: its blocks.
        handle: where its owner reads the events.
    """

    def __init__(self, wanted: GenerationRequest, tokenizer: Tokenizer, table: BlockTable, handle: RequestHandle):
        self.parameters, self.table, self.handle = wanted.parameters, table, handle
        self.prompt = list(wanted.prompt_ids)
        self.generated: list[int] = []
        self.tokens = list(self.prompt)  # what the model sees: prompt and text, or their newer part after a shift
        self.prompt_length = len(self.prompt)  # how many of `tokens` are computed as a prompt; the others one by one
        self.end_ids = frozenset(tokenizer.end_ids if wanted.end_ids is None else wanted.end_ids)
        self.logprobs = 0 if wanted.prompt_logprobs and wanted.logprobs is None else wanted.logprobs
        self.generator: torch.Generator = self.parameters.generator()
        self.finished = False
        self._priority, self._prompt_logprobs = wanted.priority, wanted.prompt_logprobs
        self._stop = StopSequences(self.parameters.stop)
        # A character may be spread over several tokens. The decoder keeps its first bytes until the rest has come.
        self._decoder = StreamingDecoder(tokenizer, continues=True)

    @property
    def number(self) -> int:
        """The number of the request, in order of arrival."""
        return self.handle.number

    @property
    def order(self) -> tuple[int, int]:
        """Which request goes first: by priority, then by arrival."""
        return (self._priority, self.number)

    @property
    def num_pending(self) -> int:
        """How many of `tokens` have not passed through the model."""
        return len(self.tokens) - self.table.length

    @property
    def in_prompt(self) -> bool:
        """Whether the next token that passes through the model belongs to the prompt."""
        return self.table.length < self.prompt_length

    @property
    def wants_prompt_logits(self) -> bool:
        """Whether the logits after every token of the prompt are still to be reported."""
        return self._prompt_logprobs and not self.generated

    def emit(self, token: int, logprobs: TokenLogprobs | None) -> None:
        """Report a token. The request finishes if it has reached a stop string or its length."""
        stats = self.handle.stats
        stats.generated_tokens += 1
        stats.total_seconds = time.perf_counter() - self.handle.submitted
        if stats.generated_tokens == 1:
            stats.first_token_seconds = stats.total_seconds
        self.generated.append(token)
        self.tokens.append(token)
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
        """Report the last event, with the text that was not shown yet. The scheduler then retires the request."""
        if self.finished:
            return
        self.finished = True
        try:
            if not self._stop.stopped:
                text += self._stop.push(self._decoder.finish()) + self._stop.flush()
        except Exception as problem:  # the owner waits for the last event, whatever is wrong with the text
            reason, error = "error", error or _describe(problem)
        stats = self.handle.stats
        stats.finish_reason = reason
        stats.total_seconds = time.perf_counter() - self.handle.submitted
        if stats.generated_tokens == 0:
            stats.first_token_seconds = stats.total_seconds
        self.handle.deliver(TokenEvent(token, text, logprobs, reason, error))

    def fail(self, error: BaseException) -> None:
        """Finish with an error."""
        self.finish("error", error=_describe(error))

    @contextlib.contextmanager
    def own_failure(self) -> Iterator[None]:
        """An error inside concerns this request only: it fails, and the others continue."""
        try:
            yield
        except BaseException as error:
            self.fail(error)
            if not isinstance(error, Exception):
                raise  # Ctrl-C concerns all


def _describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"
