"""Quantized layers compared with bitsandbytes: error, size and speed of one matrix of GPT-2's feed-forward.

The error is the error of the output for random inputs, relative to the float32 layer. It is in the names, because the
harness measures only time. Sixteen matrices take turns, so that no matrix is still in the cache at its next turn.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from finetuning.adapters.qlora import quantize_layers
from groundwork.library_noise import silence_libraries
from harness import Comparison, Contender, compare
from optimization.weights.packed_linear import PackedLinear
from optimization.weights.packed_quantized import pack_quantized_layer
from optimization.weights.quantization import Int4Linear, Int8Linear, QuantizedLayer, W8A8Linear

IN, OUT, MATRICES = 768, 3072, 16


def run(quick: bool) -> list[Comparison]:
    """Compare one token, as in decoding, and 32 tokens, as in a batch."""
    silence_libraries()
    with torch.inference_mode():
        return [_compare(rows, 2 if quick else 20) for rows in (1, 32)]


def _compare(rows: int, repeats: int) -> Comparison:
    torch.manual_seed(0)
    linears = [nn.Linear(IN, OUT, bias=False) for _ in range(MATRICES)]
    for linear in linears:
        linear.weight.normal_(std=0.02)
    x = torch.randn(rows, IN, dtype=torch.bfloat16)
    kinds: dict[str, Callable[[nn.Linear], nn.Module]] = {
        "w8a8": lambda linear: _ours(W8A8Linear, linear),
        "int8": lambda linear: _ours(Int8Linear, linear),
        "int4, groups of 64": lambda linear: _ours(Int4Linear, linear),
        "bfloat16, packed": lambda linear: PackedLinear(nn.Linear(IN, OUT, bias=False).bfloat16()),
        "bitsandbytes Linear8bitLt": _theirs_8bit,
        "bitsandbytes nf4": _theirs_4bit,
    }
    contenders = []
    for name, build in kinds.items():
        layers = [build(linear) for linear in linears]
        if name != "bfloat16, packed":
            name += f" (error {_error(layers[0], linears[0]):.1%})"
        contenders.append(Contender(name, lambda layers=layers: [layer(x) for _ in range(repeats) for layer in layers]))
    title = f"{rows} × {IN} times {IN} × {OUT}, quantized"
    return compare(title, "products/s", repeats * MATRICES, contenders, 5)


def _ours(kind: type[Int8Linear] | type[Int4Linear], linear: nn.Linear) -> nn.Module:
    layer: QuantizedLayer = kind(OUT, IN, bias=False)
    layer.quantize(linear)  # type: ignore[operator]
    return pack_quantized_layer(layer)


def _theirs_8bit(linear: nn.Linear) -> nn.Module:
    from bitsandbytes.nn import Linear8bitLt  # not earlier: it writes into the terminal while it is loaded

    layer = Linear8bitLt(IN, OUT, bias=False, has_fp16_weights=False)
    layer.load_state_dict({"weight": linear.weight.clone()})
    return layer.to("cpu")


def _theirs_4bit(linear: nn.Linear) -> nn.Module:
    layer = nn.Sequential(linear)
    quantize_layers(layer, "*", torch.bfloat16)
    return layer


def _error(layer: nn.Module, linear: nn.Linear) -> float:
    x = torch.randn(64, IN)
    expected: Tensor = linear(x)
    return float((layer(x.bfloat16()).float() - expected).norm() / expected.norm())
