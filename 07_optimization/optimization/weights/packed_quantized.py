"""The layers of `optimization.weights.quantization`, computed by the CPU's integer and mixed-type matrix kernels.

Each is made from a quantized layer and gives the same results except for rounding: 4-bit and 8-bit weights are
multiplied with activations in bfloat16, and an activation half-way between two integers may become either of them. The
kernels compute each row of a batch in the same way, whatever the number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from optimization.weights.quantization import Int4Linear, Int8Linear, QuantizedLayer, W8A8Linear


class PackedInt8Linear(nn.Module):
    """`Int8Linear` by a kernel that multiplies bfloat16 with int8: half the memory of bfloat16, at about its speed.

    Args:
        layer: it holds the numbers.
    """

    def __init__(self, layer: Int8Linear):
        super().__init__()
        self._layer, self.packed = layer, layer.weight
        self._ones = torch.ones(layer.out_features, dtype=torch.bfloat16)  # bfloat16 would round the scales

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self._layer.in_features).bfloat16()
        products = torch._weight_int8pack_mm(rows, self._layer.weight, self._ones)
        return self._layer._finish(products.float(), x.dtype).view(*x.shape[:-1], self._layer.out_features)


class PackedW8A8Linear(nn.Module):
    """`W8A8Linear` by oneDNN, with weights in its layout.

    The kernel needs unsigned activations. So 128 is added, and oneDNN subtracts what this adds to the sums.

    Args:
        layer: it holds the numbers.
    """

    def __init__(self, layer: W8A8Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.packed = torch.ops.onednn.qlinear_prepack(layer.weight, None)
        self._scale, self._bias = layer.scale, layer.bias
        self._zeros = torch.zeros(layer.out_features, dtype=torch.int64)
        self._tiny = torch.tensor(1e-14)  # a row of zeros is not divided by zero
        self._offset = torch.tensor(128.5)  # 128, and a half, so that cutting the fraction off rounds

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self.in_features)
        # A few fused operations: for one token, each operation costs as much as reading a small matrix.
        largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.add(self._tiny, largest, alpha=1 / 127)  # (tokens, 1)
        q = torch.addcdiv(self._offset, rows.float(), scale).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 128, self.packed, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        y = y.mul_(scale) if self._bias is None else torch.addcmul(self._bias, y, scale)
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)


class PackedInt4Linear(nn.Module):
    """`Int4Linear` by a kernel that multiplies bfloat16 with 4 bits.

    Args:
        layer: it holds the numbers; the number of its rows is a multiple of 16.
    """

    def __init__(self, layer: Int4Linear):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._group = layer.in_features // layer.scale.shape[1]
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(layer.levels(), 1)
        self._scales_and_zeros = torch.stack([layer.scale.T, layer.zero.T], dim=-1).contiguous()  # (groups, out, 2)
        self._bias = layer.bias

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self.in_features).bfloat16()
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(rows, self.packed, self._group, self._scales_and_zeros)
        if self._bias is not None:
            y = y + self._bias
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)


def pack_quantized_layer(layer: QuantizedLayer) -> nn.Module:
    """The layer computed by the CPU's kernels, or the layer itself if there is no kernel for it."""
    if layer.weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return layer
    if isinstance(layer, W8A8Linear):
        return PackedW8A8Linear(layer)
    if isinstance(layer, Int8Linear):
        return PackedInt8Linear(layer)
    if isinstance(layer, Int4Linear) and layer.out_features % 16 == 0:
        return PackedInt4Linear(layer)
    return layer
