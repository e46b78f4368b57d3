"""Stage 7: tokens computed by the compiled step are those of the plain forward pass, and do not depend on company.

The models are random and small, with weights so large that every earlier token counts. Logits of float32 may differ from
the plain ones by rounding only; sums of the compiled step have one order, so its own bits are compared exactly.
"""

from __future__ import annotations

import copy
import math
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from optimization.engine import model_runner
from optimization.engine.block_pool import BlockTable
from optimization.engine.compiled_runner import MOST_ROWS, CompiledRunner
from optimization.engine.engine import Engine
from optimization.engine.model_runner import PyTorchRunner
from optimization.engine.request import GenerationRequest
from optimization.engine.scheduler import ScheduledRequest
from optimization.engine.speculative import PromptLookup, Proposal
from optimization.settings import EngineSettings
from optimization.weights.quantization import Int4Linear, Int8Linear
from optimization.weights.quantized_model import quantize_model
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.rope_scaling import RopeScaling
from transformer.sampling import SamplingParameters, generate

CPU = torch.device("cpu")
STYLES = {
    "gpt2": {"norm": "layernorm", "feed_forward": "gelu", "positions": "learned", "bias": True},
    "gpt2 without biases": {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned"},
    "llama": {"num_kv_heads": 2, "tie_embeddings": False},
    "own": {"feed_forward": "relu2", "qk_norm": True},
    "first transformer": {"norm_position": "post", "feed_forward": "relu", "positions": "sinusoidal", "bias": True},
    "no positions, odd sizes": {"positions": "none", "head_dim": 7, "d_ff": 33},
    "window": {"sliding_window": 9, "attention_sinks": 2, "num_kv_heads": 1},
    "gemma 2": {
        **{"norm": "rmsnorm_plus_one", "norm_position": "both", "feed_forward": "geglu", "scale_embeddings": True},
        **{"sliding_window": 9, "global_layers": (1,), "attention_softcap": 2.0, "logit_softcap": 5.0},
        **{"attention_scale": 0.2, "head_dim": 12, "num_kv_heads": 1},
    },
    "gemma 3": {
        **{"norm": "rmsnorm_plus_one", "norm_position": "both", "qk_norm": True, "qk_norm_weight": True},
        **{"sliding_window": 9, "global_layers": (0,), "local_rope_theta": 50.0},
    },
    "olmo 2": {
        **{"norm_position": "output", "qk_norm": True, "qk_norm_across_heads": True, "qk_norm_weight": True},
        **{"num_kv_heads": 2},
    },
    "neox": {
        **{"norm": "layernorm", "bias": True, "parallel_residual": True, "rope_fraction": 0.5, "feed_forward": "gelu"},
        **{"rope_scaling": RopeScaling("linear", 2.0)},
    },
    "smollm 3": {"layers_without_positions": (1,), "attention_bias": "qkv", "num_kv_heads": 2},
}
LENGTH = 24


def random_model(style: str, d_model: int = 32, **changes) -> GPTModel:
    torch.manual_seed(0)
    parts = {**STYLES[style], **changes}
    model = GPTModel(GPTConfig(vocab_size=97, context_length=48, num_layers=2, num_heads=4, d_model=d_model, **parts))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(8)
            else:  # biases begin at zero, and scales at one
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


def engine_for(model: GPTModel, precision: torch.dtype = torch.float32, proposer=None, **settings) -> Engine:
    values = {"block_size": 4, "chunk_size": 10, "max_batch_tokens": 20, "max_running": 4, **settings}
    tokenizer = CharacterTokenizer(chr(0x100 + i) for i in range(97))
    return Engine(model, tokenizer, Placement(CPU, precision), EngineSettings(**values), proposer)


def some_ids(seed: int, length: int = LENGTH) -> list[int]:
    return torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()


def decode(engine: Engine, texts: list[list[int]], at_once: int = 100) -> list[torch.Tensor]:
    """The logits after each token of some texts, all computed as generated tokens, so many of each in one step."""
    runner = engine._runner
    assert isinstance(runner, CompiledRunner)
    tables = [BlockTable(engine.pool, share=False) for _ in texts]
    logits = [list[torch.Tensor]() for _ in texts]
    for start in range(0, max(map(len, texts)), at_once):
        scheduled = []
        for table, ids in zip(tables, texts, strict=True):
            stop = min(start + at_once, len(ids))
            if start < stop:
                table.reserve(stop)
                request = SimpleNamespace(
                    table=table, tokens=ids[: start + 1], num_pending=1, in_prompt=False, wants_prompt_logits=False
                )
                scheduled.append(ScheduledRequest(request, 1, Proposal(ids[start + 1 : stop])))
        with torch.inference_mode():
            results = runner.run(scheduled)
        for item, result in zip(scheduled, results, strict=True):
            item.request.table.length += len(result)
            logits[tables.index(item.request.table)].append(result)
    for table in tables:
        table.release()
    return [torch.cat(rows) for rows in logits]


def plain_logits(model: GPTModel, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids]))[0].float()


def assert_close(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> None:
    """Equal relative to the largest logit; the smallest are differences of large numbers."""
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.mark.parametrize("style", STYLES)
def test_logits_are_those_of_the_plain_forward_pass(style):
    model, ids = random_model(style), some_ids(1)
    expected = plain_logits(model, ids)
    engine = engine_for(model)
    for at_once in (1, 3, LENGTH):
        assert_close(decode(engine, [ids], at_once)[0], expected, 1e-5)
    # The layers of the engine's model are views of the same memory.
    assert_close(plain_logits(engine.model, ids), expected, 1e-5)


@pytest.mark.parametrize("style", ["gpt2", "llama"])
@pytest.mark.parametrize("method", ["int8", "int4"])
def test_quantized_logits_are_those_of_the_plain_layers(style, method):
    model, ids = quantize_model(random_model(style, d_model=64, d_ff=192), method), some_ids(2)
    expected = plain_logits(model, ids)
    engine = engine_for(model)
    for at_once in (1, LENGTH):
        assert_close(decode(engine, [ids], at_once)[0], expected, 1e-5)
    assert_close(plain_logits(engine.model, ids), expected, 1e-5)


@pytest.mark.parametrize(
    ("precision", "cache_dtype", "tolerance"),
    [(torch.float32, "bfloat16", 2e-2), (torch.float32, "int8", 4e-2), (torch.bfloat16, "float32", 1e-5)],
    ids=str,
)
def test_shorter_types_of_weights_and_caches_round_as_much_as_they_must(precision, cache_dtype, tolerance):
    model, ids = random_model("llama"), some_ids(3)
    rounded = copy.deepcopy(model)  # its weights are rounded, its activations are not
    for parameter in rounded.parameters():
        parameter.data = parameter.data.to(precision).float()
    expected = plain_logits(rounded, ids)
    engine = engine_for(model, precision, cache_dtype=cache_dtype)
    assert_close(decode(engine, [ids], 5)[0], expected, tolerance)
    assert_close(plain_logits(engine.model, ids), expected, max(tolerance, 5e-2))  # prompts: activations are rounded


@pytest.mark.parametrize("weights", ["float32", "bfloat16", "int8", "int4"])
def test_a_row_has_the_same_bits_whatever_the_company_and_the_number_of_threads(weights):
    model = random_model("llama", d_model=128, d_ff=192)
    if weights.startswith("int"):
        model = quantize_model(model, weights)
    precision = torch.bfloat16 if weights == "bfloat16" else torch.float32
    texts = [some_ids(seed, 4) for seed in range(MOST_ROWS + 5)]
    before, expected = torch.get_num_threads(), None
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            engine = engine_for(model, precision)
            for number in (1, 2, 3, 8, 9, MOST_ROWS, MOST_ROWS + 5):
                for at_once in (1, 4):
                    found = decode(engine, texts[-number:], at_once)[-1]
                    expected = found if expected is None else expected
                    assert torch.equal(found, expected), (threads, number, at_once)
    finally:
        torch.set_num_threads(before)


def logprobs(engine: Engine, prompts: list[list[int]], new_tokens: int = 12) -> list[list[tuple[int, float]]]:
    """Each text's tokens with their log-probabilities, to the last bit."""
    parameters = [SamplingParameters(new_tokens, temperature=1.0, seed=seed) for seed in range(len(prompts))]
    requests = [GenerationRequest(*pair, logprobs=1) for pair in zip(prompts, parameters, strict=True)]
    handles = [engine.submit(request) for request in requests]
    return [[(event.token, event.logprobs.logprob) for event in handle if event.logprobs] for handle in handles]


@pytest.mark.parametrize("style", ["llama", "gemma 2"])
def test_alone_in_company_preempted_or_with_guesses_a_text_has_the_same_bits(style):
    model, prompts = random_model(style), [some_ids(seed, 2 + 3 * seed) for seed in range(6)]
    alone = []
    for seed, prompt in enumerate(prompts):
        parameters = SamplingParameters(12, temperature=1.0, seed=seed)
        handle = engine_for(model).submit(GenerationRequest(prompt, parameters, logprobs=1))
        alone.append([(event.token, event.logprobs.logprob) for event in handle if event.logprobs])
    assert logprobs(engine_for(model, max_running=8), prompts) == alone
    crowded = engine_for(model, cache_tokens=64, max_running=8, prefix_sharing=False)
    assert logprobs(crowded, prompts) == alone
    assert crowded.stats().preemptions > 0
    greedy = SamplingParameters(20, temperature=0.0)
    repeated = [(prompt * 9)[:24] for prompt in prompts]

    def greedy_logprobs(proposer) -> list[list[tuple[int, float]]]:
        engine = engine_for(model, proposer=proposer)
        handles = [engine.submit(GenerationRequest(prompt, greedy, logprobs=1)) for prompt in repeated]
        found = [[(event.token, event.logprobs.logprob) for event in handle if event.logprobs] for handle in handles]
        assert proposer is None or sum(handle.stats.proposed_tokens for handle in handles) > 10
        return found

    assert greedy_logprobs(PromptLookup(3, 2, 1)) == greedy_logprobs(None)


@pytest.mark.parametrize("style", STYLES)
def test_greedy_ids_are_those_of_the_plain_loop(style):
    model, prompts = random_model(style), [some_ids(seed, 3 + 7 * seed) for seed in range(4)]
    parameters = SamplingParameters(max_tokens=30, temperature=0.0)
    engine = engine_for(model)  # past its context of 48, so that texts are shifted and computed again
    expected = [list(generate(model, prompt, parameters)) for prompt in prompts]
    assert engine.generate_batch(prompts, parameters) == expected


@pytest.mark.parametrize("length", [3, 24])
def test_probabilities_of_a_prompt_are_the_plain_ones_whoever_computes_it(length):
    model, prompt = random_model("llama"), some_ids(5, length)
    engine = engine_for(model, chunk_size=16)  # chunks of 3, or of 16 and 8
    handle = engine.submit(GenerationRequest(prompt, SamplingParameters(2, temperature=0.0), prompt_logprobs=True))
    list(handle)
    expected = plain_logits(model, prompt).log_softmax(dim=-1)
    found = [report.logprob for report in handle.prompt_logprobs]
    assert found == pytest.approx([float(expected[i, token]) for i, token in enumerate(prompt[1:])], abs=1e-3)


def test_what_the_loops_do_not_have_and_what_is_turned_off_is_decoded_by_pytorch(monkeypatch):
    model = random_model("llama")
    assert isinstance(engine_for(model)._runner, CompiledRunner)
    others = [
        engine_for(model.double(), torch.float64),
        engine_for(random_model("llama", positions="alibi")),
        engine_for(quantize_model(random_model("llama"), "w8a8")),
        engine_for(random_model("llama"), pack_weights=False),
    ]
    monkeypatch.setattr(model_runner, "kernels_are_compiled", lambda: False)  # NULLM_KERNELS=plain
    others.append(engine_for(random_model("llama")))
    assert all(type(engine._runner) is PyTorchRunner for engine in others)


def test_where_the_compiler_fails_pytorch_decodes_and_it_is_said_at_the_start(monkeypatch, capsys):
    def fail(_):
        raise TypeError("no such instruction")

    monkeypatch.setattr(CompiledRunner, "warm_up", fail)
    model = random_model("gemma 2")
    engine = engine_for(model)
    said = capsys.readouterr().err
    assert "the compiled loops do not work here (TypeError: no such instruction); decoding goes on without them" in said
    parameters = SamplingParameters(temperature=0.0, max_tokens=8)
    assert list(engine.generate_ids(some_ids(1), parameters)) == list(generate(model, some_ids(1), parameters))


def test_the_loops_are_ready_before_the_first_request():
    from optimization.kernels.step import decode as step

    engine_for(random_model("llama"))
    assert len(step.dispatcher.signatures) >= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_model_whose_numbers_are_not_finite_gives_an_error(bad):
    model = random_model("llama")
    with torch.no_grad():
        model.blocks[1].feed_forward.down.weight[3] = bad
    handle = engine_for(model).submit(GenerationRequest([1, 2, 3], SamplingParameters(4, temperature=0.0)))
    with pytest.raises(RuntimeError, match="logits are nan or infinite"):
        list(handle)


def test_each_weight_exists_once():
    """The layers that compute prompts are views of the arrays that the loops read, and the head is the embedding."""
    for model in (random_model("gpt2"), quantize_model(random_model("llama", d_model=64, d_ff=192), "int4")):
        engine = engine_for(model)
        arrays = engine._runner._model
        stacked = [getattr(arrays, name).weight for name in ("qkv", "output", "up", "down", "head")]
        ranges = [(array.ctypes.data, array.ctypes.data + array.nbytes) for array in stacked]
        for name, module in engine.model.named_modules():
            if isinstance(module, (nn.Linear, Int8Linear, Int4Linear)):
                assert any(start <= module.weight.data_ptr() < stop for start, stop in ranges), name
        if model.config.tie_embeddings:
            assert engine.model.token_embedding.weight.data_ptr() == engine.model.head.weight.data_ptr()


def test_two_engines_compute_at_the_same_time():
    model, prompts = random_model("llama"), [some_ids(seed, 5) for seed in range(4)]
    expected = logprobs(engine_for(model), prompts)
    engines = [engine_for(model) for _ in range(3)]
    for engine in engines:
        engine.start()
    try:
        found = dict[int, list]()

        def ask(index: int) -> None:
            found[index] = logprobs(engines[index], prompts)

        threads = [threading.Thread(target=ask, args=(index,)) for index in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert [found[index] for index in range(3)] == [expected] * 3
    finally:
        for engine in engines:
            engine.stop()


@pytest.mark.slow
def test_importing_the_package_does_not_import_the_compiler():
    code = "import sys, optimization.engine.engine; assert 'numba' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
