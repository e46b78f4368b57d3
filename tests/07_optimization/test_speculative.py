"""Stage 7: speculative decoding changes the speed and nothing else."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from optimization.engine.engine import Engine
from optimization.engine.speculative import DraftModel, PromptLookup, accept_or_replace
from optimization.settings import EngineSettings
from tokenizer.character_tokenizer import CharacterTokenizer
from training.placement import Placement
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel
from transformer.sampling import SamplingParameters

# Probability that a chi-square variable with 15 degrees of freedom exceeds this: 1 in 10,000.
CHI_SQUARE_15 = 44.26


def chi_square(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    expected = probabilities * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["drawn", "certain"])
def test_accepting_and_replacing_gives_the_models_own_distribution(kind):
    generator = torch.Generator().manual_seed(0)
    p = torch.randn(16, generator=generator, dtype=torch.float64).mul(1.5).softmax(0)
    q = torch.randn(16, generator=generator, dtype=torch.float64).mul(1.5).softmax(0)
    counts, accepted = torch.zeros(16, dtype=torch.float64), 0
    n = 20_000
    for _ in range(n):
        guess = int(torch.multinomial(q, 1, generator=generator)) if kind == "drawn" else 3
        token, was_right = accept_or_replace(p, guess, q if kind == "drawn" else None, generator)
        counts[token] += 1
        accepted += was_right
        assert not was_right or token == guess
    assert chi_square(counts, p) < CHI_SQUARE_15
    assert chi_square(counts, q) > 10 * CHI_SQUARE_15  # the test can tell them apart
    # The theory: a guess drawn from q is right with probability sum min(p, q), and a certain guess with its p.
    rate = float(torch.minimum(p, q).sum()) if kind == "drawn" else float(p[3])
    assert accepted / n == pytest.approx(rate, abs=4 * (rate * (1 - rate) / n) ** 0.5)


def small_model(seed: int, layers: int = 1) -> GPTModel:
    torch.manual_seed(seed)
    model = GPTModel(GPTConfig(vocab_size=16, context_length=32, num_layers=layers, num_heads=2, d_model=16)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(3 if parameter.ndim > 1 else 1)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(
    "proposer", [DraftModel(small_model(1), num_tokens=3), PromptLookup(3, 2, 1)], ids=["draft", "lookup"]
)
def test_the_second_and_third_token_have_the_distribution_of_plain_sampling(proposer):
    """Whole texts, with temperature and top-p, compared with the exact probabilities of the model."""
    model = small_model(0)
    prompt = [1, 2, 3, 1, 2]
    parameters = {"max_tokens": 3, "temperature": 0.9, "top_p": 0.98}
    settings = EngineSettings(max_running=64, cache_tokens=4096)
    engine = Engine(
        model, CharacterTokenizer("abcdefghijklmnop"), Placement(torch.device("cpu"), torch.float32), settings, proposer
    )
    n = 2500
    texts = engine.generate_batch([prompt] * n, [SamplingParameters(seed=seed, **parameters) for seed in range(n)])
    from transformer.sampling import process_logits

    def distribution(ids: list[int]) -> torch.Tensor:
        with torch.no_grad():
            logits = model(torch.tensor([ids]))[0, -1]
        return process_logits(logits, SamplingParameters(**parameters)).softmax(0).double()

    first = distribution(prompt)
    pairs = {a: distribution([*prompt, a]) for a in range(16)}
    second = sum(first[a] * pairs[a] for a in range(16))
    third = sum(first[a] * pairs[a][b] * distribution([*prompt, a, b]) for a in range(16) for b in range(16))
    for place, expected in ((1, second), (2, third)):
        counts = torch.bincount(torch.tensor([text[place] for text in texts]), minlength=16).double()
        likely = expected > 5 / n  # where the approximation by chi-square holds
        rest = torch.tensor([counts[~likely].sum(), max(float(expected[~likely].sum()), 1e-9)])
        statistic = chi_square(counts[likely], expected[likely] / expected[likely].sum())
        assert statistic < CHI_SQUARE_15
        assert abs(rest[0] / n - rest[1]) < 0.02


def request(tokens: list[int]) -> SimpleNamespace:
    return SimpleNamespace(
        tokens=tokens, prompt=tokens, generated=[], number=0, parameters=SamplingParameters(temperature=0)
    )


def test_lookup_finds_what_followed_the_last_time():
    lookup = PromptLookup(num_tokens=3, longest=3, shortest=2)
    assert lookup.propose(request([1, 2, 3, 9, 8, 7, 1, 2, 3]), 10).tokens == [9, 8, 7]
    assert lookup.propose(request([1, 2, 3, 9, 8, 7, 1, 2, 3]), 2).tokens == [9, 8]
    assert lookup.propose(request([2, 3, 5, 2, 3, 6, 0, 2, 3]), 10).tokens == [6, 0, 2]  # the newest occurrence
    assert lookup.propose(request([4, 4, 4, 4]), 10).tokens == [4]
    assert lookup.propose(request([1, 2, 3, 4]), 10).tokens == []
    # Bytes that match but do not begin at an id are not a match: 1 · 2^8 contains the bytes of 1, shifted.
    assert lookup.propose(request([0, 256, 0, 0, 1, 0]), 10).tokens == []


def test_a_draft_model_forgets_its_wrong_guesses():
    model = small_model(1)
    draft = DraftModel(model, num_tokens=4)
    with torch.inference_mode():
        first = draft.propose(request([1, 2, 3]), 4).tokens
        other = [1, 2, 3, first[0], (first[1] + 1) % 16]
        again = draft.propose(request(other), 4).tokens
        assert again == DraftModel(model, num_tokens=4).propose(request(other), 4).tokens
        assert draft.propose(request(list(range(1, 15)) * 2), 40).tokens != []
        assert len(draft.propose(request([5] * 30), 4).tokens) == 2  # up to its context
        draft.forget(request([1]))
        assert not draft._seen


def test_impossible_settings_are_named():
    with pytest.raises(ValueError, match="num_tokens >= 1"):
        PromptLookup(0)
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        DraftModel(small_model(0), num_tokens=0)
    with pytest.raises(ValueError, match="both models need the same tokenizer"):
        DraftModel(small_model(0), vocab_size=17)
