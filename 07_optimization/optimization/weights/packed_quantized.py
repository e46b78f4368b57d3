"""The layers of `optimization.weights.quantization`, computed by the CPU's integer and mixed-type matrix kernels.

Each is made from a quantized layer and gives the same results except for rounding: 4-bit and 8-bit weights are
multiplied with activations in bfloat16, and an activation half-way between two integers may become either of them. The
kernels compute each row of a batch in the same way, whatever the number of rows.

The kernels check few of the sizes that they are given. With others they read and write outside of their matrices: the
numbers are wrong, or the process ends. So every size is made one that they take, by padding with zeros, or the layer
stays as it is.
"""

from __future__ import annotations

import functools
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optimization.weights.quantization import Int4Linear, Int8Linear, QuantizedLayer, W8A8Linear

KERNEL_WIDTH = 16  # the mixed-type kernels read so many numbers at a time, from addresses of whole vectors
VECTOR_BYTES = 64
MAX_ELEMENTS = 2**31 - 1  # the kernels count in 32 bits
MAX_TERMS = 2**16  # sums of so many products of 8-bit integers fit into 32 bits


class PackedQuantizedLinear(nn.Module):
    """What the packed layers have in common: inputs of any shape become rows that a kernel can take.

    Args:
        layer: its numbers are used.
    """

    packed: Tensor

    def __init__(self, layer: QuantizedLayer):
        super().__init__()
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self._most_rows = MAX_ELEMENTS // (max(layer.in_features, layer.out_features) + KERNEL_WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self.in_features).contiguous()
        if len(rows) == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        if len(rows) <= self._most_rows:
            y = self._multiply(rows)
        else:
            y = torch.cat([self._multiply(part) for part in rows.split(self._most_rows)])
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    @abstractmethod
    def _multiply(self, rows: Tensor) -> Tensor:
        """(rows, in), contiguous and at least one → (rows, out)."""


class PackedInt8Linear(PackedQuantizedLinear):
    """`Int8Linear` by a kernel that multiplies bfloat16 with int8: half the memory of bfloat16, at about its speed.

    Args:
        layer: it holds the numbers.
    """

    def __init__(self, layer: Int8Linear):
        super().__init__(layer)
        self._missing = -layer.in_features % KERNEL_WIDTH
        self._finish = layer._finish
        self.packed = _aligned(F.pad(layer.weight, (0, self._missing)) if self._missing else layer.weight)
        self._ones = torch.ones(layer.out_features, dtype=torch.bfloat16)  # bfloat16 would round the scales

    def _multiply(self, rows: Tensor) -> Tensor:
        rows = F.pad(rows.bfloat16(), (0, self._missing)) if self._missing else _aligned(rows.bfloat16())
        return self._finish(torch._weight_int8pack_mm(rows, self.packed, self._ones).float(), torch.float32)


class PackedW8A8Linear(PackedQuantizedLinear):
    """`W8A8Linear` by oneDNN, with weights in its layout.

    The kernel needs unsigned activations. So 128 is added, and oneDNN subtracts what this adds to the sums.

    Args:
        layer: it holds the numbers.
    """

    def __init__(self, layer: W8A8Linear):
        super().__init__(layer)
        self.packed = torch.ops.onednn.qlinear_prepack(layer.weight, None)
        self._scale, self._bias = layer.scale, layer.bias
        self._zeros = torch.zeros(layer.out_features, dtype=torch.int64)
        self._tiny = torch.tensor(1e-14)  # a row of zeros is not divided by zero
        self._offset = torch.tensor(128.5)  # 128, and a half, so that cutting the fraction off rounds

    def _multiply(self, rows: Tensor) -> Tensor:
        # A few fused operations: for one token, each operation costs as much as reading a small matrix.
        largest = torch.linalg.vector_norm(rows, ord=torch.inf, dim=-1, keepdim=True, dtype=torch.float32)
        scale = torch.add(self._tiny, largest, alpha=1 / 127)  # (tokens, 1)
        q = torch.addcdiv(self._offset, rows.float(), scale).to(torch.uint8)
        y: Tensor = torch.ops.onednn.qlinear_pointwise(
            q, 1.0, 128, self.packed, self._scale, self._zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        return y.mul_(scale) if self._bias is None else torch.addcmul(self._bias, y, scale)


class PackedInt4Linear(PackedQuantizedLinear):
    """`Int4Linear` by a kernel that multiplies bfloat16 with 4 bits.

    Args:
        layer: it holds the numbers.
    """

    def __init__(self, layer: Int4Linear):
        super().__init__(layer)
        self._group = layer.in_features // layer.scale.shape[1]
        missing = -layer.out_features % KERNEL_WIDTH  # rows of zeros are added, and their outputs cut off
        levels, scales, zeros = (F.pad(t, (0, 0, 0, missing)) for t in (layer.levels(), layer.scale, layer.zero))
        self.packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(levels, 1)
        self._scales_and_zeros = torch.stack([scales.T, zeros.T], dim=-1).contiguous()  # (groups, out, 2)
        self._bias = layer.bias

    def _multiply(self, rows: Tensor) -> Tensor:
        y: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
            rows.bfloat16(), self.packed, self._group, self._scales_and_zeros
        )
        y = y[:, : self.out_features]
        return y.contiguous() if self._bias is None else y + self._bias


PACKED: dict[type[QuantizedLayer], type[PackedQuantizedLinear]] = {
    Int8Linear: PackedInt8Linear,
    W8A8Linear: PackedW8A8Linear,
    Int4Linear: PackedInt4Linear,
}


def pack_quantized_layer(layer: QuantizedLayer) -> nn.Module:
    """The layer computed by the CPU's kernels, or the layer itself if there is no kernel for it."""
    kind = type(layer)
    if layer.weight.device.type != "cpu" or kind not in PACKED:
        return layer
    if not kernel_is_right(kind):  # type: ignore[arg-type]  # a class can be hashed
        return layer
    too_wide = kind is W8A8Linear and layer.in_features > MAX_TERMS
    if too_wide or (layer.in_features + KERNEL_WIDTH) * (layer.out_features + KERNEL_WIDTH) > MAX_ELEMENTS:
        return layer
    return PACKED[kind](layer)


@functools.cache
def kernel_is_right(kind: type[Int8Linear] | type[W8A8Linear] | type[Int4Linear]) -> bool:
    """Whether a kernel exists on this machine and gives the sums of the plain layer; each is tried once.

    On processors without instructions for sums of 8-bit products, oneDNN adds pairs of products in 16 bits. They do not
    fit where both weights and activations are large, and nothing is reported.

    Args:
        kind: the class of the plain layer.
    """
    if not torch.backends.mkldnn.is_available():
        return False
    layer = kind(32, 64, False)
    linear = nn.utils.skip_init(nn.Linear, 64, 32, bias=False)  # without random numbers, which others may count on
    with torch.no_grad():  # the largest sums, and sums in which the terms nearly cancel each other
        linear.weight.fill_(1.0)
        linear.weight[16:, ::2] = -1.0
    layer.quantize(linear)
    x = torch.ones(5, 64)
    x[2:, 32:] = -0.75
    try:
        return torch.allclose(PACKED[kind](layer)(x), layer(x), rtol=0.02, atol=0.02)
    except (RuntimeError, NotImplementedError, AttributeError):
        return False  # this build of PyTorch has no such kernel


def _aligned(matrix: Tensor) -> Tensor:
    """The matrix, or a copy if it does not begin at an address that the kernels can read from."""
    return matrix if matrix.data_ptr() % VECTOR_BYTES == 0 else matrix.clone()
