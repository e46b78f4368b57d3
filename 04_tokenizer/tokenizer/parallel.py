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
    make_function: Callable[..., Callable[[Item], Result]],
    arguments: tuple[Any, ...],
    items: Iterable[Item],
    workers: int,
) -> Iterator[Result]:
    """Call a function on each item, in several processes, and yield the results in order.

    With one worker, or a single item, everything happens in this process. The platform decides the start
    method. Where it is `spawn` (macOS, Windows), the calling script needs `if __name__ == "__main__":`
    around what it runs.

    Args:
        make_function: makes the function once in each process, so that the function can remember something
            from one item to the next. It must be defined in a module, so that other processes can find it.
        arguments: of `make_function`; picklable.
        items: picklable; at most three for each worker are taken before their results are asked for.
        workers: number of processes.
    """
    items = iter(items)
    first = list(islice(items, 2))
    items = chain(first, items)
    if workers <= 1 or len(first) < 2:
        yield from map(make_function(*arguments), items)
        return
    with ProcessPoolExecutor(workers, initializer=_prepare, initargs=(make_function, arguments)) as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(_call, item))
                if len(pending) >= 3 * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:  # after an error, or when nobody asks for the rest
            # Python 3.11.2, the version of Debian 12, waits for ever for futures that were cancelled one by one.
            pool.shutdown(cancel_futures=True)


_function: Callable[[Any], Any]  # of a worker process


def _prepare(make_function: Callable[..., Callable[[Any], Any]], arguments: tuple[Any, ...]) -> None:
    global _function
    _function = make_function(*arguments)


def _call(item: Any) -> Any:
    return _function(item)
