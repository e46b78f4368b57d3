"""Stage 7: a request gets the same tokens as alone, even if others share its step, its memory or its weights.

Different ways to compute the same numbers sum them in different orders, so their last bits differ. Greedy tokens
must then agree only if the best logit leads by more than that difference. So random models are compared in float64,
where the differences are near 1e-15 and leads below 1e-9 do not occur. float32 and bfloat16 are compared on a model
that has learned its text, and the test checks the lead.
"""

from __future__ import annotations

from itertools import product

import pytest
import torch
from support.processors import needs_avx512, run_without_amx, sums_by_amx

from optimization.engine.engine import Engine
from optimization.engine.request import GenerationRequest
from optimization.engine.speculative import DraftModel, PromptLookup
from optimization.settings import EngineSettings
from tokenizer.bpe_tokenizer import BPETokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters, generate

STYLES = {
    "gpt2": {"norm": "layernorm", "feed_forward": "gelu", "positions": "learned", "bias": True},
    "llama": {"num_kv_heads": 2},
    "own": {"feed_forward": "relu2", "qk_norm": True},
    "alibi": {"positions": "alibi"},
    "window": {"sliding_window": 9, "attention_sinks": 2, "num_kv_heads": 1},
    "alibi and window": {"positions": "alibi", "sliding_window": 6},
}
# Parts of other families, several at once.
STYLES_OF_FAMILIES = {
    "gemma 2": {
        **{"norm": "rmsnorm_plus_one", "norm_position": "both", "feed_forward": "geglu", "scale_embeddings": True},
        **{"sliding_window": 9, "global_layers": (1,), "attention_softcap": 2.0, "logit_softcap": 5.0},
        **{"attention_scale": 0.2, "head_dim": 12, "num_kv_heads": 1},
    },
    "gemma 3": {
        **{"norm": "rmsnorm_plus_one", "norm_position": "both", "qk_norm": True, "qk_norm_weight": True},
        **{"sliding_window": 9, "global_layers": (0,), "local_rope_theta": 50.0},
    },
    "olmo 2": {"norm_position": "output", "qk_norm": True, "qk_norm_across_heads": True, "num_kv_heads": 2},
    "neox": {
        "norm": "layernorm",
        "bias": True,
        "parallel_residual": True,
        "rope_fraction": 0.5,
        "feed_forward": "gelu",
    },
    "smollm 3": {"layers_without_positions": (1,), "attention_bias": "qkv", "num_kv_heads": 2},
}
CPU = torch.device("cpu")


ALL_STYLES = {**STYLES, **STYLES_OF_FAMILIES}


def small_model(style: str, seed: int = 0) -> GPTModel:
    torch.manual_seed(seed)
    config = GPTConfig(vocab_size=257, context_length=48, num_layers=2, num_heads=4, d_model=32, **ALL_STYLES[style])
    model = GPTModel(config).eval().double()
    with torch.no_grad():  # weights so large that every earlier token influences the next one
        for parameter in model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    return model


def engine_for(model: GPTModel, precision: torch.dtype = torch.float64, proposer=None, **settings) -> Engine:
    values = {"block_size": 4, "chunk_size": 8, "max_batch_tokens": 16, "max_running": 4, **settings}
    tokenizer = BPETokenizer([], ["<|endoftext|>"])
    return Engine(model, tokenizer, Placement(CPU, precision), EngineSettings(**values), proposer)


def some_requests(greedy: bool = True) -> tuple[list[list[int]], list[SamplingParameters]]:
    """Eight requests of mixed length; the first four begin with the same tokens."""
    generator = torch.Generator().manual_seed(1)
    beginning = torch.randint(1, 257, (18,), generator=generator).tolist()
    prompts, parameters = [], []
    for i in range(8):
        length = int(torch.randint(1, 24, (1,), generator=generator))
        own = torch.randint(1, 257, (length,), generator=generator).tolist()
        prompts.append(beginning + own if i < 4 else own)
        parameters.append(SamplingParameters(max_tokens=5 + 7 * (i % 4), temperature=0.0 if greedy else 1.0, seed=i))
    return prompts, parameters


def reference(model: GPTModel, prompts, parameters) -> list[list[int]]:
    return [list(generate(model, prompt, one, {256})) for prompt, one in zip(prompts, parameters, strict=True)]


WAYS = {
    "one at a time": {"max_running": 1},
    "batched with strangers": {},
    "prompt in one piece": {"chunk_size": 64, "max_batch_tokens": 64},
    "prompt token by token": {"chunk_size": 1},
    "no shared prefixes": {"prefix_sharing": False},
    "static batches": {"batching": "static"},
    "preempted": {"cache_tokens": 64, "max_running": 8},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("style", "way"),
    [*product(STYLES, WAYS), *product(STYLES_OF_FAMILIES, ("batched with strangers", "preempted"))],
)
def test_every_way_of_scheduling_gives_the_tokens_of_the_plain_forward_pass(style, way):
    model = small_model(style)
    prompts, parameters = some_requests()
    engine = engine_for(model, **WAYS[way])
    assert engine.generate_batch(prompts, parameters) == reference(model, prompts, parameters)
    stats = engine.stats()
    assert (stats.used_blocks, stats.running, stats.waiting) == (0, 0, 0)
    if way == "preempted" and model.config.window_of_all is None:  # a window frees blocks early enough
        assert stats.preemptions > 0
    if way == "batched with strangers" and "window" not in style:
        assert stats.cached_tokens >= 3 * 16  # the shared beginning, in full blocks


@pytest.mark.parametrize("style", STYLES)
def test_sampled_tokens_are_those_of_the_seed_whatever_the_company(style):
    model = small_model(style)
    prompts, parameters = some_requests(greedy=False)
    together = engine_for(model, cache_tokens=96).generate_batch(prompts, parameters)
    assert together == reference(model, prompts, parameters)


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("draft", [False, True])
def test_speculative_greedy_tokens_are_the_plain_ones(style, draft):
    model = small_model(style)
    prompts, parameters = some_requests()
    prompts = [(prompt * 3)[:30] for prompt in prompts]  # repetitive, so that there is something to look up
    # Half of the guesses are right when the draft model is the model with some noise.
    noisy = small_model(style)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1 * parameter.std())
    proposer = DraftModel(noisy, num_tokens=3, vocab_size=257) if draft else PromptLookup(4, 3, 1)
    engine = engine_for(model, proposer=proposer, cache_tokens=160)
    handles = [engine.submit(GenerationRequest(prompt, one)) for prompt, one in zip(prompts, parameters, strict=True)]
    outputs = [[event.token for event in handle if event.token is not None] for handle in handles]
    assert outputs == reference(model, prompts, parameters)
    assert sum(handle.stats.proposed_tokens for handle in handles) > 20
    if draft:
        assert sum(handle.stats.accepted_tokens for handle in handles) > 0
    assert engine.stats().used_blocks == 0


@pytest.fixture(scope="module")
def learned() -> GPTModel:
    """A model that has memorised a text, so that its best logit leads clearly."""
    torch.manual_seed(0)
    config = GPTConfig(vocab_size=257, context_length=64, num_layers=2, num_heads=4, num_kv_heads=2, d_model=64)
    model = GPTModel(config)
    text = torch.tensor(list(b"Pack my box with five dozen liquor jugs; the quick brown fox jumps over it. " * 3))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(300):
        starts = torch.randint(len(text) - 65, (8,), generator=torch.Generator().manual_seed(step))
        window = torch.stack([text[start : start + 65] for start in starts])
        loss = torch.nn.functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.slow
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("way", [*WAYS, "speculative", "int8 cache"])
def test_float32_and_bfloat16_agree_where_the_best_logit_leads_clearly(learned, precision, way):
    starts = [b"Pack my box", b"Pack my box with five", b"the quick", b"liquor jugs; the quick brown", b"it. Pack"]
    prompts = [list(start) for start in starts]
    parameters = [
        SamplingParameters(max_tokens=min(52 - len(p), 20 + 8 * i), temperature=0.0) for i, p in enumerate(prompts)
    ]
    expected = reference(learned, prompts, parameters)
    for prompt, continuation in zip(prompts, expected, strict=True):
        with torch.no_grad():
            ids = prompt + continuation
            logits = learned(torch.tensor([ids]))[0, len(prompt) - 1 :]
        best = logits.topk(2).values
        assert (best[:, 0] - best[:, 1]).min() > 1.0  # bfloat16 rounds logits of this size to about 0.05
    settings = dict(WAYS.get(way, {}))
    if way == "int8 cache":
        settings["cache_dtype"] = "int8"
    proposer = PromptLookup(4) if way == "speculative" else None
    engine = engine_for(learned, precision, proposer, **settings)
    assert engine.generate_batch(prompts, parameters) == expected


@pytest.mark.slow
@needs_avx512
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_company_does_not_change_a_single_bit(precision, request):
    if sums_by_amx(precision):
        return run_without_amx(request)
    model = small_model("own").float()
    prompts, parameters = some_requests(greedy=False)
    settings = {"max_running": 8, "max_batch_tokens": 64, "prefix_sharing": False, "cache_tokens": 1024}

    def logprobs(chosen: list[int]) -> list[list[float]]:
        engine = engine_for(model, precision, **settings)
        handles = [engine.submit(GenerationRequest(prompts[i], parameters[i], logprobs=3)) for i in chosen]
        return [[event.logprobs.logprob for event in handle if event.logprobs] for handle in handles]

    together = logprobs(list(range(8)))
    alone = [logprobs([i])[0] for i in range(8)]
    assert together == alone


def test_a_shared_prefix_is_computed_once_even_when_all_come_at_the_same_time():
    model = small_model("llama")
    engine = engine_for(model, max_running=4, max_batch_tokens=64, cache_tokens=256)
    prompt = list(range(1, 34))
    parameters = SamplingParameters(max_tokens=3, temperature=0.0)
    handles = [engine.submit(GenerationRequest(prompt, parameters)) for _ in range(4)]
    for handle in handles:
        list(handle)
    assert [handle.stats.cached_tokens for handle in handles] == [0, 32, 32, 32]
