"""Stage 3: every value that a sampling parameter may have gives the exact distribution, and no forbidden token."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import (
    LogitsError,
    SamplingParameters,
    draw_token,
    generate,
    generate_batch,
    process_logits,
    sample_next_token,
)

FORBIDDEN = {0: -math.inf, 7: -math.inf, 39: -math.inf}
COLDEST = [1e-3, 1e-6, 1e-30, 1e-38, 1e-39, 1e-300, 5e-324]
EXTREMES = {
    "temperature": [0.0, *COLDEST, 100.0],
    "top_k": [1, 2, 39, 40, 41, 10**18],
    "top_p": [5e-324, 1e-300, 1e-45, 1e-38, 1 - 1e-16, 1 - 1e-7],
    "min_p": [5e-324, 1e-45, 1 - 1e-16, 1.0],
    "typical_p": [5e-324, 1e-45, 1e-38, 1 - 1e-16],
    "repetition_penalty": [5e-324, 1e-300, 1e-39, 1e-5, 100.0],
    "presence_penalty": [-100.0, 100.0],
    "frequency_penalty": [-100.0, 100.0, 5e-324],
    "logit_bias": [{3: 1e9, 4: 1e9}, {3: -1e9}, {3: 100.0, 5: 100.0}, dict.fromkeys(range(40), 1e9), {3: 5e-324}],
}


def some_logits(seed: int = 0) -> torch.Tensor:
    return torch.randn(40, generator=torch.Generator().manual_seed(seed)) * 3


def distribution(logits: torch.Tensor, **parameters) -> torch.Tensor:
    given = SamplingParameters(**{"temperature": 1.0, "top_p": 1.0, **parameters})
    return process_logits(logits, given, prompt=[1, 2, 2], generated=[2, 3, 9, 9]).softmax(-1)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in EXTREMES.items() for value in values])
def test_no_extreme_draws_a_forbidden_token_or_none(name, value):
    bias = FORBIDDEN | (value if name == "logit_bias" else {})
    bias |= FORBIDDEN
    given = {name: value, "logit_bias": bias, "seed": 0}
    for temperature in (1.0, 1e-39) if name != "temperature" else (value,):
        parameters = SamplingParameters(**{"top_p": 1.0, "temperature": temperature, **given})
        generator = parameters.generator()
        for seed in range(5):
            token = sample_next_token(some_logits(seed), parameters, generator, [1, 2, 7], [0, 3, 3])
            assert token not in FORBIDDEN


@pytest.mark.parametrize("temperature", COLDEST)
def test_a_cold_distribution_is_the_exact_one(temperature):
    """Also where two logits differ by the last bit of float32, or by its smallest number."""
    for pair in ([20.0, math.nextafter(20.0, 0.0)], [1.0, 1.0], [1e-45, 0.0], [3e38, -3e38], [-5.0, -5.000001]):
        logits = torch.tensor([*pair, pair[1] - 1.0])
        difference = (logits[1].double() - logits[0].double()).item()
        expected = 1 / (1 + math.exp(max(-745.0, difference / temperature)))  # of the first two; the third is far away
        found = distribution(torch.cat([logits, torch.full((37,), -3e38)]), temperature=temperature)
        assert found[0].item() == pytest.approx(expected, abs=1e-5), pair


def test_a_cold_temperature_is_greedy_where_one_token_is_ahead():
    for seed, temperature in itertools.product(range(10), COLDEST[2:]):
        logits = some_logits(seed)
        parameters = SamplingParameters(temperature=temperature, top_p=1.0, seed=seed)
        assert sample_next_token(logits, parameters, parameters.generator()) == int(logits.argmax())


@pytest.mark.parametrize("share", [5e-324, 1e-300, 1e-46, 1e-45])
def test_the_smallest_share_keeps_the_most_likely_token(share):
    for size in (40, 3000):  # a large vocabulary takes another path
        logits = torch.randn(size)
        kept = process_logits(logits, SamplingParameters(temperature=1.0, top_p=share)).isfinite()
        assert kept.nonzero().flatten().tolist() == [int(logits.argmax())]


def test_a_share_next_to_one_drops_only_what_is_beyond_it():
    logits = torch.tensor([10.0, 0.0, -10.0, -30.0, -60.0])
    probabilities = logits.double().softmax(-1)
    for share in (1 - 1e-6, 1 - 1e-9, 1 - 1e-12):
        kept = process_logits(logits, SamplingParameters(temperature=1.0, top_p=share)).isfinite()
        before = probabilities.flip(0).cumsum(0).flip(0)  # of this token and the less likely ones
        assert kept.tolist() == (before > 1 - share).tolist()


def test_a_large_bias_keeps_what_the_model_says_about_the_tokens_that_have_it():
    logits = some_logits()
    exact = distribution(logits[3:6])
    for bias in (100.0, 1e5, 1e9):
        found = distribution(logits, logit_bias=dict.fromkeys((3, 4, 5), bias), repetition_penalty=1.0)
        torch.testing.assert_close(found[3:6].float(), exact.float(), atol=1e-4, rtol=0)


def test_a_large_penalty_keeps_what_the_model_says_about_the_tokens_that_have_it():
    logits, generated = some_logits(), [3, 4, 5] * 2000
    parameters = SamplingParameters(temperature=1.0, top_p=1.0, frequency_penalty=-100.0)
    found = process_logits(logits, parameters, (), generated).softmax(-1)
    torch.testing.assert_close(found[3:6].float(), logits[3:6].softmax(-1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": 1e308},
        {"temperature": 100.0001},
        {"temperature": math.inf},
        {"temperature": -5e-324},
        {"top_p": -5e-324},
        {"top_p": math.nextafter(1.0, 2.0)},
        {"min_p": math.nextafter(1.0, 2.0)},
        {"typical_p": math.nan},
        {"repetition_penalty": -5e-324},
        {"repetition_penalty": math.inf},
        {"presence_penalty": 1e308},
        {"frequency_penalty": -math.inf},
        {"logit_bias": {1: 1.1e9}},
        {"logit_bias": {1: -1e308}},
        {"logit_bias": {1: math.nan}},
    ],
)
def test_what_is_out_of_range_is_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SamplingParameters(**wrong)


def test_the_last_token_is_not_drawn_by_rounding(monkeypatch):
    """The largest random number times the sum is rounded to the sum."""
    largest = torch.tensor(math.nextafter(1.0, 0.0), dtype=torch.float64)
    monkeypatch.setattr(torch, "rand", lambda *_, **__: largest)
    for scale in (1.0, 1e-300, 3.0):
        assert draw_token(torch.tensor([0.3, 0.6, 0.0], dtype=torch.float64) * scale, torch.Generator()) == 1
    for place in (0.0, 5e-324):
        monkeypatch.setattr(torch, "rand", lambda *_, place=place, **__: torch.tensor(place, dtype=torch.float64))
        assert draw_token(torch.tensor([0.0, 1e-310, 1.0], dtype=torch.float64), torch.Generator()) == 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0, 1e-39])
def test_logits_that_are_no_numbers_give_an_error_and_not_a_token(bad, temperature):
    parameters = SamplingParameters(max_tokens=3, temperature=temperature, seed=0)
    logits = some_logits()
    logits[11] = bad
    with pytest.raises(LogitsError, match="1 of 40 logits are nan or infinite"):
        sample_next_token(logits, parameters, parameters.generator())
    model = GPTModel(GPTConfig(vocab_size=40, context_length=8, num_layers=1, num_heads=2, d_model=16)).eval()
    with torch.no_grad():
        model.final_norm.weight[2] = bad
    for run in (
        lambda: list(generate(model, [1], parameters)),
        lambda: generate_batch(model, [[1], [2, 3]], parameters),
    ):
        with pytest.raises(LogitsError, match="no token can be drawn"):
            run()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_if_every_token_is_forbidden_none_is_drawn(temperature):
    bias = dict.fromkeys(range(40), -math.inf)
    parameters = SamplingParameters(temperature=temperature, logit_bias=bias, seed=0)
    with pytest.raises(LogitsError, match="is every token forbidden"):
        sample_next_token(some_logits(), parameters, parameters.generator())


def test_large_finite_logits_are_numbers():
    parameters = SamplingParameters(temperature=1.0, top_p=1.0, seed=0)
    logits = torch.full((40,), 3e38)  # their sum is infinite
    assert 0 <= sample_next_token(logits, parameters, parameters.generator()) < 40
