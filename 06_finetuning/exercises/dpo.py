"""Exercise 6.6: DPO and IPO."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from finetuning.dpo import PreferenceConfig


def preference_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    config: PreferenceConfig,
) -> Tensor:
    """The loss of direct preference optimization, as the mean over pairs.

        margin = [ln π(chosen) - ln π₀(chosen)] - [ln π(rejected) - ln π₀(rejected)]

        dpo:  -(1 - ε) ln σ(β margin) - ε ln σ(-β margin)        (Rafailov et al., 2023; ε: label smoothing)
        ipo:  (margin - 1 / (2 β))²                               (Azar et al., 2023)

    Args:
        policy_chosen: (pairs,) ln π of each better answer.
        policy_rejected: (pairs,) ln π of the worse answers.
        reference_chosen: (pairs,) ln π₀ of the better answers, where π₀ is the model before training.
        reference_rejected: (pairs,) ln π₀ of the worse answers.
        config: `config.loss` is "dpo" or "ipo", `config.beta` is β, `config.label_smoothing` is ε (dpo only).

    Returns:
        A scalar, differentiable.
    """
    raise NotImplementedError("Exercise 6.6: prefer the better answer, measured from where the model began")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from learn.exercise import Case, Exercise, Mistake


def _loss_and_gradients(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    result.backward()
    return {
        "loss": result.detach(),
        "gradient of policy_chosen": arguments[0].grad,
        "gradient of policy_rejected": arguments[1].grad,
    }


def cases() -> Iterator[Case]:
    """The beginning; moved; far; smoothing; ipo; gradients."""

    def pairs(count: int, scale: float = 1.0) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        return [-scale * torch.rand(count, generator=generator, dtype=torch.float64) for _ in range(4)]

    same = pairs(3)
    yield Case("nothing has moved yet: ln 2", [*same[:2], *(x.clone() for x in same[:2]), PreferenceConfig()])
    yield Case("one pair, β = 0.5", [*pairs(1), PreferenceConfig(beta=0.5)])
    yield Case("five pairs", [*pairs(5, 20.0), PreferenceConfig(beta=0.3)])
    yield Case("margins of several thousand", [*pairs(3, 9000.0), PreferenceConfig(beta=1.0)])
    yield Case("label smoothing of 0.2", [*pairs(5, 20.0), PreferenceConfig(beta=0.3, label_smoothing=0.2)])
    smoothed = PreferenceConfig(beta=1.0, label_smoothing=0.2)
    yield Case("label smoothing, and margins of several thousand", [*pairs(3, 9000.0), smoothed])
    yield Case("ipo", [*pairs(5, 20.0), PreferenceConfig("ipo", beta=0.3)])
    yield Case("ipo, to which label smoothing does not apply", [*pairs(5), PreferenceConfig("ipo", 0.3, 0.2)])
    for config in (PreferenceConfig(beta=0.3), PreferenceConfig("ipo", beta=0.3)):
        arguments = pairs(5, 20.0)
        for policy in arguments[:2]:
            policy.requires_grad_()
        yield Case(f"the gradients of {config.loss}", [*arguments, config], observe=_loss_and_gradients)


def _loss(a: Tensor, b: Tensor, c: Tensor, d: Tensor, config: PreferenceConfig, **wrong: bool) -> Tensor:
    margin = (a - c) - (b - d)
    if wrong.get("no_reference"):
        margin = a - b
    if wrong.get("reference_added"):
        margin = (a + c) - (b + d)
    if wrong.get("exchanged"):
        margin = -margin
    if wrong.get("of_means"):
        margin = margin.mean()
    if wrong.get("detached"):
        margin = margin.detach()
    if config.loss == "ipo" and not wrong.get("always_dpo"):
        target = 1 / config.beta if wrong.get("twice_the_target") else 1 / (2 * config.beta)
        if wrong.get("half_beta"):
            target = 0.5 * config.beta
        squares = (margin * (config.beta if wrong.get("scaled_for_ipo") else 1.0) - target).square()
        if wrong.get("ipo_smoothed"):
            squares = (1 - config.label_smoothing) * squares + config.label_smoothing * (margin + target).square()
        return squares.mean()
    scaled = margin * (1.0 if wrong.get("no_beta") else config.beta)
    smoothing = 0.0 if wrong.get("no_smoothing") else config.label_smoothing
    if wrong.get("underflowing"):
        return (-(1 - smoothing) * scaled.sigmoid().log() - smoothing * (-scaled).sigmoid().log()).mean()
    if wrong.get("one_minus") and smoothing:
        return (-(1 - smoothing) * F.logsigmoid(scaled) - smoothing * (1 - scaled.sigmoid()).log()).mean()
    if wrong.get("one_term"):
        return -(1 - smoothing) * F.logsigmoid(scaled).mean()
    return (-(1 - smoothing) * F.logsigmoid(scaled) - smoothing * F.logsigmoid(-scaled)).mean()


def _mistaken(name: str) -> Callable[..., Any]:
    def preference_loss(
        policy_chosen: Tensor,
        policy_rejected: Tensor,
        reference_chosen: Tensor,
        reference_rejected: Tensor,
        config: PreferenceConfig,
    ) -> Tensor:
        wrong = {name: True}
        return _loss(policy_chosen, policy_rejected, reference_chosen, reference_rejected, config, **wrong)

    return preference_loss


EXERCISE = Exercise(
    stub=preference_loss,
    reference="finetuning.dpo:preference_loss",
    cases=cases,
    hints=(
        "First compute the margin for each pair. Everything else is a function of it.",
        "ln σ is F.logsigmoid, which stays finite. β multiplies the margin inside it.",
        "scaled = config.beta * margin; (-(1 - eps) * F.logsigmoid(scaled) - eps * F.logsigmoid(-scaled)).mean(); ipo: "
        "(margin - 1 / (2 * config.beta)).square().mean().",
    ),
    mistakes=(
        Mistake(_mistaken("no_reference"), "the margin is measured from the reference: subtract ln π₀ of each answer"),
        Mistake(
            _mistaken("reference_added"),
            "ln π₀ is subtracted: what counts is how much more likely an answer has become",
        ),
        Mistake(
            _mistaken("exchanged"), "the margin is of the chosen answer over the rejected one: this is its negative"
        ),
        Mistake(_mistaken("no_beta"), "the margin is multiplied by β inside σ"),
        Mistake(_mistaken("underflowing"), "σ underflows to 0 for large margins: use F.logsigmoid"),
        Mistake(_mistaken("no_smoothing"), "label smoothing assumes that a share ε of the preferences is wrong"),
        Mistake(_mistaken("one_term"), "the share ε of the pairs has a loss too: - ε ln σ(-β margin)"),
        Mistake(
            _mistaken("one_minus"), "σ(-x) is 1 - σ(x), which rounds to 0 for a large margin: use F.logsigmoid(-scaled)"
        ),
        Mistake(
            _mistaken("of_means"), "the loss of each pair comes first, then the mean: a mean margin lets pairs cancel"
        ),
        Mistake(_mistaken("ipo_smoothed"), "label smoothing is for dpo only"),
        Mistake(_mistaken("detached"), "a loss is there to train with: gradients must flow back to the policy"),
        Mistake(_mistaken("scaled_for_ipo"), "ipo takes the margin itself, without β"),
        Mistake(_mistaken("half_beta"), "1 / (2 β) divides by β, but 1 / 2 * β multiplies by it"),
        Mistake(_mistaken("always_dpo"), "for ipo the loss is (margin - 1 / (2 β))²"),
        Mistake(_mistaken("twice_the_target"), "the target of ipo is 1 / (2 β)"),
    ),
)
