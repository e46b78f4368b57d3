"""Linear layers whose weights lie in memory the way the CPU's matrix kernel reads them.

Decoding multiplies every weight with one vector, so that it is as fast as the weights can be read. A plain
`nn.Linear` keeps W row by row; for one vector, PyTorch's kernel then reaches a fraction of the memory's
bandwidth. oneDNN, which PyTorch ships, has kernels for a blocked layout. Reordering costs as much as a few
products, so it is done once, when a model is loaded.

`optimization.model_loading.inference_copy` replaces what can be packed, by device and type, and leaves the rest
alone. Plain layers are the reference.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

# The layout is chosen for products of so many rows; it works for any number. The kernel for four rows is faster
# than those for one, two and three: they too have to read all weights, and do it less evenly.
FEWEST_ROWS = 4


def packing_is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this device and type."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with W in oneDNN's layout. For inference only: the weight can be neither trained nor saved.

    The rows of a batch do not disturb one another: a row's result is the same to the last bit whatever
    else is in the batch. One to three rows would run by other kernels with another order of summation, and more
    slowly; so they are filled up to four. It costs arithmetic, of which there is plenty while weights are read.

    Processors with AMX are an exception in bfloat16: they multiply in blocks whose size depends on the number of rows,
    and so does the order of summation. Without AMX, by ``ONEDNN_MAX_CPU_ISA=AVX512_CORE_BF16`` in the environment,
    they keep the rule; many rows then take ten times as long.

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
        if count == 1:
            rows = rows.expand(FEWEST_ROWS, -1).contiguous()
        elif count < FEWEST_ROWS:
            rows = torch.cat([rows, rows[:1].expand(FEWEST_ROWS - count, -1)])
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return y[:count].view(*x.shape[:-1], self.out_features)
