"""Scaling laws: how the loss falls with the size of the model and the amount of text (Hoffmann et al., 2022).

    L(N, D) = E + A / N^α + B / D^β

N counts the parameters without the embeddings, and D counts the training tokens. No model of this kind can get
below E. The second term is what a model of size N cannot represent, and the third is what D tokens do not teach. With
a budget of C floating-point operations, about 6 · N · D, the best size grows as C^(β / (α + β)).

As in the paper's third approach, the fit minimises the Huber loss of ln L from many starting points.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from groundwork.user_errors import UserError

HUBER_DELTA = 1e-3
STEPS = 200


@dataclass(frozen=True)
class TrainedPoint:
    """One training run.

    Args:
        parameters: number of parameters without the embeddings.
        tokens: number of training tokens.
        flops: floating-point operations of the training.
        loss: loss on held-out text, in nats per token.
    """

    parameters: float
    tokens: float
    flops: float
    loss: float


@dataclass(frozen=True)
class ScalingLaw:
    """A fitted law.

    Args:
        floor: E, in nats per token.
        a: A.
        b: B.
        alpha: exponent of the parameters.
        beta: exponent of the tokens.
        mean_error: mean of |ln L - ln of the fit|.
    """

    floor: float
    a: float
    b: float
    alpha: float
    beta: float
    mean_error: float

    def loss(self, parameters: float, tokens: float) -> float:
        """The law's L, in nats per token."""
        return self.floor + self.a / parameters**self.alpha + self.b / tokens**self.beta

    @property
    def size_exponent(self) -> float:
        """The exponent with which the best size grows with compute: N ∝ C^this."""
        return self.beta / (self.alpha + self.beta)


def fit_scaling_law(points: Sequence[TrainedPoint]) -> ScalingLaw:
    """Fit E, A, B, α and β.

    Args:
        points: at least six runs, over at least three sizes and three amounts of text.

    Raises:
        UserError: too few to tell the terms apart, or a size, amount or loss that has no logarithm.
    """
    sizes, amounts = {point.parameters for point in points}, {point.tokens for point in points}
    if len(points) < 6 or len(sizes) < 3 or len(amounts) < 3:
        raise UserError(
            f"a scaling law needs 6 runs over 3 sizes and 3 amounts of text, got {len(points)} over {len(sizes)} "
            f"and {len(amounts)}"
        )
    if bad := [
        point for point in points if not all(0 < x < math.inf for x in (point.parameters, point.tokens, point.loss))
    ]:
        raise UserError(f"a scaling law needs finite sizes, amounts and losses above 0, got {bad[0]}")
    n = torch.tensor([point.parameters for point in points], dtype=torch.float64).log()
    d = torch.tensor([point.tokens for point in points], dtype=torch.float64).log()
    target = torch.tensor([point.loss for point in points], dtype=torch.float64).log()
    best: tuple[float, Tensor] | None = None
    for start in itertools.product((-1.0, 0.5), (0.0, 5.0), (0.0, 5.0), (0.5,), (0.5,)):
        value, found = _descend(torch.tensor(start, dtype=torch.float64), n, d, target)
        if math.isfinite(value) and (best is None or value < best[0]):
            best = value, found
    assert best is not None
    log_e, log_a, log_b, alpha, beta = best[1].tolist()
    error = (_log_loss(best[1], n, d) - target).abs().mean().item()
    return ScalingLaw(math.exp(log_e), math.exp(log_a), math.exp(log_b), alpha, beta, error)


def _log_loss(x: Tensor, n: Tensor, d: Tensor) -> Tensor:
    """ln L for the parameters x = (ln E, ln A, ln B, α, β), (points,)."""
    terms = torch.stack([x[0].expand_as(n), x[1] - x[3] * n, x[2] - x[4] * d])
    return terms.logsumexp(dim=0)


def _descend(start: Tensor, n: Tensor, d: Tensor, target: Tensor) -> tuple[float, Tensor]:
    x = start.clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([x], max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_change=1e-14)

    def objective() -> Tensor:
        optimizer.zero_grad()
        value = torch.nn.functional.huber_loss(_log_loss(x, n, d), target, delta=HUBER_DELTA, reduction="sum")
        value.backward()
        return value

    optimizer.step(objective)
    with torch.no_grad():
        value = torch.nn.functional.huber_loss(_log_loss(x, n, d), target, delta=HUBER_DELTA, reduction="sum")
    return float(value), x.detach()


def compute_frontier(points: Sequence[TrainedPoint]) -> list[TrainedPoint]:
    """The runs that no cheaper run beats, in order of compute."""
    frontier: list[TrainedPoint] = []
    for point in sorted(points, key=lambda point: (point.flops, point.loss)):
        if not frontier or point.loss < frontier[-1].loss:
            frontier.append(point)
    return frontier


def power_law(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """The exponent and the factor of y ≈ factor · x^exponent, by least squares of the logarithms.

    Raises:
        UserError: fewer than two different points, or a number that has no logarithm.

    >>> power_law([1, 10, 100], [2, 20, 200])
    (1.0, 2.0)
    """
    if len(x) != len(y) or len(set(x)) < 2:
        raise UserError(f"a power law needs at least two points, at different x, got {len(x)} x and {len(y)} y")
    if not all(0 < number < math.inf for number in (*x, *y)):
        raise UserError(f"a power law needs finite numbers above 0, got {list(x)} and {list(y)}")
    logs = [(math.log(a), math.log(b)) for a, b in zip(x, y, strict=True)]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    variance = sum((a - mean_x) ** 2 for a, _ in logs)
    exponent = sum((a - mean_x) * (b - mean_y) for a, b in logs) / variance
    return round(exponent, 12), round(math.exp(mean_y - exponent * mean_x), 12)
