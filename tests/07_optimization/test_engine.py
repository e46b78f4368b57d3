"""Stage 7: the engine as its callers see it: events, stop strings, probabilities, cancelling, errors, threads."""

from __future__ import annotations

import itertools
import threading
import time

import pytest
import torch
from torch._dynamo.utils import counters

from optimization.engine.engine import Engine
from optimization.engine.events import EngineFullError, GenerationStats, PromptError, RequestError, TokenEvent
from optimization.engine.request import GenerationRequest, RequestHandle
from optimization.engine.speculative import DraftModel, Proposer
from optimization.model_loading import compile_blocks
from optimization.settings import EngineSettings
from tokenizer.bpe_tokenizer import BPETokenizer
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

GREEDY = SamplingParameters(max_tokens=12, temperature=0.0)


def small_model() -> GPTModel:
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=257, context_length=24, num_layers=2, num_heads=4, d_model=32)
    return GPTModel(config).eval().double()


def small_engine(proposer: Proposer | None = None, **settings) -> Engine:
    placement = Placement(torch.device("cpu"), torch.float64)
    values = EngineSettings(**{"block_size": 4, "chunk_size": 8, "max_batch_tokens": 8, **settings})
    return Engine(small_model(), BPETokenizer([], ["<|endoftext|>"]), placement, values, proposer)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_text_goes_on_past_the_context_as_in_the_plain_loop(temperature):
    engine = small_engine()
    no_end = {256: float("-inf")}
    parameters = SamplingParameters(max_tokens=80, temperature=temperature, seed=3, logit_bias=no_end)
    stats = GenerationStats()
    ids = list(engine.generate_ids([5, 6, 7], parameters, stats))
    assert ids == list(generate(engine.model, [5, 6, 7], parameters, {256}))
    assert (stats.context_shifts, stats.generated_tokens, stats.finish_reason) == (5, 80, "length")
    assert 0 < stats.first_token_seconds < stats.total_seconds
    assert stats.tokens_per_second > 0


def test_the_end_of_text_token_ends_the_text_and_is_not_part_of_it():
    engine = small_engine()
    first = list(engine.generate_ids([1], GREEDY))
    engine.tokenizer.added_tokens.special["<|endoftext|>"] = first[2]
    stats = GenerationStats()
    assert list(engine.generate_ids([1], GREEDY, stats)) == list(itertools.takewhile(lambda t: t != first[2], first))
    assert stats.finish_reason == "stop"
    handle = engine.submit(GenerationRequest([1], GREEDY, end_ids=()))
    assert [event.token for event in handle] == first  # without end ids, the text does not end early


def test_streamed_pieces_are_whole_characters_and_join_to_the_text():
    engine = small_engine()
    parameters = SamplingParameters(max_tokens=60, temperature=1.0, top_p=1.0, seed=1)
    ids = list(engine.generate_ids(engine.encode_prompt("日本"), parameters))
    pieces = list(engine.generate("日本", parameters))
    assert "".join(pieces) == engine.tokenizer.decode(ids)
    assert len(pieces) > 5


def test_a_stop_string_across_tokens_ends_the_text_before_it():
    engine = small_engine()
    ascii_only = {token: float("-inf") for token in range(128, 257)}
    parameters = SamplingParameters(max_tokens=30, temperature=1.0, seed=5, logit_bias=ascii_only)
    text = "".join(engine.generate("a", parameters))
    stop = text[10:13]
    stats = GenerationStats()
    cut = SamplingParameters(max_tokens=30, temperature=1.0, seed=5, logit_bias=ascii_only, stop=(stop, "never"))
    assert "".join(engine.generate("a", cut, stats)) == text[: text.index(stop)]
    assert stats.finish_reason == "stop"
    assert engine.stats().used_blocks == 0


def test_probabilities_are_the_plain_models_for_the_prompt_and_the_text():
    engine = small_engine()
    prompt = list(range(1, 14))
    parameters = SamplingParameters(max_tokens=5, temperature=0.7, seed=1)
    handle = engine.submit(GenerationRequest(prompt, parameters, logprobs=3, prompt_logprobs=True))
    events = [event for event in handle if event.token is not None]
    ids = prompt + [event.token for event in events]
    with torch.no_grad():
        expected = engine.model(torch.tensor([ids]))[0].log_softmax(dim=-1)
    reports = handle.prompt_logprobs + [event.logprobs for event in events]
    assert len(reports) == len(ids) - 1
    for position, report in enumerate(reports):
        row = expected[position]
        assert report.logprob == pytest.approx(row[ids[position + 1]].item(), abs=1e-9)
        assert [token for token, _ in report.top] == row.topk(3).indices.tolist()
        assert report.entropy == pytest.approx(-(row.exp() * row).sum().item(), abs=1e-9)


def test_cancelling_frees_the_blocks_at_once_and_disturbs_nobody():
    engine = small_engine()
    alone = list(engine.generate_ids([1, 2, 3], GREEDY))
    kept, gone = engine.submit(GenerationRequest([1, 2, 3], GREEDY)), engine.submit(GenerationRequest([4] * 9, GREEDY))
    for _ in range(4):
        engine.step()
    before = engine.stats().used_blocks
    gone.cancel()
    assert engine.stats().used_blocks < before
    assert [event.token for event in kept] == alone
    assert [event.finish_reason for event in gone][-1] == "cancelled"
    for event in engine.submit(GenerationRequest([5], GREEDY)):
        assert event.token is not None
        break  # leaving the loop cancels the request
    assert engine.stats().used_blocks == 0
    gone.cancel()  # a second time, after the end: this does nothing


def test_a_handle_computes_by_itself_only_where_no_thread_does():
    """Callables replace the engine: the first event is computed on request, the second comes from a thread."""
    asked, cancelled = [], []

    def compute() -> bool:
        asked.append(len(asked))
        if len(asked) == 1:
            handle.deliver(TokenEvent(7))
            return True
        threading.Timer(0.05, handle.deliver, [TokenEvent(8, finish_reason="length")]).start()
        return False

    handle = RequestHandle(0, GenerationStats(), None, lambda: cancelled.append(True), compute)
    assert handle.result() == [7, 8]
    assert len(asked) == 2 and not cancelled  # it waited for the thread and did not ask a third time
    handle.cancel()
    assert handle.cancelled.is_set() and cancelled == [True]


def test_a_listener_that_fails_loses_its_own_request_only():
    engine = small_engine()

    def gone(event) -> None:
        raise ConnectionError("the client has hung up")

    lost = engine.submit(GenerationRequest([1, 2], GREEDY), on_event=gone)
    kept = engine.submit(GenerationRequest([1, 2, 3], GREEDY))
    assert len(list(kept)) == 12
    assert lost.stats.finish_reason == "cancelled"


def test_an_error_in_one_request_is_its_own():
    engine = small_engine()
    broken, fine = engine.submit(GenerationRequest([1, 2], GREEDY)), engine.submit(GenerationRequest([3, 4], GREEDY))
    engine._take_in()
    request = engine._scheduler.waiting[0]
    request.parameters, request.generator = SamplingParameters(max_tokens=12), None  # type: ignore[assignment]
    request.parameters.logit_bias[999] = 1.0  # a mistake that no earlier check has found
    with pytest.raises(RuntimeError, match="logit_bias names id 999"):
        list(broken)
    assert len(list(fine)) == 12
    assert engine.stats().used_blocks == 0


def test_a_step_that_fails_ends_its_requests_and_not_the_engine():
    engine = small_engine()
    run = engine._runner.run

    def out_of_memory(work):
        raise MemoryError("no memory for the activations")

    engine._runner.run = out_of_memory
    with pytest.raises(RuntimeError, match="no memory for the activations"):
        list(engine.submit(GenerationRequest([1, 2], GREEDY)))
    engine._runner.run = run
    assert len(list(engine.submit(GenerationRequest([1, 2], GREEDY)))) == 12
    assert engine.stats().used_blocks == 0


@pytest.mark.parametrize("end", ["finished", "cancelled", "failed alone", "failed pass", "stopped"])
def test_however_a_request_ends_neither_a_block_nor_a_drafts_cache_is_left(end):
    draft = DraftModel(small_model(), num_tokens=2, vocab_size=257)
    engine = small_engine(draft, prefix_sharing=False)
    handle = engine.submit(GenerationRequest([1, 2, 3], GREEDY))
    while not draft._seen:
        assert engine.step()
    assert engine.stats().used_blocks > 0

    def fail(scheduled) -> None:
        raise MemoryError("no memory for the activations")

    if end == "finished":
        list(handle)
    elif end == "cancelled":
        handle.cancel()
    elif end == "failed alone":
        engine._scheduler.running[0].end_ids = None  # a mistake in one request
        engine.step()
    elif end == "failed pass":
        engine._runner.run = fail
        engine.step()
    else:
        engine.stop()
    assert handle.stats.finish_reason == {"finished": "length", "cancelled": "cancelled", "stopped": "cancelled"}.get(
        end, "error"
    )
    assert not draft._seen
    stats = engine.stats()
    assert (stats.used_blocks, stats.running, stats.waiting) == (0, 0, 0)


def test_impossible_requests_are_refused_before_anything_is_computed():
    engine = small_engine(cache_tokens=16)
    with pytest.raises(PromptError, match="31 tokens, the model's context is 24: shorten the prompt"):
        engine.generate("x" * 30, GREEDY)
    with pytest.raises(PromptError, match="id 257; the vocabulary has ids 0 to 256"):
        engine.submit(GenerationRequest([1, 257], GREEDY))
    with pytest.raises(RequestError, match="may need 22 tokens of cache, which has room for 16"):
        engine.submit(GenerationRequest([1] * 10, GREEDY))
    with pytest.raises(RequestError, match="logit_bias names id 300"):
        engine.submit(GenerationRequest([1], SamplingParameters(logit_bias={300: 1.0}, max_tokens=2)))
    with pytest.raises(RequestError, match="logprobs must be between 0 and 257, got -1"):
        engine.submit(GenerationRequest([1], SamplingParameters(max_tokens=2), logprobs=-1))
    engine.tokenizer = CharacterTokenizer("ab")
    with pytest.raises(PromptError, match="the prompt is empty"):
        engine.encode_prompt("")


def test_a_full_queue_refuses_and_more_requests_than_blocks_wait_their_turn():
    engine = small_engine(cache_tokens=16, max_waiting=6)
    eight = SamplingParameters(max_tokens=8, temperature=0.0)
    handles = [engine.submit(GenerationRequest([i], eight)) for i in range(6)]
    with pytest.raises(EngineFullError, match="6 requests are waiting already"):
        engine.submit(GenerationRequest([7], GREEDY))
    assert [len(list(handle)) for handle in handles] == [8] * 6
    assert engine.stats().waiting == 0


def test_priority_goes_first_and_then_who_came_first():
    engine = small_engine(max_running=1)
    finished = []
    for number, priority in enumerate([5, 5, 0]):
        engine.submit(
            GenerationRequest([1], SamplingParameters(max_tokens=2, temperature=0.0), priority),
            on_event=lambda event, number=number: finished.append(number) if event.finish_reason else None,
        )
    while engine.step():
        pass
    assert finished == [2, 0, 1]


def test_a_thread_of_its_own_serves_many_threads():
    engine = small_engine()
    prompts = [[i, i + 1] for i in range(12)]
    alone = engine.generate_batch(prompts, GREEDY)
    engine.start()
    try:
        outputs: dict[int, list[int]] = {}

        def ask(i: int) -> None:
            outputs[i] = list(engine.generate_ids(prompts[i], GREEDY))

        threads = [threading.Thread(target=ask, args=(i,)) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert [outputs[i] for i in range(12)] == alone
        # Submitting and cancelling do not wait for a step.
        handle = engine.submit(GenerationRequest([1], SamplingParameters(max_tokens=100_000, temperature=0.0)))
        time.sleep(0.05)
        start = time.perf_counter()
        handle.cancel()
        assert time.perf_counter() - start < 0.5
    finally:
        engine.stop()
    assert list(handle)[-1].finish_reason == "cancelled"
    assert engine.stats().used_blocks == 0
    assert list(engine.generate_ids(prompts[0], GREEDY)) == alone[0]  # still usable without a thread


def test_the_given_model_is_left_as_it_was():
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=257, context_length=24, num_layers=1, num_heads=2, d_model=16)
    model = GPTModel(config)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for precision in (torch.float32, torch.bfloat16):
        engine = Engine(model, BPETokenizer([], ["<|endoftext|>"]), Placement(torch.device("cpu"), precision))
        list(engine.generate("abc", GREEDY))
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.slow
def test_compiled_blocks_give_the_same_tokens_whatever_the_batch():
    engine = small_engine(pack_weights=False)
    prompts = [[5, 6, 7], list(range(20)), [9]]
    wanted = engine.generate_batch(prompts, GREEDY)
    torch.compiler.reset()
    counters.clear()
    compile_blocks(engine.model, backend="aot_eager")  # traced and decomposed as for a GPU, but not fused
    assert engine.generate_batch(prompts, GREEDY) == wanted
    assert engine.generate_batch(prompts[:1], GREEDY) == wanted[:1]
    # Each of three kinds of part has two graphs: one for a single token, which PyTorch never treats as a variable
    # number, and one for more tokens.
    assert 1 <= counters["stats"]["unique_graphs"] <= 3 * 2 * len(engine.model.blocks)
    with pytest.raises(ValueError, match="compile cannot trace the weights that are packed for a CPU"):
        small_engine(compile=True)


def test_a_batch_may_be_larger_than_the_queue():
    engine = small_engine(max_waiting=3)
    prompts = [[i] for i in range(1, 11)]
    assert engine.generate_batch(prompts, GREEDY) == [list(engine.generate_ids(prompt, GREEDY)) for prompt in prompts]
