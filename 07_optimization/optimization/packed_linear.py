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

# The layout is tuned for products of about so many rows; it works for any number.
EXPECTED_ROWS = 16


def packing_is_available(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN has kernels for this device and type."""
    return device.type == "cpu" and dtype in (torch.float32, torch.bfloat16) and torch.backends.mkldnn.is_available()


class PackedLinear(nn.Module):
    """y = x Wᵀ + b with W in oneDNN's layout. For inference only: the weight can be neither trained nor saved.

    The rows of a batch do not disturb one another: a row's result is the same to the last bit whatever
    else is in the batch. In float32 one row alone would run by a different kernel with a different order of
    summation, so it is computed twice, side by side, which costs next to nothing: the weights are what
    takes the time.

    Args:
        linear: a layer on the CPU, in float32 or bfloat16.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), EXPECTED_ROWS)
        self._twice = weight.dtype == torch.float32

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) → (..., out)."""
        rows = x.reshape(-1, self.in_features)
        alone = self._twice and rows.shape[0] == 1
        if alone:
            rows = rows.expand(2, -1).contiguous()
        y: Tensor = torch.ops.mkldnn._linear_pointwise(rows, self._packed, self.bias, "none", [], "")
        return (y[:1] if alone else y).view(*x.shape[:-1], self.out_features)
