"""Stage 7: after random schedules no block is lost, and every request gets its own tokens.

Hypothesis chooses which requests come, when they come and which are cancelled early. It makes a failing schedule
as small as it can. A few hundred schedules run here; `make soak-engine` runs 10,000.
"""

from __future__ import annotations

import functools
import itertools
import os

import pytest
import torch
from hypothesis import HealthCheck, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest, RequestHandle
from optimization.engine.speculative import PromptLookup
from optimization.settings import EngineSettings
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

NUM_SCHEDULES = int(os.environ.get("SCHEDULES", "200"))
CONTEXT = 16
BEGINNINGS = [(), (1, 2, 3, 4, 5, 6), (1, 2, 3, 4, 7, 7, 7), (8, 8, 8, 8), (3, 4, 1, 2), (5, 6, 3, 4, 1)]


@functools.cache
def model(windowed: bool) -> GPTModel:
    torch.manual_seed(0)
    window = {"sliding_window": 5, "attention_sinks": 1} if windowed else {}
    config = GPTConfig(vocab_size=12, context_length=CONTEXT, num_layers=1, num_heads=2, d_model=8, **window)
    random = GPTModel(config).eval().double()
    with torch.no_grad():  # weights so large that every earlier token influences the next one
        for parameter in random.parameters():
            parameter.mul_(20 if parameter.ndim > 1 else 1)
    return random


@functools.cache
def expected(windowed: bool, prompt: tuple[int, ...], max_tokens: int, temperature: float) -> list[int]:
    parameters = SamplingParameters(max_tokens=max_tokens, temperature=temperature, seed=7)
    return list(generate(model(windowed), list(prompt), parameters))


class Schedule(RuleBasedStateMachine):
    """The life of one engine, from start to end."""

    @initialize(
        windowed=st.booleans(),
        blocks=st.integers(8, 24),
        chunk_size=st.sampled_from([1, 3, 4, 16]),
        max_running=st.integers(1, 5),
        batching=st.sampled_from(["continuous", "continuous", "static"]),
        sharing=st.booleans(),
        lookup=st.booleans(),
    )
    def build(self, windowed, blocks, chunk_size, max_running, batching, sharing, lookup) -> None:
        self.windowed, self.lookup = windowed, lookup
        values = EngineSettings(
            block_size=2,
            cache_tokens=2 * blocks,
            chunk_size=chunk_size,
            max_batch_tokens=max(chunk_size, 8),
            max_running=max_running,
            batching=batching,
            prefix_sharing=sharing,
        )
        placement = Placement(torch.device("cpu"), torch.float64)
        tokenizer = CharacterTokenizer("abcdefghijkl")
        self.engine = Engine(model(windowed), tokenizer, placement, values, PromptLookup(3, 2, 1) if lookup else None)
        self.requests: list[tuple[RequestHandle, tuple[int, ...], int, float]] = []

    @rule(
        beginning=st.sampled_from(BEGINNINGS),
        rest=st.lists(st.integers(0, 11), min_size=1, max_size=9),
        max_tokens=st.integers(1, 20),
        greedy=st.booleans(),
        priority=st.integers(0, 2),
    )
    def submit(self, beginning, rest, max_tokens, greedy, priority) -> None:
        prompt = (*beginning, *rest)
        # Guesses use the random numbers in another way. The distribution is the same, but the draws are not.
        temperature = 0.0 if greedy or self.lookup else 1.0
        parameters = SamplingParameters(max_tokens=max_tokens, temperature=temperature, top_p=0.95, seed=7)
        handle = self.engine.submit(GenerationRequest(prompt, parameters, priority))
        self.requests.append((handle, prompt, max_tokens, temperature))

    @rule(times=st.integers(1, 6))
    def step(self, times) -> None:
        for _ in range(times):
            self.engine.step()

    @precondition(lambda self: self.requests)
    @rule(data=st.data())
    def cancel(self, data) -> None:
        data.draw(st.sampled_from(self.requests))[0].cancel()

    @invariant()
    def every_block_is_accounted_for(self) -> None:
        if not hasattr(self, "engine"):
            return
        pool, scheduler = self.engine.pool, self.engine._scheduler
        held = [b for request in scheduler.running for b in request.table.blocks if b is not None]
        assert [held.count(block) for block in range(pool.num_blocks)] == pool._users
        assert all(not request.table.blocks for request in scheduler.waiting)
        assert pool.num_free + len(set(held)) == pool.num_blocks
        assert len(scheduler.running) <= self.engine.settings.max_running

    def teardown(self) -> None:
        if not hasattr(self, "engine"):
            return
        for _ in range(5000):
            if not self.engine.step():
                break
        assert not self.engine.step(), "the engine does not come to an end"
        assert self.engine.pool.num_used == 0
        for handle, prompt, max_tokens, temperature in self.requests:
            tokens = [event.token for event in handle if event.token is not None]
            wanted = expected(self.windowed, prompt, max_tokens, temperature)
            if handle.stats.finish_reason == "cancelled":
                assert tokens == wanted[: len(tokens)]
            else:
                assert tokens == wanted
        _count_for_people()


_lived = itertools.count(1)


def _count_for_people() -> None:
    """Print the progress from time to time, because a soak takes long. (`make soak-engine` lets pytest show it.)"""
    number = next(_lived)
    if NUM_SCHEDULES > 200 and number % 500 == 0:
        print(f"{number:,} schedules, all blocks accounted for", flush=True)


TestRandomSchedules = pytest.mark.slow(Schedule.TestCase)
TestRandomSchedules.settings = settings(
    max_examples=NUM_SCHEDULES,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=NUM_SCHEDULES <= 200,  # the same ones in every test run; new ones in a soak
)
