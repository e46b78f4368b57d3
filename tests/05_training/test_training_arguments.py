"""Stage 5: what a newcomer may pass by mistake gives the right numbers or one clear error."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from training.data.batches import IGNORED
from training.loss import cross_entropy, linear_cross_entropy
from training.optimizers.adamw import AdamW
from training.optimizers.gradient_clipping import clip_gradients
from training.optimizers.muon import Muon, orthogonalise
from training.optimizers.parameter_groups import OptimizerConfig
from training.optimizers.schedule import ScheduleConfig, learning_rate_factor
from training.optimizers.sgd import SGD
from training.optimizers.weight_average import WeightAverage


@pytest.mark.parametrize("shape", [(), (6,), (2, 3), (5, 5), (2, 1, 3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_cross_entropy_takes_any_leading_axes_as_pytorchs_flattened(shape, dtype):
    logits, targets = torch.randn(*shape, 5).to(dtype).requires_grad_(), torch.randint(5, shape)
    if targets.ndim:
        targets.view(-1)[0] = IGNORED
    accurate = logits.detach().double().requires_grad_()
    expected = F.cross_entropy(accurate.view(-1, 5), targets.view(-1), reduction="none", label_smoothing=0.1)
    losses = cross_entropy(logits, targets, label_smoothing=0.1)
    torch.testing.assert_close(losses.double(), expected.view(shape), atol=1e-5, rtol=1e-5)
    losses.sum().backward()
    expected.sum().backward()
    torch.testing.assert_close(
        logits.grad.double(), accurate.grad, atol=1e-2 if dtype == torch.bfloat16 else 1e-6, rtol=1e-2
    )


def test_the_vocabulary_as_second_axis_is_refused():
    logits, targets = torch.randn(2, 7, 3), torch.randint(7, (2, 3))
    F.cross_entropy(logits, targets)  # PyTorch's convention
    with pytest.raises(ValueError, match=r"targets \(2, 3\) need logits \(2, 3, 'vocab'\), got \(2, 7, 3\)"):
        cross_entropy(logits, targets)


@pytest.mark.parametrize("target", [-1, 5])
def test_a_target_outside_the_vocabulary_is_not_taken_for_another(target):
    targets = torch.tensor([0, target])
    with pytest.raises(RuntimeError, match=f"index {target} is out of bounds"):
        cross_entropy(torch.randn(2, 5), targets)
    with pytest.raises(RuntimeError, match=f"index {target} is out of bounds"):
        linear_cross_entropy(torch.randn(2, 3), torch.randn(5, 3), targets)


def test_what_is_ignored_may_be_nan():
    logits = torch.zeros(2, 4)
    logits[1] = torch.nan
    assert cross_entropy(logits, torch.tensor([3, IGNORED])).tolist() == pytest.approx([math.log(4), 0.0])


def test_hidden_states_without_a_target_are_refused():
    with pytest.raises(ValueError, match=r"targets \(2, 2\) need hidden \(2, 2, 'd_model'\), got \(2, 3, 4\)"):
        linear_cross_entropy(torch.randn(2, 3, 4), torch.randn(5, 4), torch.randint(5, (2, 2)))


@pytest.mark.parametrize("kind", ["cosine", "linear", "wsd", "inverse_sqrt", "constant"])
@pytest.mark.parametrize("warmup_steps", [0, 4, 20])
def test_a_schedule_stays_at_its_end_past_the_last_step(kind, warmup_steps):
    config = ScheduleConfig(kind, warmup_steps, 0.1, 0.3)
    end = learning_rate_factor(10, 10, config)
    assert [learning_rate_factor(step, 10, config) for step in (11, 15, 21, 1000)] == [end] * 4
    assert 0.0 < end <= learning_rate_factor(9, 10, config) or warmup_steps == 20
    if kind in ("cosine", "linear", "wsd") and warmup_steps < 10:
        assert end == pytest.approx(0.1)


@pytest.mark.parametrize(("step", "max_steps"), [(-5, 10), (0, 0), (3, -1)])
def test_a_schedule_without_a_step_is_refused(step, max_steps):
    with pytest.raises(ValueError, match=f"got step {step} of {max_steps}"):
        learning_rate_factor(step, max_steps, ScheduleConfig("cosine", 4))


OPTIMIZERS = [(AdamW, torch.optim.AdamW), (SGD, torch.optim.SGD), (Muon, torch.optim.Muon)]


@pytest.mark.parametrize(("ours", "theirs"), OPTIMIZERS)
def test_step_calls_a_closure_with_gradients_on_and_returns_its_loss(ours, theirs):
    start, parameters = torch.randn(3, 4), []
    for kind in (ours, theirs):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = kind([parameter], lr=0.1, weight_decay=0.0)

        def closure(parameter=parameter, optimizer=optimizer):
            optimizer.zero_grad()
            loss = parameter.square().sum()
            loss.backward()
            return loss

        assert optimizer.step(closure).item() == pytest.approx(start.square().sum().item())
        assert optimizer.step() is None
        parameters.append(parameter.detach())
    torch.testing.assert_close(parameters[0], parameters[1], atol=0.05 if ours is Muon else 1e-6, rtol=1e-5)
    assert not torch.equal(parameters[0], start)


@pytest.mark.parametrize("name", ["lr", "weight_decay"])
@pytest.mark.parametrize("optimizer", [AdamW, SGD, Muon])
@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_negative_rate_or_decay_is_refused_in_any_group(optimizer, name, value):
    parameter = torch.nn.Parameter(torch.ones(2, 2))
    with pytest.raises(ValueError, match=f"{name} must not be negative, got {value}"):
        optimizer([parameter], **({"lr": 0.1} | {name: value}))
    with pytest.raises(ValueError, match=f"{name} must not be negative, got {value}"):
        optimizer([{"params": [parameter], name: value}], lr=0.1)


@pytest.mark.parametrize(
    ("optimizer", "name", "settings"),
    [
        (AdamW, "beta2", {"betas": (0.9, 1.0)}),
        (AdamW, "beta1", {"betas": (-0.1, 0.9)}),
        (SGD, "momentum", {"momentum": -0.5}),
        (Muon, "momentum", {"momentum": 1.5}),
    ],
)
def test_a_memory_outside_its_range_is_refused(optimizer, name, settings):
    with pytest.raises(ValueError, match=f"{name} must be at least 0 and below 1"):
        optimizer([torch.nn.Parameter(torch.ones(2, 2))], lr=0.1, **settings)


def test_orthogonalise_takes_matrices_only_in_any_order_of_memory():
    with pytest.raises(ValueError, match=r"only a matrix can be made orthogonal, got the shape \(4,\)"):
        orthogonalise(torch.randn(4))
    stacked = torch.randn(2, 3, 4, 5).transpose(0, 1)
    torch.testing.assert_close(orthogonalise(stacked), orthogonalise(stacked.contiguous()))


def test_gradients_are_clipped_for_one_parameter_and_never_turned_around():
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.full((3,), 10.0)
    with pytest.raises(ValueError, match=r"max_norm must not be negative, got -1\.0"):
        clip_gradients([parameter], -1.0)
    assert clip_gradients(parameter, 1.0) == pytest.approx(300**0.5)
    assert parameter.grad.norm().item() == pytest.approx(1.0, rel=1e-4)


@pytest.mark.parametrize("decay", [-0.1, 1.0, 2.0])
def test_an_average_needs_a_share_as_its_decay(decay):
    with pytest.raises(ValueError, match="decay must be at least 0 and below 1"):
        WeightAverage(torch.nn.Linear(2, 2), decay)


def test_a_kind_that_nobody_knows_is_not_taken_for_another():
    with pytest.raises(ValueError, match=r"schedule\.kind must be one of cosine, .*; got 'cosin'"):
        ScheduleConfig("cosin")
    with pytest.raises(ValueError, match=r"optimizer\.name must be one of adamw, muon, sgd; got 'AdamW'"):
        OptimizerConfig("AdamW")
