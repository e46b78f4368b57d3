"""Linear layers whose weights are stored in the order in which the CPU's matrix kernel reads them.

Decoding multiplies every weight with one vector, so its speed is the speed at which the weights can be read. A plain
`nn.Linear` keeps W row by row. For one vector, PyTorch's kernel then reaches only a fraction of the memory's
bandwidth. oneDNN, which is part of PyTorch, has kernels for a blocked layout. Reordering costs as much as a few
products, so it is done once, when a model is loaded.

`optimization.model_loading.inference_copy` replaces the layers that can be packed, by device and type. The others stay
as they are. Plain layers are the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The layout is chosen for products of this many rows, but works for any number. The kernel for four rows is faster
# than those for one, two and three, which also have to read all weights, and do it less evenly.
FEWEST_ROWS = 4


def packing_is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this device and type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    if dtype == torch.bfloat16:  # not on processors without AVX-512
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with W in oneDNN's layout. For inference only: the weight can be neither trained nor saved.

    The rows of a batch are independent: a row's result is the same, to the last bit, whatever else is in the batch.
    One to three rows would be computed by other, slower kernels, which sum in another order. So rows are added until
    there are four. This costs only arithmetic, and the processor has time for it while it waits for the weights.

    Processors with AMX are an exception in bfloat16. They multiply in blocks whose size depends on the number of rows,
    and so does the order of summation. With ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16`` in the environment, AMX is not used
    and rows are independent again, but many rows then take ten times as long.

    Args:
        linear: a layer on the CPU, in float32 or bfloat16.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), FEWEST_ROWS)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self.in_features)
        count = rows.shape[0]
        if count == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features)
        if count == 1:
            rows = rows.expand(FEWEST_ROWS, -1).contiguous()
        elif count < FEWEST_ROWS:
            rows = torch.cat([rows, rows[:1].expand(FEWEST_ROWS - count, -1)])
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return y[:count].view(*x.shape[:-1], self.out_features)
