"""What comes out of the engine: events, statistics, errors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled", "error"]


class PromptError(ValueError):
    """A prompt that the model cannot take."""


class RequestError(ValueError):
    """A request that can never be served as it is."""


class EngineFullError(RuntimeError):
    """Too many requests are waiting; try again later."""


@dataclass(frozen=True)
class TokenLogprobs:
    """What the model thought when a token was chosen, before temperature and all other processing.

    Args:
        logprob: natural logarithm of the token's probability.
        top: the likeliest tokens and their logprobs, best first.
        entropy: entropy of the whole distribution, in nats. It says how uncertain the model was.
    """

    logprob: float
    top: tuple[tuple[int, float], ...]
    entropy: float


@dataclass(frozen=True)
class TokenEvent:
    """One step of a generation. The last one has a `finish_reason`.

    Args:
        token: the new id; None if the last event brings no token.
        text: what can be shown now. It has whole characters only, and waits while it may be the start of a stop string.
        logprobs: present if the request asked for them.
        finish_reason: `stop` at an end token or stop string, `length` at `max_tokens`.
        error: with `finish_reason` error, what went wrong.
    """

    token: int | None
    text: str = ""
    logprobs: TokenLogprobs | None = None
    finish_reason: FinishReason | None = None
    error: str | None = None


@dataclass
class GenerationStats:
    """Counts and times of one request, filled in while it runs.

    Args:
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of those were not computed, because another request began with the same tokens.
        generated_tokens: tokens made so far.
        queue_seconds: from submission to the first computation.
        first_token_seconds: from submission to the first token.
        total_seconds: from submission to the last token so far.
        decoding_passes: forward passes after the first token; fewer than the tokens if guesses are right.
        context_shifts: how often the context was full and its older half was dropped.
        preemptions: how often its blocks were taken away, so that its tokens were computed again later.
        proposed_tokens: tokens proposed by speculation.
        accepted_tokens: how many of those were accepted.
        finish_reason: None while it runs.
    """

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generated_tokens: int = 0
    queue_seconds: float = 0.0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0
    decoding_passes: int = 0
    context_shifts: int = 0
    preemptions: int = 0
    proposed_tokens: int = 0
    accepted_tokens: int = 0
    finish_reason: FinishReason | None = None

    @property
    def tokens_per_second(self) -> float:
        """Decoding speed after the first token."""
        seconds = self.total_seconds - self.first_token_seconds
        return (self.generated_tokens - 1) / seconds if seconds > 0 else 0.0

    @property
    def passes_per_second(self) -> float:
        """How many times a second the weights were read after the first token.

        >>> GenerationStats(generated_tokens=17, total_seconds=3.0, first_token_seconds=1.0, decoding_passes=10).passes_per_second
        5.0
        """
        seconds = self.total_seconds - self.first_token_seconds
        return self.decoding_passes / seconds if seconds > 0 else 0.0


@dataclass(frozen=True)
class EngineStats:
    """What an engine is doing and has done.

    Args:
        running: requests being computed.
        waiting: requests in the queue.
        used_blocks: blocks of the cache in use.
        total_blocks: blocks of the cache.
        prompt_tokens: tokens of prompts that were taken in, those found in the cache included.
        cached_tokens: how many of those were found in the cache.
        generated_tokens: tokens generated.
        preemptions: how often a request lost its blocks.
        steps: forward passes that did not fail.
    """

    running: int
    waiting: int
    used_blocks: int
    total_blocks: int
    prompt_tokens: int
    cached_tokens: int
    generated_tokens: int
    preemptions: int
    steps: int
