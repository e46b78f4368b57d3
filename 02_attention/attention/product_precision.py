"""Which precision matrix products have: that of autocast, where it is on."""

from __future__ import annotations

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """The precision in which a linear layer would compute on x here.

    Autocast decides it for each layer by itself. Code that it does not see into, and code that converts
    once for several layers, has to ask.

    >>> with torch.autocast("cpu", dtype=torch.bfloat16):
    ...     product_dtype(torch.ones(1))
    torch.bfloat16
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
