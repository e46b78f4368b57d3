"""The one way in which this project measures speed.

Contenders take turns (ours, theirs, ours, theirs, …). So if the machine becomes slower, it becomes slower for all.
The report gives the median speed, the spread, and the ratio. Each round has a ratio, and the report gives the median,
the smallest and the largest. A ratio of median speeds would compare a slow minute of one side with a fast minute of
the other. Memory is sampled in the first round, which is not timed.
"""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

import psutil

SAMPLE_SECONDS = 0.01  # between looks at the memory


@dataclass(frozen=True)
class Contender:
    """One way of doing the work.

    Args:
        name: the name that is printed; the first contender of a comparison is ours.
        run: does the work once; what it returns is thrown away.
        setup: called before each run, outside the timing.
    """

    name: str
    run: Callable[[], object]
    setup: Callable[[], object] = lambda: None


@dataclass(frozen=True)
class Measurement:
    """Timings of one contender."""

    name: str
    seconds: list[float]
    throughput: float  # work done in the median run, in units a second
    ratio: float  # our speed divided by this contender's, median of the rounds; above 1, ours is faster
    ratio_low: float  # the smallest such ratio of a single round
    ratio_high: float  # the largest
    peak_mib: float  # memory that a run took in addition to the memory in use before it, with child processes


@dataclass(frozen=True)
class Comparison:
    """One row of the report for each contender.

    Args:
        title: what is compared.
        unit: unit of the throughput, such as "MB/s".
        work: units of work in one run.
    """

    title: str
    unit: str
    work: float
    measurements: list[Measurement] = field(default_factory=list)


def compare(title: str, unit: str, work: float, contenders: list[Contender], rounds: int) -> Comparison:
    """Run every contender once to warm up, then `rounds` times in turn."""
    seconds: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    peaks: dict[str, float] = {}
    gc.collect()
    gc.freeze()  # existing objects are then not scanned each time, which would take a fifth of a second
    for round_number in range(rounds + 1):
        for contender in contenders:
            contender.setup()
            gc.collect()
            if round_number == 0:
                with PeakMemory() as memory:
                    contender.run()
                peaks[contender.name] = memory.mib
                continue
            start = time.perf_counter()
            contender.run()
            seconds[contender.name].append(time.perf_counter() - start)
    gc.unfreeze()
    ours = seconds[contenders[0].name]
    measurements = []
    for name, times in seconds.items():
        ratios = [theirs / mine for theirs, mine in zip(times, ours, strict=True)]
        measurements.append(
            Measurement(
                name,
                [round(t, 6) for t in times],
                work / statistics.median(times),
                statistics.median(ratios),
                min(ratios),
                max(ratios),
                round(peaks[name], 1),
            )
        )
    return Comparison(title, unit, work, measurements)


class PeakMemory:
    """The most memory that this process and its children held inside a `with`, beyond what they held before.

    It does not show memory that an allocator kept from earlier work and uses again, because that was held before.
    """

    def __init__(self) -> None:
        self.mib = 0.0
        self._process = psutil.Process()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> PeakMemory:
        self._before = self._peak = self._resident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        self.mib = (max(self._peak, self._resident()) - self._before) / 2**20

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_SECONDS):
            self._peak = max(self._peak, self._resident())

    def _resident(self) -> int:
        total = 0
        for process in [self._process, *self._process.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:  # it has just ended
                continue
        return total
