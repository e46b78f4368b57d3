"""Threads that share the work of one step, and do not wait for one that comes late.

A step is a sequence of phases, and each phase a number of pieces of work. All threads run the same function. In each
phase, each thread claims one piece after the other until none is left, and then waits until all pieces are done. A thread
that the system has not woken yet claims nothing, and the others do its share: nobody waits for a thread, only for a piece
that is being worked on. Counters that several threads change need instructions that no other thread can interrupt.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from optimization.kernels.numbers import kernel

LINE = 8  # numbers in a cache line: two counters in one line would slow each other down
OPEN, INSIDE, FIRST_PHASE = 0, LINE, 2 * LINE
Work = queue.SimpleQueue[tuple[Callable[..., object], tuple[Any, ...]]]  # functions and their arguments
SPINS = 2000  # looks at a counter before the processor is offered to others

if hasattr(os, "sched_yield"):
    offer_processor = types.ExternalFunction("sched_yield", types.intc())
else:

    @kernel
    def offer_processor():
        """Windows has no such call; the thread goes on looking."""


@intrinsic
def add_atomic(typing, counters, index, amount):
    """Add to a counter, and return what it was before."""

    def generate(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _address(context, builder, signature, arguments), arguments[2], "seq_cst")

    return types.int64(counters, types.intp, types.int64), generate


@intrinsic
def load_atomic(typing, counters, index):
    """Read a counter, and after it what other threads wrote before they changed it."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_address(context, builder, signature, arguments), "seq_cst", 8)

    return types.int64(counters, types.intp), generate


def _address(context, builder, signature, arguments):
    array = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(array.data, [arguments[1]])


@kernel
def claim(counters, phase, pieces):
    """The number of a piece that this thread has to do now; `pieces` or more if all are taken."""
    index = FIRST_PHASE + 2 * LINE * phase
    piece = load_atomic(counters, index)
    return piece if piece >= pieces else add_atomic(counters, index, 1)


@kernel
def finish_piece(counters, phase):
    """A claimed piece is done."""
    add_atomic(counters, FIRST_PHASE + 2 * LINE * phase + LINE, 1)


@kernel
def wait_for_all(counters, phase, pieces):
    """Wait until every piece of a phase is done."""
    spins = 0
    while load_atomic(counters, FIRST_PHASE + 2 * LINE * phase + LINE) < pieces:
        spins += 1
        if spins > SPINS:
            offer_processor()


@kernel
def enter(counters, number):
    """Take part in a step. False if it is over."""
    add_atomic(counters, INSIDE, 1)
    if load_atomic(counters, OPEN) == number:
        return True
    add_atomic(counters, INSIDE, -1)
    return False


@kernel
def leave(counters):
    """Stop taking part."""
    add_atomic(counters, INSIDE, -1)


@kernel
def close(counters, number):
    """End a step: nobody comes in any more, and those who are inside have left when this returns."""
    add_atomic(counters, OPEN, -number)
    spins = 0
    while load_atomic(counters, INSIDE) > 0:
        spins += 1
        if spins > SPINS:
            offer_processor()


class Crew:
    """The threads of this process that help with steps. One step is computed at a time."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """Begin without threads; they are started when they are needed."""
        self._lock = threading.Lock()
        self._counters = np.zeros(FIRST_PHASE, dtype=np.int64)
        self._number = 0
        self._helpers: list[Work] = []

    def run(self, function: Callable[..., object], phases: int, threads: int, *arguments: Any) -> None:
        """Call a compiled function on several threads at once, with counters, number, thread and the arguments.

        Args:
            function: it begins with `enter` and ends with `leave`.
            phases: how many it has.
            threads: how many take part if they come in time; the caller is thread 0.
            arguments: passed on.
        """
        with self._lock:
            if len(self._counters) < FIRST_PHASE + 2 * LINE * phases:
                self._counters = np.zeros(FIRST_PHASE + 2 * LINE * phases, dtype=np.int64)
            self._number += 1
            self._counters[FIRST_PHASE:] = 0
            self._counters[OPEN] = self._number
            try:
                for index in range(1, threads):
                    self._helper(index).put((function, (self._counters, self._number, index, *arguments)))
                function(self._counters, self._number, 0, *arguments)
            finally:
                close(self._counters, self._number)

    def _helper(self, index: int) -> Work:
        while len(self._helpers) < index:
            work: Work = queue.SimpleQueue()
            threading.Thread(target=_help, args=(work,), name=f"kernels-{index}", daemon=True).start()
            self._helpers.append(work)
        return self._helpers[index - 1]


def _help(work: Work) -> None:
    while True:
        function, arguments = work.get()
        function(*arguments)


CREW = Crew()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=CREW.begin)  # a child process has none of its parent's threads
