"""Lab 7.A: In 8 bits the model forgets what it knew.

A model that has learned a text is quantized to 8 bits, which should change almost nothing. A few rows of its query and
key matrices are much larger than the others, as they are in real models. With the function below the quantized model has
forgotten most of the text, though every matrix is kept in the same 8 bits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Turn each row into 8 bits: x ≈ scale · q, |q| <= 127.

    Args:
        x: (..., n) float.

    Returns:
        q (..., n) int8 and scale (..., 1) float32.
    """
    x = x.float()
    scale = x.abs().amax().clamp(min=1e-12).expand(*x.shape[:-1], 1) / 127
    return (x / scale).round().to(torch.int8), scale


# === Above: what the learner gets. Below: how it is graded, the experiment, and the answer. ===

import copy
import functools

import torch.nn.functional as F

from learn.catalogue import load_exercise
from learn.lab import Lab, Measurement
from learn.small_runs import LETTERS, TEXT, continue_text, encode, train
from optimization.weights.quantization import Int8Linear
from optimization.weights.quantized_model import quantize_model
from transformer.config import GPTConfig
from transformer.gpt_model import GPTModel

CONTEXT, HEAD_DIM, LARGER = 32, 32, 200.0
PROMPT = "Special cases"


@torch.no_grad()
def _enlarge(model: GPTModel) -> None:
    """Multiply some queries by 200 and divide their keys by 200, so that no score changes.

    The two rows are a pair that the rotary positions turn together.
    """
    rows = [3, 3 + HEAD_DIM // 2]
    for name, weight in model.named_parameters():
        if name.endswith("attention.query.weight"):
            weight[rows] *= LARGER
        if name.endswith("attention.key.weight"):
            weight[rows] /= LARGER


@torch.no_grad()
def _loss(model: GPTModel, ids: Tensor) -> float:
    windows = ids[: len(ids) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)
    return F.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).item()


@functools.cache
def _trained() -> GPTModel:
    """The same model for both sides: the function plays no part in training."""
    torch.manual_seed(0)
    model = GPTModel(GPTConfig(len(LETTERS), CONTEXT, num_layers=2, num_heads=2, d_model=64))
    train(model, encode(TEXT[:430]), 180, CONTEXT)
    _enlarge(model)
    return model


def measure() -> Measurement:
    """Quantize a model, and compare."""
    ids, model = encode(TEXT[:430]), _trained()
    quantized = quantize_model(copy.deepcopy(model), "int8")
    layer = quantized.get_submodule("blocks.0.attention.query")
    assert isinstance(layer, Int8Linear)
    weight = model.get_parameter("blocks.0.attention.query.weight").detach()
    error = (layer.weight * layer.scale[:, None] - weight).norm(dim=1) / weight.norm(dim=1)
    return {
        "loss in float32": _loss(model, ids),
        "loss in 8 bits": _loss(quantized, ids),
        f"after {PROMPT!r}, float32": continue_text(model, PROMPT, 24, CONTEXT),
        "8 bits": continue_text(quantized, PROMPT, 24, CONTEXT),
        "relative error of a row of a query matrix: the smallest": error.min().item(),
        "the largest": error.max().item(),
        "of each row": error.tolist(),
    }


def visible(file: Measurement, package: Measurement) -> bool:
    """Quantizing raises the loss a lot; with the package's function it does not."""

    def cost(measured: Measurement) -> float:
        return float(measured["loss in 8 bits"]) - float(measured["loss in float32"])  # type: ignore[arg-type]

    return cost(file) > 0.1 and cost(package) < 0.05


LAB = Lab(
    broken=quantize_rows,
    reference="optimization.weights.quantization:quantize_rows",
    cases=load_exercise("quantize_rows").cases,
    measure=measure,
    visible=visible,
    repair=[
        (
            "    scale = x.abs().amax().clamp(min=1e-12).expand(*x.shape[:-1], 1) / 127\n",
            "    scale = x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-12) / 127\n",
        ),
    ],
    hints=(
        "Do not look at the loss, look at the weights: which rows come back with large errors, and which with small ones?",
        "The two large rows are nearly exact, but the others are not. How many of the 255 levels do the others use? Print "
        "q.abs().amax(dim=-1).",
        "The scale comes from the largest number of the whole matrix. Each row should have its own scale.",
    ),
    diagnosis=(
        "The error row by row shows it at once: it is small in the large rows and large in all the others. The q of the "
        "others are mostly 0 and ±1, so their scale is too coarse. There is one scale for the whole matrix, set by its "
        "largest row. On a fresh model, whose rows all have about the same size, the same code looks perfect. So test "
        "quantization on weights with outliers. W8A8 also quantizes activations with this function; they usually have outliers."
    ),
)
