"""Exercise 7.6: Rows in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each row into 8 bits with its own scale: x ≈ scale · q.

    The scale is max(largest absolute value of the row, 1e-12) / 127, so that q goes from -127 to 127; q is the nearest whole
    number to x / scale.

    Args:
        x: (..., n) of any floating type; compute in float32.

    Returns:
        q (..., n) int8 and the scale (..., 1) float32.

    >>> quantize_rows(torch.tensor([[0.5, -1.0, 0.25]]))[0].tolist()
    [[64, -127, 32]]
    """
    raise NotImplementedError("Exercise 7.6: a scale for each row")


# === Above: what the learner gets. Below: how it is graded, with hints and wrong answers. ===

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from learn.exercise import Case, Exercise, Mistake


def _with_magnitude(result: Any, arguments: Sequence[Any]) -> dict[str, Any]:
    # A scale near 0 passes with any absolute tolerance; its logarithm does not.
    return {"q": result[0], "scale": result[1], "log10 of the scale": result[1].log10()}


def cases() -> Iterator[Case]:
    """A row; rows of different sizes; zeros; a batch; bfloat16; one axis; tiny; transposed; float16."""
    generator = torch.Generator().manual_seed(0)
    yield Case("one row", [torch.tensor([[0.5, -1.0, 0.25]])])
    yield Case("two rows, one a thousand times larger", [torch.tensor([[0.5, -0.9, 0.1], [700.0, -200.0, 50.0]])])
    yield Case("a row of zeros", [torch.tensor([[0.0, 0.0], [1.0, -2.0]])], observe=_with_magnitude)
    yield Case("random numbers (2, 3, 16)", [torch.randn(2, 3, 16, generator=generator)])
    yield Case("bfloat16", [torch.randn(4, 16, generator=generator).bfloat16()])
    yield Case("one axis, (16,)", [torch.randn(16, generator=generator)])
    yield Case("a row as small as the 1e-12", [torch.tensor([[1e-12, -5e-13], [2.0, -1.0]])], observe=_with_magnitude)
    yield Case("a row below the 1e-12", [torch.tensor([[4e-13, -2e-13]])], observe=_with_magnitude)
    yield Case("rows that are not contiguous in memory", [torch.randn(2, 3, 4, 8, generator=generator).transpose(1, 2)])
    yield Case("float16, up to 60,000", [torch.tensor([[60000.0, -30000.0, 1.0]], dtype=torch.float16)])


def _quantize(x: Tensor, **wrong: bool) -> tuple[Tensor, Tensor]:
    if not wrong.get("low") and not wrong.get("never_float32"):
        x = x.float()
    largest = x.amax(dim=-1, keepdim=True) if wrong.get("signed") else x.abs().amax(dim=-1, keepdim=True)
    if wrong.get("one_scale"):
        largest = torch.full_like(largest, x.abs().max().item())
    if wrong.get("columns"):
        largest = x.abs().amax(dim=-2, keepdim=True)
    scale = (largest if wrong.get("zero_row") else largest.clamp(min=1e-12)) / (128 if wrong.get("to_128") else 127)
    if wrong.get("eps_added"):
        scale = (largest + 1e-12) / 127
    if wrong.get("two_axes"):
        scale = x.abs().amax(dim=1 if x.ndim > 1 else -2, keepdim=True).clamp(min=1e-12) / 127
    if wrong.get("viewed"):
        scale = x.view(-1, x.shape[-1]).abs().amax(dim=1).view(*x.shape[:-1], 1).clamp(min=1e-12) / 127
    if wrong.get("in_place"):
        x /= scale
        return x.round().to(torch.int8), scale
    if wrong.get("bounded_late"):
        scale = (largest / 127).clamp(min=1e-12)
    q = x / scale
    q = q.trunc() if wrong.get("truncated") else q.round()
    return q.nan_to_num(0).clamp(-128, 127).to(torch.int8), scale if wrong.get("never_float32") else scale.float()


def _mistaken(name: str) -> Callable[..., Any]:
    def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
        return _quantize(x, **{name: True})

    return quantize_rows


EXERCISE = Exercise(
    stub=quantize_rows,
    reference="optimization.weights.quantization:quantize_rows",
    cases=cases,
    hints=(
        "Convert to float32 first. Keep the last axis of the scale, so that you can divide by it.",
        "scale = largest absolute value of the row / 127, with the largest clamped to at least 1e-12 before the division.",
        "scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127; (x / scale).round().to(torch.int8), scale.",
    ),
    mistakes=(
        Mistake(_mistaken("signed"), "use the largest *absolute* value: the number farthest from 0 may be negative"),
        Mistake(_mistaken("truncated"), "converting to int8 cuts the fraction off: round first"),
        Mistake(_mistaken("to_128"), "int8 ends at 127: with 128 the largest number does not fit"),
        Mistake(_mistaken("one_scale"), "each row has its own scale; otherwise small rows become 0 beside large ones"),
        Mistake(_mistaken("columns"), "the scale belongs to a row: reduce over the last axis"),
        Mistake(_mistaken("zero_row"), "a row of zeros divides by 0: clamp the largest value to at least 1e-12"),
        Mistake(_mistaken("bounded_late"), "the largest value is at least 1e-12; divide by 127 after that"),
        Mistake(_mistaken("eps_added"), "the largest value is *at least* 1e-12: clamp it; do not add 1e-12"),
        Mistake(_mistaken("two_axes"), "x may have any number of axes: reduce over the last one, dim=-1"),
        Mistake(_mistaken("viewed"), "view() needs rows that lie one after the other in memory: reduce over dim=-1"),
        Mistake(
            _mistaken("in_place"), "float() returns the same tensor if it is float32 already: x / scale makes a new one"
        ),
        Mistake(_mistaken("never_float32"), "convert x to float32 first: the scale is float32 for any type of x"),
        Mistake(
            _mistaken("low"),
            "compute scale and quotient in float32: in bfloat16 the scale itself is wrong by up to 0.4 %",
        ),
    ),
)
