"""Who is computed next: batching, admission, preemption.

Three ways of batching, each waiting less than the one before:

- **static**: a batch is taken, and the next one when all of it is done. The longest text holds up the rest.
- **dynamic**: a batch is formed from those who arrive within a short time. A lone request does not wait
  for a full batch, but those who come later still wait for the longest.
- **continuous**: after every single step, whoever is done leaves and whoever waits may enter
  (Yu et al., 2022: "Orca: A Distributed Serving System for Transformer-Based Generative Models").

A prompt enters in chunks, so that those who are decoding get their next token in between (Agrawal et al.,
2023: "SARATHI"). A chunk ends at a multiple of `chunk_size` whatever else is in the step: the size of a
matrix product can change its rounding, so company must not decide how a prompt is cut.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable
from dataclasses import dataclass

from optimization.engine.block_pool import BlockPool, OutOfBlocksError, Prefix
from optimization.engine.request import Request
from optimization.engine.speculative import NO_PROPOSAL, Proposal
from optimization.settings import EngineSettings


@dataclass
class Work:
    """What a request does in the next step.

    Args:
        request: whose.
        count: tokens of its window that pass through the model, from the first that has not.
        proposal: guessed tokens behind them, to be checked in the same pass.
    """

    request: Request
    count: int
    proposal: Proposal = NO_PROPOSAL

    @property
    def completes(self) -> bool:
        """Whether the next token can be chosen after this step."""
        return self.count == self.request.num_pending


class Scheduler:
    """Keeps the requests in order, and plans the steps.

    Order is by priority, then by arrival, everywhere: who enters first, who gets memory, and in reverse
    who loses it. Nobody overtakes a request that is waiting for memory, so that a large one is not starved
    by small ones; and the first in order is never preempted, so that something always advances.

    Args:
        pool: the memory.
        settings: the limits.
        propose: guesses the next tokens of a decoding request, at most as many as it is told; see
            `optimization.engine.speculative`.
    """

    def __init__(self, pool: BlockPool, settings: EngineSettings, propose: Callable[[Request, int], Proposal]):
        self._pool, self._settings, self._propose = pool, settings, propose
        self.waiting: list[Request] = []
        self.running: list[Request] = []
        self.num_preemptions = 0

    def add(self, request: Request) -> None:
        """Queue a request."""
        bisect.insort(self.waiting, request, key=lambda r: r.order)

    def remove_finished(self) -> None:
        """Forget requests that are done or cancelled."""
        self.waiting = [request for request in self.waiting if not request.finished]
        self.running = [request for request in self.running if not request.finished]

    def plan(self) -> list[Work]:
        """Choose the work of the next step, and get the memory for it."""
        work: list[Work] = []
        budget = self._settings.max_batch_tokens
        # Those who decode go first: a token each is little, and somebody is reading it.
        for request in sorted(self.running, key=lambda r: (r.num_pending > 1, r.order)):
            if request not in self.running:
                continue  # preempted for one before it
            count = self._chunk(request)
            prefill = request.num_pending > 1
            if prefill and count > budget:
                continue
            if self._make_room(request, request.table.length + count, work):
                work.append(Work(request, count))
                budget -= count if prefill else 0
        self._speculate(work)
        for request in self._admissible():
            first_chunk = self._admit(request, budget)
            if first_chunk is None:
                break
            work.append(Work(request, first_chunk))
            budget -= first_chunk
        return work

    def _chunk(self, request: Request) -> int:
        size = self._settings.chunk_size
        return min(request.num_pending, size - request.table.length % size)

    def _make_room(self, request: Request, length: int, work: list[Work]) -> bool:
        """Get blocks, at the expense of those last in order if need be; False where that is this one."""
        while True:
            try:
                request.table.reserve(length)
                return True
            except OutOfBlocksError:
                victim = max(self.running, key=lambda r: r.order)
                self._preempt(victim)
                work[:] = [item for item in work if item.request is not victim]
                if victim is request:
                    return False

    def _preempt(self, request: Request) -> None:
        """Take a request's blocks. It waits at its old place, and its tokens are computed again later."""
        request.table.release()
        request.handle.stats.preemptions += 1
        self.num_preemptions += 1
        self.running.remove(request)
        self.add(request)

    def _speculate(self, work: list[Work]) -> None:
        """Add guesses where there is memory to spare; they must not push anybody out."""
        for item in work:
            request = item.request
            if request.num_pending > 1:
                continue
            left = request.parameters.max_tokens - len(request.generated) - 1
            proposal = self._propose(request, left)
            try:
                request.table.reserve(request.table.length + 1 + len(proposal.tokens))
            except OutOfBlocksError:
                continue
            item.proposal = proposal

    def _admissible(self) -> list[Request]:
        """Those who may enter now, as far as the way of batching has a say."""
        settings = self._settings
        if settings.batching != "continuous" and self.running:
            return []
        if settings.batching == "dynamic" and 0 < len(self.waiting) < settings.max_running:
            oldest = min(request.handle.submitted for request in self.waiting)
            if time.perf_counter() - oldest < settings.batch_wait_seconds:
                return []
        return self.waiting[: settings.max_running - len(self.running)]

    def _admit(self, request: Request, budget: int) -> int | None:
        """Let the first waiting request in if its whole prompt fits; return the tokens of its first chunk."""
        table = request.table
        shared = table.shared_prefix(request.window)
        if self._is_being_computed(request, shared):
            return None
        missing = table.num_missing(len(request.window)) - len(shared)
        # A kept block that is used again is no longer free; and each running request may soon need one more.
        idle = sum(self._pool.is_idle(prefix) for prefix in shared)
        if missing + idle + len(self.running) > self._pool.num_free:
            return None
        size, start = self._settings.chunk_size, len(shared) * self._pool.block_size
        count = min(len(request.window) - start, size - start % size)
        if count > budget:
            return None
        self.waiting.remove(request)
        self.running.append(request)
        table.adopt(shared)
        table.reserve(len(request.window))
        stats = request.handle.stats
        if stats.preemptions == 0:
            stats.cached_tokens = table.length
            stats.queue_seconds = time.perf_counter() - request.handle.submitted
        return count

    def _is_being_computed(self, request: Request, shared: list[Prefix]) -> bool:
        """Whether a running request is about to store the next block that this one needs."""
        stop = (len(shared) + 1) * self._pool.block_size
        if not request.table.share or stop >= len(request.window):
            return False
        return any(
            other.table.share and other.table.length < stop and other.window[:stop] == request.window[:stop]
            for other in self.running
        )
