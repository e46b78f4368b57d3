"""Exercise 6.8: The loss of GRPO."""

from __future__ import annotations

import torch
from torch import Tensor

from finetuning.grpo import GRPOConfig


def grpo_loss(
    new: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, counted: Tensor, config: GRPOConfig
) -> Tensor:
    """The clipped loss of policy optimization with a pull towards the reference (Shao et al., 2024).

        ρ         = π / π_old = exp(new - old)
        gain      = min(ρ A, clip(ρ, 1 - ε, 1 + ε) A)
        divergence = π₀/π - ln(π₀/π) - 1,  with π₀/π = exp(reference - new)

        loss = - mean over answers of the mean over an answer's tokens of (gain - β divergence)

    Args:
        new: (answers, time) log-probability of each token under the model.
        old: the same under the model that sampled the answers.
        reference: the same under the reference π₀.
        advantages: (answers,) A.
        counted: boolean (answers, time), True for the tokens of the answers; others do not count. An answer without
            tokens counts 0.
        config: `config.clip` is ε, `config.beta` is β.

    Returns:
        A scalar, differentiable with respect to `new`.
    """
    raise NotImplementedError("Exercise 6.8: gain, clip, divergence")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _loss_and_gradient(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    result.backward()
    return {"loss": result.detach(), "gradient of new": arguments[0].grad}


def cases() -> Iterator[Case]:
    """Nothing moved; moved; far; divergence; unequal lengths; an empty answer; one answer; another clip; gradients."""
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return -torch.rand(*shape, generator=generator, dtype=torch.float64)

    everything = torch.ones(2, 3, dtype=torch.bool)
    base = random(2, 3)
    plain = GRPOConfig(beta=0.0)
    advantages = torch.tensor([1.0, -0.7], dtype=torch.float64)
    yield Case(
        "nothing has moved: minus the mean advantage",
        [base, base.clone(), base.clone(), advantages * 2 + 1, everything, plain],
    )
    yield Case("small moves", [base + 0.1, base.clone(), base.clone(), advantages, everything, plain])
    far = base + torch.tensor([[0.5, -0.6, 0.1], [0.4, -0.5, 0.0]], dtype=torch.float64)
    yield Case("moves beyond the clip, on both sides", [far, base.clone(), base.clone(), advantages, everything, plain])
    yield Case(
        "the divergence, β = 0.5",
        [base.clone(), base.clone(), random(2, 3), advantages, everything, GRPOConfig(beta=0.5)],
    )
    some = torch.tensor([[True, True, True], [True, False, False]])
    yield Case(
        "answers of three tokens and of one", [far, base.clone(), random(2, 3), advantages, some, GRPOConfig(beta=0.1)]
    )
    none = torch.tensor([[True, True, False], [False, False, False]])
    yield Case("an answer without tokens", [far, base.clone(), base.clone(), advantages, none, plain])
    wide = GRPOConfig(clip=0.45, beta=0.0)
    one = [x[:1].clone() for x in (far, base, base, advantages, everything)]
    yield Case("one answer alone", [*one, plain])
    yield Case("one answer of one token", [*(x[:, :1].clone() for x in one[:3]), one[3], one[4][:, :1].clone(), plain])
    yield Case("a clip of 0.45", [far, base.clone(), base.clone(), advantages, everything, wide])
    for what, new in (("nothing has moved", base.clone()), ("moves beyond the clip", far.clone())):
        arguments = [new.requires_grad_(), base.clone(), random(2, 3), advantages, some, GRPOConfig(beta=0.1)]
        yield Case(f"the gradient where {what}", arguments, observe=_loss_and_gradient)


def _loss(
    new: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, counted: Tensor, config: GRPOConfig, **wrong: bool
) -> Tensor:
    ratio = (old - new if wrong.get("inverse_ratio") else new - old).exp()
    if wrong.get("ratio_detached"):
        ratio = ratio.detach()
    advantage = advantages.squeeze()[:, None] if wrong.get("squeezed") else advantages[:, None]
    if wrong.get("usual_clip"):
        config = GRPOConfig(beta=config.beta)
    clipped = ratio.clamp(1 - config.clip, 1 + config.clip) * advantage
    gain = torch.minimum(ratio * advantage, clipped)
    if wrong.get("clip_only"):
        gain = clipped
    if wrong.get("not_clipped"):
        gain = ratio * advantage
    if wrong.get("ratios_compared"):
        gain = torch.minimum(ratio, ratio.clamp(1 - config.clip, 1 + config.clip)) * advantage
    difference = reference - new if not wrong.get("divergence_reversed") else new - reference
    divergence = difference.exp() - difference - 1
    if wrong.get("plain_divergence"):
        divergence = new - reference
    beta = -config.beta if wrong.get("rewarded_divergence") else config.beta
    per_token = (gain - beta * divergence) * counted
    if wrong.get("over_all_tokens"):
        return -per_token.sum() / counted.sum()
    if wrong.get("padding_counted"):
        return -per_token.mean()
    lengths = counted.sum(dim=1)
    return -(per_token.sum(dim=1) / (lengths if wrong.get("empty") else lengths.clamp(min=1))).mean()


def _mistaken(name: str) -> Callable[..., Any]:
    def grpo_loss(
        new: Tensor, old: Tensor, reference: Tensor, advantages: Tensor, counted: Tensor, config: GRPOConfig
    ) -> Tensor:
        return _loss(new, old, reference, advantages, counted, config, **{name: True})

    return grpo_loss


EXERCISE = Exercise(
    stub=grpo_loss,
    reference="finetuning.grpo:grpo_loss",
    cases=cases,
    hints=(
        "Compute one number for each token, (answers, time), and take the two means only at the end.",
        "advantages[:, None] broadcasts over the tokens. The mean over an answer's tokens is the sum over those that count, "
        "divided by their number (at least 1).",
        "gain = torch.minimum(ratio * a, ratio.clamp(1 - eps, 1 + eps) * a); d = reference - new; per_token = (gain - beta * "
        "(d.exp() - d - 1)) * counted; -(per_token.sum(1) / counted.sum(1).clamp(min=1)).mean().",
    ),
    mistakes=(
        Mistake(_mistaken("inverse_ratio"), "ρ is new over old: exp(new - old)"),
        Mistake(_mistaken("not_clipped"), "the ratio is not clipped: nothing limits how far a step may move"),
        Mistake(
            _mistaken("clip_only"),
            "the *smaller* of the clipped and the unclipped gain counts, so moves in the wrong direction are still punished",
        ),
        Mistake(
            _mistaken("ratios_compared"),
            "the smaller of ρ A and clip(ρ) A: multiply by A first, since a negative A turns smaller into larger",
        ),
        Mistake(_mistaken("usual_clip"), "ε is config.clip, which need not be 0.2"),
        Mistake(_mistaken("ratio_detached"), "gradients flow through the ratio to `new`: do not detach it"),
        Mistake(_mistaken("padding_counted"), "the mean is over the tokens that count: divide by their number"),
        Mistake(_mistaken("divergence_reversed"), "the divergence is of π₀/π: exp(reference - new)"),
        Mistake(_mistaken("plain_divergence"), "ln π/π₀ alone may be negative; the estimate here is never negative"),
        Mistake(_mistaken("rewarded_divergence"), "moving away from the reference is punished, not rewarded"),
        Mistake(
            _mistaken("over_all_tokens"),
            "each answer counts the same: first the mean over its tokens, then over answers",
        ),
        Mistake(
            _mistaken("squeezed"), "there may be one answer: squeeze() takes its axis away, [:, None] alone does not"
        ),
        Mistake(_mistaken("empty"), "an answer without tokens divides by 0: clamp the count to at least 1"),
    ),
)
