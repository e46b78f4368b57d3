"""Exercise 1.8: Cross-entropy, the loss of every language model."""

from __future__ import annotations

import numpy as np

from neural_networks.backpropagation import Tensor
from neural_networks.broadcasting import Array


def cross_entropy(logits: Tensor, targets: Array) -> Tensor:
    """Mean of -ln p(target), with p = softmax(logits), in nats.

    Compute it as -ln p = ln Σ exp z - z[target], which stays finite where p is too small for a float. The gradient of
    softmax and logarithm together is very simple:

        dL/dz = (p - y) / number of targets        y is 1 at the target, 0 elsewhere

    Args:
        logits: (..., classes) z.
        targets: (...) integers below `classes`.

    Returns:
        One number, made by `Tensor.from_operation(result, inputs, backward, name)`; see exercise 1.5. The gradient g
        that backward receives is one number too: multiply by it.
    """
    raise NotImplementedError("Exercise 1.8: cross-entropy and its gradient")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from learn.exercise import Case, Exercise, Mistake


def _value_and_gradient(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    (result * 3.0).backward()
    return {"value": np.asarray(result.data), "gradient": arguments[0].grad, "logits": arguments[0].data}


def _by_torch(logits: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    tensor = torch.tensor(logits, requires_grad=True)
    loss = F.cross_entropy(tensor.reshape(-1, logits.shape[-1]), torch.tensor(targets.astype(np.int64)).reshape(-1))
    (loss * 3.0).backward()
    assert tensor.grad is not None
    return {"value": loss.detach().numpy(), "gradient": tensor.grad.numpy(), "logits": logits}


def cases() -> Iterator[Case]:
    """One row; a batch; a batch of sequences; a very bad guess. The expected values come from PyTorch."""
    rng = np.random.default_rng(0)
    questions = [
        ("one row of three equal logits: ln 3", np.zeros((1, 3)), np.array([1])),
        ("a batch of four", rng.normal(size=(4, 5)), np.array([0, 4, 2, 2])),
        (
            "two sequences of three: (2, 3, 5) logits, (2, 3) targets",
            rng.normal(size=(2, 3, 5)),
            rng.integers(0, 5, (2, 3)),
        ),
        ("a target that is 2,000 below the largest logit", np.array([[1000.0, -1000.0]]), np.array([1])),
        ("-1,000, 0 and 1,000 in one row", np.array([[-1000.0, 0.0, 1000.0]]), np.array([2])),
        (
            "one row near 1,000 and one near -1,000",
            np.array([[1000.0, 1001.0], [-1000.0, -1001.0]]),
            np.array([0, 0]),
        ),
        ("float32, where exp overflows from 89 on", np.array([[100.0, 0.0]], dtype=np.float32), np.array([0])),
        ("targets that are bytes", rng.normal(size=(3, 5)), np.array([4, 0, 4], dtype=np.uint8)),
        ("a single row", rng.normal(size=5), np.array(3)),
    ]
    for what, logits, targets in questions:
        tensor = Tensor(logits, requires_grad=True)
        yield Case(what, [tensor, targets], expected=_by_torch(logits, targets), observe=_value_and_gradient)


def _log_softmax(z: Array) -> Array:
    shifted = z - z.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def _loss(logits: Tensor, targets: Array, denominator: float, chained: bool = True) -> Tensor:
    log_p = _log_softmax(logits.data)
    picked = np.take_along_axis(log_p, targets[..., None], -1)

    def backward(g: Array) -> tuple[Array]:
        gradient = np.exp(log_p)
        np.put_along_axis(gradient, targets[..., None], np.exp(picked) - 1, -1)
        return (gradient * (g if chained else 1.0) / denominator,)

    return Tensor.from_operation(-picked.mean(), (logits,), backward, "cross_entropy")


def _summed_gradient(logits: Tensor, targets: Array) -> Tensor:
    return _loss(logits, targets, 1.0)


def _first_axis_only(logits: Tensor, targets: Array) -> Tensor:
    return _loss(logits, targets, float(len(targets)))


def _not_chained(logits: Tensor, targets: Array) -> Tensor:
    return _loss(logits, targets, float(targets.size), chained=False)


def _underflowing(logits: Tensor, targets: Array) -> Tensor:
    p = np.exp(_log_softmax(logits.data))
    with np.errstate(divide="ignore"):
        picked = np.log(np.take_along_axis(p, targets[..., None], -1))

    def backward(g: Array) -> tuple[Array]:
        gradient = p.copy()
        np.put_along_axis(gradient, targets[..., None], np.take_along_axis(p, targets[..., None], -1) - 1, -1)
        return (gradient * g / targets.size,)

    return Tensor.from_operation(-picked.mean(), (logits,), backward, "cross_entropy")


EXERCISE = Exercise(
    stub=cross_entropy,
    reference="neural_networks.operations:cross_entropy",
    cases=cases,
    hints=(
        "First compute ln p for all classes: z minus its largest, minus ln of the sum of exponentials. Then pick the "
        "values of the targets.",
        "np.take_along_axis(log_p, targets[..., None], -1) picks one number from each row, whatever the leading axes.",
        "The gradient is np.exp(log_p), minus 1 at the targets (np.put_along_axis writes there), times g / targets.size.",
    ),
    mistakes=(
        Mistake(_summed_gradient, "the loss is a mean, so the gradient is divided by the number of targets"),
        Mistake(_not_chained, "backward must multiply by the gradient g that it is given"),
        Mistake(
            _first_axis_only,
            "the mean is over all targets: divide by targets.size, not by the length of the first axis",
        ),
        Mistake(_underflowing, "p underflows to 0 and ln 0 is -inf: compute ln p = z - ln Σ exp z directly"),
    ),
)
