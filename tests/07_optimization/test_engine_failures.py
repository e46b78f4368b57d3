"""Stage 7: whatever fails in the engine, those whom it concerns are told at once, and the engine goes on."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable

import pytest
import torch

from optimization.engine.engine import MOST_FAILED_STEPS, Engine
from optimization.engine.events import TokenEvent
from optimization.engine.request import GenerationRequest, Request, RequestHandle
from optimization.engine.speculative import DraftModel, PromptLookup, Proposal, Proposer
from optimization.settings import EngineSettings
from tokenizer.bpe_tokenizer import BPETokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

GREEDY = SamplingParameters(max_tokens=8, temperature=0.0)
BOOM = RuntimeError("boom")


def small_model(**parts) -> GPTModel:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=257, context_length=24, num_layers=2, num_heads=4, d_model=32, **parts)
    return GPTModel(config).eval().double()


def small_engine(proposer: Proposer | None = None, model: GPTModel | None = None, **settings) -> Engine:
    placement = Placement(torch.device("cpu"), torch.float64)
    values = EngineSettings(**{"block_size": 4, "chunk_size": 8, "max_batch_tokens": 8, **settings})
    return Engine(model or small_model(), BPETokenizer([], ["<|endoftext|>"]), placement, values, proposer)


def ending(handle: RequestHandle) -> tuple[str | None, str]:
    """How a request ended, and the error if there was one."""
    try:
        handle.result()
    except RuntimeError as error:
        return "error", str(error)
    return handle.stats.finish_reason, ""


def fail_once(monkeypatch, owner: object, name: str, error: BaseException) -> None:
    original, done = getattr(owner, name), []

    def broken(*args, **kwargs):
        if not done:
            done.append(True)
            raise error
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, broken)


def assert_nothing_is_left(engine: Engine) -> None:
    stats = engine.stats()
    assert (stats.running, stats.waiting, stats.used_blocks) == (0, 0, 0)
    assert engine.pool.num_free == engine.pool.num_blocks


SEAMS: dict[str, tuple[Callable[[Engine], object], str]] = {
    "plan": (lambda e: e._scheduler, "plan"),
    "retire": (lambda e: e._scheduler, "retire"),
    "add": (lambda e: e._scheduler, "add"),
    "admit": (lambda e: e._scheduler, "_admit"),
    "allocate": (lambda e: e.pool, "allocate"),
    "find": (lambda e: e.pool, "find"),
    "register": (lambda e: e.pool, "register"),
    "release": (lambda e: e.pool, "release"),
    "run": (lambda e: e._runner, "run"),
    "hidden states": (lambda e: e.model, "hidden_states"),
    "storage": (lambda e: e._runner.storage, "write"),
    "tokenizer": (lambda e: e.tokenizer, "decode_bytes"),
}


@pytest.mark.parametrize("own_thread", [False, True])
@pytest.mark.parametrize("error", [BOOM, MemoryError(), SystemExit(1)], ids=["error", "memory", "exit"])
@pytest.mark.parametrize("seam", SEAMS)
def test_an_error_anywhere_in_a_step_is_told_at_once_and_the_next_request_is_served(
    seam, error, own_thread, monkeypatch
):
    if isinstance(error, SystemExit) and not own_thread:
        pytest.skip("the caller's own thread keeps the exception, see the test of Ctrl-C")
    engine = small_engine()
    prompt = list(range(1, 12))
    alone = engine.submit(GenerationRequest(prompt, GREEDY)).result()
    owner, name = SEAMS[seam]
    if own_thread:
        engine.start()
    try:
        fail_once(monkeypatch, owner(engine), name, error)
        first = engine.submit(GenerationRequest(prompt, GREEDY))
        reason, said = ending(first)
        if reason == "error":
            assert type(error).__name__ in said
        else:  # the request had ended before its blocks could not be given back
            assert (seam, reason) in {("release", "length"), ("retire", "length")}
        assert engine.submit(GenerationRequest(prompt, GREEDY)).result() == alone
        assert engine.is_working
    finally:
        engine.stop()
    assert_nothing_is_left(engine)


def test_those_who_are_not_concerned_go_on(monkeypatch):
    """The memory for one request cannot be had, while three others are decoding."""
    engine = small_engine(prefix_sharing=False)
    prompts = [[i, i + 1, i + 2] for i in range(4)]
    alone = engine.generate_batch(prompts, GREEDY)
    handles = [engine.submit(GenerationRequest(prompt, GREEDY)) for prompt in prompts]
    while min(handle.stats.generated_tokens for handle in handles) < 1:
        engine.step()
    victim = engine._scheduler.running[2]

    def no_memory(length: int) -> None:
        raise MemoryError("no more")

    monkeypatch.setattr(victim.table, "reserve", no_memory)
    assert ending(handles[2]) == ("error", "MemoryError: no more")
    assert [handle.result() for i, handle in enumerate(handles) if i != 2] == [
        tokens for i, tokens in enumerate(alone) if i != 2
    ]
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("seam", ["plan", "retire"])
def test_an_error_that_belongs_to_no_request_ends_the_running_ones_and_the_waiting_ones_are_served(seam, monkeypatch):
    engine = small_engine(max_running=2)
    prompts = [[i, i + 1, i + 2] for i in range(5)]
    alone = engine.generate_batch(prompts, GREEDY)
    handles = [engine.submit(GenerationRequest(prompt, GREEDY)) for prompt in prompts]
    engine.step()
    fail_once(monkeypatch, engine._scheduler, seam, BOOM)
    assert [ending(handle) for handle in handles[:2]] == [("error", "RuntimeError: boom")] * 2
    assert [handle.result() for handle in handles[2:]] == alone[2:]
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("error", [BOOM, KeyboardInterrupt()], ids=["again and again", "Ctrl-C"])
def test_nobody_waits_for_an_engine_that_cannot_go_on(error, monkeypatch):
    engine = small_engine(max_running=2)
    handles = [engine.submit(GenerationRequest([i, 4], GREEDY)) for i in range(5)]
    engine.step()

    def broken() -> None:
        raise error

    monkeypatch.setattr(engine._scheduler, "plan", broken)
    if isinstance(error, Exception):
        assert engine.step() and not engine.step()  # those that ran, then those that waited
    else:
        with pytest.raises(KeyboardInterrupt):
            engine.step()
    assert {ending(handle)[0] for handle in handles} == {"error"}
    assert_nothing_is_left(engine)


class Failing(PromptLookup):
    """A proposer that fails for one text, or whenever a request leaves."""

    def __init__(self, forgets: bool = True):
        super().__init__(3, 2, 1)
        self._forgets = forgets

    def propose(self, request: Request, limit: int) -> Proposal:
        if request.prompt[0] == 66:
            raise BOOM
        return super().propose(request, limit)

    def forget(self, request: Request) -> None:
        if not self._forgets:
            raise BOOM


def test_a_proposer_that_fails_for_one_text_ends_that_text():
    engine = small_engine(Failing())
    broken, fine = engine.submit(GenerationRequest([66, 1], GREEDY)), engine.submit(GenerationRequest([3, 4], GREEDY))
    assert ending(broken) == ("error", "RuntimeError: boom")
    assert fine.result() == small_engine().submit(GenerationRequest([3, 4], GREEDY)).result()
    assert_nothing_is_left(engine)


def test_a_proposer_that_cannot_forget_leaves_nobody_waiting():
    engine = small_engine(Failing(forgets=False))
    handles = [engine.submit(GenerationRequest([i, 4], SamplingParameters(max_tokens=i))) for i in (2, 8)]
    assert [ending(handle)[0] for handle in handles] == ["length", "error"]
    assert_nothing_is_left(engine)


def test_a_tokenizer_that_cannot_decode_ends_the_request_with_an_error(monkeypatch):
    engine = small_engine()

    def broken(*_: object) -> bytes:
        raise KeyError("no such id")

    monkeypatch.setattr(engine.tokenizer, "decode_bytes", broken)
    handle = engine.submit(GenerationRequest([1, 2], GREEDY))
    assert ending(handle) == ("error", "KeyError: 'no such id'")
    cancelled = engine.submit(GenerationRequest([1, 2], GREEDY))
    cancelled.cancel()
    assert ending(cancelled)[0] in ("cancelled", "error")
    assert_nothing_is_left(engine)


@pytest.mark.parametrize("fails_at", [1, 8, "always"])
def test_a_listener_that_fails_is_told_if_it_can_be_told(fails_at):
    engine, received = small_engine(), list[TokenEvent]()

    def listener(event: TokenEvent) -> None:
        received.append(event)
        if fails_at == "always" or len(received) == fails_at:
            raise ConnectionError("gone")

    engine.submit(GenerationRequest([1, 2], GREEDY), listener)
    while engine.step():
        pass
    if fails_at == 1:  # the engine ends it, and says so
        assert received[-1].finish_reason == "cancelled"
    elif fails_at == 8:  # it was the last event: without another one, the client would wait for ever
        assert (received[-1].finish_reason, received[-1].error) == ("error", "ConnectionError: gone")
    assert len(received) == {1: 2, 8: 9, "always": 3}[fails_at]
    assert_nothing_is_left(engine)


def test_ctrl_c_reaches_the_caller_and_leaves_an_engine_that_works(monkeypatch):
    engine = small_engine()
    alone = engine.submit(GenerationRequest([1, 2], GREEDY)).result()
    handle = engine.submit(GenerationRequest([1, 2], GREEDY))
    engine.step()
    fail_once(monkeypatch, engine._runner, "run", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        handle.result()
    assert_nothing_is_left(engine)
    assert engine.submit(GenerationRequest([1, 2], GREEDY)).result() == alone


def test_an_engine_that_fails_again_and_again_says_that_it_does_not_work(monkeypatch):
    engine = small_engine()
    plan = engine._scheduler.plan

    def broken() -> None:
        raise BOOM

    engine.start()
    try:
        monkeypatch.setattr(engine._scheduler, "plan", broken)
        for number in range(1, MOST_FAILED_STEPS + 3):
            assert ending(engine.submit(GenerationRequest([1, 2], GREEDY))) == ("error", "RuntimeError: boom")
            assert engine.is_working == (number < MOST_FAILED_STEPS)
        monkeypatch.setattr(engine._scheduler, "plan", plan)
        assert len(engine.submit(GenerationRequest([1, 2], GREEDY)).result()) == 8
        assert engine.is_working
    finally:
        engine.stop()


def test_after_an_error_requests_that_came_meanwhile_are_served(monkeypatch):
    engine, late = small_engine(), []
    alone = engine.submit(GenerationRequest([1, 2], GREEDY)).result()
    first = engine.submit(GenerationRequest([1, 2], GREEDY))

    def broken() -> None:
        monkeypatch.undo()
        late.append(engine.submit(GenerationRequest([1, 2], GREEDY)))
        raise BOOM

    monkeypatch.setattr(engine._scheduler, "plan", broken)
    assert engine.step()  # there is still something to do
    assert ending(first)[0] == "error"
    assert late[0].result() == alone


# --- numbers that are none ----------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("keywords", [{}, {"logprobs": 2}, {"prompt_logprobs": True}], ids=["plain", "text", "prompt"])
def test_a_model_whose_logits_are_no_numbers_gives_an_error(temperature, bad, keywords):
    model = small_model()
    with torch.no_grad():
        model.final_norm.weight[3] = bad
    engine = small_engine(model=model)
    handle = engine.submit(GenerationRequest([1, 2, 3], SamplingParameters(4, temperature, seed=1), **keywords))
    reason, said = ending(handle)
    assert reason == "error" and "logits are nan or infinite" in said
    assert handle.prompt_logprobs == [] and handle.stats.generated_tokens == 0
    assert_nothing_is_left(engine)


def test_one_request_that_overflows_leaves_the_others_as_they_are_alone():
    """A single id has a row of infinities: only texts in which it occurs fail, now or later."""
    model = small_model(tie_embeddings=False)
    with torch.no_grad():
        model.token_embedding.weight[200] = math.inf
    engine = small_engine(model=model)
    prompts = [[1, 2, 3], [4, 200, 5], [200], [6, 7, 8, 9, 10, 11], [1, 2, 200]]
    bias = SamplingParameters(max_tokens=10, temperature=0.0, logit_bias={200: -math.inf})
    handles = [engine.submit(GenerationRequest(prompt, bias)) for prompt in prompts]
    endings = [ending(handle)[0] for handle in handles]
    assert endings == ["length", "error", "error", "length", "error"]
    for prompt, handle in zip(prompts, handles, strict=True):
        again = small_engine(model=model).submit(GenerationRequest(prompt, bias))
        assert ending(again)[0] == handle.stats.finish_reason
        assert again.stats.generated_tokens == handle.stats.generated_tokens
    assert (
        engine.submit(GenerationRequest([1, 2, 3], bias)).result()
        == small_engine(model=model).submit(GenerationRequest([1, 2, 3], bias)).result()
    )  # in blocks that have held infinities


def test_a_draft_that_predicts_no_numbers_ends_the_request():
    draft = small_model()
    with torch.no_grad():
        draft.final_norm.weight[0] = math.nan
    handle = small_engine(DraftModel(draft, 2, 257)).submit(GenerationRequest([1, 2], GREEDY))
    assert ending(handle)[0] == "error"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_probabilities_are_finite_even_if_they_are_too_small_for_their_type(dtype):
    from optimization.engine.decoding import logprobs_of

    largest = torch.finfo(dtype).max
    report = logprobs_of(torch.tensor([largest, 0.0, -largest], dtype=dtype), 2, 3)
    numbers = [report.logprob, report.entropy, *(logprob for _, logprob in report.top)]
    assert all(math.isfinite(number) for number in numbers)
    assert report.entropy == 0.0 and report.top[0] == (0, 0.0)


# --- one client and another ---------------------------------------------------------------------


def test_requests_share_beginnings_only_with_those_of_the_same_salt():
    engine, prompt = small_engine(), list(range(1, 18))
    cached = []
    for salt in ("alice", "bob", None, "alice", "bob", None):
        handle = engine.submit(GenerationRequest(prompt, GREEDY, cache_salt=salt))
        handle.result()
        cached.append(handle.stats.cached_tokens)
    assert cached == [0, 0, 0, 16, 16, 16]


def test_a_request_does_not_wait_for_the_same_prompt_of_another_client():
    """It could see from the time that the other one is being computed."""
    engine, prompt = small_engine(chunk_size=4, max_batch_tokens=64), list(range(1, 18))
    for salts, together in (("aa", False), ("ab", True)):
        for salt in salts:
            engine.submit(GenerationRequest(prompt, GREEDY, cache_salt=salt))
        engine.step()
        assert (engine.stats().running == 2) == together
        while engine.step():
            pass
        engine.pool.forget_idle()


def test_a_request_that_is_cut_off_by_stopping_is_told():
    engine = small_engine()
    engine.start()
    handle = engine.submit(GenerationRequest([1], SamplingParameters(max_tokens=100_000, temperature=0.0)))
    seen = threading.Event()
    threading.Timer(0.1, seen.set).start()
    seen.wait(5)
    engine.stop()
    while (event := handle._events.get(timeout=10)).finish_reason is None:
        pass
    assert event.finish_reason == "cancelled"
