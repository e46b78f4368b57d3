"""Speed is measured and reported correctly: turns, medians, ranges, memory, plots."""

from __future__ import annotations

import json
import mmap
import sys
import time
from pathlib import Path

import pytest


@pytest.fixture
def benchmarks(root: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    import harness
    import reporting

    yield harness, reporting
    for name in ("harness", "reporting"):
        del sys.modules[name]


def test_contenders_take_turns_and_ratios_are_theirs_over_ours(benchmarks):
    harness, _ = benchmarks
    calls: list[str] = []

    def contender(name: str, seconds: float):
        return harness.Contender(name, lambda: time.sleep(seconds), setup=lambda: calls.append(name))

    result = harness.compare("sleep", "naps/s", 1, [contender("ours", 0.01), contender("theirs", 0.03)], rounds=3)
    assert calls == ["ours", "theirs"] * 4  # one round to warm up
    ours, theirs = result.measurements
    assert len(ours.seconds) == 3 and ours.ratio == 1.0
    assert ours.throughput == pytest.approx(1 / sorted(ours.seconds)[1], rel=1e-4)
    of_rounds = [slow / fast for slow, fast in zip(theirs.seconds, ours.seconds, strict=True)]
    assert theirs.ratio == pytest.approx(sorted(of_rounds)[1], rel=1e-3)
    assert theirs.ratio_low <= theirs.ratio_high and theirs.ratio_low > 1  # a sleep is never shorter than requested


def test_peak_memory_is_what_a_run_holds_at_most(benchmarks):
    harness, _ = benchmarks

    def work() -> None:
        with mmap.mmap(-1, 64 * 2**20) as block:  # from the system, not from memory that the allocator kept
            block.write(b"x" * len(block))  # touch every page
            time.sleep(0.1)

    with harness.PeakMemory() as memory:
        work()
    assert 60 < memory.mib < 200  # and the bytes that were written into the block


def test_the_report_is_json_markdown_and_a_plot(benchmarks, tmp_path: Path):
    harness, reporting = benchmarks
    measurements = [
        harness.Measurement("ours", [1.0, 1.2, 1.1], 10.0, 1.0, 1.0, 1.0, 5.0),
        harness.Measurement("peer", [2.0, 2.4, 2.2], 5.0, 2.0, 1.9, 2.1, 7.0),
    ]
    markdown = reporting.write_report(
        tmp_path, "sums", [harness.Comparison("Add", "sums/s", 11.0, measurements)], False
    )
    assert "| peer | 5.00 | 18% | 2.00 [1.90, 2.10] | 7 |" in markdown
    assert (tmp_path / "results.md").read_text(encoding="utf-8") == markdown
    assert "</svg>" in (tmp_path / "results.svg").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert content["sums"]["comparisons"][0]["measurements"][1]["ratio"] == 2.0
    assert {"cpu", "cores", "memory_gib", "torch", "date"} <= content["sums"]["machine"].keys()
    both = reporting.write_report(tmp_path, "products", [harness.Comparison("Mul", "/s", 1.0, measurements)], True)
    assert "### Add" in both and "### Mul" in both and "--quick" in both  # the first group has stayed
