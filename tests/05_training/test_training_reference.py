"""Stage 5: the code written from scratch gives PyTorch's numbers, step by step."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from training.data.batches import IGNORED
from training.loss import LossConfig, cross_entropy, linear_cross_entropy, next_token_loss
from training.optimizers.adamw import AdamW
from training.optimizers.gradient_clipping import clip_gradients
from training.optimizers.muon import Muon, orthogonalise
from training.optimizers.schedule import ScheduleConfig, learning_rate_factor
from training.optimizers.sgd import SGD
from training.optimizers.weight_average import WeightAverage
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

STEPS = 100


def _follow(ours, theirs, mine: nn.Module, reference: nn.Module, atol: float, rtol: float) -> None:
    """Take 100 steps on the same data with both; compare the weights after each."""
    for _ in range(STEPS):
        x, y = torch.randn(16, 8), torch.randn(16, 4)
        for model, optimizer in ((mine, ours), (reference, theirs)):
            optimizer.zero_grad()
            F.mse_loss(model(x), y).backward()
            optimizer.step()
        for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
            torch.testing.assert_close(a, b, atol=atol, rtol=rtol)


def _twins(*, bias: bool = True) -> tuple[nn.Module, nn.Module]:
    model = nn.Sequential(nn.Linear(8, 32, bias=bias), nn.Tanh(), nn.Linear(32, 4, bias=bias))
    return model, copy.deepcopy(model)


@pytest.mark.parametrize("fused", [False, True])
def test_adamw_equals_pytorchs_over_100_steps(fused):
    mine, reference = _twins()
    options = {"lr": 3e-3, "betas": (0.9, 0.95), "weight_decay": 0.1}
    theirs = torch.optim.AdamW(reference.parameters(), fused=fused, **options)
    _follow(AdamW(mine.parameters(), **options), theirs, mine, reference, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize(("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.01)])
def test_sgd_equals_pytorchs_over_100_steps(momentum, weight_decay):
    mine, reference = _twins()
    options = {"lr": 0.05, "momentum": momentum, "weight_decay": weight_decay}
    theirs = torch.optim.SGD(reference.parameters(), **options)
    _follow(SGD(mine.parameters(), **options), theirs, mine, reference, atol=1e-6, rtol=1e-5)


def test_muon_equals_pytorchs_over_100_steps():
    mine, reference = _twins(bias=False)
    options = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    theirs = torch.optim.Muon(reference.parameters(), **options)
    # Both orthogonalise in bfloat16, one matrix at a time or several together. So a step of 0.02 differs in its
    # third digit, and over a hundred steps the weights move apart.
    _follow(Muon(mine.parameters(), **options), theirs, mine, reference, atol=0.02, rtol=0.05)


def test_one_step_of_muon_is_pytorchs_to_bfloat16():
    mine, reference = nn.Linear(16, 64, bias=False), nn.Linear(16, 64, bias=False)
    reference.load_state_dict(mine.state_dict())
    gradient = torch.randn(64, 16)
    before = mine.weight.detach().clone()
    for layer, optimizer in ((mine, Muon), (reference, torch.optim.Muon)):
        layer.weight.grad = gradient.clone()
        optimizer(layer.parameters(), lr=0.02, momentum=0.95, weight_decay=0.1).step()
    difference = (mine.weight - reference.weight).norm()
    assert difference < 2**-7 * (mine.weight - before).norm()


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 16), (3, 24, 48)])
def test_orthogonalised_matrices_keep_directions_and_lose_lengths(shape):
    matrix = torch.randn(*shape)
    result = orthogonalise(matrix).float()
    values = torch.linalg.svdvals(result)
    assert values.max() < 1.3 and values.median() > 0.6
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inside = u.mT @ result @ v.mT  # diagonal where the singular vectors are the same
    off_diagonal = inside - torch.diag_embed(inside.diagonal(dim1=-2, dim2=-1))
    assert off_diagonal.norm() < 0.05 * inside.norm()


def test_muon_refuses_what_is_no_matrix():
    with pytest.raises(ValueError, match=r"shape \(5,\)"):
        Muon([nn.Parameter(torch.ones(5))], lr=0.1)


@pytest.mark.parametrize("max_norm", [0.0, 0.5, 100.0])
def test_clipping_equals_pytorchs(max_norm):
    mine, reference = _twins()
    for model in (mine, reference):
        model(torch.ones(3, 8)).square().sum().backward()
    norm = clip_gradients(mine.parameters(), max_norm)
    expected = nn.utils.clip_grad_norm_(reference.parameters(), max_norm or math.inf)
    assert norm == pytest.approx(float(expected), rel=1e-6)
    for a, b in zip(mine.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-7, rtol=1e-5)


def test_clipping_leaves_gradients_that_are_no_numbers_alone():
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[math.inf, 1.0]])
    assert clip_gradients(layer.parameters(), 1.0) == math.inf
    assert layer.weight.grad.tolist() == [[math.inf, 1.0]]


def test_the_moving_average_equals_pytorchs_over_100_steps():
    model, _ = _twins()
    ours = WeightAverage(model, 0.9)
    theirs = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    theirs.update_parameters(model)  # its first update copies
    for _ in range(STEPS):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        ours.update()
        theirs.update_parameters(model)
    with ours.applied():
        for mine, reference in zip(model.parameters(), theirs.module.parameters(), strict=True):
            torch.testing.assert_close(mine, reference, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("smoothing", "z_loss", "softcap"), [(0.0, 0.0, None), (0.1, 0.0, None), (0.0, 0.01, 5.0), (0.2, 0.01, None)]
)
@pytest.mark.parametrize("ignored", [False, True])
def test_losses_and_gradients_equal_pytorchs(smoothing, z_loss, softcap, ignored, monkeypatch):
    monkeypatch.setattr("training.loss.CHUNK_TOKENS", 7)
    hidden = torch.randn(2, 10, 16, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(50, 16, dtype=torch.float64, requires_grad=True)
    targets = torch.randint(50, (2, 10))
    if ignored:
        targets[0, :4] = IGNORED
    logits = (hidden @ weight.T).flatten(0, 1)
    logits = logits if softcap is None else softcap * (logits / softcap).tanh()
    expected = F.cross_entropy(logits, targets.flatten(), label_smoothing=smoothing, ignore_index=IGNORED)
    counted = targets.flatten() != IGNORED
    expected = expected + z_loss * logits.logsumexp(-1)[counted].square().mean()
    whole = cross_entropy(logits, targets.flatten(), smoothing, z_loss)
    torch.testing.assert_close(whole.sum() / counted.sum(), expected)
    assert not whole[~counted].any()
    ours = linear_cross_entropy(hidden, weight, targets, softcap, smoothing, z_loss)
    torch.testing.assert_close(ours.double(), expected, atol=1e-6, rtol=1e-6)
    with torch.no_grad():
        plain = linear_cross_entropy(hidden, weight, targets, softcap, smoothing, z_loss)
    torch.testing.assert_close(plain, ours.detach(), atol=1e-6, rtol=1e-6)
    for mine, theirs in zip(
        torch.autograd.grad(ours, (hidden, weight)), torch.autograd.grad(expected, (hidden, weight)), strict=True
    ):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-6)


def test_a_batch_with_nothing_to_predict_has_no_loss_and_no_gradient():
    hidden, weight = torch.randn(4, 8, requires_grad=True), torch.randn(11, 8)
    loss = linear_cross_entropy(hidden, weight, torch.full((4,), IGNORED))
    loss.backward()
    assert loss.item() == 0.0
    assert not hidden.grad.any()


def test_validation_measures_the_cross_entropy_alone():
    model = GPTModel(GPTConfig(vocab_size=17, context_length=8, num_layers=1, num_heads=2, d_model=16))
    tensors = {"inputs": torch.randint(17, (2, 8)), "targets": torch.randint(17, (2, 8))}
    extra = next_token_loss(LossConfig(label_smoothing=0.2, z_loss=0.1))
    assert extra(model.train(), tensors) > next_token_loss()(model, tensors) + 0.01
    assert torch.equal(extra(model.eval(), tensors), next_token_loss()(model, tensors))


def _pytorch_factors(build, peak_step: int, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build(optimizer)
    factors = []
    for _ in range(steps - peak_step):
        factors.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return factors


def test_cosine_and_linear_equal_pytorchs_schedulers():
    schedulers = torch.optim.lr_scheduler
    cosine = _pytorch_factors(lambda o: schedulers.CosineAnnealingLR(o, 90, eta_min=0.1), 10, STEPS)
    linear = _pytorch_factors(lambda o: schedulers.LinearLR(o, 1.0, 0.1, 90), 10, STEPS)
    for kind, expected in (("cosine", cosine), ("linear", linear)):
        config = ScheduleConfig(kind, warmup_steps=10, final_fraction=0.1)
        assert [learning_rate_factor(s, STEPS, config) for s in range(10, STEPS)] == pytest.approx(expected, abs=1e-6)


def test_inverse_sqrt_falls_like_one_over_sqrt_t():
    config = ScheduleConfig("inverse_sqrt", warmup_steps=10)
    factors = [learning_rate_factor(step, 10**9, config) for step in range(1000)]
    assert factors[9] == 1.0
    assert all(factors[t] == pytest.approx(math.sqrt(10 / (t + 1))) for t in range(10, 1000))
    without = ScheduleConfig("inverse_sqrt", warmup_steps=0)
    assert learning_rate_factor(24, 100, without) == pytest.approx(1 / 5)


def test_wsd_is_stable_then_falls_to_the_end():
    config = ScheduleConfig("wsd", warmup_steps=5, final_fraction=0.0, decay_fraction=0.2)
    factors = [learning_rate_factor(step, 100, config) for step in range(100)]
    assert set(factors[5:81]) == {1.0}
    assert factors[80:] == pytest.approx([1 - i / 20 for i in range(20)])
