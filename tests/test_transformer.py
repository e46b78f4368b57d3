"""Stage 3: the model's parts, its causality, its cost, and sampling."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.layers import LayerNorm, RMSNorm
from transformer.logits_processors import keep_top_k, keep_top_p
from transformer.model_summary import count_parameters, forward_flops_per_token
from transformer.positional_encoding import RotaryEmbedding
from transformer.sampling import SamplingParameters, generate, sample_next_token, shift_context

GPT2_STYLE = {"norm": "layernorm", "feed_forward": "gelu_tanh", "positions": "learned", "bias": True}
LLAMA_STYLE = {"norm": "rmsnorm", "feed_forward": "swiglu", "positions": "rope", "num_kv_heads": 2}
OWN_STYLE = {"feed_forward": "relu2", "qk_norm": True, "tie_embeddings": False}
STYLES = pytest.mark.parametrize("style", [GPT2_STYLE, LLAMA_STYLE, OWN_STYLE], ids=["gpt2", "llama", "own"])


def small_model(style: dict, **changes: object) -> GPTModel:
    sizes = {"vocab_size": 61, "context_length": 16, "num_layers": 3, "num_heads": 4, "d_model": 32}
    return GPTModel(GPTConfig(**{**sizes, **style, **changes})).eval()


@STYLES
def test_no_logit_depends_on_a_later_token(style):
    model = small_model(style)
    ids = torch.randint(61, (2, 16))
    with torch.no_grad():
        before = model(ids)
        for position in (1, 7, 15):
            changed = ids.clone()
            changed[:, position] = (changed[:, position] + 1) % 61
            after = model(changed)
            assert torch.equal(after[:, :position], before[:, :position])
            assert not torch.equal(after[:, position:], before[:, position:])


@STYLES
@pytest.mark.parametrize("changes", [{}, {"d_ff": 48}, {"num_kv_heads": 1}])
def test_the_parameter_count_is_that_of_the_built_model(style, changes):
    model = small_model(style, **changes)
    assert count_parameters(model.config).total == model.num_parameters()


def test_the_parameter_count_of_gpt2_is_the_published_one():
    config = GPTConfig(**GPT2_STYLE, vocab_size=50257, context_length=1024, num_layers=12, num_heads=12, d_model=768)
    assert count_parameters(config).total == 124_439_808


@STYLES
def test_forward_flops_are_those_that_pytorch_counts(style):
    model = small_model(style, d_model=64, context_length=32)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 32, dtype=torch.long))
    # PyTorch counts every pair of positions, masked or not: twice ours. Its fused kernel for CPUs is
    # not counted at all.
    total = forward_flops_per_token(model.config) * 32
    attention = 3 * 4 * 64 * 16 * 32  # layers, score and sum, d_model, half the context, tokens
    assert counter.get_total_flops() in (total - attention, total + attention)


def test_norms_equal_pytorchs():
    x = torch.randn(3, 5, 24) * 4 + 2
    torch.testing.assert_close(LayerNorm(24)(x), torch.nn.LayerNorm(24)(x))
    torch.testing.assert_close(RMSNorm(24)(x), torch.nn.RMSNorm(24, eps=1e-5)(x))


def test_rotary_scores_depend_on_the_distance_alone():
    rotary = RotaryEmbedding(head_dim=16, context_length=64)
    q, k = torch.randn(16), torch.randn(16)

    def turn(vector: torch.Tensor, position: int) -> torch.Tensor:
        return rotary(slice(position, position + 1))(vector.view(1, 1, 1, 16)).flatten()

    def score(query_position: int, key_position: int) -> torch.Tensor:
        return turn(q, query_position) @ turn(k, key_position)

    torch.testing.assert_close(score(10, 3), score(57, 50), atol=1e-5, rtol=1e-5)
    assert not torch.isclose(score(10, 3), score(10, 4))


def test_rotary_equals_multiplication_by_a_complex_number():
    rotary = RotaryEmbedding(head_dim=8, context_length=32, theta=100.0)
    x = torch.randn(2, 3, 5, 8, dtype=torch.float32)
    pairs = torch.complex(x[..., :4], x[..., 4:])
    angles = torch.arange(7, 12)[:, None] * 100.0 ** (-torch.arange(4) / 4)
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    torch.testing.assert_close(rotary(slice(7, 12))(x), torch.cat([turned.real, turned.imag], -1), atol=1e-5, rtol=1e-5)


def test_more_tokens_than_the_context_are_refused():
    with pytest.raises(ValueError, match="17 tokens do not fit the context length of 16"):
        small_model(LLAMA_STYLE)(torch.zeros(1, 17, dtype=torch.long))


def test_a_tied_head_is_the_embedding():
    model = small_model(GPT2_STYLE)
    assert model.head.weight is model.token_embedding.weight


def test_zero_init_makes_every_block_the_identity():
    model = small_model(OWN_STYLE, zero_init_residual=True)
    x = torch.randn(1, 4, 32)
    assert all(torch.equal(block(x, model.rotary(slice(0, 4))), x) for block in model.blocks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 30}, "30 / 4 is not whole"),
        ({"num_layers": 0}, "num_layers must be at least 1, got 0"),
        ({"dropout": 1.0}, "dropout"),
        ({"num_kv_heads": 3}, "num_kv_heads must divide"),
        ({"d_model": 12, "num_heads": 4}, "even head size"),
    ],
)
def test_impossible_models_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        GPTConfig(**{"vocab_size": 61, "num_heads": 4, "d_model": 32, **changes})


# --- sampling ---------------------------------------------------------------------------------


@given(k=st.integers(1, 12), logits=st.lists(st.integers(-50, 50), min_size=2, max_size=12, unique=True))
def test_top_k_keeps_the_k_largest(k, logits):
    kept = keep_top_k(torch.tensor(logits, dtype=torch.float32), k).isfinite()
    expected = sorted(logits)[-k:]
    assert [value for value, keep in zip(logits, kept.tolist(), strict=True) if keep] == [
        v for v in logits if v in expected
    ]


@settings(deadline=None)
@given(p=st.floats(0.01, 1.0), logits=st.lists(st.floats(-8, 8), min_size=1, max_size=12))
def test_top_p_keeps_the_smallest_set_that_reaches_p(p, logits):
    tensor = torch.tensor(logits, dtype=torch.float64)
    probabilities = tensor.softmax(-1)
    kept = keep_top_p(tensor, p).isfinite()
    mass = probabilities[kept].sum().item()
    assert mass >= p - 1e-9
    assert probabilities[kept].max() == probabilities.max()
    if p < 1.0:  # without its least likely member the set would not do
        assert mass - probabilities[kept].min().item() < p + 1e-9


def test_temperature_zero_takes_the_largest_and_a_seed_repeats_the_draw():
    logits = torch.randn(100)
    assert sample_next_token(logits, SamplingParameters(temperature=0), torch.Generator()) == int(logits.argmax())
    parameters = SamplingParameters(seed=7, temperature=1.0, top_p=1.0)
    draws = [
        [sample_next_token(logits, parameters, g) for _ in range(20)]
        for g in (parameters.generator(), parameters.generator())
    ]
    assert draws[0] == draws[1]
    assert len(set(draws[0])) > 1


def test_sampled_frequencies_follow_the_softmax():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    parameters = SamplingParameters(temperature=0.5, top_p=1.0, seed=1)
    generator = parameters.generator()
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[sample_next_token(logits, parameters, generator)] += 1
    expected = (logits / 0.5).softmax(-1) * 4000
    chi_square = ((counts - expected) ** 2 / expected).sum().item()
    assert chi_square < 16.3  # 99.9 % quantile for 3 degrees of freedom


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"temperature": -0.1},
        {"temperature": float("nan")},
        {"top_k": -1},
        {"top_p": 0.0},
        {"seed": -1},
    ],
)
def test_impossible_sampling_values_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParameters(**wrong)


def test_generation_runs_past_the_context_by_dropping_the_older_half():
    model = small_model(LLAMA_STYLE)
    ids = list(itertools.islice(generate(model, [1, 2, 3], SamplingParameters(max_tokens=50, seed=0)), 50))
    assert len(ids) == 50
    assert shift_context([1, 2, 3], 4) == [1, 2, 3]
    assert shift_context([1, 2, 3, 4], 4) == [3, 4]
    assert shift_context([1], 1) == [1]
