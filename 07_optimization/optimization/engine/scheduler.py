"""Which requests are computed next: batching, admission, preemption.

There are two ways of batching:

- **static**: the next batch starts when all requests of the last one are done. So all wait for the longest text.
- **continuous**: after every step, the requests that are done leave, and those that wait may enter
  (Yu et al., 2022: "Orca: A Distributed Serving System for Transformer-Based Generative Models").

A prompt enters in chunks, so that the requests that are decoding get their next token in between (Agrawal et al.,
2023: "SARATHI"). A chunk ends at a multiple of `chunk_size`, whatever else is in the step. The size of a matrix
product can change its rounding, so the other requests of a step must not change how a prompt is cut. A chunk also ends
where the prompt ends: what comes after it was generated, and is computed again after a preemption in the way in which it
was computed at first.
"""

from __future__ import annotations

import bisect
import contextlib
import time
from dataclasses import dataclass

from optimization.engine.block_pool import BlockPool, OutOfBlocksError, Prefix
from optimization.engine.request import Request
from optimization.engine.speculative import NO_PROPOSAL, Proposal, Proposer
from optimization.settings import EngineSettings


@dataclass
class ScheduledRequest:
    """A request in the next step, and what it does there.

    Args:
        request: its tokens are computed.
        count: how many of its tokens pass through the model, from the first one that has not.
        proposal: guessed tokens after them; they are checked in the same pass.
    """

    request: Request
    count: int
    proposal: Proposal = NO_PROPOSAL

    @property
    def completes(self) -> bool:
        """Whether the next token can be chosen after this step."""
        return self.count == self.request.num_pending


class Scheduler:
    """Keeps the requests in order, plans the steps, and lets finished requests go.

    The order is always by priority, then by arrival. It decides which request enters first, which gets memory, and, in
    reverse, which loses it. No request overtakes one that waits for memory, so a large request is not delayed forever
    by small ones. The first request in order is never preempted, so there is always progress.

    Args:
        pool: the memory.
        settings: the limits.
        context_length: the most tokens that the model sees at once.
        proposer: guesses the next tokens of the requests that are decoding; None for no guesses.
    """

    def __init__(self, pool: BlockPool, settings: EngineSettings, context_length: int, proposer: Proposer | None):
        self._pool, self._settings = pool, settings
        self._context_length, self._proposer = context_length, proposer
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.num_preemptions = 0

    @property
    def requests(self) -> list[Request]:
        """All requests that have not left."""
        return [*self.running, *self.waiting]

    def add(self, request: Request) -> None:
        """Queue a request."""
        bisect.insort(self.waiting, request, key=lambda r: r.order)

    def retire(self) -> None:
        """Remove every request that has finished, for any reason. This is the only place where a request leaves."""
        for request in self.requests:
            if request.finished:
                request.table.release()
                if self._proposer is not None:
                    self._proposer.forget(request)
        self.running = [request for request in self.running if not request.finished]
        self.waiting = [request for request in self.waiting if not request.finished]

    def abandon(self, error: BaseException) -> None:
        """After an error that belongs to no request, let requests fail and leave, without looking at their blocks.

        These are the running ones, because nobody knows what their blocks hold. The others wait on: they have no blocks.
        If none is running, the error came while one of them was let in, so that they fail. After Ctrl-C, all fail.
        """
        failing = self.running if self.running and isinstance(error, Exception) else self.requests
        for request in failing:
            request.fail(error)
            if self._proposer is not None:
                with contextlib.suppress(Exception):  # it may be what has failed
                    self._proposer.forget(request)
        self.running, self.waiting = [], [request for request in self.waiting if request not in failing]

    def plan(self) -> list[ScheduledRequest]:
        """Choose what the next step computes, and get the memory for it.

        A request fails alone if there is an error while it is planned, in the proposer for example.
        """
        scheduled: list[ScheduledRequest] = []
        budget = self._settings.max_batch_tokens
        # The requests that decode go first: each needs only one token, and somebody is reading the text.
        for request in sorted(self.running, key=lambda r: (r.num_pending > 1, r.order)):
            if request not in self.running:
                continue  # preempted for a request before it
            count = self._chunk(request, request.table.length)
            prefill = request.num_pending > 1
            if prefill and count > budget:
                continue
            with request.own_failure():
                if self._make_room(request, request.table.length + count, scheduled):
                    scheduled.append(ScheduledRequest(request, count))
                    budget -= count if prefill else 0
        if self._proposer is not None:
            for item in scheduled:
                with item.request.own_failure():
                    self._speculate(item, self._proposer)
        for request in self._admissible():
            first_chunk = None
            with request.own_failure():
                first_chunk = self._admit(request, budget)
            if first_chunk is not None:
                scheduled.append(ScheduledRequest(request, first_chunk))
                budget -= first_chunk
            elif not request.finished:
                break
        return [item for item in scheduled if not item.request.finished]

    def _chunk(self, request: Request, start: int) -> int:
        """How many tokens from `start` on are computed in one step."""
        size = self._settings.chunk_size
        stop = request.prompt_length if start < request.prompt_length else len(request.tokens)
        return min(stop - start, size - start % size)

    def _make_room(self, request: Request, length: int, scheduled: list[ScheduledRequest]) -> bool:
        """Get blocks, if necessary from the last requests in order. False if this request itself is the last."""
        while True:
            try:
                request.table.reserve(length)
                return True
            except OutOfBlocksError:
                victim = max(self.running, key=lambda r: r.order)
                self._preempt(victim)
                scheduled[:] = [item for item in scheduled if item.request is not victim]
                if victim is request:
                    return False

    def _preempt(self, request: Request) -> None:
        """Take a request's blocks away. It waits at its old place, and its tokens are computed again later."""
        request.table.release()
        request.handle.stats.preemptions += 1
        self.num_preemptions += 1
        self.running.remove(request)
        self.add(request)

    def _speculate(self, item: ScheduledRequest, proposer: Proposer) -> None:
        """Add guesses if there is free memory. No request loses its blocks for them."""
        request = item.request
        # The last token of a text needs no guess, and the last guess must still have a place in the context.
        left = request.parameters.max_tokens - len(request.generated) - 1
        limit = min(left, self._context_length - len(request.tokens))
        if request.num_pending > 1 or request.in_prompt or limit < 1:
            return
        proposal = proposer.propose(request, limit)
        with contextlib.suppress(OutOfBlocksError):
            request.table.reserve(request.table.length + 1 + len(proposal.tokens))
            item.proposal = proposal

    def _admissible(self) -> list[Request]:
        """The requests that may enter now, if there is memory."""
        if self._settings.batching == "static" and self.running:
            return []
        return self.waiting[: self._settings.max_running - len(self.running)]

    def _admit(self, request: Request, budget: int) -> int | None:
        """Let the first waiting request enter if its whole prompt fits; return the size of its first chunk."""
        table = request.table
        shared = table.shared_prefix(request.tokens)
        if self._is_being_computed(request, shared):
            return None
        missing = table.num_missing(len(request.tokens)) - len(shared)
        # A kept block that is used again is no longer free, and each running request may soon need one more.
        idle = sum(self._pool.is_idle(prefix) for prefix in shared)
        if missing + idle + len(self.running) > self._pool.num_free:
            return None
        count = self._chunk(request, len(shared) * self._pool.block_size)
        if count > budget:
            return None
        self.waiting.remove(request)
        self.running.append(request)
        table.adopt(shared)
        table.reserve(len(request.tokens))
        stats = request.handle.stats
        if stats.preemptions == 0:
            stats.cached_tokens = table.length
            stats.queue_seconds = time.perf_counter() - request.handle.submitted
        return count

    def _is_being_computed(self, request: Request, shared: list[Prefix]) -> bool:
        """Whether a running request is about to store the next block that this one needs."""
        stop = (len(shared) + 1) * self._pool.block_size
        if not request.table.share or stop >= len(request.tokens):
            return False
        return any(
            other.table.share
            and other.table.salt == request.table.salt
            and other.table.length < stop
            and other.tokens[:stop] == request.tokens[:stop]
            for other in self.running
        )
