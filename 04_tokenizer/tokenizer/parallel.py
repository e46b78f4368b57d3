"""A `map` over processes that keeps the order and never holds more than a few items."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def usable_cores() -> int:
    """The processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    initializer: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[Result]:
    """Call a function on each item, in several processes, and yield the results in order.

    With one worker, or a single item, everything happens in this process. The start method is the
    platform's: where that is `spawn` (macOS, Windows), the calling script needs
    `if __name__ == "__main__":` around what it runs.

    Args:
        function: of a module, so that other processes can find it.
        items: picklable; at most three a worker are taken before their results are asked for.
        workers: number of processes.
        initializer: called once in each process before its first item.
        arguments: of the initializer.
    """
    items = iter(items)
    first = list(islice(items, 2))
    items = chain(first, items)
    if workers <= 1 or len(first) < 2:
        initializer(*arguments)
        yield from map(function, items)
        return
    with ProcessPoolExecutor(workers, initializer=initializer, initargs=arguments) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= 3 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:  # after an error, or when nobody asks for the rest
                future.cancel()
