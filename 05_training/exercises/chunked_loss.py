"""Exercise 5.2: The loss without all the logits."""

from __future__ import annotations

import torch
from torch import Tensor

from training.data.batches import IGNORED
from training.loss import cross_entropy


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    """Mean cross-entropy of hidden @ weight.T over the tokens that are not ignored, differentiable.

    For 8 × 1,024 tokens and 50,257 ids, the logits take 1.6 GB, and so does their gradient. But the tokens do not depend on
    each other here. So take a chunk of them at a time (for example 512), and compute its logits again in the backward pass:
    `torch.utils.checkpoint.checkpoint(function, *arguments, use_reentrant=False)` calls a function, forgets what it computed
    inside, and calls it again when gradients are needed. `cross_entropy` of exercise 5.1 gives the loss of each token.

    (The package goes further and computes each chunk's gradient by hand while it still has the chunk's logits.)

    Args:
        hidden: (..., d_model), what the model's head reads.
        weight: (vocab, d_model), the head.
        targets: (...) int64, IGNORED where nothing should be predicted.
        softcap: if given, logits become softcap · tanh(logits / softcap).
        label_smoothing: see `cross_entropy`.
        z_loss: see `cross_entropy`.

    Returns:
        A scalar float32; 0 if every token is ignored.
    """
    raise NotImplementedError("Exercise 5.2: a chunk of tokens at a time")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from torch.utils.checkpoint import checkpoint

from learn.exercise import Case, Exercise, Mistake


def _after_the_backward_pass(loss: Any, arguments: Sequence[Any]) -> Tensor:
    loss.backward()
    value: Tensor = loss.detach()
    return value


def cases() -> Iterator[Case]:
    """A few tokens; a batch; ignored; softcap; everything ignored; one; large; no gradients; bfloat16; many tokens, with memory counted."""

    def question(what: str, shape: tuple[int, ...], vocab: int, *rest: Any, ignore: str = "", **how: Any) -> Case:
        generator = torch.Generator().manual_seed(0)
        hidden = torch.randn(*shape, 8, generator=generator)
        if sizes := how.pop("sizes", None):
            hidden *= torch.tensor(sizes)[:, None]
        weight = torch.randn(vocab, 8, generator=generator)
        targets = torch.randint(vocab, shape, generator=generator)
        if ignore:
            targets.view(-1)[: None if ignore == "all" else 2] = IGNORED
        if how.pop("sliced", False):  # as batches are cut: inputs = tokens[:, :-1], targets = tokens[:, 1:]
            targets = torch.cat([targets[:, :1], targets], dim=1)[:, 1:]
        dtype = how.pop("dtype", torch.float32)
        learned = [hidden.to(dtype), weight.to(dtype)]
        if "most_bytes" in how:
            learned = [tensor.requires_grad_() for tensor in learned]
        return Case(what, [*learned, targets, *rest], **{"tolerance": 1e-5, **how})

    yield question("three tokens", (3,), 10)
    yield question("a batch of two sequences of three", (2, 3), 10)
    yield question("700 tokens: more than one chunk, the last one shorter", (700,), 10)
    yield question("two of six ignored", (6,), 10, ignore="first")
    yield question("a softcap of 2", (5,), 10, 2.0)
    yield question("label smoothing and z-loss", (5,), 10, None, 0.1, 0.01)
    yield question("every token ignored", (3,), 10, ignore="all")
    yield question("targets that are a slice of a longer batch", (2, 3), 10, sliced=True)
    yield question("one token", (1,), 10)
    yield question("logits of ±1,000 beside small ones", (6,), 10, sizes=[1.0, 300.0, 1.0, 300.0, 1.0, 300.0])
    for what, shape, ignore in (("700 tokens", (700,), ""), ("one token", (1,), ""), ("nothing to learn", (3,), "all")):
        what = f"{what}, when no gradients are asked for, as in validation"
        yield question(what, shape, 10, ignore=ignore, within=torch.no_grad)
    yield question("bfloat16", (5,), 10, dtype=torch.bfloat16, tolerance=0.03)
    # All logits: 8,192 · 256 numbers of 4 bytes, 8 MiB.
    counted: dict[str, Any] = {"observe": _after_the_backward_pass, "most_bytes": 6 << 20}
    yield question("8,192 tokens, 256 ids, memory counted, forwards and backwards", (8192,), 256, **counted)


def _loss(
    hidden: Tensor, weight: Tensor, targets: Tensor, softcap: float | None, smoothing: float, z: float, **wrong: Any
) -> Tensor:
    if wrong.get("viewed"):
        targets = targets.view(-1)
    hidden, targets = hidden.flatten(0, -2), targets.flatten()
    size, counted = wrong.get("size", 512), targets != IGNORED
    if wrong.get("targets_changed"):
        targets[~counted] = 0

    def chunk_loss(h: Tensor, t: Tensor, c: Tensor) -> Tensor:
        logits = h @ weight.T
        if softcap is not None and not wrong.get("no_softcap"):
            logits = softcap * (logits / (1.0 if wrong.get("not_divided") else softcap)).tanh()
        losses = cross_entropy(logits, t, smoothing, z) * c
        return losses.mean() if wrong.get("mean_of_means") else losses.sum()

    starts = range(
        0,
        len(targets) - len(targets) % size if wrong.get("rest_dropped") and len(targets) > size else len(targets),
        size,
    )
    parts = []
    for start in starts:
        arguments = [tensor[start : start + size] for tensor in (hidden, targets, counted)]
        kept = wrong.get("kept")
        parts.append(chunk_loss(*arguments) if kept else checkpoint(chunk_loss, *arguments, use_reentrant=False))
    total = torch.stack(parts).sum()
    if wrong.get("mean_of_means"):
        return total / len(parts)
    count = torch.tensor(len(targets)) if wrong.get("all_counted") else counted.sum()
    loss = total / (count if wrong.get("empty") else count.clamp(min=1))
    return loss.to(hidden.dtype) if wrong.get("low") else loss


class _WithoutChainRule(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, *rest: Any) -> Tensor:
        with torch.enable_grad():
            inputs = [hidden.detach().requires_grad_(), weight.detach().requires_grad_()]
            loss = _loss(inputs[0], inputs[1], targets, *rest)
            ctx.save_for_backward(*torch.autograd.grad(loss, inputs))
        return loss.detach()

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return (*ctx.saved_tensors, None, None, None, None)


def _mistaken(**wrong: Any) -> Callable[..., Any]:
    def linear_cross_entropy(
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        softcap: float | None = None,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
    ) -> Tensor:
        return _loss(hidden, weight, targets, softcap, label_smoothing, z_loss, **wrong)

    return linear_cross_entropy


def _unchained(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    softcap: float | None = None,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
) -> Tensor:
    loss: Tensor = _WithoutChainRule.apply(hidden, weight, targets, softcap, label_smoothing, z_loss)
    return loss


_TOO_MUCH = (
    "all logits are held at the same time: take chunks of tokens, and use checkpoint, which forgets their logits"
)

EXERCISE = Exercise(
    stub=linear_cross_entropy,
    reference="training.loss:linear_cross_entropy",
    cases=cases,
    differentiable=True,
    hints=(
        "First flatten hidden to (tokens, d_model) and targets to (tokens,). Write it with all logits at once; add chunks later.",
        "Write a function that takes a chunk of hidden and targets and returns the *sum* of their losses. Call it by checkpoint "
        "for each chunk and add the sums. Divide once, by the number of targets that are not IGNORED, at least 1.",
        "total = sum(checkpoint(chunk_loss, hidden[s:s + 512], targets[s:s + 512], use_reentrant=False) for s in range(0, "
        "len(targets), 512)); return total / (targets != IGNORED).sum().clamp(min=1).",
    ),
    mistakes=(
        Mistake(_mistaken(all_counted=True), "the mean is over the tokens that are not ignored"),
        Mistake(
            _mistaken(mean_of_means=True, size=512),
            "a mean of the chunks' means is wrong where chunks differ in length or in ignored tokens",
        ),
        Mistake(_mistaken(rest_dropped=True), "the last chunk may be shorter; its tokens count too"),
        Mistake(_mistaken(no_softcap=True), "the softcap is not applied"),
        Mistake(
            _mistaken(not_divided=True),
            "the logits are divided by the softcap before tanh: small ones stay as they are",
        ),
        Mistake(_mistaken(empty=True), "if every token is ignored, this divides by 0: clamp the count to at least 1"),
        Mistake(
            _mistaken(targets_changed=True), "`targets` belongs to the caller: do not write into it or a view of it"
        ),
        Mistake(
            _mistaken(viewed=True),
            "targets may be a slice of a batch, which has gaps in memory: flatten() and reshape() can take it, view() cannot",
        ),
        Mistake(_unchained, "a backward pass multiplies by the gradient that comes in, the argument of `backward`"),
        Mistake(_mistaken(low=True), "the loss is a float32, whatever the type of hidden and weight"),
        Mistake(_mistaken(kept=True), _TOO_MUCH),
        Mistake(_mistaken(size=1 << 20), _TOO_MUCH),
    ),
)
