"""The server under load and attack, for minutes: `make soak`.

Streaming clients come and go for `--seconds`, and a quarter of them disconnect half-way. Slow and malformed connections
arrive at the same time. Then come ten times as many requests as the server takes at once, and random ones. At the end
nothing may be left over: no running request, no block, no file descriptor. Every stream that was read to its end must
equal the text that the same request gives alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil
from support.serving import ENDLESS, save_run, serve_command

ROOT = Path(__file__).parents[1]
QUEUE = 64  # requests that may wait
PROMPTS = ["the end of", "and", "in the sand", "the the the", "a", "sand and land", "<|end|>", "ünï"]


def body(number: int) -> dict:
    """One of 32 requests, greedy."""
    return {
        "prompt": PROMPTS[number % 8] * (1 + number % 3),
        "max_tokens": 8 + 7 * (number % 4) ** 2,
        "temperature": 0,
        "logit_bias": ENDLESS,
        "stream": True,
    }


async def read_stream(
    client: httpx.AsyncClient, number: int, stop_after: int | None = None
) -> tuple[str | None, list[float]]:
    """The text of a stream (None if it was cancelled half-way), and the times when its pieces came."""
    text, times = "", [time.perf_counter()]
    async with client.stream("POST", "/v1/completions", json=body(number)) as response:
        if response.status_code != 200:
            raise httpx.HTTPStatusError(str(response.status_code), request=response.request, response=response)
        async for line in response.aiter_lines():
            if line == "data: [DONE]":
                return text, times
            if line.startswith("data: "):
                text += json.loads(line[6:])["choices"][0]["text"]
                times.append(time.perf_counter())
                if stop_after is not None and len(times) > stop_after:
                    return None, times
    raise AssertionError("a stream ended without [DONE]")


async def clients(url: str, seconds: float, count: int) -> Counter:
    """Run streaming clients that cancel at random. Each complete stream is compared with the same request alone."""
    limits = httpx.Limits(max_connections=None)
    outcome: Counter = Counter()
    first, between = list[float](), list[float]()
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=limits) as client:
        alone = {number: (await read_stream(client, number))[0] for number in range(32)}
        end = time.monotonic() + seconds

        async def one(seed: int) -> None:
            rng = random.Random(seed)
            while time.monotonic() < end:
                number = rng.randrange(32)
                cancel = rng.randrange(1, 6) if rng.random() < 0.25 else None
                text, times = await read_stream(client, number, cancel)
                if text is None:
                    outcome["cancelled"] += 1
                    continue
                assert text == alone[number], f"request {number} gave another text in company"
                outcome["complete"] += 1
                first.append(times[1] - times[0])
                between.extend(b - a for a, b in itertools.pairwise(times[1:]))

        await asyncio.gather(*(one(seed) for seed in range(count)))
    for name, values in (("first token", first), ("between tokens", between)):
        cuts = statistics.quantiles(values, n=100)
        print(f"  {name}: p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms")
    return outcome


async def nuisances(url: str, seconds: float) -> Counter:
    """Open slow, very large and malformed connections during the whole time."""
    host, port = url.removeprefix("http://").split(":")
    end, sent = time.monotonic() + seconds, Counter[str]()
    head = b"POST /generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    attacks = {
        "slow headers": b"GET / HTTP/1.1\r\nHost: l",
        "slow body": head + b"Content-Length: 50\r\n\r\n{",
        "giant body": head + b"Content-Length: 9999999999\r\n\r\n",
        "bad UTF-8": head + b'Content-Length: 14\r\n\r\n{"prompt":"\xff"}',
        "bad JSON": head + b"Content-Length: 4\r\n\r\n[[[[",
        "no HTTP": b"\x16\x03\x01" + os.urandom(64),
        "giant header": head + b"X: " + b"y" * 100_000,
        "cut off": head + b"Content-Length: 20\r\n\r\n",
    }

    async def knock(name: str, data: bytes) -> None:
        while time.monotonic() < end:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(data)
                if name != "cut off":
                    with contextlib.suppress(asyncio.TimeoutError):
                        await asyncio.wait_for(reader.read(1000), 8)
                writer.close()
                sent[name] += 1
            await asyncio.sleep(0.2)

    await asyncio.gather(*(knock(name, data) for name, data in attacks.items()))
    return sent


async def overload(url: str, count: int) -> None:
    """Send many more requests than the server takes. Most are refused quickly, and the others are served."""
    refusals, served, statuses = list[float](), 0, Counter[int]()
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False, limits=limits) as client:
        alone = (await read_stream(client, 3))[0]

        async def one() -> None:
            nonlocal served
            started = time.perf_counter()
            try:
                text, _ = await read_stream(client, 3)
                assert text == alone
                served += 1
                statuses[200] += 1
            except httpx.HTTPStatusError as error:
                statuses[error.response.status_code] += 1
                refusals.append(time.perf_counter() - started)

        await asyncio.gather(*(one() for _ in range(count)))
    print(f"  statuses {dict(statuses)}; refused within {max(refusals, default=0) * 1e3:.0f} ms at most")
    assert set(statuses) <= {200, 429} and served >= QUEUE and refusals


def metric(url: str, name: str) -> float:
    """A value of /metrics."""
    text = httpx.get(url + "/metrics", trust_env=False).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))


def wait_until_idle(url: str) -> None:
    """Check that nothing runs, nothing waits, and every block is free."""
    names = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    left: list[float] = []
    for _ in range(200):
        left = [metric(url, name) for name in names]
        if not any(left):
            return
        time.sleep(0.05)
    raise AssertionError(f"left over: {dict(zip(names, left, strict=True))}")


async def both(url: str, seconds: float, count: int) -> None:
    """Run clients and bad connections at the same time."""
    outcome, knocks = await asyncio.gather(clients(url, seconds, count), nuisances(url, seconds))
    print(f"  streams {dict(outcome)}\n  nuisances {dict(knocks)}")


def main() -> None:
    """Run everything; raises if something is wrong."""
    parser = argparse.ArgumentParser(description="The server under load and attack.")
    parser.add_argument("--seconds", type=float, default=120)
    parser.add_argument("--clients", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        arguments = ["--checkpoint", str(save_run(Path(folder) / "tiny"))]
        settings = {
            "NULLM_ENGINE__MAX_WAITING": str(QUEUE),
            "NULLM_LIMITS__HEADER_SECONDS": "5",
            "NULLM_LIMITS__BODY_SECONDS": "2",
        }
        with serve_command(ROOT, *arguments, log=Path(folder) / "log", **settings) as (url, process):
            watched = psutil.Process(process.pid)
            print(f"{options.clients} streaming clients for {options.seconds:g} seconds")
            asyncio.run(both(url, options.seconds / 3, options.clients))  # until every buffer has its size
            wait_until_idle(url)
            time.sleep(2)
            before = (watched.memory_info().rss, watched.num_fds(), watched.num_threads())
            asyncio.run(both(url, 2 * options.seconds / 3, options.clients))
            wait_until_idle(url)
            time.sleep(2)
            after = (watched.memory_info().rss, watched.num_fds(), watched.num_threads())
            print(
                f"  memory {before[0] / 2**20:.0f} → {after[0] / 2**20:.0f} MiB, descriptors {before[1]} → {after[1]}, threads {before[2]} → {after[2]}"
            )
            assert after[1] <= before[1] + 5 and after[2] <= before[2] + 2
            assert after[0] < before[0] + 24 * 2**20, "the server's memory grows"
            print(f"overload: {10 * (QUEUE + 16)} requests at once")
            asyncio.run(overload(url, 10 * (QUEUE + 16)))
            wait_until_idle(url)
            process.terminate()
            assert process.wait(timeout=40) == 0
        print("requests made up from the schema")
        command = [sys.executable, "-m", "pytest", "-q", str(ROOT / "tests" / "test_server_fuzz.py")]
        subprocess.run(command, check=True, env={**os.environ, "FUZZ_EXAMPLES": "300"})
    print("nothing is left over")


if __name__ == "__main__":
    main()
